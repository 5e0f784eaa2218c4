import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../../agent/base/log.ts";
import { seededRandom } from "../../agent/base/random.ts";
import type { ApiClient, ApiRequest } from "../../agent/kubernetes/client.ts";
import type { ApiFault } from "../../agent/kubernetes/fault.ts";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { type Address, type Change, covers, type Desired, type Present, timed } from "./desired.ts";
import { EventWriter } from "./events.ts";
import { Writers } from "./writers.ts";

const at: Address = { group: "g", version: "v1", kind: "Thing", plural: "things", namespace: "shop", name: "a" };
const path = "/apis/g/v1/namespaces/shop/things/a";
const refusal = (code: number, retryAfterMs?: number): ApiFault => ({
  kind: "status",
  code,
  reason: "",
  message: `code ${code}`,
  retryAfterMs,
});

/** Writers of one kind over an API server of one object; every answer can be made to fail. */
function made(change: (present: Present | undefined) => Change | undefined, spacingMs = 0) {
  const clock = createFakeClock();
  const asked: ApiRequest[] = [];
  const outcomes: string[] = [];
  const told: string[] = [];
  let version = 1;
  let over = new AbortController();
  let skippedMs = 0;
  const world = {
    clock,
    asked,
    outcomes,
    told,
    present: { metadata: { name: "a", uid: "u", resourceVersion: "1" } } as Present | undefined,
    fail: (_: ApiRequest): ApiFault | undefined => undefined,
    isLeading: true,
    onAnswer: (_: ApiRequest): void => {},
    writes: () => asked.filter((r) => (r.method ?? "GET") !== "GET" && !r.path.includes("/events")),
    events: () => asked.filter((r) => r.path.includes("/events")),
    lose() {
      world.isLeading = false;
      over.abort();
    },
    skip(ms: number) {
      skippedMs += ms;
    },
  };
  const api: Pick<ApiClient, "send"> = {
    async send(request) {
      asked.push(request);
      const fault = world.fail(request);
      if (fault !== undefined) return { ok: false, error: fault };
      if (request.path.includes("/events")) return { ok: true, value: request.body };
      if (world.present === undefined) return { ok: false, error: refusal(404) };
      if (request.method === "DELETE") world.present = undefined;
      else if (request.method === "PATCH") {
        const metadata = { ...world.present.metadata, resourceVersion: `${++version}` };
        world.present = { ...world.present, ...(request.body as object), metadata };
      }
      world.onAnswer(request);
      return { ok: true, value: world.present };
    },
  };
  let leads = (_: AbortSignal): void => {};
  const parts = {
    api: api as ApiClient,
    clock: { ...clock, monotonicMs: () => clock.monotonicMs() + skippedMs },
    log: silentLogger,
    newId: () => `id${asked.length}`,
  };
  const events = new EventWriter(
    { controller: "c", instance: "i", perSecond: 1, burst: 2, gatherMs: 1000, seriesMs: 60_000 },
    { ...parts, mayWrite: () => world.isLeading, told: (outcome) => void told.push(outcome) },
  );
  const writers = new Writers(
    {
      concurrency: 1,
      backoff: { baseMs: 100, maxMs: 1000 },
      attempts: 3,
      pace: { perSecond: 1000, burst: 1000 },
      reviewMs: 600_000,
    },
    {
      ...parts,
      random: seededRandom(1),
      events,
      meter: {
        wrote: (_, outcome) => void outcomes.push(outcome),
        reconciled: () => {},
        waited: () => {},
        gaveUp: () => void outcomes.push("gave up"),
      },
      lead: {
        get isLeading() {
          return world.isLeading;
        },
        onLead(lead) {
          leads = lead;
        },
      },
    },
  );
  const desired: Desired = { at, change };
  const add = writers.register({ kind: "things", spacingMs, keys: () => ["a"], desired: () => [desired] });
  writers.start();
  const lead = (): void => {
    over = new AbortController();
    world.isLeading = true;
    leads(over.signal);
  };
  return { ...world, world, writers, add, lead };
}
const wanting = (state: string, event?: Change["event"]) => (present: Present | undefined) =>
  present === undefined || present.status === state
    ? undefined
    : { kind: "apply" as const, fields: { status: state }, isStatus: true, event };

test("[RES-8] what differs is applied once, under our field manager and for the version that was read; then nothing is written", async () => {
  const w = made(wanting("good"));
  w.add("a");
  await w.clock.advanceAsync(1000);
  assert.equal(w.asked.length, 0, "who does not lead neither reads nor writes");
  w.lead();
  await w.clock.advanceAsync(1000);
  w.add("a");
  await w.clock.advanceAsync(1000);
  assert.deepEqual(w.outcomes, ["written", "unchanged"]);
  const [write] = w.writes();
  assert.equal(write?.path, `${path}/status`);
  assert.deepEqual(write?.query, { fieldManager: "fairlead", force: "true" });
  assert.deepEqual(write?.body, {
    apiVersion: "g/v1",
    kind: "Thing",
    status: "good",
    metadata: { uid: "u", resourceVersion: "1", name: "a", namespace: "shop" },
  });
});

test("[RES-8] conflicts, refusals and a busy server are met with another look, later; an object that is gone is left alone", async () => {
  const cases: readonly (readonly [ApiFault, readonly string[]])[] = [
    [refusal(409), ["conflict", "written"]],
    [refusal(422), ["refused", "written"]],
    [refusal(429, 2000), ["throttled", "written"]],
    [refusal(503), ["failed", "written"]],
    [{ kind: "network", message: "cut" }, ["failed", "written"]],
    [refusal(403), ["forbidden", "written"]],
    [refusal(404), ["missing"]],
  ];
  for (const [fault, outcomes] of cases) {
    const w = made(wanting("good"));
    let isFirst = true;
    w.world.fail = (request) => {
      const now = isFirst && request.method === "PATCH";
      if (now) isFirst = false;
      return now ? fault : undefined;
    };
    w.lead();
    await w.clock.advanceAsync(5000);
    assert.deepEqual(w.outcomes, outcomes, JSON.stringify(fault));
  }
});

test("[RES-8] an object whose place is missing is made when the place is there", async () => {
  const w = made((present) =>
    (present as { readonly spec?: string } | undefined)?.spec === "good"
      ? undefined
      : { kind: "apply", fields: { spec: "good" }, isStatus: false },
  );
  w.world.present = undefined;
  w.lead();
  await w.clock.advanceAsync(10);
  assert.deepEqual(w.outcomes, ["failed"], "its namespace is not there yet");
  w.world.present = { metadata: { name: "a", uid: "u", resourceVersion: "1" } } as Present;
  await w.clock.advanceAsync(5000);
  assert.deepEqual(w.outcomes, ["failed", "written"]);
});

test("[RES-8] an object that is refused for good is given up, and tried again when it changes", async () => {
  const w = made(wanting("good"));
  w.world.fail = (request) => (request.method === "PATCH" ? refusal(422) : undefined);
  w.lead();
  await w.clock.advanceAsync(60_000);
  assert.deepEqual(w.outcomes, ["refused", "refused", "refused", "gave up"]);
  w.world.fail = () => undefined;
  w.add("a");
  await w.clock.advanceAsync(1000);
  assert.equal(w.outcomes.at(-1), "written");
});

test("[DIS-8] a process that stood still between reading and writing writes nothing", async () => {
  const w = made(wanting("good"));
  w.world.onAnswer = () => {
    // The lease is over by the clock, though no timer has run and no signal has aborted.
    w.world.isLeading = false;
  };
  w.lead();
  await w.clock.advanceAsync(10_000);
  assert.equal(w.writes().length, 0);
  assert.deepEqual(w.outcomes, ["stood_down"]);
});

test("[DIS-8] who leads no more forgets what was to be written; who leads again looks at everything", async () => {
  const w = made(wanting("good"));
  w.world.fail = () => ({ kind: "network", message: "away" });
  w.lead();
  await w.clock.advanceAsync(10);
  w.world.lose();
  w.world.fail = () => undefined;
  await w.clock.advanceAsync(60_000);
  assert.equal(w.writes().length, 0);
  assert.equal(w.writers.depth, 0);
  w.lead();
  await w.clock.advanceAsync(1000);
  assert.equal(w.writes().length, 1);
  await w.clock.advanceAsync(600_000);
  assert.equal(w.outcomes.at(-1), "unchanged", "reviewed without a change");
});

test("[RES-8] a reconciler that throws is tried again, and harms no other", async () => {
  let calls = 0;
  const w = made(() => {
    calls += 1;
    if (calls === 1) throw new Error("a bug");
    return undefined;
  });
  w.lead();
  await w.clock.advanceAsync(5000);
  assert.deepEqual(w.outcomes, ["failed", "unchanged"]);
});

test("[RES-8] a merge holds for the version that was read; a deletion for the object itself", async () => {
  const merge = made((p) => (p?.x === 1 ? undefined : { kind: "merge", fields: { x: 1 }, isStatus: false }));
  merge.lead();
  await merge.clock.advanceAsync(1000);
  assert.deepEqual(merge.writes()[0]?.body, { x: 1, metadata: { uid: "u", resourceVersion: "1" } });
  const removal = made((present) => (present === undefined ? undefined : { kind: "delete" }));
  removal.lead();
  await removal.clock.advanceAsync(1000);
  assert.match(JSON.stringify(removal.writes()), /"preconditions":{"uid":"u","resourceVersion":"1"}/);
});

test("[RES-8] an event is told once for a write, with the id of its reconcile; repetitions are counted in its series", async () => {
  let n = 0;
  const w = made(() => {
    n += 1;
    const event = { type: "Normal" as const, reason: n > 4 ? `Other${n}` : "Changed", action: "Reconcile", note: "it" };
    return { kind: "apply", fields: { status: n }, isStatus: true, event };
  });
  w.lead();
  await w.clock.advanceAsync(10);
  for (let i = 0; i < 3; i++) {
    w.add("a");
    await w.clock.advanceAsync(10);
  }
  await w.clock.advanceAsync(2000);
  const [first, second, ...more] = w.events();
  assert.deepEqual(more, []);
  assert.ok(first !== undefined && second !== undefined);
  const body = first.body as Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  assert.equal(first.path, "/apis/events.k8s.io/v1/namespaces/shop/events");
  assert.deepEqual(body.regarding, { apiVersion: "g/v1", kind: "Thing", namespace: "shop", name: "a", uid: "u" });
  assert.match(JSON.stringify(body.metadata), /"fairlead.dev\/reconcile":"id\d/);
  assert.equal((second.body as { series: { count: number } }).series.count, 4);
  // Other sorts of events: two at once, one a second after.
  w.told.length = 0;
  for (let i = 0; i < 6; i++) {
    w.add("a");
    await w.clock.advanceAsync(1);
  }
  assert.deepEqual(w.told, ["created", "created", "dropped", "dropped", "dropped", "dropped"]);
});

test("[RES-8] what covers what; a condition keeps its time while its status stays", () => {
  assert.ok(covers({ a: 1, b: [{ c: 2, d: 3 }] }, { b: [{ c: 2 }] }));
  assert.ok(!covers({ b: [{ c: 2 }, { c: 3 }] }, { b: [{ c: 2 }] }));
  assert.ok(!covers(undefined, { a: 1 }));
  assert.ok(covers({}, { a: undefined }));
  const wanted = [{ type: "Ready", status: "True" as const, reason: "Yes", message: "new", observedGeneration: 2 }];
  const before = [{ type: "Ready", status: "True", lastTransitionTime: "2020-01-01T00:00:00Z" }];
  assert.equal(timed(wanted, before, 0)[0]?.lastTransitionTime, "2020-01-01T00:00:00Z");
  assert.equal(timed(wanted, [{ ...before[0], status: "False" }], 1000)[0]?.lastTransitionTime, "1970-01-01T00:00:01Z");
  for (const odd of [undefined, null, 7, "x", [null, 7, { type: "Ready" }]])
    assert.equal(timed(wanted, odd, 0)[0]?.lastTransitionTime, "1970-01-01T00:00:00Z");
});

test("[RES-2] after a failure only what is always done is done, and each is told why its own failed", async () => {
  const writes: string[] = [];
  const failures: string[] = [];
  const step = (name: string, more: Partial<Desired> = {}): Desired => ({
    at: { ...at, name },
    change: () => ({ kind: "apply", fields: { spec: { name } }, isStatus: false }),
    failed: (reason, isRefusal) => void failures.push(`${name} ${isRefusal}: ${reason}`),
    ...more,
  });
  const one = made(() => undefined);
  one.world.fail = (request) =>
    request.method === "PATCH" && request.path.endsWith("/second") ? refusal(403) : undefined;
  one.world.onAnswer = (request) => {
    if (request.method === "PATCH") writes.push(request.path.slice(request.path.lastIndexOf("/") + 1));
  };
  const add = one.writers.register({
    kind: "steps",
    spacingMs: 0,
    keys: () => [],
    desired: () => [step("first"), step("second"), step("third"), step("last", { isAlways: true })],
  });
  one.lead();
  await one.clock.advanceAsync(10);
  add("key");
  await one.clock.advanceAsync(50);
  assert.deepEqual(writes, ["first", "last"]);
  assert.deepEqual(failures, ["second true: the API server answered 403: code 403"]);
  one.world.fail = () => undefined;
  await one.clock.advanceAsync(2000);
  assert.deepEqual(writes.slice(2), ["first", "second", "third", "last"]);
});
