"""Patroni's own code for Consul, which elects the leader of a database cluster, without the databases.

Two members with a session each, as two hosts run it: the election, its loss, its hand-over, the record of the cluster.
"""

import json
import os
import sys
import threading
import time
import traceback

from patroni.dcs import get_dcs

ADDRESS = os.environ["CONSUL_HTTP_ADDR"]
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def member(scope, name, **more):
    settings = {"url": ADDRESS, **more}
    config = {
        "scope": scope, "name": name, "namespace": "/service/", "ttl": 30, "loop_wait": 1, "retry_timeout": 5,
        "consul": settings,
    }
    return get_dcs(config)


def data(role="replica"):
    return {
        "role": role, "state": "running", "api_url": "http://127.0.0.1:8008/patroni",
        "conn_url": "postgres://127.0.0.1:5432/postgres", "xlog_location": 1,
    }


def soon(what, condition):
    """Waits for a condition, at most 20 seconds."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within 20 s: {what}")


@test
def one_leader_at_a_time():
    a, b = member("elect", "a"), member("elect", "b")
    for one in (a, b):
        assert one.touch_member(data())
    assert a.attempt_to_acquire_leader() is True
    assert b.attempt_to_acquire_leader() is False
    cluster = b.get_cluster()
    assert cluster.leader.name == "a" and cluster.leader.session == a._session, cluster
    assert sorted(one.name for one in cluster.members) == ["a", "b"], cluster


@test
def the_leader_keeps_its_place_and_writes_its_status():
    a = member("status", "a")
    a.touch_member(data("primary"))
    assert a.attempt_to_acquire_leader() is True
    cluster = a.get_cluster()
    assert a.update_leader(cluster, 12345) is True
    assert a.get_cluster().status.last_lsn == 12345


@test
def a_leader_that_steps_down_is_followed():
    a, b = member("handover", "a"), member("handover", "b")
    for one in (a, b):
        one.touch_member(data())
    assert a.attempt_to_acquire_leader() is True
    cluster = b.get_cluster()
    begun = time.monotonic()
    timer = threading.Timer(0.5, lambda: a.delete_leader(a.get_cluster().leader))
    timer.start()
    assert b.watch(cluster.leader.version, 15) is True
    assert time.monotonic() - begun < 10, "the watch did not wake with the change"
    soon("the next leader", b.attempt_to_acquire_leader)
    assert a.get_cluster().leader.name == "b"


@test
def a_leader_loses_its_keys_with_its_session():
    a, b = member("lost", "a"), member("lost", "b")
    for one in (a, b):
        one.touch_member(data())
    assert a.attempt_to_acquire_leader() is True
    a._client.session.destroy(a._session)
    cluster = soon("the end of the leader", lambda: (lambda c: c if c.leader is None else None)(b.get_cluster()))
    assert [one.name for one in cluster.members] == ["b"], cluster
    soon("the next leader", b.attempt_to_acquire_leader)
    # The old one finds its session gone, makes another one and stays a replica.
    assert a.attempt_to_acquire_leader() is False
    assert a.touch_member(data()) is True
    assert sorted(one.name for one in b.get_cluster().members) == ["a", "b"]


@test
def many_candidates_elect_one():
    candidates = [member("race", f"m{n}") for n in range(8)]
    won = []

    def run(one):
        if one.attempt_to_acquire_leader():
            won.append(one._name)

    threads = [threading.Thread(target=run, args=(one,)) for one in candidates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(won) == 1 and candidates[0].get_cluster().leader.name == won[0], won


@test
def initialization_is_won_once():
    a, b = member("init", "a"), member("init", "b")
    assert a.initialize(create_new=True, sysid="1") is True
    assert b.initialize(create_new=True, sysid="2") is False
    assert b.get_cluster().initialize == "1"
    assert a.cancel_initialization() is True
    assert b.initialize(create_new=True, sysid="2") is True


@test
def settings_failover_and_history_are_records_with_versions():
    a = member("records", "a")
    assert a.set_config_value(json.dumps({"ttl": 30})) is True
    cluster = a.get_cluster()
    assert cluster.config.data == {"ttl": 30}, cluster
    assert a.set_config_value(json.dumps({"ttl": 20}), cluster.config.modify_version - 1) is False
    assert a.set_config_value(json.dumps({"ttl": 20}), cluster.config.modify_version) is True
    assert a.manual_failover("a", "b") is True
    assert a.get_cluster().failover.candidate == "b"
    assert a.set_history_value(json.dumps([[1, 2, "3"]])) is True
    assert a.get_cluster().history.lines == [[1, 2, "3"]]


@test
def synchronous_state_is_written_by_its_version():
    a = member("sync", "a")
    state = a.write_sync_state("a", ["b"], 0)
    assert state and state.leader == "a" and state.version > 0, state
    assert not a.write_sync_state("a", ["c"], 0, version=state.version - 1)
    assert a.write_sync_state("a", ["c"], 0, version=state.version)
    version = a.get_cluster().sync.version
    assert a.delete_sync_state(version=version) is True


@test
def members_are_services_with_tags():
    a = member("svc", "a", register_service=True)
    a.touch_member(data("primary"))
    _, found = a._client.catalog.service("svc")
    assert [(one["ServiceID"], one["ServiceTags"]) for one in found] == [("svc/a", ["primary", "master"])], found
    a.get_cluster()
    a.touch_member({**data("primary"), "state": "stopped"})
    assert a._client.catalog.service("svc")[1] == []


@test
def a_cluster_is_deleted_as_a_whole():
    a = member("gone", "a")
    a.touch_member(data())
    assert a.attempt_to_acquire_leader() is True
    assert a.delete_cluster() is True
    cluster = a.get_cluster()
    assert cluster.leader is None and cluster.members == [], cluster


for function in TESTS:
    try:
        function()
    except Exception as error:
        traceback.print_exc()
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        print(f"fail {function.__name__}: {why}", flush=True)
    else:
        print(f"ok {function.__name__}", flush=True)
# A timer of a failed test may be left.
sys.stdout.flush()
os._exit(0)
