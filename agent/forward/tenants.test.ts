// Shares of namespaces: by counts, never by time.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Tenant, type TenantLimits, Tenants, type Waiting } from "./tenants.ts";

// 300 µs of each ms.
const limits: TenantLimits = { connections: 3, requests: 2, bytes: 1000, share: 0.3 };

/** Time goes by, and turns end, when the test says so. */
function setUp(more: Partial<TenantLimits> = {}) {
  let now = 1_000_000;
  let pending: (() => void)[] = [];
  let looks: (() => void)[] = [];
  let away = 0;
  let worked = 0;
  const tenants = new Tenants(
    { ...limits, ...more },
    {
      afterTurn: (fn) => void pending.push(fn),
      afterLook: (fn) => void looks.push(fn),
      nowUs: () => now,
      cpuUs: () => now - away + worked,
    },
  );
  /** Another thread has the core for so long. */
  const goAway = (us: number): void => {
    now += us;
    away += us;
  };
  /** The loop has looked for bytes, so often as somebody waits for it. */
  const look = (): boolean => {
    const all = looks;
    looks = [];
    for (const fn of all) fn();
    return looks.length > 0;
  };
  /** Work beside reads. */
  const charge = (tenant: Tenant, us: number): void => {
    worked += us;
    tenant.charge(us);
  };
  const endTurn = (us = 1000): boolean => {
    now += us;
    const all = pending;
    pending = [];
    for (const fn of all) fn();
    return all.length > 0;
  };
  /** One read that takes so long, overhead included. */
  const read = (tenant: Tenant, us: number, who: Waiting): boolean => {
    const isMeasured = tenant.startUs() > 0;
    worked += us;
    return tenant.spend(isMeasured ? now - (us - 15) : 0, who);
  };
  const contend = (...all: Tenant[]): void => {
    for (const tenant of all) tenant.startUs();
    tenants.sweep();
  };
  return { tenants, endTurn, look, read, charge, contend, goAway };
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

test("[SEC-8] whoever is alone has all of the time, and waits for no turn; after some ms at a stretch the loop looks for others", () => {
  const { tenants, endTurn, look, goAway } = setUp();
  const a = tenants.of("a");
  tenants.of("b").open();
  let waiting = 0;
  const who: Waiting = { goOn: () => void waiting-- };
  /** Of so many bytes; whether it may go on. */
  const read = (bytes: number, us: number): boolean => {
    const startUs = a.startUs(bytes);
    goAway(us);
    return a.spend(startUs, who);
  };
  const stretchOf = (bytes: number, us: number): number => {
    let reads = 1;
    for (; read(bytes, us); reads++) assert.ok(reads < 10_000, "never looks");
    waiting++;
    while (look());
    assert.equal(waiting, 0);
    return reads;
  };
  for (let i = 0; i < 100; i++) {
    const reads = stretchOf(100, 100);
    assert.ok(reads >= 40 && reads <= 64, `${reads} short reads`);
    const long = stretchOf(64 * 1024, 300);
    assert.ok(long >= 12 && long <= 20, `${long} long reads`);
    tenants.sweep();
  }
  assert.equal(endTurn(), false, "there are no turns");
});

test("[SEC-8] a flood that was alone has its share from the moment on that another asks, not from the next sweep", () => {
  const { tenants, endTurn, look, read } = setUp();
  const [flood, other] = [tenants.of("flood"), tenants.of("other")];
  let waiting = 0;
  const who: Waiting = { goOn: () => void waiting-- };
  for (let i = 0; i < 10; i++) assert.ok(read(flood, 50, who));
  tenants.sweep();
  assert.ok(other.startUs() > 0);
  for (let i = 0; i < 20; i++) if (!read(flood, 50, who)) waiting++;
  assert.ok(waiting >= 10, String(waiting));
  for (let turn = 0; turn < 100 && waiting > 0; turn++) {
    endTurn();
    while (look());
  }
  assert.equal(waiting, 0);
});

test("[SEC-8] a flood has its share of the time and no more, however many connections it has; others are not held up", () => {
  const { tenants, endTurn, look, read, contend } = setUp({ connections: 10_000 });
  const [flood, other] = [tenants.of("flood"), tenants.of("other")];
  contend(flood, other);
  let readsInTurn = 0;
  const connections = Array.from({ length: 500 }, () => {
    const connection = {
      reads: 0,
      isReady: true,
      goOn(): void {
        connection.isReady = true;
      },
      read(): void {
        connection.reads++;
        readsInTurn++;
        connection.isReady = read(flood, 20, connection);
      },
    };
    return connection;
  });
  let isVictimReady = true;
  const victim: Waiting = {
    goOn() {
      isVictimReady = true;
    },
  };
  const perTurn: number[] = [];
  for (let turn = 0; turn < 1000; turn++) {
    readsInTurn = 0;
    // Every connection that may be read has something to say at once; each is read once for each look, as libuv does.
    for (let more = true; more; more = look()) {
      for (const connection of connections.filter((c) => c.isReady)) connection.read();
      if (isVictimReady) isVictimReady = read(other, 10, victim);
    }
    assert.ok(isVictimReady, "the other namespace waits for a look at most");
    perTurn.push(readsInTurn);
    endTurn();
  }
  assert.ok((perTurn[0] ?? 0) >= 500, "all were free to be read before anything was known");
  const steady = perTurn.slice(50);
  assert.ok(Math.max(...steady) <= 30, String(Math.max(...steady)));
  // 15 reads of 20 µs a turn are its 300 µs.
  const mean = steady.reduce((a, b) => a + b, 0) / steady.length;
  assert.ok(mean > 13 && mean < 16, String(mean));
  const reads = connections.map((c) => c.reads);
  assert.ok(Math.max(...reads) - Math.min(...reads) <= 2, "each in its turn");
});

test("[SEC-8] the loop looks for others' bytes after each 60 µs of a flood; what comes meanwhile is put off", () => {
  const { tenants, endTurn, look, read, contend } = setUp({ connections: 10_000 });
  const [flood, other] = [tenants.of("flood"), tenants.of("other")];
  contend(flood, other);
  const ready: Waiting[] = [];
  const waiting = Array.from({ length: 200 }, (): Waiting => {
    const who = { goOn: () => void ready.push(who) };
    return who;
  });
  // 20 µs each, all at once: as long as nobody knows better.
  for (const who of waiting) read(flood, 20, who);
  for (let turn = 0; turn < 100; turn++) endTurn();
  let read20 = 0;
  let looks = 0;
  ready.splice(0);
  for (let turn = 0; turn < 100; turn++) {
    endTurn();
    for (let more = true; more; looks++) {
      more = look();
      const now = ready.splice(0);
      assert.ok(now.length <= 3, `${now.length} of 20 µs at a stretch`);
      for (const who of now) {
        assert.equal(flood.isOut && flood.queue.length === 0, false, "who goes on has time");
        read(flood, 20, who);
        read20++;
      }
    }
  }
  assert.ok(read20 / 100 > 13 && read20 / 100 < 17, `${read20 / 100} reads a turn are its share`);
  assert.ok(looks > 400, "several looks a turn");
  assert.equal(other.isOut, false);
});

test("[SEC-8] one read that takes long is paid for in the turns that follow; so is what is done by the way", () => {
  const { tenants, endTurn, look, read, charge, contend } = setUp();
  const [a, b] = [tenants.of("a"), tenants.of("b")];
  contend(a, b);
  let gone = 0;
  const who = { goOn: () => void gone++ };
  const turnsUntilGone = (): number => {
    const before = gone;
    for (let turn = 1; turn < 100; turn++) {
      endTurn();
      look();
      if (gone > before) return turn;
    }
    return assert.fail("waits for ever");
  };
  assert.equal(read(a, 1900, who), false);
  assert.equal(turnsUntilGone(), 6);
  for (let i = 0; i < 20; i++) {
    endTurn();
    look();
  }
  charge(a, 1500);
  assert.equal(read(a, 10, who), false);
  assert.equal(turnsUntilGone(), 5);
  // A turn that ends late has granted more.
  assert.equal(read(a, 3000, who), false);
  endTurn(5_000);
  assert.ok(turnsUntilGone() <= 6);
});

test("[SEC-8] a collection of garbage in the middle of a read is not charged to whom it befell; reads that all take so long are", () => {
  const { tenants, endTurn, look, read, contend } = setUp();
  const [a, b] = [tenants.of("a"), tenants.of("b")];
  contend(a, b);
  let gone = 0;
  const who = { goOn: () => void gone++ };
  const turnsFor = (us: number): number => {
    const before = gone;
    assert.equal(read(a, us, who), false);
    for (let turn = 1; turn < 1000; turn++) {
      endTurn();
      look();
      if (gone > before) return turn;
    }
    return assert.fail("waits for ever");
  };
  assert.ok(turnsFor(50_000) <= 7);
  let turns = 0;
  for (let i = 0; i < 100; i++) {
    contend(a, b);
    turns = turnsFor(50_000);
  }
  assert.ok(turns >= 160, `${turns} turns of 300 µs`);
});

test("[SEC-8] whatever happens in whatever order, everyone who waits goes on in the end, once, and all counts come back to nothing", () => {
  const step = fc.record({
    kind: fc.constantFrom("open", "close", "begin", "end", "read", "turn", "see", "look", "sweep"),
    tenant: fc.constantFrom("a", "b", "c"),
    us: fc.nat({ max: 2000 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const { tenants, endTurn, look, read } = setUp();
      const open = new Map<string, number>();
      const under = new Map<string, number>();
      let waiting = 0;
      for (const { kind, tenant: name, us } of steps) {
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
        } else if (kind === "read" && o > 0) {
          let isDone = false;
          waiting++;
          const goOn = (): void => {
            assert.equal(isDone, false);
            isDone = true;
            waiting--;
          };
          if (read(tenant, us, { goOn })) goOn();
        } else if (kind === "turn") endTurn();
        else if (kind === "sweep") tenants.sweep();
        else if (kind === "look") tenants.takeRefusals();
      }
      for (let turn = 0; turn < 20_000 && waiting > 0; turn++) {
        endTurn();
        while (look());
      }
      assert.equal(waiting, 0);
      for (const [name, count] of under) for (let i = 0; i < count; i++) tenants.of(name).end();
      for (const [name, count] of open) for (let i = 0; i < count; i++) tenants.of(name).close();
      tenants.takeRefusals();
      assert.equal(tenants.size, 0);
    }),
    { numRuns: 300 },
  );
});

test("[SEC-8] time for which another thread had the core is nobody's", () => {
  const { tenants, endTurn, look, contend, goAway } = setUp();
  const [a, b] = [tenants.of("a"), tenants.of("b")];
  contend(a, b);
  let isWaiting = true;
  const startUs = a.startUs();
  goAway(50_000);
  assert.equal(
    a.spend(startUs, {
      goOn() {
        isWaiting = false;
      },
    }),
    false,
  );
  for (let turn = 0; turn < 5; turn++) {
    endTurn();
    look();
  }
  assert.equal(isWaiting, false, "it waits for a few turns, not for those that 50 ms would take");
});

test("[SEC-8] a turn that ends before the loop has looked again leaves nobody waiting for ever", () => {
  const { tenants, charge, look, endTurn } = setUp();
  const [one, other] = [tenants.of("one"), tenants.of("other")];
  one.startUs();
  other.startUs();
  tenants.sweep();
  assert.ok(tenants.isContended);
  // Long enough for a look's share, and forgotten by the turn's end.
  charge(one, 10_000);
  for (let i = 0; i < 40 && endTurn(); i++);
  let went = 0;
  if (!one.admit({ goOn: () => void went++ }))
    for (let i = 0; i < 40 && went === 0; i++) {
      look();
      endTurn();
    }
  else went++;
  assert.equal(went, 1);
  look();
  endTurn();
  // The next one, when the looks that were due are over.
  if (one.admit({ goOn: () => void went++ })) went++;
  for (let i = 0; i < 40 && went === 1; i++) {
    look();
    endTurn();
  }
  assert.equal(went, 2);
});
