// Discovery on disk: whole or ignored, owned by one, a full disk is survived.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import fc from "fast-check";
import { meshResources } from "../../test/kit/arbitraries.ts";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { service, workload } from "../../test/kit/mesh.ts";
import { encodeResource, type MeshResource, resourceName } from "../api/resources.ts";
import { silentLogger } from "../base/log.ts";
import { DiscoveryCache } from "./cache.ts";
import { decodeCache, encodeCache } from "./cache-file.ts";
import { newVersions } from "./controller-source.ts";
import { isExpired, isStale } from "./freshness.ts";

const content: readonly MeshResource[] = [
  { kind: "Workload", value: workload("shop", "web", "10.244.1.5") },
  { kind: "Service", value: service("shop", "web", "10.96.0.1", [{ port: 80 }]) },
];

const fileOf = (resources: readonly MeshResource[]): Buffer =>
  Buffer.concat([...encodeCache(resources, newVersions(), 1)]);

function setUp(t: TestContext, folder = mkdtempSync(join(tmpdir(), "cache-"))) {
  t.after(() => {
    if (folder.startsWith(tmpdir())) rmSync(folder, { recursive: true, force: true });
  });
  const clock = createFakeClock(Date.now());
  const versions = newVersions();
  versions.get("Workload")?.set("cluster.local/shop/web", "v7");
  let failures = 0;
  const cache = new DiscoveryCache({
    folder,
    clock,
    log: silentLogger,
    delayMs: 500,
    snapshot: () => content,
    versions,
    failed: () => failures++,
  });
  return { cache, clock, folder, path: join(folder, "discovery.cache"), failures: () => failures };
}

test("[DIS-3] what was written is read back, with versions, after a restart", async (t) => {
  const { cache, folder } = setUp(t);
  await cache.flush();
  const again = setUp(t, folder);
  const loaded = await again.cache.load();
  assert.equal(loaded?.resources.length, 2);
  assert.equal(loaded?.versions.get("Workload")?.get("cluster.local/shop/web"), "v7");
});

test("[DIS-3] changes are gathered, then written once", async (t) => {
  const { cache, clock, path } = setUp(t);
  cache.changed();
  cache.changed();
  clock.advance(499);
  assert.throws(() => readFileSync(path));
  clock.advance(2);
  await cache.flush();
  assert.ok(readFileSync(path).length > 0);
});

test("[DIS-3] every resource survives the disk", () => {
  fc.assert(
    fc.property(fc.array(meshResources, { maxLength: 20 }), (resources) => {
      const decoded = decodeCache(fileOf(resources));
      assert.ok(decoded.ok);
      const text = (r: MeshResource) =>
        `${r.kind}/${resourceName(r)}/${Buffer.from(encodeResource(r)).toString("hex")}`;
      assert.deepEqual(decoded.value.resources.map(text), resources.map(text));
    }),
  );
});

test("a broken, cut or foreign cache is ignored, whatever its bytes", async (t) => {
  const { cache, path } = setUp(t);
  await cache.flush();
  truncateSync(path, 100);
  assert.equal(await cache.load(), undefined);
  writeFileSync(path, "hello");
  assert.equal(await cache.load(), undefined);
  const good = fileOf(content);
  fc.assert(
    fc.property(fc.nat(good.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const bytes = Buffer.from(good);
      bytes[at] = (bytes[at] ?? 0) ^ flip;
      assert.equal(decodeCache(bytes).ok, false);
    }),
  );
});

test("a disk that cannot be written to is counted and shown, and the agent goes on", async (t) => {
  const { cache, failures } = setUp(t, "/dev/null/cache");
  await cache.flush();
  assert.equal(failures(), 1);
  assert.notEqual(cache.status.lastError, "");
});

test("[DP-19] the file has one owner: after giving it up nothing is written", async (t) => {
  const { cache, path } = setUp(t);
  await cache.flush();
  const before = readFileSync(path);
  writeFileSync(path, Buffer.concat([before, Buffer.from("successor")]));
  await cache.disown();
  cache.changed();
  await cache.flush();
  assert.ok(readFileSync(path).includes("successor"));
});

test("[DIS-3] the file's time is the last time the controller was heard", async (t) => {
  const { cache, path, clock } = setUp(t);
  await cache.flush();
  clock.advance(60_000);
  await cache.touch();
  assert.equal((await cache.load())?.lastContactMs, clock.now());
  utimesSync(path, new Date(0), new Date(0));
  assert.ok(((await cache.load())?.lastContactMs ?? 0) > 0, "never older than the write itself");
});

test("[DIS-3] past the TTL entries are stale, past maxStale policies have expired, and never while connected", () => {
  const clock = createFakeClock();
  const freshness = { connected: true, lastContactMs: clock.now() };
  clock.advance(1e9);
  assert.equal(isStale(freshness, clock, 300_000), false);
  freshness.connected = false;
  assert.deepEqual([isStale(freshness, clock, 300_000), isExpired(freshness, clock, 86_400_000)], [true, true]);
  freshness.lastContactMs = clock.now() - 400_000;
  assert.deepEqual([isStale(freshness, clock, 300_000), isExpired(freshness, clock, 86_400_000)], [true, false]);
  freshness.lastContactMs = 0;
  assert.equal(isExpired(freshness, clock, 1), false);
});
