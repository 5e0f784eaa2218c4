// An agent's own side of the stream toward several controllers: the one that serves it is killed, and the other serves it at once.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { resourceName } from "../../agent/api/resources.ts";
import { ControllerLink } from "../../agent/app/controller-link.ts";
import { systemClock } from "../../agent/base/clock.ts";
import { silentLogger } from "../../agent/base/log.ts";
import { systemRandom } from "../../agent/base/random.ts";
import { readConfig } from "../../agent/config.ts";
import { ControllerSource, newVersions } from "../../agent/discover/controller-source.ts";
import type { NodeCredential } from "../../agent/identify/node-credential.ts";
import { startController } from "../kit/controller.ts";
import { joinedNode } from "../kit/node-agent.ts";
import { namespace, pod } from "../kit/objects.ts";
import { eventually } from "../kit/wait.ts";

test("[DIS-8] the controller that serves an agent is killed again and again, and each time the other one serves it", async () => {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-replicas-"));
  const files = { "a.yaml": [namespace("shop"), pod("shop", "web-1", "10.244.1.5")].join("\n---\n") };
  await using one = await startController(files);
  await using two = await startController(files);
  const node = await joinedNode(one, "n1");
  writeFileSync(join(dir, "roots.pem"), node.rootsPem);
  const config = readConfig(
    {
      FAIRLEAD_NODE: "n1",
      FAIRLEAD_CONTROLLER: `127.0.0.1:${one.ports.grpc},127.0.0.1:${two.ports.grpc}`,
      FAIRLEAD_CA_FILE: join(dir, "roots.pem"),
    },
    dir,
  );
  assert.ok(config.ok, JSON.stringify(config));
  const link = new ControllerLink(config.value, systemClock);
  link.setCredential({ ...node.credential, rootsPem: node.rootsPem } as NodeCredential);
  const known = new Set<string>();
  const stop = new AbortController();
  const versions = newVersions();
  const source = new ControllerSource({
    node: "n1",
    open: () => link.openStream(),
    clock: systemClock,
    random: systemRandom,
    log: silentLogger,
    backoff: { baseMs: 100, maxMs: 1_000 },
    versions,
    apply({ changed, removed }) {
      for (const resource of changed) known.add(resourceName(resource));
      for (const { name } of removed) known.delete(name);
    },
    connected: () => {},
    heard: () => {},
    refusedChanged: () => {},
  });
  const running = source.run(stop.signal);
  const replicas = [one, two];
  const serving = () => {
    const at = replicas.findIndex((replica) => link.address === `127.0.0.1:${replica.ports.grpc}`);
    return { here: replicas[at] ?? assert.fail(), other: replicas[1 - at] ?? assert.fail() };
  };
  try {
    await eventually(async () => assert.ok(source.status.connected && known.has("cluster.local/shop/web-1")));
    for (const name of ["web-2", "web-3"]) {
      const { here, other } = serving();
      await here.stop("SIGKILL");
      await other.write("b.yaml", pod("shop", name, "10.244.1.9"));
      await eventually(async () => assert.ok(known.has(`cluster.local/shop/${name}`)));
      assert.equal(serving().here, other);
      assert.ok(known.has("cluster.local/shop/web-1"), "what both know stays");
      await here.restart();
    }
  } finally {
    stop.abort();
    await running;
    link.close();
    rmSync(dir, { recursive: true, force: true });
  }
});
