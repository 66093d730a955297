"""The calls that an app makes through python-consul, python-consul2 and py-consul, which have one interface.

`CONSUL_HTTP_ADDR` is a registry. `FOREIGN_READS`, if set, is the address that serves the key-value reads instead: then only the
tests marked `reads` run, which change nothing but this address. Each test uses keys and names of its own.
"""

import base64
import os
import sys
import threading
import time
import traceback
import urllib.parse

import consul

TESTS = []
READS = []


def test(function):
    TESTS.append(function)
    return function


def reads(function):
    READS.append(function)
    return test(function)


# python-consul refuses a variable with a scheme.
REGISTRY = os.environ.pop("CONSUL_HTTP_ADDR")


def client(url):
    address = urllib.parse.urlsplit(url)
    return consul.Consul(host=address.hostname, port=address.port)


c = client(REGISTRY)
r = client(os.environ["FOREIGN_READS"]) if os.environ.get("FOREIGN_READS") else c


def soon(what, condition):
    """Waits for a condition, at most 20 seconds."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within 20 s: {what}")


def later(action):
    """Runs the action half a second later, in a thread."""
    timer = threading.Timer(0.5, action)
    timer.start()
    return timer


# Key-value reads.


@reads
def kv_get():
    c.kv.put("shared/get/a", "one", flags=7)
    index, entry = soon("the value", lambda: (lambda found: found if found[1] else None)(r.kv.get("shared/get/a")))
    assert entry["Key"] == "shared/get/a" and entry["Value"] == b"one" and entry["Flags"] == 7, entry
    assert int(index) > 0 and entry["ModifyIndex"] >= entry["CreateIndex"] > 0 and entry["LockIndex"] == 0, entry


@reads
def kv_get_missing():
    index, entry = r.kv.get("shared/missing/key")
    assert entry is None and int(index) > 0, (index, entry)


@reads
def kv_get_binary():
    value = bytes(range(256))
    c.kv.put("shared/binary", value)
    soon("the bytes", lambda: (r.kv.get("shared/binary")[1] or {}).get("Value") == value)


@reads
def kv_get_empty_value():
    c.kv.put("shared/empty", "")
    entry = soon("the key", lambda: r.kv.get("shared/empty")[1])
    assert entry["Value"] is None, entry


@reads
def kv_get_name_with_special_characters():
    c.kv.put("shared/special/a b+c", "1")
    soon("the key", lambda: (r.kv.get("shared/special/a b+c")[1] or {}).get("Value") == b"1")


@reads
def kv_get_recurse():
    for name in ["a", "b", "b/c"]:
        c.kv.put(f"shared/tree/{name}", name)
    wanted = [("shared/tree/a", b"a"), ("shared/tree/b", b"b"), ("shared/tree/b/c", b"b/c")]
    soon(
        "three keys",
        lambda: [(e["Key"], e["Value"]) for e in r.kv.get("shared/tree/", recurse=True)[1] or []] == wanted,
    )


@reads
def kv_get_keys():
    for name in ["a", "b/c", "b/d"]:
        c.kv.put(f"shared/keys/{name}", "1")
    all_keys = ["shared/keys/a", "shared/keys/b/c", "shared/keys/b/d"]
    soon("three keys", lambda: r.kv.get("shared/keys/", keys=True)[1] == all_keys)
    folders = r.kv.get("shared/keys/", keys=True, separator="/")[1]
    assert folders == ["shared/keys/a", "shared/keys/b/"], folders


@reads
def kv_get_consistency():
    c.kv.put("shared/consistency", "1")
    soon("the key", lambda: r.kv.get("shared/consistency")[1])
    for mode in ["default", "consistent", "stale"]:
        assert r.kv.get("shared/consistency", consistency=mode)[1]["Value"] == b"1", mode


@reads
def kv_watch_wakes_with_the_change():
    c.kv.put("shared/watch/one", "1")
    index, _ = soon("the key", lambda: (lambda found: found if found[1] else None)(r.kv.get("shared/watch/one")))
    later(lambda: c.kv.put("shared/watch/one", "2"))
    begun = time.monotonic()
    # A blocked query may also end without a change.
    value = None
    while value != b"2" and time.monotonic() - begun < 20:
        next_index, entry = r.kv.get("shared/watch/one", index=index, wait="15s")
        assert int(next_index) >= int(index), (index, next_index)
        index, value = next_index, entry["Value"]
    assert value == b"2" and time.monotonic() - begun < 10, (value, time.monotonic() - begun)


@reads
def kv_watch_of_a_tree_wakes_with_a_new_key():
    c.kv.put("shared/watched/a", "1")
    index, _ = soon("the key", lambda: (lambda found: found if found[1] else None)(r.kv.get("shared/watched/", recurse=True)))
    later(lambda: c.kv.put("shared/watched/b", "2"))
    begun, keys = time.monotonic(), []
    while len(keys) < 2 and time.monotonic() - begun < 20:
        index, entries = r.kv.get("shared/watched/", index=index, wait="15s", recurse=True)
        keys = [entry["Key"] for entry in entries]
    assert keys == ["shared/watched/a", "shared/watched/b"] and time.monotonic() - begun < 10, keys


@reads
def kv_watch_ends_with_its_wait():
    c.kv.put("shared/quiet", "1")
    index, _ = soon("the key", lambda: (lambda found: found if found[1] else None)(r.kv.get("shared/quiet")))
    begun = time.monotonic()
    next_index, entry = r.kv.get("shared/quiet", index=index, wait="1s")
    took = time.monotonic() - begun
    assert entry["Value"] == b"1" and int(next_index) >= int(index) and 0.9 < took < 5, (took, index, next_index)


# Key-value writes.


@test
def kv_put_cas():
    assert c.kv.put("w/cas", "1", cas=0) is True
    assert c.kv.put("w/cas", "2", cas=0) is False
    index = c.kv.get("w/cas")[1]["ModifyIndex"]
    assert c.kv.put("w/cas", "2", cas=index) is True
    assert c.kv.get("w/cas")[1]["Value"] == b"2"


@test
def kv_delete():
    for name in ["a", "b", "b/c"]:
        c.kv.put(f"w/delete/{name}", "1")
    assert c.kv.delete("w/delete/a") is True
    assert c.kv.delete("w/delete/b", cas=1) is False
    assert c.kv.get("w/delete/", keys=True)[1] == ["w/delete/b", "w/delete/b/c"]
    assert c.kv.delete("w/delete/", recurse=True) is True
    assert c.kv.get("w/delete/", keys=True)[1] is None


@test
def kv_put_too_large():
    try:
        c.kv.put("w/large", "x" * (512 * 1024 + 1))
    except consul.ConsulException as error:
        assert "413" in str(error), error
    else:
        raise AssertionError("a value of more than 512 KiB was taken")


@test
def txn_put_and_get():
    value = base64.b64encode(b"1").decode("ascii")
    answer = c.txn.put([
        {"KV": {"Verb": "set", "Key": "w/txn", "Value": value}},
        {"KV": {"Verb": "get", "Key": "w/txn"}},
    ])
    assert answer["Errors"] is None and len(answer["Results"]) == 2, answer
    assert answer["Results"][1]["KV"]["Value"] == value, answer


# Sessions and locks.


@test
def session_life():
    created = c.session.create("worker", ttl=30, behavior="delete", lock_delay=2)
    _, info = c.session.info(created)
    assert info["Name"] == "worker" and info["TTL"] == "30s" and info["Behavior"] == "delete", info
    assert info["LockDelay"] == 2_000_000_000, info
    assert created in [one["ID"] for one in c.session.list()[1]]
    assert created in [one["ID"] for one in c.session.node(info["Node"])[1]]
    assert c.session.renew(created)["ID"] == created
    assert c.session.destroy(created) is True
    assert c.session.info(created)[1] is None


@test
def session_unknown_is_not_renewed():
    try:
        c.session.renew("11111111-2222-3333-4444-555555555555")
    except consul.NotFound:
        return
    raise AssertionError("an unknown session was renewed")


@test
def lock_is_exclusive_and_waits_for_release():
    first = c.session.create("first", lock_delay=0, ttl=30)
    second = c.session.create("second", lock_delay=0, ttl=30)
    assert c.kv.put("w/lock", "first", acquire=first) is True
    assert c.kv.put("w/lock", "second", acquire=second) is False
    index, entry = c.kv.get("w/lock")
    assert entry["Session"] == first and entry["LockIndex"] == 1, entry
    later(lambda: c.kv.put("w/lock", "first", release=first))
    begun = time.monotonic()
    entry = c.kv.get("w/lock", index=index, wait="15s")[1]
    assert "Session" not in entry and time.monotonic() - begun < 10, entry
    assert c.kv.put("w/lock", "second", acquire=second) is True
    assert c.kv.get("w/lock")[1]["LockIndex"] == 2
    c.session.destroy(first)
    c.session.destroy(second)


@test
def destroyed_session_frees_its_lock_after_the_lock_delay():
    first = c.session.create("first", lock_delay=2, ttl=30)
    second = c.session.create("second", lock_delay=2, ttl=30)
    assert c.kv.put("w/delayed", "first", acquire=first) is True
    c.session.destroy(first)
    assert "Session" not in c.kv.get("w/delayed")[1]
    assert c.kv.put("w/delayed", "second", acquire=second) is False
    begun = time.monotonic()
    soon("the end of the delay", lambda: c.kv.put("w/delayed", "second", acquire=second))
    assert time.monotonic() - begun > 1, "the delay of 2 s was not kept"
    c.session.destroy(second)


@test
def destroyed_session_deletes_its_keys():
    session = c.session.create("ephemeral", behavior="delete", lock_delay=0, ttl=30)
    assert c.kv.put("w/ephemeral", "here", acquire=session) is True
    c.session.destroy(session)
    assert c.kv.get("w/ephemeral")[1] is None


# Services and health.


@test
def service_register_and_discover():
    assert c.agent.service.register(
        "orders", service_id="orders-1", address="127.0.0.1", port=4711, tags=["blue", "v2"]
    )
    assert c.agent.services()["orders-1"]["Port"] == 4711
    _, found = c.catalog.service("orders")
    assert [(one["ServiceID"], one["ServicePort"]) for one in found] == [("orders-1", 4711)], found
    assert sorted(c.catalog.services()[1]["orders"]) == ["blue", "v2"]
    assert len(c.health.service("orders", passing=True)[1]) == 1
    assert len(c.health.service("orders", tag="green")[1]) == 0
    assert c.agent.service.deregister("orders-1")
    assert c.health.service("orders")[1] == []


@test
def service_with_a_ttl_check():
    c.agent.service.register("ttl", service_id="ttl-1", check=consul.Check.ttl("30s"))
    assert c.health.service("ttl", passing=True)[1] == []
    for call, status in [("ttl_pass", "passing"), ("ttl_warn", "warning"), ("ttl_fail", "critical")]:
        assert getattr(c.agent.check, call)("service:ttl-1", f"told by {call}")
        check = soon(status, lambda: [one for one in c.health.checks("ttl")[1] if one["Status"] == status])[0]
        assert check["Output"] == f"told by {call}", check
    assert "service:ttl-1" in c.agent.checks()
    assert "ttl-1" in [one["ServiceID"] for one in c.health.state("critical")[1]]
    c.agent.service.deregister("ttl-1")


@test
def service_with_a_tcp_check():
    address = urllib.parse.urlsplit(REGISTRY)
    check = consul.Check.tcp(address.hostname, address.port, "1s")
    c.agent.service.register("tcp", service_id="tcp-1", check=check)
    soon("a passing check", lambda: c.health.service("tcp", passing=True)[1])
    c.agent.service.deregister("tcp-1")


@test
def service_with_an_http_check():
    check = consul.Check.http(REGISTRY + "/v1/status/leader", "1s", timeout="2s")
    c.agent.service.register("web", service_id="web-1", check=check)
    soon("a passing check", lambda: c.health.service("web", passing=True)[1])
    c.agent.service.deregister("web-1")


@test
def service_maintenance():
    c.agent.service.register("maint", service_id="maint-1")
    assert c.agent.service.maintenance("maint-1", True, "to be moved")
    assert c.health.service("maint", passing=True)[1] == []
    assert [one["Notes"] for one in c.health.checks("maint")[1]] == ["to be moved"]
    assert c.agent.service.maintenance("maint-1", False)
    assert len(c.health.service("maint", passing=True)[1]) == 1
    c.agent.service.deregister("maint-1")


@test
def health_watch_wakes_with_a_new_instance():
    c.agent.service.register("watched", service_id="watched-1")
    index, _ = c.health.service("watched")
    later(lambda: c.agent.service.register("watched", service_id="watched-2"))
    begun, found = time.monotonic(), []
    while len(found) < 2 and time.monotonic() - begun < 20:
        index, found = c.health.service("watched", index=index, wait="15s")
    assert len(found) == 2 and time.monotonic() - begun < 10, found
    for name in ["watched-1", "watched-2"]:
        c.agent.service.deregister(name)


@test
def catalog_external_node():
    service = {"ID": "mail-1", "Service": "mail", "Port": 25}
    assert c.catalog.register("far", "127.0.0.2", service=service)
    assert "far" in [one["Node"] for one in c.catalog.nodes()[1]]
    assert "mail-1" in c.catalog.node("far")[1]["Services"]
    assert c.health.node("far")[1] == []
    assert c.catalog.deregister("far")
    assert c.catalog.node("far")[1] is None


@test
def agent_itself():
    assert c.agent.self()["Config"]["Datacenter"] == "dc1"
    assert [one["Status"] for one in c.agent.members()] == [1]
    assert c.catalog.datacenters() == ["dc1"]
    assert c.status.leader() and c.status.peers() == [c.status.leader()]


@test
def event_fire_and_list():
    fired = c.event.fire("deploy", "v2")
    assert fired["Name"] == "deploy", fired
    found = soon("the event", lambda: c.event.list("deploy")[1])
    # python-consul2 hands the payload out as the registry encodes it.
    assert [one["ID"] for one in found] == [fired["ID"]] and found[0]["Payload"] in (b"v2", "djI="), found


@test
def coordinates():
    # None without a WAN.
    assert [one["Datacenter"] for one in c.coordinate.datacenters()] in (["dc1"], [])
    _, found = c.coordinate.nodes()
    assert isinstance(found, list), found


@test
def prepared_query():
    c.agent.service.register("asked", service_id="asked-1", port=1)
    made = c.query.create("asked", name="by-name")
    assert [one["Service"]["ID"] for one in c.query.execute("by-name")["Nodes"]] == ["asked-1"]
    assert c.query.delete(made["ID"])
    c.agent.service.deregister("asked-1")


for function in TESTS if r is c else READS:
    try:
        function()
    except Exception as error:
        traceback.print_exc()
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        print(f"fail {function.__name__}: {why}", flush=True)
    else:
        print(f"ok {function.__name__}", flush=True)
sys.exit(0)
