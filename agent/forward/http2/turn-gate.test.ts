// Reads of a connection whose namespace has no time left wait, and go on once.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Tenants } from "../tenants.ts";
import { TurnGate } from "./turn-gate.ts";

/** 300 µs of each ms; time goes by when the test says so. */
function setUp() {
  let now = 1_000_000;
  let later: (() => void)[] = [];
  const tenants = new Tenants(
    { connections: 10, requests: 10, bytes: 1000, share: 0.3 },
    {
      afterTurn: (fn) => void later.push(fn),
      afterLook: (fn) => void later.push(fn),
      nowUs: () => now,
      cpuUs: () => now,
    },
  );
  const work = (us: number): void => {
    now += us;
  };
  const turns = (count: number): void => {
    for (let i = 0; i < count; i++) {
      now += 1000;
      const all = later;
      later = [];
      for (const fn of all) fn();
    }
  };
  let resumed = 0;
  const gate = new TurnGate(() => void resumed++);
  const crowd = (): void => {
    for (const name of ["a", "b"]) tenants.of(name).startUs();
    tenants.sweep();
  };
  return { tenants, gate, work, turns, crowd, resumed: () => resumed };
}

test("[SEC-8] nobody measures, and nobody waits, where a connection is nobody's or its namespace is alone", () => {
  const { tenants, gate, work } = setUp();
  const read = (): boolean => {
    const isMeasured = gate.beforeRead(100);
    work(50_000);
    return !isMeasured && gate.afterRead(true);
  };
  assert.ok(read());
  gate.tenant = tenants.of("a");
  assert.ok(read());
});

test("[SEC-8] a read that used its namespace's time up is the last for now, one that was cut too; each goes on once", () => {
  const { tenants, gate, work, turns, crowd, resumed } = setUp();
  gate.tenant = tenants.of("a");
  crowd();
  assert.ok(gate.beforeRead(100));
  work(1_000);
  assert.equal(gate.goesOn(), false, "the rest of it is to be kept");
  assert.equal(gate.afterRead(false), false);
  assert.equal(resumed(), 0);
  turns(20);
  assert.equal(resumed(), 1);
  assert.ok(gate.beforeRead(100));
  work(1_000);
  assert.equal(gate.afterRead(true), false);
  turns(20);
  assert.equal(resumed(), 2);
  assert.ok(gate.beforeRead(100));
  work(1);
  assert.ok(gate.goesOn());
  assert.ok(gate.afterRead(true), "there is time again");
  const before = tenants.of("a").used;
  const startUs = gate.beforeWrite();
  work(40);
  gate.afterWrite(startUs);
  assert.ok(tenants.of("a").used >= before + 40, "writes cost too");
});
