// Shares of namespaces: by counts, never by time.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type TenantLimits, Tenants, type Waiting } from "./tenants.ts";

const limits: TenantLimits = { connections: 3, requests: 2, bytes: 1000, turn: 4 };

/** Turns end when the test says so. */
function setUp(more: Partial<TenantLimits> = {}) {
  const pending: (() => void)[] = [];
  const tenants = new Tenants({ ...limits, ...more }, (fn) => void pending.push(fn));
  const endTurn = (): boolean => {
    const all = pending.splice(0);
    for (const fn of all) fn();
    return all.length > 0;
  };
  return { tenants, endTurn };
}

test("[SEC-8] connections and requests of a namespace are counted and limited; another's are not touched", () => {
  const { tenants } = setUp();
  const [a, b] = [tenants.of("a"), tenants.of("b")];
  assert.deepEqual([a.open(), a.open(), a.open(), a.open(), b.open()], [true, true, true, false, true]);
  a.close();
  assert.equal(a.open(), true);
  assert.deepEqual([a.begin(), a.begin(), a.begin(), b.begin()], [true, true, false, true]);
  a.end();
  assert.equal(a.begin(), true);
  assert.deepEqual(tenants.takeRefusals(), [
    { namespace: "a", limit: "connections", count: 1 },
    { namespace: "a", limit: "requests", count: 1 },
  ]);
  assert.deepEqual(tenants.takeRefusals(), []);
});

test("[SEC-8] a namespace that holds too much memory loses those that hold more than their part, and no one else does", () => {
  const { tenants } = setUp();
  const [a, b] = [tenants.of("a"), tenants.of("b")];
  for (let i = 0; i < 3; i++) a.open();
  b.open();
  const sweep = (): boolean[] => {
    tenants.sweep();
    return [a.holds(900), a.holds(200), a.holds(10), b.holds(990)];
  };
  assert.deepEqual(sweep(), [false, false, false, false], "seen for the first time");
  assert.deepEqual(sweep(), [true, false, false, false]);
  assert.deepEqual(tenants.takeRefusals(), [{ namespace: "a", limit: "bytes", count: 1 }]);
});

test("[SEC-8] whoever is alone waits for nobody", () => {
  const { tenants, endTurn } = setUp();
  const a = tenants.of("a");
  a.open();
  const who: Waiting = { goOn: () => assert.fail("never waited") };
  for (let i = 0; i < 1000; i++) assert.ok(a.spend(100_000, who));
  assert.equal(endTurn(), false);
});

test("[SEC-8] in one turn a flood has its share and no more, however many connections it has; others are not held up", () => {
  const { tenants, endTurn } = setUp({ connections: 10_000 });
  const [flood, other] = [tenants.of("flood"), tenants.of("other")];
  other.open();
  let readsInTurn = 0;
  let held = 0;
  const connections = Array.from({ length: 2000 }, () => {
    flood.open();
    const connection = {
      reads: 0,
      isReady: true,
      goOn(): void {
        connection.isReady = true;
        held--;
      },
      read() {
        connection.isReady = false;
        connection.reads++;
        readsInTurn++;
        if (flood.spend(50, connection)) connection.isReady = true;
        else held++;
      },
    };
    return connection;
  });
  const victim: Waiting = { goOn: () => assert.fail("the other namespace never waits") };
  const perTurn: number[] = [];
  for (let turn = 0; turn < 600; turn++) {
    readsInTurn = 0;
    // Every connection that may be read has something to say at once; each is read once, as libuv does.
    for (const connection of connections.filter((c) => c.isReady)) connection.read();
    assert.ok(other.spend(100, victim));
    perTurn.push(readsInTurn);
    endTurn();
  }
  assert.equal(perTurn[0], 2000, "all were free to be read before anything was known");
  // The first few of those had nothing against them yet.
  assert.ok((perTurn[1] ?? 0) <= 2 * limits.turn);
  assert.deepEqual(new Set(perTurn.slice(2)), new Set([limits.turn]));
  assert.ok(held <= 2000);
  const reads = connections.map((c) => c.reads);
  assert.ok(Math.max(...reads) - Math.min(...reads) <= 1, "in turn");
});

test("[SEC-8] large reads count for more", () => {
  const { tenants, endTurn } = setUp();
  const [a, b] = [tenants.of("a"), tenants.of("b")];
  a.open();
  b.open();
  let gone = 0;
  const who = { goOn: () => void gone++ };
  assert.equal(a.spend(64 * 1024, who), false);
  endTurn();
  assert.equal(gone, 1);
  assert.equal(a.spend(16 * 1024, who), true);
});

test("[SEC-8] whatever happens in whatever order, everyone who waits goes on in the end, once, and all counts come back to nothing", () => {
  const step = fc.record({
    kind: fc.constantFrom("open", "close", "begin", "end", "spend", "turn", "look"),
    tenant: fc.constantFrom("a", "b", "c"),
    bytes: fc.nat({ max: 100_000 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const { tenants, endTurn } = setUp();
      const open = new Map<string, number>();
      const under = new Map<string, number>();
      let waiting = 0;
      let opened = 0;
      for (const { kind, tenant: name, bytes } of steps) {
        const tenant = tenants.of(name);
        const [o, u] = [open.get(name) ?? 0, under.get(name) ?? 0];
        if (kind === "open") {
          const granted = tenant.open();
          assert.equal(granted, o < limits.connections);
          if (granted) open.set(name, o + 1);
        } else if (kind === "close" && o > 0) {
          tenant.close();
          open.set(name, o - 1);
        } else if (kind === "begin" && o > 0) {
          const granted = tenant.begin();
          assert.equal(granted, u < limits.requests);
          if (granted) under.set(name, u + 1);
        } else if (kind === "end" && u > 0) {
          tenant.end();
          under.set(name, u - 1);
        } else if (kind === "spend" && o > 0) {
          opened++;
          let isDone = false;
          waiting++;
          const goOn = (): void => {
            assert.equal(isDone, false);
            isDone = true;
            waiting--;
          };
          if (tenant.spend(bytes, { goOn })) goOn();
        } else if (kind === "turn") endTurn();
        else if (kind === "look") tenants.takeRefusals();
      }
      for (let turn = 0; turn < 1 + opened && waiting > 0; turn++) endTurn();
      assert.equal(waiting, 0);
      for (const [name, count] of under) for (let i = 0; i < count; i++) tenants.of(name).end();
      for (const [name, count] of open) for (let i = 0; i < count; i++) tenants.of(name).close();
      for (let turn = 0; turn < 3; turn++) endTurn();
      tenants.takeRefusals();
      assert.deepEqual([tenants.size, tenants.busy], [0, 0]);
    }),
    { numRuns: 300 },
  );
});
