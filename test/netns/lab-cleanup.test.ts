// A lab leaves nothing behind: after down, after a killed supervisor, after a killed start; and labs do not disturb each other.
import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { labOptions, withLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace, serverPod } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";
import { cgroupProcesses } from "../lab/cgroup.ts";
import { labDown, labUp } from "../lab/client.ts";
import { defaultOptions } from "../lab/lab-options.ts";
import { namespacesOf } from "../lab/network.ts";
import type { LabPaths } from "../lab/paths.ts";

const plain = { agents: false };
const files = {
  "all.yaml": manifest(
    namespace("shop", false),
    serverPod("shop/web", { node: "node1" }),
    clientPod("shop/client", { node: "node2" }),
  ),
};

async function leftovers(paths: LabPaths, except: readonly string[] = []): Promise<string[]> {
  const inside = existsSync(paths.dir)
    ? readdirSync(paths.dir)
        .filter((f) => !except.includes(f))
        .map((f) => join(paths.dir, f))
    : [];
  const places = [paths.cgroup, paths.pinDir].filter(existsSync);
  const processes = cgroupProcesses(paths.cgroup).map((pid) => `process ${pid}`);
  return [...inside, ...places, ...processes, ...(await namespacesOf(paths.netnsPrefix))];
}

test("[TST-3] down removes namespaces, links, cgroups, pins, files and processes", labOptions, async () => {
  let paths: LabPaths | undefined;
  await withLab(files, plain, async (lab) => {
    paths = lab.paths;
    assert.ok((await namespacesOf(lab.paths.netnsPrefix)).length === 5);
  });
  assert.ok(paths !== undefined);
  assert.deepEqual(await leftovers(paths), []);
  assert.equal(existsSync(paths.dir), false);
});

test(
  "[TST-3] a killed supervisor takes its lab with it; the next up of that name removes what is left",
  labOptions,
  async () => {
    await withLab(files, plain, async (lab) => {
      const { supervisor } = await lab.status();
      process.kill(supervisor, "SIGKILL");
      await waitFor("watchdog's cleaning", async () => (await leftovers(lab.paths, ["supervisor.log"])).length === 0);
      assert.ok(existsSync(lab.paths.supervisorLog), "the log stays, to say what happened");
      const again = await labUp(
        { name: lab.name, manifests: lab.manifests, ...defaultOptions, agents: false },
        () => undefined,
      );
      assert.ok(again.ok, again.ok ? "" : again.error);
      assert.ok(again.value.pods.every((p) => p.ready));
    });
  },
);

test("[TST-3] with supervisor and watchdog killed at once, down still finds everything", labOptions, async () => {
  await withLab(files, plain, async (lab) => {
    const { supervisor } = await lab.status();
    for (const pid of [...cgroupProcesses(lab.paths.watchdogCgroup), supervisor]) process.kill(pid, "SIGKILL");
    assert.ok((await leftovers(lab.paths)).length > 5);
    assert.deepEqual(await labDown(lab.name), { ok: true, value: true });
    assert.deepEqual(await leftovers(lab.paths), []);
  });
});

test(
  "[TST-3] two labs at once have the same addresses and do not meet; a second up of one name is refused",
  labOptions,
  async () => {
    await withLab(files, plain, async (one) => {
      await withLab(files, plain, async (two) => {
        for (const lab of [one, two]) {
          const done = await lab.traffic("shop/client", ["short", "--host", "10.244.1.10", "--count", "50"]);
          assert.deepEqual([done.ok, done.failed], [50, 0]);
          assert.deepEqual((done.server as { whole: number }).whole, 50, "each server saw its own client only");
        }
        const again = await labUp(
          { name: two.name, manifests: two.manifests, ...defaultOptions, agents: false },
          () => undefined,
        );
        assert.ok(!again.ok && /already up/.test(again.error));
      });
      assert.ok((await one.pod("shop/client")).ready);
    });
  },
);

test("[DIS-9] a lab that cannot come up says why in one line and leaves nothing", labOptions, async () => {
  const missing = await labUp(
    { name: "tnofolder", manifests: "/no/such/folder", ...defaultOptions, agents: false },
    () => undefined,
  );
  assert.deepEqual(missing, { ok: false, error: "--manifests /no/such/folder: no such folder" });
  const named = await labUp({ name: "Bad_Name", manifests: "/", ...defaultOptions, agents: false }, () => undefined);
  assert.ok(!named.ok && /--name "Bad_Name"/.test(named.error));
});
