// Enrolment against a native that speaks the channel: in, changed, out, gone.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { silentListener, startFakeNative } from "../../test/kit/fake-native.ts";
import { domain } from "../../test/kit/mesh.ts";
import { waitFor } from "../../test/kit/wait.ts";
import { defaultSettings } from "../api/settings.ts";
import { systemClock } from "../base/clock.ts";
import { silentLogger } from "../base/log.ts";
import { Enrolment } from "./enrol.ts";
import type { PodRecord } from "./pod-record.ts";

const record = (name: string, more: Partial<PodRecord> = {}): PodRecord => ({
  namespace: "shop",
  name,
  uid: name,
  serviceAccount: name,
  labels: {},
  annotations: {},
  namespaceLabels: { "fairlead.dev/mesh": "enabled" },
  namespaceAnnotations: {},
  netns: `/run/netns/${name}`,
  ips: ["10.244.1.5"],
  hostNetwork: false,
  probePorts: [],
  ...more,
});
const read = (...records: readonly PodRecord[]) => ({ records, problems: [] });
const identity = (name: string) => `spiffe://cluster.local/ns/shop/sa/${name}`;

interface More {
  readonly strict?: () => boolean;
  readonly announced?: () => boolean;
  readonly claimed?: () => boolean;
  readonly certificates?: NonNullable<ConstructorParameters<typeof Enrolment>[0]["certificates"]>;
}
async function setUp(t: TestContext, more: More = {}) {
  const native = await startFakeNative(silentListener, systemClock);
  t.after(() => native.close());
  const clock = createFakeClock();
  const changed: string[][] = [];
  const enrolment = new Enrolment({
    native: native.channel,
    clock,
    log: silentLogger,
    node: "node1",
    trustDomain: domain,
    settings: () => defaultSettings,
    isStrict: more.strict ?? (() => false),
    isAnnounced: more.announced ?? (() => false),
    isClaimed: more.claimed ?? (() => false),
    changed: (pods) => changed.push([...pods]),
    firstNumber: 1000,
    withdrawMs: 5000,
    drainMs: 300_000,
    existing: () => {},
    ...(more.certificates === undefined ? {} : { certificates: more.certificates }),
  });
  const count = (method: string) => native.calls.filter((c) => c.method === method).length;
  return { native, clock, changed, enrolment, count };
}

/** Time goes on in steps, with what was asked of native answered in between. */
async function pass(
  { clock, native }: Pick<Awaited<ReturnType<typeof setUp>>, "clock" | "native">,
  ms: number,
): Promise<void> {
  for (let passed = 0; passed < ms; passed += 50) {
    await clock.advanceAsync(50);
    await native.channel.call("heartbeat", {});
  }
}

test("[DP-22] a pod is enrolled from the node's own record, with no controller in sight", async (t) => {
  const { native, enrolment } = await setUp(t);
  const [status] = await enrolment.sync(read(record("web")));
  assert.equal(status?.enrolled, true);
  assert.equal(native.pods.get("shop/web")?.identity, "spiffe://cluster.local/ns/shop/sa/web");
  assert.equal(enrolment.byAddress("10.244.1.5")?.name, "shop/web");
});

test("native is told again only when something that it needs changed", async (t) => {
  let strict = false;
  const { enrolment, count, native } = await setUp(t, { strict: () => strict });
  await enrolment.sync(read(record("web")));
  await enrolment.sync(read(record("web")));
  assert.equal(count("pod.enrol"), 1);
  strict = true;
  await enrolment.sync(read(record("web")));
  const told = native.pods.get("shop/web");
  assert.deepEqual([count("pod.enrol"), told?.strict, told?.failOpen, told?.take], [2, true, false, false]);
  enrolment.tellAgain();
  for (const _ of [1, 2]) await enrolment.sync(read(record("web")));
  assert.deepEqual([count("pod.enrol"), native.pods.get("shop/web")?.take], [3, true]);
});

test("[INT-14] strict pods never fail open, others do unless told otherwise", async (t) => {
  const { enrolment, native } = await setUp(t, { strict: () => true });
  await enrolment.sync(read(record("web", { annotations: { "fairlead.dev/fail-mode": "open" } })));
  assert.equal(native.pods.get("shop/web")?.failOpen, false);
});

test("a pod that native refuses is reported with the reason, the others go on, and it is tried again", async (t) => {
  const { enrolment, native } = await setUp(t);
  let broken = true;
  native.answers.set("pod.enrol", (params) =>
    broken && params.pod === "shop/bad"
      ? { error: { code: "no_netns", message: "/run/netns/bad: not there" } }
      : { cookie: 1, listening: [80], existing: [], ms: 0, unguarded: "" },
  );
  const statuses = await enrolment.sync(read(record("bad"), record("good", { ips: ["10.244.1.6"] })));
  assert.equal(statuses.map((s) => s.enrolled).join(), "false,true");
  assert.match(statuses[0]?.reason ?? "", /no_netns/);
  broken = false;
  assert.equal((await enrolment.sync(read(record("bad"))))[0]?.enrolled, true);
});

test("[DP-9] unenrolment waits until nobody is told of the tunnel any more, but not for ever", async (t) => {
  let announced = true;
  const { enrolment, clock, count, native, changed } = await setUp(t, { announced: () => announced });
  const out = record("web", { labels: { "fairlead.dev/mesh": "disabled" } });
  await enrolment.sync(read(record("web")));
  await enrolment.sync(read(out));
  await clock.advanceAsync(1000);
  assert.equal(count("pod.unenrol"), 0);
  announced = false;
  // Other nodes hear of it when they do.
  await pass({ clock, native }, 800);
  assert.equal(count("pod.unenrol"), 0);
  await pass({ clock, native }, 600);
  await waitFor("unenrolled", () => count("pod.unenrol") === 1);
  assert.deepEqual([enrolment.byAddress("10.244.1.5"), enrolment.statuses()[0]?.state], [undefined, "out"]);
  // Connections that native took before are asked about after, and some have yet to show who they are.
  assert.equal(enrolment.byName("shop/web" as never), undefined);
  assert.equal(enrolment.asked("shop/web" as never)?.workload.draining, true);
  assert.deepEqual([enrolment.identities(), changed.length], [[identity("web")], 2]);
  await clock.advanceAsync(31_000);
  assert.equal(enrolment.asked("shop/web" as never), undefined);
  assert.deepEqual([enrolment.identities(), changed.length], [[], 3]);
  announced = true;
  await enrolment.sync(read(record("web")));
  await enrolment.sync(read(out));
  await clock.advanceAsync(5100);
  await waitFor("unenrolled", () => count("pod.unenrol") === 2);
});

test("[DP-9] unenrolment waits until the controller has confirmed that the pod is out", async (t) => {
  let claimed = true;
  const { enrolment, clock, count, native } = await setUp(t, { claimed: () => claimed });
  for (const labels of [{}, { "fairlead.dev/mesh": "disabled" }]) await enrolment.sync(read(record("web", { labels })));
  await pass({ clock, native }, 3_000);
  assert.equal(count("pod.unenrol"), 0);
  claimed = false;
  await pass({ clock, native }, 1_300);
  await waitFor("unenrolled", () => count("pod.unenrol") === 1);
});

test("[DP-9] a pod that comes back while it is leaving stays", async (t) => {
  const { enrolment, clock, count, native } = await setUp(t, { announced: () => true });
  await enrolment.sync(read(record("web")));
  await enrolment.sync(read(record("web", { labels: { "fairlead.dev/mesh": "disabled" } })));
  await enrolment.sync(read(record("web")));
  await clock.advanceAsync(6000);
  // Calls come in their order: what was called before this one has come.
  await native.channel.call("heartbeat", {});
  assert.equal(count("pod.unenrol"), 0);
  assert.notEqual(enrolment.byName("shop/web" as never), undefined);
});

test("[DP-9] a pod that comes back in the very moment in which it was to be let go stays", async (t) => {
  const { enrolment, clock, count, native } = await setUp(t, { announced: () => true });
  await enrolment.sync(read(record("web")));
  await enrolment.sync(read(record("web", { labels: { "fairlead.dev/mesh": "disabled" } })));
  let passed: Promise<unknown> | undefined;
  native.answers.set("pod.enrol", () => {
    passed = clock.advanceAsync(6000); // the wait is over before the agent reads the answer
    return { cookie: 1, listening: [], existing: [], ms: 0, unguarded: "" };
  });
  await enrolment.sync(read(record("web")));
  await passed;
  await native.channel.call("heartbeat", {});
  assert.deepEqual([count("pod.enrol"), count("pod.unenrol")], [2, 0]);
  assert.equal(enrolment.statuses()[0]?.enrolled, true);
});

test("[DP-9] [INT-12] a pod that comes back while native lets it go is known all the time: its connections are asked about at once", async (t) => {
  const { enrolment, clock, native, count } = await setUp(t);
  await enrolment.sync(read(record("web")));
  let known: bigint | undefined;
  native.answers.set("pod.enrol", () => {
    known = enrolment.byName("shop/web" as never)?.cookie;
    return { cookie: 7, listening: [], existing: [], ms: 0, unguarded: "" };
  });
  let back: Promise<unknown> | undefined;
  native.answers.set("pod.unenrol", () => {
    back = enrolment.sync(read(record("web")));
    return {};
  });
  await enrolment.sync(read(record("web", { labels: { "fairlead.dev/mesh": "disabled" } })));
  await pass({ clock, native }, 1_200);
  await waitFor("the pod to come back", () => count("pod.enrol") === 2);
  await back;
  // As one that arrives, since the one that left may be forgotten any moment.
  assert.equal(known, 0n);
  assert.equal(enrolment.byName("shop/web" as never)?.cookie, 7n);
});

test("[DP-21] a pod whose record goes is closed at once; its address may be another's already", async (t) => {
  const { enrolment, count } = await setUp(t);
  await enrolment.sync(read(record("old")));
  await enrolment.sync(read(record("new")));
  assert.equal(count("pod.gone"), 1);
  assert.equal(enrolment.byAddress("10.244.1.5")?.name, "shop/new");
});

test("[DP-21] [DIS-6] what a program that ended has left behind goes out before its pod is closed, for a short while", async (t) => {
  const { enrolment, clock, native, changed, count } = await setUp(t);
  const left = { connections: 1, sockets: 0 };
  native.answers.set("pod.unfinished", () => ({ ...left }));
  await enrolment.sync(read(record("old"), record("rest", { ips: ["10.244.1.6"] })));
  changed.length = 0;
  const going = enrolment.sync(
    read(record("new"), record("rest", { ips: ["10.244.1.6"] }), record("other", { ips: ["10.244.1.7"] })),
  );
  await waitFor(
    "the first look, and a pod that has nothing to do with it",
    () => count("pod.unfinished") > 0 && count("pod.enrol") === 3,
  );
  assert.deepEqual(
    [changed, enrolment.byName("shop/old" as never)?.workload.draining],
    [[["shop/old"]], true],
    "its clients are let go",
  );
  assert.equal(enrolment.byName("shop/new" as never), undefined, "its address is another's then");
  for (const some of [
    { connections: 0, sockets: 2 },
    { connections: 0, sockets: 0 },
  ]) {
    assert.equal(count("pod.gone"), 0);
    Object.assign(left, some);
    const looks = count("pod.unfinished");
    await waitFor("the next look", async () => {
      await clock.advanceAsync(5);
      return count("pod.unfinished") > looks;
    });
  }
  await going;
  assert.equal(count("pod.gone"), 1);
  assert.equal(enrolment.byAddress("10.244.1.5")?.name, "shop/new");

  // Peers that never end are not waited for longer.
  left.connections = 1;
  const beganMs = clock.monotonicMs();
  let isOver = false;
  void enrolment.sync(read()).then(() => {
    isOver = true;
  });
  await waitFor("the end", async () => {
    await clock.advanceAsync(5);
    return isOver;
  });
  assert.ok(clock.monotonicMs() - beganMs < 1000, `${clock.monotonicMs() - beganMs} ms`);
  assert.equal(count("pod.gone"), 4);
});

test("ports that a pod begins and ceases to listen on are told on", async (t) => {
  const { enrolment, changed } = await setUp(t);
  await enrolment.sync(read(record("web")));
  enrolment.listening("shop/web" as never, 8080, true);
  enrolment.listening("shop/web" as never, 8080, true);
  assert.deepEqual([...(enrolment.byName("shop/web" as never)?.listening ?? [])], [8080]);
  enrolment.listening("shop/web" as never, 8080, false);
  assert.equal(changed.length, 3);
});

test("a pod that was deleted and made again under its name is another pod: the old one ends first", async (t) => {
  const { enrolment, native } = await setUp(t);
  await enrolment.sync(read(record("web")));
  const before = enrolment.byName("shop/web" as never)?.number;
  await enrolment.sync(read(record("web", { uid: "another", netns: "/run/netns/other" })));
  const methods = native.calls.map((c) => c.method);
  assert.deepEqual(methods, ["pod.enrol", "pod.unfinished", "pod.gone", "pod.enrol"]);
  assert.notEqual(enrolment.byName("shop/web" as never)?.number, before);
});

test("[DP-9] the state of a pod is published: enrolled, announced, strict, leaving", async (t) => {
  let [strict, announced] = [false, false];
  const { enrolment } = await setUp(t, { strict: () => strict, announced: () => announced });
  const state = async (more: Partial<PodRecord> = {}) => (await enrolment.sync(read(record("web", more))))[0]?.state;
  assert.equal(await state(), "enrolled");
  announced = true;
  assert.equal(await state(), "announced");
  strict = true;
  assert.equal(await state(), "strict");
  assert.equal(await state({ labels: { "fairlead.dev/mesh": "disabled" } }), "leaving");
  assert.equal((await enrolment.sync(read(record("x", { namespaceLabels: {} }))))[0]?.state, "out");
});

test("[INT-11] [DP-22] a pod that the runtime tells of is enrolled before any list has it; an older list takes it away from nobody, a newer one finds it done", async (t) => {
  const { enrolment, native, count } = await setUp(t);
  await enrolment.sync(read(record("old")));
  const turn = enrolment.turn();
  const [first, second] = await Promise.all([enrolment.enrolNow(record("new")), enrolment.enrolNow(record("new"))]);
  assert.deepEqual([first?.enrolled, second?.enrolled, count("pod.enrol")], [true, true, 2]);
  const statuses = await enrolment.sync(read(record("old")), turn);
  assert.deepEqual(statuses.map((s) => s.pod).sort(), ["shop/new", "shop/old"]);
  assert.equal(native.pods.has("shop/new"), true);
  await enrolment.sync(read(record("old"), record("new")));
  assert.equal(count("pod.enrol"), 2);
  await enrolment.sync(read(record("old")));
  assert.equal(enrolment.byName("shop/new" as never), undefined);
});

test("[DP-11] a pod that cannot be enrolled is refused with the reason, and native hears nothing of it", async (t) => {
  const { enrolment, count } = await setUp(t);
  const [status] = await enrolment.sync(read(record("kata", { refused: "kata gives it a kernel of its own" })));
  assert.deepEqual(
    [status?.enrolled, status?.state, status?.reason],
    [false, "refused", "kata gives it a kernel of its own"],
  );
  assert.equal(count("pod.enrol"), 0);
});

test("[DP-22] namespaces that the node needs to start are never in the mesh, whatever labels say", async (t) => {
  const { enrolment, count } = await setUp(t);
  const labels = { "fairlead.dev/mesh": "enabled" };
  const [status] = await enrolment.sync(read(record("dns", { namespace: "kube-system", labels, excluded: true })));
  assert.deepEqual([status?.enrolled, status?.state, count("pod.enrol")], [false, "out", 0]);
});

test("[DP-9] unenrolment waits for agents that have not heard yet: as long as one begins streams to the pod, within bounds", async (t) => {
  let announced = true;
  const { enrolment, clock, count, native } = await setUp(t, { announced: () => announced });
  let streams = 1;
  const tunnel = { id: 7, direction: "inbound", source: "10.244.2.9:15000", destination: "10.244.1.5:8080" };
  native.answers.set("tunnels.list", () => ({ tunnels: [{ ...tunnel, streams }] }));
  await enrolment.sync(read(record("web")));
  await enrolment.sync(read(record("web", { labels: { "fairlead.dev/mesh": "disabled" } })));
  announced = false;
  for (let i = 0; i < 4; i++) {
    streams++;
    await pass({ clock, native }, 500);
    assert.equal(count("pod.unenrol"), 0);
  }
  await pass({ clock, native }, 1_500);
  await waitFor("unenrolled", () => count("pod.unenrol") === 1);
});

test("[DP-9] a running pod that is labelled is enrolled when its certificate is there, or has not come for too long; what the runtime tells of at once", async (t) => {
  const proven = new Set<string>();
  let patient = true;
  const certificates = { isPatient: () => patient, has: (id: string) => proven.has(id), waitMs: 3_000 };
  const { enrolment, clock, count, changed } = await setUp(t, { certificates });
  const [first] = await enrolment.sync(read(record("web")));
  assert.deepEqual([first?.enrolled, first?.state, first?.reason], [false, "out", "it waits for its certificate"]);
  assert.deepEqual([enrolment.identities(), changed], [[identity("web")], [["shop/web"]]]);
  proven.add(identity("web"));
  assert.equal((await enrolment.sync(read(record("web"))))[0]?.enrolled, true);

  const late = record("late", { ips: ["10.244.1.6"] });
  await enrolment.sync(read(record("web"), late));
  await clock.advanceAsync(2_900);
  await enrolment.sync(read(record("web"), late));
  assert.equal(count("pod.enrol"), 1);
  await clock.advanceAsync(200);
  await enrolment.sync(read(record("web"), late));
  assert.equal(count("pod.enrol"), 2);

  assert.equal((await enrolment.enrolNow(record("told", { ips: ["10.244.1.7"] }))).enrolled, true);
  // It goes before its certificate comes: nobody asks for it any more.
  await enrolment.sync(read(record("short", { ips: ["10.244.1.8"] })));
  await enrolment.sync(read());
  assert.deepEqual(enrolment.identities(), []);
  patient = false;
  assert.equal((await enrolment.sync(read(record("taken"))))[0]?.enrolled, true);
});

test("[DP-21] a pod whose end is seen twice takes nothing from the one that has its name by then", async (t) => {
  const { enrolment, clock, native, count } = await setUp(t);
  await enrolment.sync(read(record("web", { uid: "one", netns: "/run/netns/one" })));
  let looks = 0;
  // The list's look comes first and sees bytes under way; the runtime's, of the successor, sees none.
  native.answers.set("pod.unfinished", () => ({ connections: looks++ === 0 ? 1 : 0, sockets: 0 }));
  let isOver = false;
  void enrolment.sync(read()).then(() => {
    isOver = true;
  });
  await waitFor("the first look", () => looks > 0);
  const status = await enrolment.enrolNow(record("web", { uid: "two", netns: "/run/netns/two" }));
  assert.equal(status.enrolled, true);
  await waitFor("the list's end", async () => {
    await clock.advanceAsync(50);
    return isOver;
  });
  assert.equal(count("pod.gone"), 1);
  const last = (method: string): number => native.calls.findLastIndex((c) => c.method === method);
  assert.ok(last("pod.gone") < last("pod.enrol"), "the old one goes before the new one comes");
  assert.equal(enrolment.byName("shop/web" as never)?.workload.draining, false, "the one that is here");
});
