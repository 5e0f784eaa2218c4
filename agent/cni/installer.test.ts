// Installing on a node: folders of a test's own, another CNI that does what others do, and what can stand in the way.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { waitFor } from "../../test/kit/wait.ts";
import { systemClock } from "../base/clock.ts";
import { silentLogger } from "../base/log.ts";
import { ownFile, pluginType } from "./conflist.ts";
import { CniInstaller, uninstall } from "./installer.ts";

const entry = { socket: "/run/fairlead/cni.sock", excludedNamespaces: ["kube-system"] };
const list = (mtu: number): string =>
  JSON.stringify({ cniVersion: "1.0.0", name: "pods", plugins: [{ type: "ptp", mtu }] });

function setUp(t: TestContext, rescanMs = 60_000, onDone: (what: string) => void = () => {}) {
  const dir = mkdtempSync(join(tmpdir(), "cni-"));
  const [confDir, binDir, program] = [join(dir, "net.d"), join(dir, "bin"), join(dir, "plugin")];
  mkdirSync(confDir);
  mkdirSync(binDir);
  writeFileSync(program, "the plugin");
  const done: string[] = [];
  const installer = new CniInstaller(
    { confDir, binDir, program, entry, rescanMs },
    {
      clock: systemClock,
      log: silentLogger,
      done: (what, outcome) => {
        done.push(`${what} ${outcome}`);
        onDone(what);
      },
    },
  );
  t.after(async () => {
    await installer.stop();
    rmSync(dir, { recursive: true, force: true });
  });
  const own = join(confDir, ownFile);
  const target = join(binDir, pluginType);
  const plugins = (): Record<string, unknown>[] => JSON.parse(readFileSync(own, "utf8")).plugins;
  return { dir, confDir, binDir, program, installer, own, target, plugins, done };
}

test("[INT-11] the plugin is installed beside a configuration, whose own file stays as it is", async (t) => {
  const { confDir, installer, own, target, plugins, done } = setUp(t);
  const other = join(confDir, "10-pods.conflist");
  writeFileSync(other, list(1500));
  await installer.start();
  assert.deepEqual(plugins(), [
    { type: "ptp", mtu: 1500 },
    { type: pluginType, ...entry },
  ]);
  assert.equal(readFileSync(other, "utf8"), list(1500));
  assert.equal(readFileSync(target, "utf8"), "the plugin");
  assert.equal(statSync(target).mode & 0o777, 0o755);
  assert.deepEqual(readdirSync(confDir), [ownFile, "10-pods.conflist"]);
  assert.deepEqual(installer.status, { state: "installed", problem: "", source: "10-pods.conflist" });
  await installer.reconcile();
  assert.deepEqual(done, ["program written", "config written"], "a second look writes nothing");
  assert.ok(statSync(own).size > 0);
});

test("[INT-11] a node without a network configuration is waited for, and the first one that comes is taken", async (t) => {
  const { confDir, installer, own, plugins } = setUp(t);
  await installer.start();
  assert.equal(installer.status.state, "waiting");
  writeFileSync(join(confDir, "20-late.conf"), '{"cniVersion":"0.3.1","name":"n","type":"bridge"}');
  await waitFor("ours is there", async () => readdirSync(confDir).includes(ownFile) && plugins().length === 2);
  writeFileSync(join(confDir, "10-first.conflist"), list(1400));
  await waitFor("ours follows the first file", async () => plugins()[0]?.mtu === 1400);
  assert.ok(statSync(own).size > 0);
});

test("[INT-11] what another CNI rewrites, or somebody removes, is put right", async (t) => {
  const { confDir, installer, own, target, plugins } = setUp(t);
  const other = join(confDir, "10-pods.conflist");
  writeFileSync(other, list(1500));
  await installer.start();
  writeFileSync(`${other}.tmp`, list(9000));
  renameSync(`${other}.tmp`, other);
  await waitFor("ours follows", async () => plugins()[0]?.mtu === 9000);
  rmSync(own);
  await waitFor("ours is back", async () => readdirSync(confDir).includes(ownFile));
  writeFileSync(own, "{}");
  await waitFor("ours is whole again", async () => readFileSync(own, "utf8").includes(pluginType));
  rmSync(target);
  await waitFor("the program is back", async () => statSync(target, { throwIfNoEntry: false })?.size === 10);
  writeFileSync(target, "another one");
  await waitFor("the program is ours again", async () => readFileSync(target, "utf8") === "the plugin");
});

test("[INT-11] a program that somebody replaces in the moment that ours was written is not taken for ours", async (t) => {
  let others = 0;
  const { installer, target } = setUp(t, 60_000, (what) => {
    if (what === "program" && others++ === 0) writeFileSync(target, "another one");
  });
  await installer.start();
  await waitFor("the program is ours", async () => readFileSync(target, "utf8") === "the plugin");
  assert.equal(others, 2);
});

test("[INT-11] a configuration that is broken leaves ours as it was, and is told", async (t) => {
  const { confDir, installer, plugins } = setUp(t);
  const other = join(confDir, "10-pods.conflist");
  writeFileSync(other, list(1500));
  await installer.start();
  writeFileSync(other, '{"cniVersion":');
  await waitFor("it is told", async () => installer.status.state === "failing");
  assert.match(installer.status.problem, /10-pods\.conflist: is not JSON/);
  assert.equal(plugins()[0]?.mtu, 1500);
  rmSync(other);
  await waitFor("nothing is left to follow", async () => installer.status.state === "waiting");
  assert.match(installer.status.problem, /but ours/);
  assert.equal(plugins()[0]?.mtu, 1500);
});

test("[INT-11] folders that are missing or no folders, and a program that is not there, are told by name", async (t) => {
  const { confDir, binDir, program, installer, done } = setUp(t);
  writeFileSync(join(confDir, "10-pods.conflist"), list(1500));
  rmSync(binDir, { recursive: true });
  await installer.start();
  assert.match(installer.status.problem, /bin\/fairlead-cni.*ENOENT/);
  assert.deepEqual(done, ["program failed"]);
  assert.deepEqual(readdirSync(confDir), ["10-pods.conflist"], "no configuration without the program");
  mkdirSync(binDir);
  renameSync(program, `${program}.away`);
  await installer.reconcile();
  assert.match(installer.status.problem, /^FAIRLEAD_CNI_PROGRAM: ENOENT/);
  renameSync(`${program}.away`, program);
  rmSync(confDir, { recursive: true });
  await installer.reconcile();
  assert.match(installer.status.problem, /net\.d: ENOENT/);
});

test("[DP-22] stopping leaves the plugin in place; taking it off leaves nothing of it", async (t) => {
  const { confDir, binDir, installer, own, target } = setUp(t);
  writeFileSync(join(confDir, "10-pods.conflist"), list(1500));
  await installer.start();
  await installer.stop();
  assert.deepEqual(await uninstall(confDir, binDir), { ok: true, value: [own, target] });
  assert.deepEqual([readdirSync(confDir), readdirSync(binDir)], [["10-pods.conflist"], []]);
  assert.deepEqual(await uninstall(confDir, binDir), { ok: true, value: [] });
  mkdirSync(own);
  const stuck = await uninstall(confDir, binDir);
  assert.ok(!stuck.ok && stuck.error.includes(own));
});

test("[DP-22] remove-cni takes the plugin off the node that the environment names", async (t) => {
  const { confDir, binDir, installer, own, target } = setUp(t);
  writeFileSync(join(confDir, "10-pods.conflist"), list(1500));
  await installer.start();
  await installer.stop();
  const env = { ...process.env, FAIRLEAD_CNI_CONF_DIR: confDir, FAIRLEAD_CNI_BIN_DIR: binDir };
  const script = fileURLToPath(new URL("../app/remove-cni.ts", import.meta.url));
  const removed = execFileSync(process.execPath, ["--disable-warning=ExperimentalWarning", script], { env });
  assert.equal(String(removed), `removed ${own}\nremoved ${target}\n`);
  assert.deepEqual([readdirSync(confDir), readdirSync(binDir)], [["10-pods.conflist"], []]);
});
