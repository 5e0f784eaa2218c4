// Agents that lack something: a capability, cgroup2, type information, a kernel new enough, tools. One line says what and what was done.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import test from "node:test";
import { labOptions } from "../kit/lab.ts";
import {
  documentedCapabilities,
  onKernel,
  withOnly,
  withoutBtf,
  withoutCgroup2,
  withoutTools,
} from "../kit/reduced.ts";
import { ended } from "../lab/command.ts";
import { PROJECT_DIR } from "../lab/paths.ts";

interface Told {
  readonly event: string;
  readonly level: string;
  readonly interception?: string;
  readonly reason?: string;
}

/** Starts an agent in a network namespace of its own, without a controller, under `around`. What it said until it was ready or had ended. */
async function start(around: readonly string[], asked: string): Promise<readonly Told[]> {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-reduced-"));
  const agent = [process.execPath, "--disable-warning=ExperimentalWarning", join(PROJECT_DIR, "agent/main.ts")];
  const child = spawn("unshare", ["--net", ...around, ...agent], {
    stdio: ["ignore", "ignore", "pipe"],
    env: {
      PATH: process.env.PATH ?? "/usr/sbin:/usr/bin:/sbin:/bin",
      FAIRLEAD_NODE: "n1",
      FAIRLEAD_CONTROLLER: "127.0.0.1:1",
      FAIRLEAD_CONTROLLER_NAME: "fairlead-controller",
      FAIRLEAD_JOIN_TOKEN_FILE: join(dir, "token"),
      FAIRLEAD_CA_FILE: join(dir, "ca.pem"),
      FAIRLEAD_PODS_DIR: join(dir, "pods"),
      FAIRLEAD_RUN_DIR: join(dir, "run"),
      FAIRLEAD_CACHE_DIR: join(dir, "cache"),
      FAIRLEAD_ADMIN_SOCKET: join(dir, "agent.sock"),
      // Neither is there: only who does not use them gets by.
      FAIRLEAD_CGROUP: join(dir, "no-cgroup"),
      FAIRLEAD_BPF_PIN_DIR: join(dir, "pins"),
      FAIRLEAD_INTERCEPTION: asked,
      FAIRLEAD_SVID_WAIT_MS: "1",
    },
  });
  const late = setTimeout(() => child.kill("SIGKILL"), 60_000);
  const said: Told[] = [];
  const stray: string[] = [];
  try {
    for await (const line of createInterface({ input: child.stderr })) {
      if (line.startsWith("{")) said.push(JSON.parse(line) as Told);
      else stray.push(line);
      if (said.at(-1)?.event === "ready") break;
    }
    assert.ok(said.length > 0, `it said nothing of itself: ${stray.join("; ")}`);
    return said;
  } finally {
    clearTimeout(late);
    child.kill("SIGKILL");
    await ended(child);
    rmSync(dir, { recursive: true, force: true });
  }
}

test(
  "[INT-6] [INT-10] auto: what is missing for eBPF is said in one line, and that nftables is used",
  labOptions,
  async () => {
    const dir = mkdtempSync(join(tmpdir(), "fairlead-release-"));
    const cases: readonly (readonly [readonly string[], RegExp])[] = [
      [withOnly(documentedCapabilities("nftables")), /lacks CAP_PERFMON, CAP_BPF/],
      [withOnly(documentedCapabilities("ebpf").filter((c) => c !== "bpf")), /lacks CAP_BPF/],
      [withoutCgroup2, /no cgroup2 is mounted; mount it at/],
      [withoutBtf, /no type information \(CONFIG_DEBUG_INFO_BTF\)/],
      [onKernel("5.10.0-32-amd64", join(dir, "release")), /kernel 5\.10\.0-32-amd64 is older than 5\.18/],
    ];
    try {
      for (const [around, missing] of cases) {
        const told = (await start(around, "auto")).filter((line) => line.event === "interception");
        assert.equal(told.length, 1, `${missing}: one line`);
        assert.deepEqual([told[0]?.interception, told[0]?.level], ["nftables", "warn"]);
        assert.match(told[0]?.reason ?? "", missing);
        assert.match(told[0]?.reason ?? "", /^eBPF is not used: .*; rules are written with nft$/);
      }
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  },
);

test("[INT-10] what neither way can do without ends the start with one line that names it", labOptions, async () => {
  const all = documentedCapabilities("ebpf");
  const cases: readonly (readonly [string, readonly string[], RegExp])[] = [
    [
      "auto",
      withOnly(all.filter((c) => c !== "net_admin")),
      /lacks CAP_NET_ADMIN; .* nftables needs CAP_NET_ADMIN too/,
    ],
    [
      "auto",
      withOnly(all.filter((c) => c !== "sys_admin")),
      /lacks CAP_SYS_ADMIN; .* nftables needs CAP_SYS_ADMIN too/,
    ],
    ["ebpf", withOnly(all.filter((c) => c !== "bpf")), /lacks CAP_BPF; grant it/],
    ["ebpf", withOnly(all.filter((c) => c !== "perfmon")), /lacks CAP_PERFMON; grant it/],
    ["ebpf", withoutCgroup2, /no cgroup2 is mounted/],
    ["nftables", withoutTools, /nft cannot be used .*, iptables-restore cannot be used .*; install nftables/],
  ];
  for (const [asked, around, missing] of cases) {
    const told = (await start(around, asked)).filter((line) => line.level === "error" || line.level === "warn");
    assert.deepEqual(
      told.map((line) => line.event),
      ["not_started"],
      `${asked}: ${JSON.stringify(told)}`,
    );
    assert.match(told[0]?.reason ?? "", missing);
  }
});

test("[INT-10] the documented capabilities are the ones that the tests leave an agent", () => {
  assert.deepEqual([...documentedCapabilities("ebpf")].sort(), ["bpf", "net_admin", "perfmon", "sys_admin"]);
  assert.deepEqual([...documentedCapabilities("nftables")].sort(), ["net_admin", "sys_admin"]);
  const text = readFileSync(join(PROJECT_DIR, "docs/interception.md"), "utf8");
  assert.match(text, /^## Capabilities$/m);
});
