// An agent's own side of the stream toward several controllers: the one that serves it is killed, and the other serves it at once.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { resourceName } from "../../agent/api/resources.ts";
import type { LookUp } from "../../agent/app/controller-addresses.ts";
import { ControllerLink } from "../../agent/app/controller-link.ts";
import { systemClock } from "../../agent/base/clock.ts";
import { hostOfEndpoint } from "../../agent/base/ip.ts";
import { silentLogger } from "../../agent/base/log.ts";
import { systemRandom } from "../../agent/base/random.ts";
import { readConfig } from "../../agent/config.ts";
import { ControllerSource, newVersions } from "../../agent/discover/controller-source.ts";
import type { NodeCredential } from "../../agent/identify/node-credential.ts";
import { startController } from "../kit/controller.ts";
import { joinedNode } from "../kit/node-agent.ts";
import { namespace, pod } from "../kit/objects.ts";
import { eventually } from "../kit/wait.ts";

/** Where the agent is told that the replicas are, of the port of both. */
interface Known {
  readonly controller: (port: number) => string;
  readonly lookUp?: LookUp;
}

async function killedInTurn({ controller, lookUp }: Known): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-replicas-"));
  const files = { "a.yaml": [namespace("shop"), pod("shop", "web-1", "10.244.1.5")].join("\n---\n") };
  await using one = await startController(files);
  const { grpc: port } = one.ports;
  await using two = await startController(files, { FAIRLEAD_LISTEN: `127.0.0.2:${port}` });
  const node = await joinedNode(one, "n1");
  writeFileSync(join(dir, "roots.pem"), node.rootsPem);
  const config = readConfig(
    {
      FAIRLEAD_NODE: "n1",
      FAIRLEAD_CONTROLLER: controller(port),
      FAIRLEAD_CA_FILE: join(dir, "roots.pem"),
    },
    dir,
  );
  assert.ok(config.ok, JSON.stringify(config));
  const link = new ControllerLink(config.value, systemClock, lookUp);
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
    lost: () => {},
    heard: () => {},
    refusedChanged: () => {},
  });
  const running = source.run(stop.signal);
  const replicas = [one, two];
  const serving = () => {
    const at = ["127.0.0.1", "127.0.0.2"].indexOf(hostOfEndpoint(link.address));
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
}

test("[DIS-8] the controller that serves an agent is killed again and again, and each time the other one serves it", () =>
  killedInTurn({ controller: (port) => `127.0.0.1:${port},127.0.0.2:${port}` }));

test("[DIS-8] a name that stands for all replicas is as good, also when its server answers nothing any more", () => {
  let asked = 0;
  return killedInTurn({
    controller: (port) => `replicas.mesh.svc:${port}`,
    lookUp: async () => {
      asked += 1;
      if (asked > 1) throw new Error("no name server");
      return ["127.0.0.2", "127.0.0.1"];
    },
  });
});
