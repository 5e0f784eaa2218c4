// The folder of pod records: broken ones beside good ones, namespaces that are gone, changes seen.
import assert from "node:assert/strict";
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { waitFor } from "../../test/kit/wait.ts";
import { systemClock } from "../base/clock.ts";
import { silentLogger } from "../base/log.ts";
import { folderSource, readPodFolder, watchPodFolder } from "./pod-folder.ts";

function folder(t: TestContext): { dir: string; write: (name: string, more?: object) => void } {
  const dir = mkdtempSync(join(tmpdir(), "pods-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const base = { namespace: "shop", name: "web", netns: "/proc/self/ns/net", ips: ["10.0.0.1"] };
  const write = (name: string, more: object = {}): void => {
    writeFileSync(join(dir, `.${name}`), JSON.stringify({ ...base, name, ...more }));
    renameSync(join(dir, `.${name}`), join(dir, `${name}.json`));
  };
  return { dir, write };
}

test("a record that cannot be read is reported with its file and leaves the others alone", async (t) => {
  const { dir, write } = folder(t);
  write("good");
  writeFileSync(join(dir, "bad.json"), "{");
  writeFileSync(join(dir, "note.txt"), "not a record");
  const read = await readPodFolder(dir);
  assert.deepEqual(
    read.records.map((r) => r.name),
    ["good"],
  );
  assert.deepEqual(
    read.problems.map((p) => p.file),
    ["bad.json"],
  );
});

test("[DP-21] a pod whose namespace is gone has ended, told or not", async (t) => {
  const { dir, write } = folder(t);
  write("gone", { netns: join(dir, "no-such-namespace") });
  write("host", { netns: "", hostNetwork: true });
  const read = await readPodFolder(dir);
  assert.deepEqual(
    read.records.map((r) => r.name),
    ["host"],
  );
  assert.match(read.problems[0]?.message ?? "", /has ended/);
});

test("[INT-11] a runtime that tells of a pod's network is believed until it takes the network down or it ends", async (t) => {
  const { dir, write } = folder(t);
  const source = folderSource(dir, systemClock, silentLogger, 60_000);
  const known = async (): Promise<unknown> => (await source.read()).records.map(({ netns, ips }) => ({ netns, ips }));
  write("web", { uid: "u", netns: join(dir, "not-made-yet"), ips: [] });
  const told = { namespace: "shop", name: "web", uid: "u", netns: join(dir, "netns"), ips: ["10.0.0.9"] };
  assert.equal((await source.told(told)).ok, false, "its namespace is not there");
  writeFileSync(told.netns, "");
  assert.equal((await source.told({ ...told, uid: "other" })).ok, false);
  assert.deepEqual(await known(), []);
  const record = await source.told(told);
  assert.ok(record.ok && record.value.netns === told.netns);
  assert.deepEqual(await known(), [{ netns: told.netns, ips: told.ips }]);
  source.left("u");
  assert.deepEqual(await known(), []);
  await source.told(told);
  rmSync(told.netns);
  assert.deepEqual(await known(), []);
  writeFileSync(told.netns, "");
  assert.deepEqual(await known(), [], "what has ended is told of anew");
});

test("a folder that is not there is an empty one; once it is made its changes are seen", async (t) => {
  const { dir } = folder(t);
  const missing = join(dir, "later");
  assert.deepEqual(await readPodFolder(missing), { records: [], problems: [] });
});

test("a change is seen at once by the watch, not only by the next scan", async (t) => {
  const { dir, write } = folder(t);
  let seen = 0;
  const stop = watchPodFolder(dir, systemClock, silentLogger, () => seen++, 600_000);
  t.after(stop);
  await waitFor("a change is seen", () => {
    write("web");
    return seen > 0;
  });
});
