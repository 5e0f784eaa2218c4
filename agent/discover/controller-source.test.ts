// The discovery stream against a real gRPC server: subscription, ACK, NACK, resume, reconnect.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { credentials } from "@grpc/grpc-js";
import { type FakeController, startFakeController } from "../../test/kit/fake-controller.ts";
import { member, service, workload } from "../../test/kit/mesh.ts";
import { waitFor } from "../../test/kit/wait.ts";
import { AggregatedDiscoveryServiceClient } from "../api/discovery.gen.ts";
import { codecs, type MeshResource, resourceKinds } from "../api/resources.ts";
import { systemClock } from "../base/clock.ts";
import { silentLogger } from "../base/log.ts";
import { systemRandom } from "../base/random.ts";
import { ok } from "../base/result.ts";
import { MeshState } from "../state/mesh-state.ts";
import { ControllerSource, newVersions, type Refused, type Versions } from "./controller-source.ts";

const web: MeshResource = { kind: "Service", value: service("shop", "web", "10.96.0.1", [{ port: 80 }]) };
const pod: MeshResource = {
  kind: "Workload",
  value: workload("shop", "web-1", "10.244.1.5", { services: [member("shop", "web", 80, 8080)] }),
};
const later = { kind: "Workload", value: workload("shop", "web-2", "10.244.1.6") } as const;

function connect(
  t: TestContext,
  controller: () => FakeController,
  versions: Versions = newVersions(),
  state = new MeshState(),
) {
  const seen = { connects: 0, disconnects: 0, refused: [] as readonly Refused[] };
  const source = new ControllerSource({
    node: "node1",
    open() {
      const { port, rootsPem } = controller();
      const client = new AggregatedDiscoveryServiceClient(
        `127.0.0.1:${port}`,
        credentials.createSsl(Buffer.from(rootsPem)),
        {
          "grpc.use_local_subchannel_pool": 1,
          "grpc.ssl_target_name_override": "fairlead-controller",
        },
      );
      const unreachable = new Promise<string>(() => {});
      return ok({ stream: client.deltaAggregatedResources(), close: () => client.close(), unreachable });
    },
    clock: systemClock,
    random: systemRandom,
    log: silentLogger,
    backoff: { baseMs: 20, maxMs: 200 },
    versions,
    apply: (update) => void state.apply(update),
    connected: (connected) => (connected ? seen.connects++ : seen.disconnects++),
    lost: () => {},
    heard: () => {},
    refusedChanged: (refused) => {
      seen.refused = refused;
    },
  });
  const stop = new AbortController();
  const running = source.run(stop.signal);
  t.after(async () => {
    stop.abort();
    await running;
  });
  return { source, state, seen, versions };
}

test("subscribes to every type and applies what comes; every answer is acknowledged by its nonce", async (t) => {
  const controller = await startFakeController();
  t.after(() => controller.stop());
  controller.push([web, pod]);
  const { state } = connect(t, () => controller);
  await waitFor("state", () => state.workloads.size === 1 && state.services.size === 1);
  await waitFor(
    "acks",
    () => controller.requests.filter((r) => r.responseNonce !== "").length === resourceKinds.length,
  );
  const subscribed = controller.requests.filter((r) => r.responseNonce === "").map((r) => r.typeUrl);
  assert.deepEqual(subscribed.sort(), resourceKinds.map((kind) => codecs[kind].typeUrl).sort());
  assert.ok(controller.requests.every((r) => r.errorDetail === undefined));
  controller.push([later], [{ typeUrl: codecs.Workload.typeUrl, name: "cluster.local/shop/web-1" }]);
  await waitFor("update", () => state.workloads.byAddress("10.244.1.6") !== undefined);
  assert.equal(state.workloads.size, 1);
});

test("[DIS-9] a bad resource is refused by name with the field, the last good one stays, the rest goes on", async (t) => {
  const controller = await startFakeController();
  t.after(() => controller.stop());
  controller.push([web, pod]);
  const { state, seen, source } = connect(t, () => controller);
  await waitFor("state", () => state.services.size === 1 && state.workloads.size === 1);
  const bad = { ...web.value, addresses: ["300.1.2.3"] } as typeof web.value;
  controller.pushRaw(codecs.Service.typeUrl, "shop/web", codecs.Service.encode(bad as never));
  await waitFor("nack", () => controller.requests.some((r) => r.errorDetail !== undefined));
  const nack = controller.requests.find((r) => r.errorDetail !== undefined);
  assert.match(nack?.errorDetail?.message ?? "", /shop\/web: addresses\[0\]: .*300\.1\.2\.3/);
  assert.equal(state.services.byAddress("10.96.0.1", 80)?.service.name, "web");
  assert.deepEqual(
    seen.refused.map((r) => r.name),
    ["shop/web"],
  );
  controller.pushRaw(codecs.Workload.typeUrl, "x", Uint8Array.of(255, 255, 255));
  await waitFor("second nack", () => source.status.refused.length === 2);
  controller.push([web, later]);
  await waitFor(
    "repaired",
    () => state.workloads.byAddress("10.244.1.6") !== undefined && source.status.refused.length === 1,
  );
});

test("[DIS-4] the stream comes back by itself and resumes by version: nothing that is known is sent again", async (t) => {
  let controller = await startFakeController();
  t.after(() => controller.stop());
  controller.push([web, pod]);
  const { state, seen } = connect(t, () => controller);
  await waitFor("state", () => state.workloads.size === 1 && state.services.size === 1);
  const { port } = controller;
  await controller.stop();
  await waitFor("disconnected", () => seen.disconnects === 1);
  assert.equal(state.workloads.size, 1, "what is known stays while the controller is away");
  controller = await startFakeController(port);
  controller.push([pod, later]); // the service is gone meanwhile
  const started = systemClock.monotonicMs();
  await waitFor("fresh", () => state.workloads.size === 2 && state.services.size === 0);
  // "Within a second" on a machine that has nothing else to do; gRPC's own pauses would grow to two minutes.
  assert.ok(systemClock.monotonicMs() - started < 15_000, "fresh soon");
  const resumed = controller.requests.find((r) => r.typeUrl === codecs.Workload.typeUrl && r.responseNonce === "");
  assert.deepEqual(Object.keys(resumed?.initialResourceVersions ?? {}), ["cluster.local/shop/web-1"]);
  assert.equal(seen.connects, 2);
});
