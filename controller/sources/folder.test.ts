import assert from "node:assert/strict";
import { chmodSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { systemClock } from "../../agent/base/clock.ts";
import { silentLogger } from "../../agent/base/log.ts";
import { namespace, pod, service } from "../../test/kit/objects.ts";
import { eventually } from "../../test/kit/wait.ts";
import { createFolderSource, type FolderSource } from "./folder.ts";
import { type MeshObject, type Problem, refKey, refOf, type SourceSink } from "./types.ts";

interface Watched extends AsyncDisposable {
  readonly dir: string;
  readonly live: string;
  readonly objects: Map<string, MeshObject>;
  readonly source: FolderSource;
  problems: readonly Problem[];
  events: string[];
  put(name: string, text: string): void;
}

/** A folder source over temporary folders; without polling in between, so that what is seen came by notice or `rescan`. */
async function watched(files: Readonly<Record<string, string>>, pollMs = 600_000, emptyMs = 20): Promise<Watched> {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-folder-"));
  const live = mkdtempSync(join(tmpdir(), "fairlead-live-"));
  const objects = new Map<string, MeshObject>();
  const sink: SourceSink = {
    apply(object) {
      state.events.push(`apply ${refKey(refOf(object))}`);
      objects.set(refKey(refOf(object)), object);
    },
    delete(ref) {
      state.events.push(`delete ${refKey(ref)}`);
      objects.delete(refKey(ref));
    },
    problems: (problems) => {
      state.problems = problems;
    },
    settled: () => {},
  };
  const put = (name: string, text: string): void => {
    const path = name.startsWith("live/") ? join(live, name.slice(5)) : join(dir, name);
    writeFileSync(`${path}.tmp`, text);
    renameSync(`${path}.tmp`, path);
  };
  for (const [name, text] of Object.entries(files)) put(name, text);
  const source = createFolderSource(
    { folders: [dir], liveDir: live, settleMs: 20, pollMs, emptyMs },
    sink,
    systemClock,
    silentLogger,
  );
  const state: Watched = {
    dir,
    live,
    objects,
    source,
    problems: [],
    events: [],
    put,
    async [Symbol.asyncDispose]() {
      source.stop();
      rmSync(dir, { recursive: true, force: true });
      rmSync(live, { recursive: true, force: true });
    },
  };
  await source.start();
  return state;
}
const serviceKey = "Service/shop/web";

test("[DIS-2] files appear, change, move and vanish while watched", async () => {
  await using folder = await watched({ "a.yaml": namespace("shop") });
  assert.deepEqual([...folder.objects.keys()], ["Namespace//shop"]);
  folder.put("b.json", service("shop", "web"));
  await eventually(() => assert.ok(folder.objects.has(serviceKey)));
  folder.put("b.json", service("shop", "web", { clusterIP: "10.96.0.77" }));
  await eventually(() =>
    assert.equal((folder.objects.get(serviceKey) as { spec: { clusterIP: string } }).spec.clusterIP, "10.96.0.77"),
  );
  mkdirSync(join(folder.dir, "sub"));
  renameSync(join(folder.dir, "b.json"), join(folder.dir, "sub/b.json"));
  await eventually(() => assert.equal(folder.events.at(-1) === `delete ${serviceKey}`, false));
  await folder.source.rescan();
  assert.ok(folder.objects.has(serviceKey), "a moved file keeps its objects");
  writeFileSync(join(folder.dir, "sub/c.yml"), service("shop", "other"));
  await eventually(() => assert.ok(folder.objects.has("Service/shop/other")));
  rmSync(join(folder.dir, "sub"), { recursive: true });
  await eventually(() => assert.deepEqual([...folder.objects.keys()], ["Namespace//shop"]));
});

test("[DIS-9] the last good version stays in force while its file is bad", async () => {
  await using folder = await watched({ "a.yaml": [namespace("shop"), service("shop", "web")].join("\n---\n") });
  const before = folder.objects.get(serviceKey);
  folder.put(
    "a.yaml",
    `${namespace("shop")}\n---\n${service("shop", "web", { ports: [{ port: 0 }] })}\n---\n${service("shop", "new")}`,
  );
  await folder.source.rescan();
  assert.equal(folder.objects.get(serviceKey), before, "a bad object keeps its last good version");
  assert.ok(folder.objects.has("Service/shop/new"), "its neighbours go on");
  assert.equal(folder.problems[0]?.field, "spec.ports[0].port");
  folder.put("a.yaml", "kind: {{{");
  await folder.source.rescan();
  assert.equal(folder.objects.size, 3, "a torn file takes nothing away");
  folder.put("a.yaml", `${namespace("shop")}\n---\nkind: [\n`);
  await folder.source.rescan();
  assert.equal(folder.objects.size, 3, "also when only a part of it can be read");
  folder.put("a.yaml", namespace("shop"));
  await folder.source.rescan();
  assert.deepEqual([[...folder.objects.keys()], folder.problems.length], [["Namespace//shop"], 0]);
});

test("[DIS-9] the same object in two files: the first file's stays, the other is told; the heir takes over", async () => {
  await using folder = await watched({
    "a.yaml": service("shop", "web", { clusterIP: "10.96.0.1" }),
    "b.yaml": service("shop", "web", { clusterIP: "10.96.0.2" }),
  });
  const ip = (): string => (folder.objects.get(serviceKey) as { spec: { clusterIP: string } }).spec.clusterIP;
  assert.equal(ip(), "10.96.0.1");
  assert.match(folder.problems[0]?.message ?? "", /already defined in a.yaml/);
  assert.equal(folder.problems[0]?.file, "b.yaml");
  rmSync(join(folder.dir, "a.yaml"));
  await eventually(() => assert.equal(ip(), "10.96.0.2"));
  assert.equal(folder.problems.length, 0);
});

test("a live Pod takes the place of the manifest's, and gives it back", async () => {
  await using folder = await watched({ "a.yaml": pod("shop", "web-1", "") });
  const ips = (): number =>
    (folder.objects.get("Pod/shop/web-1") as unknown as { status: { podIPs: unknown[] } }).status.podIPs.length;
  assert.equal(ips(), 0);
  folder.put("live/shop_web-1.json", pod("shop", "web-1", "10.244.1.5"));
  await eventually(() => assert.equal(ips(), 1));
  assert.equal(folder.problems.length, 0, "that is no conflict");
  rmSync(join(folder.live, "shop_web-1.json"));
  await eventually(() => assert.equal(ips(), 0));
});

test("a folder that is gone for a while changes nothing, and is told", async () => {
  await using folder = await watched({ "a.yaml": namespace("shop") });
  renameSync(folder.dir, `${folder.dir}.away`);
  await folder.source.rescan();
  assert.equal(folder.objects.size, 1);
  assert.equal(folder.source.faults.size, 1);
  assert.match(folder.problems[0]?.message ?? "", /ENOENT/);
  renameSync(`${folder.dir}.away`, folder.dir);
  await folder.source.rescan();
  assert.deepEqual([folder.source.faults.size, folder.problems.length], [0, 0]);
});

test("mounted ConfigMaps (links to links) are followed, temporary and foreign files are not read", async () => {
  await using folder = await watched({ "notes.txt": "kind: {{{", ".a.yaml.swp": "kind: {{{" });
  mkdirSync(join(folder.dir, "..data-1"));
  writeFileSync(join(folder.dir, "..data-1/a.yaml"), namespace("shop"));
  symlinkSync("..data-1", join(folder.dir, "..data"));
  symlinkSync("..data/a.yaml", join(folder.dir, "a.yaml"));
  await folder.source.rescan();
  assert.deepEqual([[...folder.objects.keys()], folder.problems], [["Namespace//shop"], []]);
});

test("what is not seen by notice is seen by polling", async () => {
  await using folder = await watched({}, 50);
  chmodSync(folder.dir, 0o755);
  folder.put("a.yaml", namespace("shop"));
  await eventually(() => assert.equal(folder.objects.size, 1));
});

test("[DIS-9] a file caught empty while it is written loses nothing, however often it is looked at", async () => {
  await using folder = await watched({ "a.yaml": namespace("shop") }, 600_000, 600_000);
  writeFileSync(join(folder.dir, "a.yaml"), "");
  for (let looks = 0; looks < 3; looks++) await folder.source.rescan();
  assert.equal(folder.objects.size, 1);
  writeFileSync(join(folder.dir, "a.yaml"), namespace("shop"));
  await folder.source.rescan();
  assert.equal(folder.events.length, 1, "nothing was taken away in between");
});

test("[DIS-9] a file that stays empty has no objects any more", async () => {
  await using folder = await watched({ "a.yaml": namespace("shop") });
  writeFileSync(join(folder.dir, "a.yaml"), "");
  await eventually(() => assert.equal(folder.objects.size, 0));
});
