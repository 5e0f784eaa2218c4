// What the controller is told, and what it may still go by: reports one after the other, each confirmed or put again.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { credentials } from "@grpc/grpc-js";
import { startFakeController } from "../../test/kit/fake-controller.ts";
import { waitFor } from "../../test/kit/wait.ts";
import { AggregatedDiscoveryServiceClient } from "../api/discovery.gen.ts";
import type { ReportRequest } from "../api/mesh.gen.ts";
import type { PodName } from "../api/names.ts";
import { systemClock } from "../base/clock.ts";
import { silentLogger } from "../base/log.ts";
import { systemRandom } from "../base/random.ts";
import { ok } from "../base/result.ts";
import type { Config } from "../config.ts";
import type { PodStatus } from "../intercept/enrol.ts";
import { MeshState } from "../state/mesh-state.ts";
import type { ControllerLink } from "./controller-link.ts";
import { Discovery } from "./discovery.ts";

const web = "shop/web" as PodName;

/** An agent's discovery, connected; its reports wait until they are answered here. */
async function setUp(t: TestContext) {
  const controller = await startFakeController();
  const folder = mkdtempSync(join(tmpdir(), "fl-discovery-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const reports: { readonly request: ReportRequest; readonly answer: (error: Error | null) => void }[] = [];
  let lose = (): void => {};
  const link = {
    openStream() {
      const client = new AggregatedDiscoveryServiceClient(
        `127.0.0.1:${controller.port}`,
        credentials.createSsl(Buffer.from(controller.rootsPem)),
        { "grpc.use_local_subchannel_pool": 1, "grpc.ssl_target_name_override": "fairlead-controller" },
      );
      const stream = client.deltaAggregatedResources();
      lose = () => stream.cancel();
      return ok({ stream, close: () => client.close(), unreachable: new Promise<string>(() => {}) });
    },
    node: () =>
      ok({
        report: (
          request: ReportRequest,
          _metadata: unknown,
          _options: unknown,
          answer: (error: Error | null) => void,
        ) => void reports.push({ request, answer }),
      }),
  } as unknown as ControllerLink;
  const statuses: PodStatus[] = [];
  const discovery = new Discovery({
    ...{ clock: systemClock, random: systemRandom, log: silentLogger, state: new MeshState(), link },
    config: {
      ...{ node: "node1", cacheDir: folder, cacheDelayMs: 10, cacheTtlMs: 60_000, callMs: 1_000, reconnectMaxMs: 100 },
      dataThreads: 1,
    } as Config,
    agentVersion: "1",
    interception: () => "ebpf",
    pods: () => statuses,
    changed: () => {},
    connected: () => {},
    knowledgeChanged: () => {},
    cacheFailed: () => {},
  });
  discovery.start();
  t.after(async () => {
    await discovery.stop();
    await controller.stop();
  });
  await waitFor("the stream", () => discovery.status.connected);
  const enrolled = (is: boolean): void => {
    statuses.splice(0, 1, { pod: web, enrolled: is, state: is ? "enrolled" : "leaving", reason: "" });
    discovery.reportSoon();
  };
  const told = (n: number) => waitFor(`report ${n}`, () => reports.length === n);
  const said = (n: number): boolean | undefined => reports[n - 1]?.request.pods[0]?.enrolled;
  return { discovery, reports, enrolled, told, said, lose: () => lose() };
}

test("[DP-9] reports go one after the other, and the controller may go by each until it has confirmed a later one", async (t) => {
  const { discovery, reports, enrolled, told, said } = await setUp(t);
  enrolled(true);
  discovery.speak();
  await told(1);
  assert.deepEqual([said(1), discovery.claims(web)], [true, true]);
  // A label that goes, comes and goes while the first report is on its way: what holds in the end is said, once that has arrived.
  enrolled(false);
  enrolled(true);
  enrolled(false);
  await systemClock.sleep(60);
  assert.equal(reports.length, 1);
  reports[0]?.answer(null);
  await told(2);
  assert.deepEqual([said(2), discovery.claims(web)], [false, true]);
  reports[1]?.answer(null);
  assert.equal(discovery.claims(web), false);
  enrolled(true);
  await told(3);
  assert.equal(discovery.claims(web), true);
});

test("[DP-9] a report that failed may have arrived: it counts until one is confirmed, and is put again", async (t) => {
  const { discovery, reports, enrolled, told, said } = await setUp(t);
  enrolled(true);
  discovery.speak();
  await told(1);
  reports[0]?.answer(new Error("deadline exceeded"));
  enrolled(false);
  await told(2);
  assert.deepEqual([said(2), discovery.claims(web)], [false, true]);
  reports[1]?.answer(new Error("deadline exceeded"));
  await told(3);
  assert.deepEqual([said(3), discovery.claims(web)], [false, true]);
  reports[2]?.answer(null);
  assert.equal(discovery.claims(web), false);
});

test("[DP-9] a controller that came back is told at once: it does not wait for a report to the one before, whose late answer says nothing", async (t) => {
  const { discovery, reports, enrolled, told, said, lose } = await setUp(t);
  enrolled(true);
  discovery.speak();
  await told(1);
  lose();
  await told(2);
  assert.deepEqual([said(2), discovery.claims(web)], [true, true]);
  reports[0]?.answer(null);
  enrolled(false);
  await systemClock.sleep(60);
  assert.equal(reports.length, 2); // the one to the new controller is still on its way
  reports[1]?.answer(null);
  await told(3);
  assert.deepEqual([said(3), discovery.claims(web)], [false, true]);
});
