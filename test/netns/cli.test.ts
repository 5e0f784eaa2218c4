// The command line as somebody new uses it: the lab of examples/shop, every command with and without --json, wrong names, ^C.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { labOptions } from "../kit/lab.ts";
import { waitFor } from "../kit/wait.ts";
import { labDown, pathsOf } from "../lab/client.ts";

const root = join(import.meta.dirname, "../..");
const shop = join(root, "examples/shop");

interface Done {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

function begin(lab: string, words: readonly string[]): { child: ChildProcess; done: Promise<Done> } {
  const child = spawn(join(root, "bin/fairlead"), words, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, FAIRLEAD_LAB: lab },
  });
  let out = "";
  let err = "";
  child.stdout?.on("data", (b) => {
    out += b;
  });
  child.stderr?.on("data", (b) => {
    err += b;
  });
  return { child, done: new Promise((resolve) => child.on("close", (code) => resolve({ code, out, err }))) };
}
const fairlead = (lab: string, ...words: readonly string[]): Promise<Done> => begin(lab, words).done;
const newName = (): string => `c${randomBytes(4).toString("hex")}`;

test(
  "[OPS-3] [OBS-3] every command against the lab of examples/shop: text, JSON, exit codes, wrong names",
  labOptions,
  async (t) => {
    const lab = newName();
    const folder = mkdtempSync(join(tmpdir(), "cli-"));
    t.after(async () => {
      await labDown(lab);
      rmSync(folder, { recursive: true, force: true });
    });
    const up = await fairlead(lab, "lab", "up", "-m", shop, "--name", lab, "--json");
    assert.equal(up.code, 0, up.err);
    assert.equal((JSON.parse(up.out) as { name: string }).name, lab);
    assert.notEqual(up.err, "", "progress goes to standard error");

    const curl = await fairlead(lab, "lab", "exec", "shop/client", "--", "curl", "-sS", "-m", "30", "http://web");
    assert.equal(curl.code, 0, curl.err);
    assert.equal((await fairlead(lab, "lab", "exec", "shop/client", "--", "sh", "-c", "exit 7")).code, 7);

    const extra = join(folder, "extra.yaml");
    writeFileSync(extra, "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: extra, namespace: shop}\n");
    const broken = join(folder, "broken.yaml");
    writeFileSync(broken, "apiVersion: v1\nkind: Nonsense\nmetadata: {name: x, namespace: shop}\n");
    const asJson: readonly (readonly [readonly string[], number])[] = [
      [["status"], 0],
      [["certs"], 0],
      [["explain", "shop/client", "shop/web:80"], 0],
      [["top", "--once"], 0],
      [["connections"], 0],
      [["connections", "--ended", "5"], 0],
      [["version"], 0],
      [["lab", "status"], 0],
      [["lab", "list"], 0],
      [["lab", "apply", "-f", extra], 0],
      [["lab", "delete", "ServiceAccount", "shop/extra"], 0],
      [["lab", "restart-agent", "node1"], 0],
      [["lab", "stop-controller"], 0],
      [["lab", "start-controller"], 0],
      [["explain", "shop/clinet", "shop/web:80"], 1],
      [["lab", "apply", "-f", join(folder, "none.yaml")], 1],
    ];
    for (const [words, code] of asJson) {
      const done = await fairlead(lab, ...words, "--json");
      assert.equal(done.code, code, `${words.join(" ")}: ${done.err}${done.out}`);
      assert.doesNotThrow(() => JSON.parse(done.out), `${words.join(" ")}: ${done.out}`);
    }
    const wrong: readonly (readonly [readonly string[], RegExp])[] = [
      [["explain", "shop/clinet", "shop/web:80"], /there is no pod shop\/clinet; did you mean shop\/client\?/],
      [["explain", "shop/client", "shop/wbe:80"], /shop\/wbe/],
      [["explain", "shop/client", "shop/web:81"], /81/],
      [["lab", "exec", "shop/clinet", "--", "true"], /has no pod shop\/clinet; did you mean shop\/client\?/],
      [["lab", "restart-agent", "node11"], /has no node node11; did you mean node1\?/],
      [["lab", "logs", "contoller"], /has no contoller; did you mean controller\?/],
      [["lab", "delete", "Pod", "shop/none"], /no Pod shop\/none/],
      [["lab", "apply", "-f", broken], /broken\.yaml: Nonsense shop\/x: /],
      [["lab", "up", "-m", shop, "--name", lab], /is already up; take it down first/],
      [["lab", "up", "-m", "/no/such", "--name", newName()], /--manifests \/no\/such: no such folder/],
    ];
    for (const [words, expected] of wrong) {
      const done = await fairlead(lab, ...words);
      assert.match(done.err, expected, words.join(" "));
      assert.equal(done.code, 1, `${words.join(" ")}: ${done.err}`);
      assert.ok(!done.err.includes("    at "), `no stack: ${done.err}`);
    }
    assert.equal((await fairlead(lab, "status")).code, 1, "an object that is refused");
    assert.equal((await fairlead(lab, "lab", "delete", "Nonsense", "shop/x")).code, 0);
    for (const words of [
      ["status"],
      ["certs"],
      ["top"],
      ["connections"],
      ["lab", "status"],
      ["lab", "logs", "node1"],
    ]) {
      const done = await fairlead(lab, ...words);
      assert.equal(done.code, 0, `${words.join(" ")}: ${done.err}`);
      assert.notEqual(done.out.trim(), "");
    }
    const downJson = await fairlead(lab, "lab", "down", "--json");
    assert.deepEqual(JSON.parse(downJson.out), { down: [lab] });
  },
);

test("[OPS-3] ^C while a lab comes up, or the demo runs, takes it down again", labOptions, async (t) => {
  for (const words of [["lab", "up", "-m", shop], ["demo"]]) {
    const lab = newName();
    t.after(() => labDown(lab));
    const { child, done } = begin(lab, [...words, "--name", lab]);
    const paths = pathsOf(lab);
    assert.ok(paths.ok);
    await waitFor("the supervisor", () => existsSync(paths.value.supervisorSocket));
    await sleep(500);
    child.kill("SIGINT");
    const ended = await done;
    assert.equal(ended.code, 130, ended.err);
    assert.match(ended.err, /interrupted: taking down what was started/);
    assert.ok(!existsSync(paths.value.dir) && !existsSync(paths.value.cgroup), "nothing is left");
  }
});
