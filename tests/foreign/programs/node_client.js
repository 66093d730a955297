// The calls that an app makes through the npm package consul.
//
// CONSUL_HTTP_ADDR is a registry. FOREIGN_READS, if set, is the address that serves the key-value reads instead: then only the
// tests of `reads` run, which change nothing but this address. Each test uses keys and names of its own.

"use strict";

const assert = require("node:assert");
const Consul = require("consul");

function client(address) {
  const { hostname, port } = new URL(address);
  return new Consul({ host: hostname, port: Number(port) });
}

const c = client(process.env.CONSUL_HTTP_ADDR);
const r = process.env.FOREIGN_READS ? client(process.env.FOREIGN_READS) : c;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Waits for a condition, at most 20 seconds.
async function soon(what, condition) {
  const end = Date.now() + 20_000;
  while (Date.now() < end) {
    const found = await condition();
    if (found) return found;
    await sleep(50);
  }
  throw new Error(`not within 20 s: ${what}`);
}

// Collects the changes that a watch reports, and ends it when `enough` accepts them.
function watched(options, enough) {
  return new Promise((resolve, reject) => {
    const watch = r.watch({ backoffFactor: 100, ...options });
    const seen = [];
    const timer = setTimeout(() => end(reject, new Error(`the watch saw ${JSON.stringify(seen)} in 20 s`)), 20_000);
    function end(settle, value) {
      clearTimeout(timer);
      watch.end();
      settle(value);
    }
    watch.on("change", (data) => {
      seen.push(data);
      if (enough(seen)) end(resolve, seen);
    });
    watch.on("error", (error) => {
      if (error.statusCode !== 404) end(reject, error);
    });
  });
}

const reads = {
  async kv_get() {
    await c.kv.set({ key: "node/get", value: "one", flags: 7 });
    const entry = await soon("the value", () => r.kv.get("node/get"));
    assert.deepStrictEqual([entry.Key, entry.Value, entry.Flags, entry.LockIndex], ["node/get", "one", 7, 0]);
  },
  async kv_get_missing() {
    assert.strictEqual(await r.kv.get("node/missing"), undefined);
  },
  async kv_get_raw() {
    await c.kv.set("node/raw", "as it is");
    await soon("the key", () => r.kv.get("node/raw"));
    const body = await r.kv.get({ key: "node/raw", raw: true });
    assert.strictEqual(body.toString(), "as it is");
  },
  async kv_get_buffer() {
    const value = Buffer.from([0, 1, 2, 253, 254, 255]);
    await c.kv.set("node/buffer", value);
    const entry = await soon("the key", () => r.kv.get({ key: "node/buffer", buffer: true }));
    assert.deepStrictEqual(entry.Value, value);
  },
  async kv_get_recurse() {
    await c.kv.set("node/tree/a", "1");
    await c.kv.set("node/tree/b/c", "2");
    const found = await soon("two keys", async () => {
      const entries = await r.kv.get({ key: "node/tree/", recurse: true });
      return entries && entries.length === 2 && entries;
    });
    assert.deepStrictEqual(found.map((one) => [one.Key, one.Value]), [["node/tree/a", "1"], ["node/tree/b/c", "2"]]);
  },
  async kv_keys() {
    await c.kv.set("node/keys/a", "1");
    await c.kv.set("node/keys/b/c", "2");
    await soon("two keys", async () => (await r.kv.keys("node/keys/").catch(() => [])).length === 2);
    assert.deepStrictEqual(await r.kv.keys({ key: "node/keys/", separator: "/" }), ["node/keys/a", "node/keys/b/"]);
  },
  async watch_of_a_key() {
    await c.kv.set("node/watch", "1");
    await soon("the key", () => r.kv.get("node/watch"));
    const changes = watched({ method: r.kv.get, options: { key: "node/watch", wait: "10s" } }, (seen) => {
      if (seen.length === 1) setTimeout(() => c.kv.set("node/watch", "2"), 300);
      return seen.at(-1).Value === "2";
    });
    assert.deepStrictEqual((await changes).map((one) => one.Value), ["1", "2"]);
  },
  async watch_of_a_tree() {
    await c.kv.set("node/watched/a", "1");
    await soon("the key", () => r.kv.get("node/watched/a"));
    const options = { key: "node/watched/", recurse: true, wait: "10s" };
    await watched({ method: r.kv.get, options }, (seen) => {
      if (seen.length === 1) setTimeout(() => c.kv.set("node/watched/b", "2"), 300);
      return seen.at(-1).length === 2;
    });
  },
};

const others = {
  async kv_set_cas() {
    assert.strictEqual(await c.kv.set({ key: "node/cas", value: "1", cas: "0" }), true);
    // The package gives undefined for the answer `false`.
    assert.notStrictEqual(await c.kv.set({ key: "node/cas", value: "2", cas: "0" }), true);
    assert.strictEqual((await c.kv.get("node/cas")).Value, "1");
  },
  async kv_delete() {
    await c.kv.set("node/delete/a", "1");
    await c.kv.set("node/delete/b", "1");
    await c.kv.del("node/delete/a");
    assert.deepStrictEqual(await c.kv.keys("node/delete/"), ["node/delete/b"]);
    await c.kv.del({ key: "node/delete/", recurse: true });
    assert.strictEqual(await c.kv.get("node/delete/b"), undefined);
  },
  async transaction() {
    const set = (key, value) => ({ KV: { Verb: "set", Key: key, Value: Buffer.from(value).toString("base64") } });
    const answer = await c.transaction.create([set("node/txn/a", "1"), set("node/txn/b", "2")]);
    assert.deepStrictEqual(answer.Results.map((one) => one.KV.Key), ["node/txn/a", "node/txn/b"]);
  },
  async transaction_that_fails_changes_nothing() {
    const value = Buffer.from("1").toString("base64");
    const failed = await c.transaction
      .create([
        { KV: { Verb: "set", Key: "node/rolled", Value: value } },
        { KV: { Verb: "check-index", Key: "node/rolled", Index: 1 } },
      ])
      .catch((error) => error);
    assert.strictEqual(failed.statusCode, 409);
    assert.strictEqual(await c.kv.get("node/rolled"), undefined);
  },
  async session_life() {
    const { ID: id } = await c.session.create({ name: "worker", ttl: "30s", lockdelay: "2s", behavior: "delete" });
    const info = await c.session.get(id);
    assert.deepStrictEqual([info.Name, info.TTL, info.LockDelay], ["worker", "30s", 2_000_000_000]);
    assert.strictEqual((await c.session.renew(id))[0].ID, id);
    assert.ok((await c.session.list()).some((one) => one.ID === id));
    await c.session.destroy(id);
    assert.strictEqual(await c.session.get(id), undefined);
  },
  async lock_is_exclusive() {
    const sessions = [];
    for (const name of ["first", "second"]) {
      sessions.push((await c.session.create({ name, ttl: "30s", lockdelay: "0s" })).ID);
    }
    const [first, second] = sessions;
    assert.strictEqual(await c.kv.set({ key: "node/lock", value: "1", acquire: first }), true);
    assert.notStrictEqual(await c.kv.set({ key: "node/lock", value: "2", acquire: second }), true);
    assert.strictEqual((await c.kv.get("node/lock")).Session, first);
    assert.strictEqual(await c.kv.set({ key: "node/lock", value: "1", release: first }), true);
    assert.strictEqual(await c.kv.set({ key: "node/lock", value: "2", acquire: second }), true);
    for (const id of sessions) await c.session.destroy(id);
  },
  async service_register_and_discover() {
    await c.agent.service.register({ name: "cart", id: "cart-1", address: "127.0.0.1", port: 4711, tags: ["blue"], meta: { v: "2" } });
    const [found] = await c.health.service({ service: "cart", passing: true });
    assert.deepStrictEqual([found.Service.ID, found.Service.Port, found.Service.Meta.v], ["cart-1", 4711, "2"]);
    assert.deepStrictEqual((await c.catalog.service.list()).cart, ["blue"]);
    assert.strictEqual((await c.catalog.service.nodes("cart")).length, 1);
    await c.agent.service.deregister("cart-1");
    assert.deepStrictEqual(await c.health.service("cart"), []);
  },
  async check_by_ttl() {
    await c.agent.service.register({ name: "timed", id: "timed-1", check: { ttl: "30s" } });
    await c.agent.check.pass({ id: "service:timed-1", note: "well" });
    const [check] = await soon("a passing check", async () => {
      const checks = await c.health.checks("timed");
      return checks.length === 1 && checks[0].Status === "passing" && checks;
    });
    assert.strictEqual(check.Output, "well");
    await c.agent.service.deregister("timed-1");
  },
  async service_maintenance() {
    await c.agent.service.register({ name: "moved", id: "moved-1" });
    await c.agent.service.maintenance({ id: "moved-1", enable: true, reason: "to be moved" });
    assert.strictEqual((await c.health.service({ service: "moved", passing: true })).length, 0);
    await c.agent.service.maintenance({ id: "moved-1", enable: false });
    assert.strictEqual((await c.health.service({ service: "moved", passing: true })).length, 1);
    await c.agent.service.deregister("moved-1");
  },
  async watch_of_a_service() {
    const options = { service: "seen", wait: "10s" };
    await watched({ method: c.health.service, options }, (seen) => {
      if (seen.length === 1) setTimeout(() => c.agent.service.register({ name: "seen", id: "seen-1" }), 300);
      return seen.at(-1).length === 1;
    });
    await c.agent.service.deregister("seen-1");
  },
  async agent_members_and_status() {
    assert.strictEqual((await c.agent.self()).Config.Datacenter, "dc1");
    assert.deepStrictEqual(await c.catalog.datacenters(), ["dc1"]);
    assert.strictEqual((await c.catalog.node.list()).length, 1);
    assert.strictEqual((await c.agent.members()).length, 1);
    assert.deepStrictEqual(await c.status.peers(), [await c.status.leader()]);
  },
  async event_fire_and_list() {
    const fired = await c.event.fire("deploy", "v2");
    const [found] = await soon("the event", async () => {
      const events = await c.event.list("deploy");
      return events.length === 1 && events;
    });
    assert.deepStrictEqual([found.ID, found.Payload.toString()], [fired.ID, "v2"]);
  },
  async prepared_query() {
    const { ID: id } = await c.query.create({ name: "by-name", service: { service: "cart" } });
    assert.deepStrictEqual((await c.query.execute("by-name")).Nodes, []);
    await c.query.destroy(id);
  },
};

(async () => {
  const tests = r === c ? { ...reads, ...others } : reads;
  for (const [name, test] of Object.entries(tests)) {
    try {
      await test();
      console.log(`ok ${name}`);
    } catch (error) {
      console.error(error);
      console.log(`fail ${name}: ${String(error).replace(/\s+/g, " ").slice(0, 300)}`);
    }
  }
  // A watch that failed may still have a request under way.
  process.exit(0);
})();
