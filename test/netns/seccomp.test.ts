// The seccomp profile that is shipped for the agent's container: what it refuses, and that the agent does all its work under it.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { labOptions, type TestLab, withLab } from "../kit/lab.ts";
import { authorization, clientPod, manifest, namespace, serverPod, service } from "../kit/manifests.ts";
import { confined, documentedCapabilities, seccompProfile, withOnly } from "../kit/reduced.ts";
import { waitFor } from "../kit/wait.ts";
import { PROJECT_DIR } from "../lab/paths.ts";

const EPERM = 1;

/** Number of the error that each call met, 0 where it was let through. */
function attempts(around: readonly string[]): Readonly<Record<string, number>> {
  const [file = "", ...args] = [...around, "python3", join(PROJECT_DIR, "test/kit/attempts.py")];
  return JSON.parse(execFileSync(file, args, { encoding: "utf8" })) as Record<string, number>;
}

test("[DP-32] the seccomp profile refuses what the agent has no use for, and lets its twin through", labOptions, () => {
  const free = attempts([]);
  const under = attempts(confined());
  const allowed = ["clone", "setns into its network namespace", "bpf, unknown command"].concat(
    ["inet", "inet6", "unix", "netlink"].map((family) => `socket ${family}`),
  );
  for (const [name, outcome] of Object.entries(under)) {
    if (allowed.includes(name)) assert.equal(outcome, free[name], `${name}: as without the profile`);
    else assert.equal(outcome, EPERM, `${name}: refused`);
    // A machine may refuse io_uring on its own.
    if (name !== "io_uring_setup") assert.notEqual(free[name], EPERM, `${name}: refused without the profile too`);
  }
  assert.equal(Object.keys(under).filter((name) => allowed.includes(name)).length, allowed.length);
});

test("[DP-32] what the documents say of the profile is what it holds", labOptions, () => {
  const profile = JSON.parse(readFileSync(seccompProfile, "utf8")) as {
    readonly defaultAction: string;
    readonly syscalls: readonly { readonly names: readonly string[] }[];
  };
  assert.equal(profile.defaultAction, "SCMP_ACT_ERRNO");
  const names = profile.syscalls.flatMap((rule) => rule.names);
  assert.deepEqual([...new Set(names.filter((name, i) => names.indexOf(name) !== i))], ["socket"], "named once");
  const text = readFileSync(join(PROJECT_DIR, "docs/interception.md"), "utf8");
  assert.match(text, /`manifests\/seccomp\/agent\.json`/);
  assert.match(text, /localhostProfile: fairlead\/agent\.json/);
});

const shop = manifest(
  namespace("shop"),
  serverPod("shop/web", { node: "node1" }),
  serverPod("shop/vault", { node: "node2" }),
  clientPod("shop/near", { node: "node1" }),
  clientPod("shop/far", { node: "node2" }),
  service("shop/web", "web", { 7000: 7000, 7002: 7002 }),
  authorization("shop/no-far", {
    selector: { matchLabels: { app: "vault" } },
    action: "DENY",
    rules: [{ from: [{ source: { principals: ["cluster.local/ns/shop/sa/far"] } }] }],
  }),
);

async function agentPid(lab: TestLab, node: string): Promise<number> {
  return Number((await lab.askAgent(node, "/v1/status")).pid);
}

/** Every thread of the process is under a filter, and cannot gain privileges by what it executes. */
function assertConfined(pid: number): void {
  const threads = readdirSync(`/proc/${pid}/task`).map((id) => readFileSync(`/proc/${pid}/task/${id}/status`, "utf8"));
  assert.ok(threads.length > 5);
  for (const text of threads) assert.match(text, /^NoNewPrivs:\t1\n(?:.*\n)*?Seccomp:\t2$/m);
}

for (const way of ["ebpf", "nftables"] as const) {
  test(
    `[DP-32] [INT-10] under the profile and with the documented capabilities an agent does all its work (${way}); an unnamed call would have ended it`,
    labOptions,
    async () => {
      const reduced = {
        agentPrefix: [...withOnly(documentedCapabilities(way)), ...confined("--kill")],
        agentEnv: { FAIRLEAD_INTERCEPTION: way },
        // Certificates are renewed meanwhile.
        controllerEnv: { FAIRLEAD_SVID_TTL_MS: "14000" },
      };
      await withLab({ "shop.yaml": shop }, reduced, async (lab) => {
        const nodes = ["node1", "node2"] as const;
        let pids = await Promise.all(nodes.map((node) => agentPid(lab, node)));
        pids.forEach(assertConfined);
        const failed = async (from: string, host: string, port = 7000): Promise<unknown> => {
          const args = ["short", "--host", host, "--port", String(port), "--count", "30", "--timeout", "30000"];
          return (await lab.traffic(from, args)).failed;
        };
        const works = async (): Promise<void> => {
          const [web, vault] = [await lab.pod("shop/web"), await lab.pod("shop/vault")];
          for (const host of ["web", ...web.ips]) {
            for (const from of ["shop/near", "shop/far"])
              assert.equal(await failed(from, host), 0, `${from} to ${host}`);
          }
          for (const host of vault.ips) {
            assert.equal(await failed("shop/near", host), 0, "the allowed one");
            assert.equal(await failed("shop/far", host), 30, "the denied one");
          }
        };
        await works();
        const [serial] = [await lab.askAgent("node1", "/v1/certs")].map((certs) => JSON.stringify(certs));
        await waitFor(
          "renewed certificates",
          async () => JSON.stringify(await lab.askAgent("node1", "/v1/certs")) !== serial,
        );
        await lab.apply(manifest(clientPod("shop/late", { node: "node2" })));
        await lab.ready("shop/late");
        assert.equal(await failed("shop/late", "web"), 0);
        await lab.controller("stop");
        await works();
        await lab.controller("start");
        assert.deepEqual(await Promise.all(nodes.map((node) => agentPid(lab, node))), pids, "no agent was ended");
        await lab.agent("node1", "replace");
        await lab.agent("node2", "kill-start");
        pids = await Promise.all(nodes.map((node) => agentPid(lab, node)));
        await works();
        assert.deepEqual(await Promise.all(nodes.map((node) => agentPid(lab, node))), pids, "no agent was ended");
        pids.forEach(assertConfined);
        for (const node of nodes) await lab.askAgent(node, "/v1/connections");
      });
    },
  );
}
