// SVIDs by a clock that is moved by hand: one fetch each, renewed in time, failures bounded, kept over a restart.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { waitFor } from "../../test/kit/wait.ts";
import type { SpiffeId } from "../api/names.ts";
import { silentLogger } from "../base/log.ts";
import { seededRandom } from "../base/random.ts";
import { err, ok } from "../base/result.ts";
import type { StoredSvid } from "./svid-files.ts";
import { SvidStore } from "./svid-store.ts";

const a = "spiffe://cluster.local/ns/shop/sa/a" as SpiffeId;
const b = "spiffe://cluster.local/ns/shop/sa/b" as SpiffeId;

function setUp(more: { lifeMs?: number; renewAt?: number; files?: Map<string, StoredSvid> } = {}) {
  const clock = createFakeClock();
  const lifeMs = more.lifeMs ?? 100_000;
  const files = more.files ?? new Map<string, StoredSvid>();
  const seen = {
    issued: [] as { identity: string; at: number }[],
    pushed: [] as StoredSvid[],
    withdrawn: [] as string[],
    why: [] as string[],
    failed: 0,
    rotated: 0,
  };
  const authority = { up: true, trustGeneration: 1 };
  const start = clock.now();
  const store = new SvidStore({
    ca: {
      async issue(identity, csrPem) {
        assert.match(csrPem, /BEGIN CERTIFICATE REQUEST/);
        if (!authority.up) return err("controller is away");
        seen.issued.push({ identity, at: clock.now() - start });
        return ok({ chainPem: "chain", notAfterMs: clock.now() + lifeMs, trustGeneration: authority.trustGeneration });
      },
    },
    files: {
      load: async () => [...files.values()],
      save: async (svid) => void files.set(svid.identity, svid),
      remove: async (identity) => void files.delete(identity),
    },
    clock,
    random: seededRandom(1),
    log: silentLogger,
    settings: () => ({ renewAt: more.renewAt ?? 0.5, graceMs: 10_000 }),
    push: async (svid) => {
      seen.pushed.push(svid);
      return ok({});
    },
    withdraw: async (identity, why) => {
      seen.withdrawn.push(identity);
      seen.why.push(why);
    },
    failed: () => seen.failed++,
    rotated: () => seen.rotated++,
    arrived: () => {},
  });
  // Key generation runs on real threads: let it finish, however long the fake time.
  const settle = async (until: () => boolean) => {
    await waitFor("it settles", until);
    await new Promise((resolve) => setTimeout(resolve, 2));
  };
  return { clock, store, files, seen, authority, settle };
}

test("[IDN-3] one fetch per identity however often it is asked for; the key stays here", async () => {
  const { store, seen, settle, files } = setUp();
  store.want(new Set([a]));
  store.want(new Set([a, b]));
  await settle(() => seen.pushed.length === 2 && files.size === 2);
  assert.equal(seen.issued.length, 2);
  assert.match(files.get(a)?.keyPem ?? "", /PRIVATE KEY/);
  store.stop();
});

test("[IDN-5] renewed at half of its life with jitter, each time with a new key, never a moment without", async () => {
  const { clock, store, seen, settle } = setUp();
  store.want(new Set([a]));
  await settle(() => seen.pushed.length === 1);
  for (let round = 2; round <= 6; round++) {
    await clock.advanceAsync(44_000);
    assert.equal(seen.pushed.length, round - 1, "not before 45 %");
    await clock.advanceAsync(12_000);
    await settle(() => seen.pushed.length === round);
    assert.equal(store.statuses()[0]?.state, "current");
  }
  assert.equal(new Set(seen.pushed.map((s) => s.keyPem)).size, 6);
  assert.equal(seen.rotated, 5);
  store.stop();
});

test("[IDN-5] never later than 80 % of its life, whatever is configured", async () => {
  const { clock, store, seen, settle } = setUp({ renewAt: 0.95 });
  store.want(new Set([a]));
  await settle(() => seen.pushed.length === 1);
  await clock.advanceAsync(80_100);
  await settle(() => seen.pushed.length === 2);
  store.stop();
});

test("[IDN-10] renewal that keeps failing: counted, tried again, visible, and after the grace period withdrawn", async () => {
  const { clock, store, seen, authority, settle } = setUp();
  store.want(new Set([a]));
  await settle(() => seen.pushed.length === 1);
  authority.up = false;
  const step = async (ms: number) => {
    const before = seen.failed;
    await clock.advanceAsync(ms);
    await settle(() => seen.failed > before);
  };
  await step(56_000);
  assert.equal(store.statuses()[0]?.state, "current");
  await step(30_000);
  assert.equal(store.statuses()[0]?.state, "overdue");
  assert.equal(store.statuses()[0]?.lastError, "controller is away");
  await step(15_000);
  assert.equal(store.statuses()[0]?.state, "expired");
  assert.deepEqual(seen.withdrawn, []);
  await step(15_000);
  await settle(() => seen.withdrawn.length > 0);
  assert.deepEqual([seen.withdrawn, seen.why], [[a], ["lost"]]);
  assert.equal(store.statuses()[0]?.state, "missing");
  authority.up = true;
  store.retryNow();
  await clock.advanceAsync(1);
  await settle(() => seen.pushed.length === 2);
  assert.equal(store.statuses()[0]?.state, "current");
  store.stop();
});

test("[DP-20] a restarted agent goes on with the SVIDs of the one before, without the controller", async () => {
  const first = setUp();
  first.store.want(new Set([a]));
  await first.settle(() => first.files.size === 1);
  first.store.stop();
  const second = setUp({ files: first.files });
  second.authority.up = false;
  await second.store.load();
  assert.equal(second.seen.pushed.length, 1, "native has it before a pod is enrolled: its first connection needs it");
  second.store.want(new Set([a]));
  assert.equal(await second.store.ready(a, 1000), true);
  assert.deepEqual([second.seen.pushed.length, second.seen.issued.length], [1, 0], "once is enough");
  for (const pushed of second.seen.pushed) assert.equal(pushed.keyPem, first.seen.pushed[0]?.keyPem);
  second.store.stop();
});

test("[IDN-9] when the roots change, SVIDs of the older set are renewed within a tenth of their life", async () => {
  const { clock, store, seen, authority, settle } = setUp();
  store.want(new Set([a]));
  await settle(() => seen.pushed.length === 1);
  authority.trustGeneration = 2;
  store.trustChanged(2);
  await clock.advanceAsync(10_000);
  await settle(() => seen.pushed.length === 2);
  store.trustChanged(2);
  await clock.advanceAsync(10_000);
  assert.equal(seen.pushed.length, 2);
  store.stop();
});

test("an identity that nobody needs any more leaves native and the disk", async () => {
  const { store, seen, files, settle } = setUp();
  store.want(new Set([a]));
  await settle(() => files.size === 1);
  store.want(new Set());
  await settle(() => files.size === 0 && seen.withdrawn.length > 0);
  assert.deepEqual([seen.withdrawn, seen.why], [[a], ["unneeded"]]);
  assert.deepEqual(store.statuses(), []);
  store.stop();
});

test("[DP-20] what an earlier agent left is handed to native once, and what no pod needs goes when all pods are known", async () => {
  const left = (identity: string, notAfterMs: number): StoredSvid => ({
    identity,
    keyPem: "key",
    chainPem: "chain",
    issuedAtMs: notAfterMs - 100_000,
    notAfterMs,
    trustGeneration: 1,
  });
  const gone = "spiffe://cluster.local/ns/shop/sa/gone";
  const old = "spiffe://cluster.local/ns/shop/sa/old";
  const files = new Map<string, StoredSvid>();
  const { clock, store, seen } = setUp({ files });
  for (const identity of [a, gone]) files.set(identity, left(identity, clock.now() + 80_000));
  files.set(old, left(old, clock.now() - 1));
  await store.load();
  assert.deepEqual(
    seen.pushed.map((s) => s.identity),
    [a, gone],
  );
  assert.ok(!files.has(old), "an expired one is of no use to anybody");
  store.want(new Set([a]));
  assert.equal(await store.ready(a, 10), true);
  await store.dropUnneeded();
  assert.deepEqual([seen.pushed.length, seen.issued.length], [2, 0]);
  assert.deepEqual([seen.withdrawn, [...files.keys()]], [[gone], [a]]);
  await store.dropUnneeded();
  assert.equal(store.statuses()[0]?.state, "current");
  store.stop();
});
