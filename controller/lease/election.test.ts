import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { FakeKubernetes, type Mishap } from "../../test/kit/fake-kubernetes.ts";
import { leaders, pass, Replica, stepMs } from "../../test/kit/replicas.ts";

const collection = "/apis/coordination.k8s.io/v1/leases";
const leaseOf = (fake: FakeKubernetes) => fake.get(collection, "mesh", "controller");

test("[DIS-8] of several replicas one leads; it renews, and its record is what other tools expect", async () => {
  await using fake = await FakeKubernetes.start();
  const replicas = ["a", "b", "c"].map((name) => new Replica(fake.access(), name));
  await pass(replicas, 3_000);
  const [leader = ""] = leaders(replicas);
  assert.equal(leaders(replicas).length, 1);
  const first = leaseOf(fake);
  assert.equal(first.spec.holderIdentity, leader);
  assert.equal(first.spec.leaseDurationSeconds, 10);
  for (const field of ["acquireTime", "renewTime"])
    assert.match(first.spec[field], /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.]\d{6}Z$/);
  await pass(replicas, 30_000, () => assert.deepEqual(leaders(replicas), [leader]));
  const later = leaseOf(fake);
  assert.equal(later.spec.acquireTime, first.spec.acquireTime);
  assert.notEqual(later.spec.renewTime, first.spec.renewTime);
  assert.equal(later.spec.leaseTransitions, 0);
  assert.deepEqual(
    replicas.map((r) => r.election.holder),
    [leader, leader, leader],
  );
  for (const replica of replicas) await replica.stop();
});

test("[DIS-8] a leader that is killed is followed within 15 seconds, one that stops gives way at once", async () => {
  await using fake = await FakeKubernetes.start();
  const replicas = ["a", "b", "c"].map((name) => new Replica(fake.access(), name));
  await pass(replicas, 3_000);
  for (const turn of [1, 2]) {
    const [name] = leaders(replicas);
    const killed = replicas.find((replica) => replica.name === name);
    assert.ok(killed !== undefined);
    killed.isDead = true;
    let waitedMs = 0;
    for (; leaders(replicas).length === 0; waitedMs += stepMs) await pass(replicas, stepMs);
    assert.ok(waitedMs <= 15_000, `turn ${turn}: ${waitedMs} ms`);
    killed.isDead = false;
    await pass(replicas, 5_000);
    assert.equal(leaders(replicas).length, 1);
  }
  const [name] = leaders(replicas);
  const stopping = replicas.find((replica) => replica.name === name);
  assert.ok(stopping !== undefined);
  await stopping.stop();
  assert.equal(leaseOf(fake).spec.holderIdentity, "");
  assert.equal(stopping.changes.at(-1), "released");
  const rest = replicas.filter((replica) => replica !== stopping);
  await pass(rest, 3_000);
  assert.equal(leaders(rest).length, 1);
  for (const replica of rest) await replica.stop();
});

test("[DIS-8] without an API server the leader stops by its own clock before anybody else may begin", async () => {
  await using fake = await FakeKubernetes.start();
  const a = new Replica(fake.access(), "a");
  await pass([a], 3_000);
  assert.ok(a.writes);
  const b = new Replica(fake.access(), "b");
  let over = 0;
  a.election.onLead((signal) => signal.addEventListener("abort", () => over++));
  a.mishap = "lost";
  let gapMs = 0;
  let isOver = false;
  for (let passed = 0; passed < 20_000 && !b.writes; passed += stepMs) {
    await pass([a, b], stepMs);
    assert.ok(!(a.writes && b.writes));
    isOver ||= !a.writes;
    if (isOver) gapMs += stepMs;
  }
  assert.ok(b.writes && isOver && gapMs >= 2_000, `${gapMs} ms between them`);
  assert.deepEqual([over, a.changes], [1, ["acquired", "lost"]]);
  assert.match(a.election.fault ?? "", /lost/);
  a.mishap = undefined;
  await pass([a, b], 5_000);
  assert.deepEqual([leaders([a, b]), a.election.fault], [["b"], undefined]);
  for (const replica of [a, b]) await replica.stop();
});

test("[DIS-8] a process that stood still knows it before any of its timers has run; an answer that comes too late is none", async () => {
  await using fake = await FakeKubernetes.start();
  const a = new Replica(fake.access(), "a");
  await pass([a], 3_000);
  assert.ok(a.writes);
  a.skippedMs += 7_000;
  assert.ok(!a.writes);
  await pass([a], 5_000);
  assert.ok(a.writes, "nobody else took it");
  a.mishap = "late";
  let led = 0;
  a.election.onLead(() => led++);
  for (let passed = 0; passed < 10_000; passed += stepMs) {
    await pass([a], stepMs);
    if (a.skippedMs > 7_000) assert.ok(!a.writes);
  }
  assert.equal(led, 1, "it had led when it was asked, and never since");
  a.mishap = undefined;
  await pass([a], 15_000);
  assert.ok(a.writes);
  await a.stop();
});

test("[DIS-8] a lease that somebody edits, removes or fills with nonsense is taken or left, never misread", async () => {
  await using fake = await FakeKubernetes.start();
  const a = new Replica(fake.access(), "a");
  await pass([a], 3_000);
  assert.ok(a.writes);
  fake.put(collection, {
    metadata: leaseOf(fake).metadata,
    spec: { holderIdentity: "somebody", leaseDurationSeconds: 5, renewTime: "x" },
  });
  await pass([a], 2_500);
  assert.ok(!a.writes, "it is another's now");
  await pass([a], 10_000);
  assert.ok(a.writes, "who does not renew loses it");
  fake.remove(collection, "mesh", "controller");
  await pass([a], 5_000);
  assert.ok(a.writes);
  for (const spec of [
    undefined,
    7,
    { holderIdentity: 3, leaseDurationSeconds: "long" },
    { leaseDurationSeconds: -1 },
  ]) {
    fake.put(collection, { metadata: { name: "controller", namespace: "mesh", annotations: { kept: "yes" } }, spec });
    await pass([a], 6_000);
    assert.ok(a.writes, JSON.stringify(spec));
    assert.equal(leaseOf(fake).metadata.annotations.kept, "yes");
  }
  fake.mishap = () => ({ text: "[]" });
  await pass([a], 8_000);
  assert.ok(!a.writes);
  assert.match(a.election.fault ?? "", /not a Lease/);
  fake.mishap = () => ({ status: 403, body: { kind: "Status", code: 403, message: "leases is forbidden" } });
  await pass([a], 3_000);
  assert.match(a.election.fault ?? "", /403: leases is forbidden/);
  await a.stop();
});

test("[DIS-8] whatever is paused, cut off or killed: never two that would write, and in the end one", async () => {
  const who = fc.nat(2);
  const act = fc.oneof(
    fc.record({ who, do: fc.constantFrom("pause", "go on", "lost", "unheard", "heard", "kill", "restart") }),
    fc.record({ who, do: fc.constant("pass"), steps: fc.integer({ min: 1, max: 24 }) }),
    fc.record({
      who,
      do: fc.constant("server"),
      mishap: fc.constantFrom<Mishap | undefined>(
        undefined,
        "reset",
        { status: 500 },
        { status: 409 },
        { status: 429 },
      ),
    }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(act, { maxLength: 25 }), async (acts) => {
      await using fake = await FakeKubernetes.start();
      let born = 0;
      const make = (): Replica => new Replica(fake.access(), `${"abc"[born % 3]}${++born}`);
      const replicas = [make(), make(), make()];
      const alone = (): void => assert.ok(leaders(replicas).length <= 1, leaders(replicas).join());
      for (const each of acts) {
        const replica = replicas[each.who];
        assert.ok(replica !== undefined);
        if ("steps" in each) await pass(replicas, each.steps * stepMs, alone);
        else if ("mishap" in each) fake.mishap = () => each.mishap;
        else if (each.do === "pause") replica.isPaused = true;
        else if (each.do === "go on") replica.isPaused = false;
        else if (each.do === "heard") replica.mishap = undefined;
        else if (each.do === "kill") replica.isDead = true;
        else if (each.do === "restart") {
          replica.isDead = true;
          await replica.stop();
          replicas[each.who] = make();
        } else replica.mishap = each.do as "lost";
        alone();
      }
      fake.mishap = () => undefined;
      for (const replica of replicas) {
        replica.isPaused = false;
        replica.mishap = undefined;
        replica.isDead = false;
      }
      await pass(replicas, 20_000, alone);
      assert.equal(leaders(replicas).length, 1);
      for (const replica of replicas) await replica.stop();
    }),
    { numRuns: 25 },
  );
});
