import assert from "node:assert/strict";
import { test } from "node:test";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { FakeKubernetes, type Mishap } from "../../test/kit/fake-kubernetes.ts";
import { contentOf, type Mirrored, mirror, podsPath } from "../../test/kit/mirrors.ts";
import { eventually } from "../../test/kit/wait.ts";

const pod = (name: string, note = ""): object => ({ metadata: { name, namespace: "shop", labels: { note } } });
const same = (mirrored: Mirrored, fake: FakeKubernetes): Promise<void> =>
  eventually(() => assert.deepEqual(sorted(mirrored.content), sorted(contentOf(fake))));
const sorted = (content: ReadonlyMap<string, string>): readonly (readonly [string, string])[] =>
  [...content].sort(([a], [b]) => (a < b ? -1 : 1));
const isWatching = (fake: FakeKubernetes): Promise<void> =>
  eventually(() => assert.equal(fake.watching(podsPath), 1, "a watch is open"));
/** Meets the next `times` requests of a sort. */
function once(fake: FakeKubernetes, what: "list" | "watch", mishap: Mishap, times = 1): void {
  let left = times;
  fake.mishap = (asked) => (asked.query.has("watch") === (what === "watch") && left-- > 0 ? mishap : undefined);
}

test("[DIS-1] lists in pages, then follows events; bookmarks move the version", async () => {
  await using fake = await FakeKubernetes.start();
  for (let i = 0; i < 25; i++) fake.put(podsPath, pod(`web-${i}`));
  await using mirrored = mirror(fake, { pageSize: 10 });
  await mirrored.reflector.first;
  assert.equal(mirrored.content.size, 25);
  assert.equal(fake.count("GET", podsPath, "list"), 3);
  await isWatching(fake);
  fake.put(podsPath, pod("web-3", "changed"));
  fake.remove(podsPath, "shop", "web-4");
  fake.put(podsPath, pod("new"));
  await same(mirrored, fake);
  fake.put("/api/v1/nodes", { metadata: { name: "n1" } });
  fake.bookmark();
  fake.endWatches();
  await eventually(() => assert.equal(fake.count("GET", podsPath, "watch"), 2));
  const [, second] = fake.asked.filter((asked) => asked.query.has("watch"));
  const newest = fake.get("/api/v1/nodes", "", "n1").metadata.resourceVersion;
  assert.equal(second?.query.get("resourceVersion"), newest, "the bookmark's version, though no pod has it");
  assert.equal(second?.query.get("allowWatchBookmarks"), "true");
  assert.equal(fake.count("GET", podsPath, "list"), 3, "a watch that ends in order needs no new list");
});

test("[DIS-1] 410 Gone while watching or at its start: listed again, and only what differs is told", async () => {
  await using fake = await FakeKubernetes.start();
  for (const name of ["a", "b", "c"]) fake.put(podsPath, pod(name));
  await using mirrored = mirror(fake);
  await isWatching(fake);
  mirrored.changes.length = 0;
  fake.freezeWatches();
  fake.put(podsPath, pod("b", "changed"));
  fake.remove(podsPath, "shop", "c");
  fake.put(podsPath, pod("d"));
  fake.fail(410);
  await same(mirrored, fake);
  assert.deepEqual(mirrored.changes, ["remove shop/c", "put shop/b", "put shop/d"], "nothing of what stayed flaps");
  assert.equal(mirrored.counts.lists.get("expired"), 1);
  // The watch that is opened after a break finds its version compacted.
  await isWatching(fake);
  fake.freezeWatches();
  fake.put(podsPath, pod("e"));
  fake.compact();
  fake.endWatches();
  await same(mirrored, fake);
  assert.equal(mirrored.counts.lists.get("expired"), 2);
});

test("[DIS-1] a continuation that has expired starts the list over, in one piece", async () => {
  await using fake = await FakeKubernetes.start();
  for (let i = 0; i < 9; i++) fake.put(podsPath, pod(`web-${i}`));
  fake.mishap = (asked) => {
    if (asked.query.has("continue")) fake.expirePages();
    return undefined;
  };
  await using mirrored = mirror(fake, { pageSize: 4 });
  await mirrored.reflector.first;
  assert.equal(mirrored.content.size, 9);
  assert.deepEqual(
    fake.asked.filter((asked) => !asked.query.has("watch")).map((asked) => asked.query.get("limit")),
    ["4", "4", null],
  );
});

test("[DIS-1] 429 is answered by waiting as long as was asked, for lists and watches", async () => {
  await using fake = await FakeKubernetes.start();
  fake.put(podsPath, pod("a"));
  once(fake, "list", { status: 429, headers: { "retry-after": "1" } });
  const startedMs = performance.now();
  await using mirrored = mirror(fake);
  await mirrored.reflector.first;
  assert.ok(performance.now() - startedMs >= 990, "waited for a second");
  assert.equal(mirrored.counts.failures.get("throttled"), 1);
  await isWatching(fake);
  const againMs = performance.now();
  once(fake, "watch", { status: 429, body: { kind: "Status", code: 429, details: { retryAfterSeconds: 1 } } });
  fake.cutWatches();
  await eventually(() => assert.equal(mirrored.counts.ends.get("throttled"), 1));
  await isWatching(fake);
  assert.ok(performance.now() - againMs >= 990);
  assert.equal(mirrored.counts.lists.size, 1, "the list is still good");
});

test("[DIS-1] a watch that says nothing more is taken for dead and opened again where it stood", async () => {
  await using fake = await FakeKubernetes.start();
  fake.put(podsPath, pod("a"));
  await using mirrored = mirror(fake, { watchIdleMs: 300 });
  await isWatching(fake);
  fake.freezeWatches();
  fake.put(podsPath, pod("b"));
  await same(mirrored, fake);
  assert.ok((mirrored.counts.ends.get("idle") ?? 0) >= 1);
  assert.equal(mirrored.counts.lists.get("expired"), undefined);
});

test("[DIS-1] bookmarks keep a quiet watch alive; without them it is over at its time", async () => {
  await using fake = await FakeKubernetes.start();
  const clock = createFakeClock();
  fake.put(podsPath, pod("a"));
  await using mirrored = mirror(fake, { watchIdleMs: 5_000 }, {}, clock);
  await isWatching(fake);
  for (let i = 0; i < 4; i++) {
    clock.advance(4_000);
    fake.bookmark();
    await eventually(() => assert.equal(mirrored.reflector.contactMs, clock.monotonicMs()));
  }
  assert.equal(fake.count("GET", podsPath, "watch"), 1);
  clock.advance(5_001);
  await eventually(() => assert.equal(fake.count("GET", podsPath, "watch"), 2));
  assert.equal(mirrored.counts.ends.get("idle"), 1);
});

test("[DIS-1] watches that are cut, closed within a line, or refused go on from the last version", async () => {
  await using fake = await FakeKubernetes.start();
  fake.put(podsPath, pod("a"));
  await using mirrored = mirror(fake);
  for (const end of ["cut", "half a line", "refused"]) {
    await isWatching(fake);
    fake.freezeWatches();
    fake.put(podsPath, pod("a", end));
    if (end === "refused") once(fake, "watch", { status: 500 }, 2);
    if (end === "half a line") fake.say('{"type":"MODIF');
    if (end === "half a line") fake.endWatches();
    else fake.cutWatches();
    await same(mirrored, fake);
    fake.mishap = () => undefined;
  }
  assert.deepEqual([...mirrored.counts.lists], [["start", 1]]);
  assert.equal(mirrored.counts.ends.get("refused"), 2);
});

for (const [what, text] of [
  ["no JSON", "}{\n"],
  ["no event", '"ADDED"\n'],
  ["an unknown type", '{"type":"RENAMED","object":{"metadata":{"name":"a","resourceVersion":"1"}}}\n'],
  ["no object", '{"type":"DELETED","object":{"metadata":{"resourceVersion":"999999"}}}\n'],
  ["no version", '{"type":"ADDED","object":{"metadata":{"name":"a"}}}\n'],
  ["an endless line", "x".repeat(200_000)],
] as const) {
  test(`[DIS-1] a watch with ${what} in it is not believed: the content is listed again`, async () => {
    await using fake = await FakeKubernetes.start();
    fake.put(podsPath, pod("a"));
    await using mirrored = mirror(fake);
    await isWatching(fake);
    fake.say(text);
    await eventually(() => assert.equal(mirrored.counts.lists.get("garbage"), 1));
    fake.put(podsPath, pod("b"));
    await same(mirrored, fake);
  });
}

for (const [what, mishap] of [
  ["no JSON", { text: "<html>" }],
  ["no list", { text: '{"kind":"Status"}' }],
  ["an item without a name", { text: '{"metadata":{"resourceVersion":"5"},"items":[{}]}' }],
  ["half an answer", "cut"],
  ["an answer that stands still", "stall"],
  ["no answer", "hang"],
  ["a refusal", { status: 403 }],
  ["an error", { status: 503 }],
  ["a reset", "reset"],
] as const) {
  test(`[DIS-1] a list with ${what} is asked for again, and nothing is lost meanwhile`, async () => {
    await using fake = await FakeKubernetes.start();
    fake.put(podsPath, pod("a"));
    await using mirrored = mirror(fake, {}, { answerMs: 300, bodyIdleMs: 300 });
    await isWatching(fake);
    once(fake, "list", mishap, 2);
    const relisted = mirrored.reflector.relist("asked");
    await eventually(() => assert.ok(mirrored.reflector.fault !== undefined || mirrored.counts.lists.size > 1));
    assert.equal(mirrored.content.size, 1);
    fake.put(podsPath, pod("b"));
    await relisted;
    await same(mirrored, fake);
    assert.equal(mirrored.reflector.fault, undefined);
    assert.deepEqual(mirrored.changes, ["put shop/a", "put shop/b"]);
  });
}

test("[DIS-1] an API server that is away for a while is found again, with what happened meanwhile", async () => {
  await using fake = await FakeKubernetes.start();
  fake.put(podsPath, pod("a"));
  fake.put(podsPath, pod("b"));
  await using mirrored = mirror(fake);
  await isWatching(fake);
  fake.leave();
  await eventually(() => assert.notEqual(mirrored.reflector.fault, undefined));
  assert.equal(mirrored.content.size, 2, "what is known stays");
  fake.remove(podsPath, "shop", "a");
  fake.comeBack();
  await same(mirrored, fake);
  await eventually(() => assert.equal(mirrored.reflector.fault, undefined));
});

test("[DIS-1] a server restored from a backup, whose versions are older than ours, is followed", async () => {
  await using fake = await FakeKubernetes.start();
  fake.put(podsPath, pod("a"));
  await using mirrored = mirror(fake, { resyncMs: 0 });
  await isWatching(fake);
  fake.freezeWatches();
  fake.remove(podsPath, "shop", "a");
  fake.put(podsPath, pod("b"));
  fake.restore();
  fake.cutWatches();
  await same(mirrored, fake);
  assert.equal(mirrored.counts.lists.get("failures"), 1);
});

test("[DIS-1] a resync finds what a watch has lost, from the server's cache but never older than what is known", async () => {
  await using fake = await FakeKubernetes.start();
  fake.put(podsPath, pod("a"));
  await using mirrored = mirror(fake, { resyncMs: 200 });
  await isWatching(fake);
  const known = fake.get(podsPath, "shop", "a").metadata.resourceVersion;
  fake.freezeWatches();
  fake.put(podsPath, pod("b"));
  await same(mirrored, fake);
  assert.ok((mirrored.counts.lists.get("resync") ?? 0) >= 1);
  const resync = fake.asked.find((asked) => asked.query.has("resourceVersionMatch"));
  assert.deepEqual(
    [resync?.query.get("resourceVersion"), resync?.query.get("resourceVersionMatch")],
    [known, "NotOlderThan"],
  );
});

test("[DIS-1] an answer that is too long is asked for in smaller pages", async () => {
  await using fake = await FakeKubernetes.start();
  for (let i = 0; i < 8; i++) fake.put(podsPath, pod(`web-${i}`, "x".repeat(2_000)));
  await using mirrored = mirror(fake, { pageSize: 8 }, { maxBodyBytes: 6_000 });
  await mirrored.reflector.first;
  assert.equal(mirrored.content.size, 8);
});

test("[DIS-1] stopping ends it whatever it is at", async () => {
  await using fake = await FakeKubernetes.start();
  for (const mishap of ["hang", "stall", "reset", undefined] as const) {
    fake.mishap = () => mishap;
    const mirrored = mirror(fake);
    if (mishap === undefined) await isWatching(fake);
    else await eventually(() => assert.ok(fake.asked.length > 0));
    const relisted = mirrored.reflector.relist("asked");
    await mirrored[Symbol.asyncDispose]();
    await relisted;
    await mirrored.reflector.relist("asked");
    await mirrored.reflector.first;
    fake.asked.length = 0;
  }
});
