// The CNI plugin on folders that cannot take it, as only root can make them.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { systemClock } from "../../agent/base/clock.ts";
import { silentLogger } from "../../agent/base/log.ts";
import { ownFile } from "../../agent/cni/conflist.ts";
import { CniInstaller } from "../../agent/cni/installer.ts";
import { labOptions } from "../kit/lab.ts";
import { run } from "../lab/command.ts";

const list = (mtu: number): string =>
  JSON.stringify({ cniVersion: "1.0.0", name: "pods", plugins: [{ type: "ptp", mtu }] });

test("[INT-11] a full disk and a read-only folder leave what was there, and are got over", labOptions, async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "cni-"));
  const [confDir, binDir, program] = [join(dir, "net.d"), join(dir, "bin"), join(dir, "plugin")];
  for (const folder of [confDir, binDir]) mkdirSync(folder);
  writeFileSync(program, "the plugin");
  await run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", confDir]);
  const done: string[] = [];
  const installer = new CniInstaller(
    { confDir, binDir, program, entry: { socket: "/run/x.sock", excludedNamespaces: [] }, rescanMs: 60_000 },
    { clock: systemClock, log: silentLogger, done: (what, outcome) => done.push(`${what} ${outcome}`) },
  );
  t.after(async () => {
    await installer.stop();
    await run(["umount", confDir]);
    rmSync(dir, { recursive: true, force: true });
  });
  const own = join(confDir, ownFile);
  const other = join(confDir, "10-pods.conflist");
  const plugins = (): Record<string, unknown>[] => JSON.parse(readFileSync(own, "utf8")).plugins;
  writeFileSync(other, list(1500));
  await installer.start();
  assert.equal(installer.status.state, "installed");
  const filler = join(confDir, "fill");
  assert.throws(() => writeFileSync(filler, Buffer.alloc(64 * 1024)), /ENOSPC/);
  // In its place, so that it needs no room of its own.
  writeFileSync(other, list(1400), { flag: "r+" });
  await installer.reconcile();
  assert.match(installer.status.problem, /ENOSPC/);
  assert.equal(plugins()[0]?.mtu, 1500);
  assert.equal(
    readdirSync(confDir).some((name) => name.endsWith(".new")),
    false,
    "no draft is left",
  );
  rmSync(filler);
  await installer.reconcile();
  assert.equal(plugins()[0]?.mtu, 1400);
  writeFileSync(other, list(1300), { flag: "r+" });
  await run(["mount", "-o", "remount,ro", confDir]);
  await installer.reconcile();
  assert.match(installer.status.problem, /EROFS/);
  assert.ok(done.filter((line) => line === "config failed").length >= 2);
  await run(["mount", "-o", "remount,rw", confDir]);
  await installer.reconcile();
  assert.equal(installer.status.state, "installed");
  assert.ok(readFileSync(own, "utf8").includes("1300"));
});
