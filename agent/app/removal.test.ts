import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { err, ok, type Result } from "../base/result.ts";
import type { Config } from "../config.ts";
import { Removal, type RemovalParts } from "./removal.ts";

const scratch = mkdtempSync(join(tmpdir(), "fairlead-removal-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

interface World {
  readonly calls: string[];
  readonly removal: Removal;
  readonly config: Pick<Config, "runDir" | "cacheDir" | "pinDir" | "procDir">;
}

/** Pods leave one at each reading; `cni` and `unload` are what taking these off comes to. */
function world(pods: number, cni: Result<readonly string[], string>, unload: "ok" | "fails"): World {
  const folder = mkdtempSync(join(scratch, "node-"));
  const config = {
    runDir: join(folder, "run"),
    cacheDir: join(folder, "cache"),
    pinDir: join(folder, "pins"),
    procDir: join(folder, "proc"),
  };
  for (const dir of [config.runDir, config.cacheDir, config.pinDir]) {
    mkdirSync(join(dir, "deep"), { recursive: true });
    writeFileSync(join(dir, "deep/file"), "x");
  }
  const calls: string[] = [];
  const inMesh = Array.from({ length: pods });
  let nowMs = 0;
  const sleep = async (ms: number): Promise<void> => {
    nowMs += ms;
  };
  const log = {
    info: () => {},
    warn: (event: string) => void calls.push(event),
    error: (event: string) => void calls.push(event),
  };
  const parts = {
    config,
    clock: { monotonicMs: () => nowMs, sleep },
    log,
    native: {
      call: async (method: string) => {
        calls.push(method);
        return unload === "ok" ? ok({}) : err({ code: "pin_failed", message: "busy" });
      },
    },
    enrolment: { all: () => inMesh },
    nodePods: () => ({ leaveMesh: () => void calls.push("leave"), sync: async () => [inMesh.pop()] }),
    cni: () => ({
      async remove() {
        calls.push("cni");
        return cni;
      },
    }),
  };
  return { calls, config, removal: new Removal(parts as unknown as RemovalParts) };
}
const settled = async (removal: Removal): Promise<string> => {
  while (removal.status.state === "removing") await new Promise((resolve) => setImmediate(resolve));
  return removal.status.state;
};

test("[OPS-1] the plugin goes first, then pods leave, then programs; then files, when the process ends", async () => {
  const { calls, removal, config } = world(3, ok([]), "ok");
  assert.deepEqual(removal.status, { state: "none", pods: 3, problems: [] });
  assert.equal(removal.start().state, "removing");
  assert.equal(removal.start().state, "removing", "asked again, it only tells how it stands");
  assert.equal(await settled(removal), "removed");
  assert.deepEqual(calls, ["removing_mesh", "cni", "leave", "programs.unload", "mesh_removed"]);
  assert.equal(removal.status.pods, 0);
  await removal.finish();
  for (const folder of [config.runDir, config.cacheDir, config.pinDir]) assert.ok(!existsSync(folder), folder);
});

test("[OPS-1] pods that do not leave in time are let go as they are", async () => {
  const { calls, removal } = world(100_000, ok([]), "ok");
  removal.start();
  assert.equal(await settled(removal), "removed");
  assert.ok(calls.includes("pods_left_in_a_hurry"));
});

test("[OPS-1] what cannot be removed is named and tried again when it is asked for again; files stay until then", async () => {
  for (const [cni, unload, problem] of [
    [err("/host/cni/net.d: read-only"), "ok", "/host/cni/net.d: read-only"],
    [ok([]), "fails", "pin_failed: busy"],
  ] as const) {
    const { calls, removal, config } = world(0, cni, unload);
    removal.start();
    assert.equal(await settled(removal), "failed");
    assert.deepEqual(removal.status.problems, [problem]);
    await removal.finish();
    assert.ok(existsSync(config.runDir));
    calls.length = 0;
    assert.equal(removal.start().state, "removing");
    await settled(removal);
    assert.ok(calls.includes("cni"));
  }
});

test("[OPS-1] an agent that ends without having been asked leaves everything for the next one", async () => {
  const { removal, config } = world(1, ok([]), "ok");
  await removal.finish();
  assert.ok(existsSync(config.runDir) && existsSync(config.pinDir));
});
