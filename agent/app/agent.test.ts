// The whole agent: real discovery over TLS, real files and sockets, a native that speaks the channel. No root.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type FakeController, startFakeController } from "../../test/kit/fake-controller.ts";
import { type FakeNative, startFakeNative } from "../../test/kit/fake-native.ts";
import { authorization, member, service, workload } from "../../test/kit/mesh.ts";
import { encodeRecord } from "../../test/kit/records.ts";
import { waitFor } from "../../test/kit/wait.ts";
import type { NodeName } from "../api/names.ts";
import type { MeshResource } from "../api/resources.ts";
import { systemClock } from "../base/clock.ts";
import { silentLogger } from "../base/log.ts";
import { systemRandom } from "../base/random.ts";
import { ok } from "../base/result.ts";
import { readConfig } from "../config.ts";
import { decodeCache } from "../discover/cache-file.ts";
import { type Agent, startAgent } from "./agent.ts";

const client = workload("shop", "client", "10.244.1.5");
const far = workload("shop", "far", "10.244.2.6", {
  node: "node2" as NodeName,
  services: [member("shop", "web", 80, 8080)],
});
const resources: readonly MeshResource[] = [
  { kind: "Workload", value: client },
  { kind: "Workload", value: far },
  { kind: "Service", value: service("shop", "web", "10.96.0.1", [{ port: 80 }]) },
];

const outbound = {
  ask: "outbound",
  pod: "shop/client",
  destination: { ip: "10.96.0.1", port: 80 },
  source: { ip: "10.244.1.5", port: 4000 },
};

interface Node {
  readonly dir: string;
  readonly environment: Record<string, string>;
  writePod(name: string, ip: string): void;
  start(): Promise<{ agent: Agent; native: FakeNative; ended: () => number | undefined }>;
  get(path: string, method?: string): Promise<{ status: number; json: Record<string, never>; text: string }>;
}

function makeNode(t: TestContext, controller: FakeController, more: Record<string, string> = {}): Node {
  const dir = mkdtempSync(join(tmpdir(), "agent-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  for (const folder of ["pods", "run", "cache"]) mkdirSync(join(dir, folder));
  writeFileSync(join(dir, "token"), "good");
  writeFileSync(join(dir, "ca.pem"), controller.rootsPem);
  const environment = {
    FAIRLEAD_NODE: "node1",
    FAIRLEAD_CONTROLLER: `127.0.0.1:${controller.port}`,
    FAIRLEAD_JOIN_TOKEN_FILE: join(dir, "token"),
    FAIRLEAD_CA_FILE: join(dir, "ca.pem"),
    FAIRLEAD_PODS_DIR: join(dir, "pods"),
    FAIRLEAD_RUN_DIR: join(dir, "run"),
    FAIRLEAD_CACHE_DIR: join(dir, "cache"),
    FAIRLEAD_CACHE_DELAY_MS: "10",
    FAIRLEAD_METRICS_LISTEN: "127.0.0.1:0",
    FAIRLEAD_DRAIN_MS: "2000",
    ...more,
  };
  return {
    dir,
    environment,
    writePod(name, ip) {
      const record = {
        namespace: "shop",
        name,
        serviceAccount: name,
        labels: { app: name },
        namespaceLabels: { "fairlead.dev/mesh": "enabled" },
        netns: "/proc/self/ns/net",
        ips: [ip],
      };
      writeFileSync(join(dir, "pods", `shop_${name}.json`), JSON.stringify(record));
    },
    async start() {
      const config = readConfig(environment, "/");
      assert.ok(config.ok, JSON.stringify(config));
      let code: number | undefined;
      // The listener exists only inside startAgent, so the fake forwards to it.
      let inner: Parameters<Parameters<typeof startAgent>[0]["startNative"]>[0] | undefined;
      const native = await startFakeNative(
        {
          question: (q) => inner?.question(q) ?? null,
          records: (b) => inner?.records(b),
          event: (e) => inner?.event(e),
          closed: (r) => inner?.closed(r),
        },
        systemClock,
      );
      native.answers.set("pod.enrol", (params) => {
        native.pods.set(String(params.pod), params);
        return { cookie: 1, listening: [8080], existing: [], ms: 0, unguarded: "" };
      });
      const agent = await startAgent({
        config: config.value,
        clock: systemClock,
        random: systemRandom,
        log: silentLogger,
        version: "test",
        startNative(listener) {
          inner = listener;
          return ok({ channel: native.channel, version: "fake" });
        },
        ended: (c) => {
          code = c;
        },
      });
      assert.ok(agent.ok, JSON.stringify(agent));
      t.after(async () => {
        agent.value.drain("test over");
        await waitFor("ended", () => code !== undefined);
        await native.close();
      });
      return { agent: agent.value, native, ended: () => code };
    },
    get(path, method = "GET") {
      return new Promise((resolve, reject) => {
        const call = request({ socketPath: join(dir, "run", "agent.sock"), path, method, agent: false }, (response) => {
          let text = "";
          response.on("data", (chunk) => {
            text += chunk;
          });
          response.on("end", () => {
            const isJson = response.headers["content-type"]?.includes("json") === true;
            resolve({ status: response.statusCode ?? 0, json: isJson ? JSON.parse(text) : {}, text });
          });
        });
        call.on("error", reject);
        call.end();
      });
    },
  };
}

test("[OBS-7] joins, enrols, gets certificates, answers questions, reports; health and metrics say so", async (t) => {
  const controller = await startFakeController();
  t.after(() => controller.stop());
  controller.push(resources);
  const node = makeNode(t, controller);
  node.writePod("client", "10.244.1.5");
  const { native } = await node.start();
  const synced = await node.get("/v1/pods/sync", "POST");
  assert.deepEqual(synced.json.pods, [
    {
      pod: "shop/client",
      enrolled: true,
      state: "announced",
      reason: "namespace label fairlead.dev/mesh=enabled",
      identity: "spiffe://cluster.local/ns/shop/sa/client",
      listening: [8080],
    },
  ]);
  assert.ok(native.svids.has("spiffe://cluster.local/ns/shop/sa/client"), "the answer waits for the SVID");
  const plan = await native.ask(outbound);
  assert.equal(plan.action, "forward");
  assert.equal(plan.identity, "spiffe://cluster.local/ns/shop/sa/client");
  assert.deepEqual(plan.endpoints, [
    {
      ip: "10.244.2.6",
      port: 8080,
      mode: "fairlead/1",
      weight: 1,
      identities: ["spiffe://cluster.local/ns/shop/sa/far"],
    },
  ]);
  native.records(encodeRecord({ plan: plan.planId as number, endpoint: 0, sent: 5 }));
  await waitFor("record", async () =>
    (await node.get("/v1/records?limit=5")).text.includes('"src.workload":"shop/client"'),
  );
  const explained = await node.get("/v1/explain?source=shop/client&destination=shop/web:80");
  assert.deepEqual([explained.json.verdict, explained.json.lane], ["allow", "tunnel"]);
  for (const path of [
    "/healthz",
    "/readyz",
    "/health",
    "/v1/status",
    "/v1/certs",
    "/v1/config",
    "/v1/connections",
    "/v1/tunnels",
  ])
    assert.equal((await node.get(path)).status, 200, path);
  const metrics = (await node.get("/metrics")).text;
  assert.match(metrics, /fairlead_controller_connected 1/);
  assert.match(
    metrics,
    /fairlead_svid_expiry_timestamp_seconds\{identity="spiffe:\/\/cluster.local\/ns\/shop\/sa\/client"\}/,
  );
  await waitFor("report", () => controller.reports.some((r) => r.pods.some((p) => p.enrolled)));
  assert.equal((await node.get("/v1/explain?source=shop/nobody&destination=shop/web:80")).status, 404);
});

test("[SEC-2] a policy reaches questions, the kernel's rows and connections that are open", async (t) => {
  const controller = await startFakeController();
  t.after(() => controller.stop());
  const near = workload("shop", "near", "10.244.1.6");
  controller.push([...resources, { kind: "Workload", value: near }]);
  const node = makeNode(t, controller);
  node.writePod("client", "10.244.1.5");
  node.writePod("near", "10.244.1.6");
  const { native } = await node.start();
  await node.get("/v1/pods/sync", "POST");
  const inbound = {
    ask: "inbound",
    pod: "shop/near",
    destination: { ip: "10.244.1.6", port: 8080 },
    source: { ip: "10.244.2.6" },
    identity: "spiffe://cluster.local/ns/shop/sa/far",
    tunnel: "fairlead/1",
  };
  const before = await native.ask(inbound);
  assert.equal(before.action, "forward");
  await waitFor("direct rows", () => native.maps.get("verdicts")?.size === 2);
  const connection = {
    id: 7,
    direction: "inbound",
    lane: "tunnel",
    pod: "shop/near",
    source: "10.244.2.6:9",
    destination: "10.244.1.6:8080",
    upstream: "",
    planId: 0,
    verdictId: before.verdictId,
    endpoint: 0,
    sent: 0,
    received: 0,
    startedMs: 0,
  };
  native.answers.set("connections.list", () => ({ connections: [connection] }));
  const generation = native.generation();

  const policy = authorization("closed", [], { selector: { app: "near" }, scope: "workload" });
  controller.push([{ kind: "Authorization", value: policy }]);
  await waitFor("reset", () => native.calls.some((c) => c.method === "connections.reset"));
  assert.ok(native.generation() > generation);
  const after = await native.ask(inbound);
  assert.deepEqual([after.action, after.reason, after.policy], ["refuse", "policy_denied", "shop/closed"]);
  await waitFor("row gone", () => native.maps.get("verdicts")?.size === 1);
  await waitFor("sockets", () => native.calls.some((c) => c.method === "sockets.destroy"));
});

test("[DIS-3] without its controller an agent starts from disk, with the certificates of the one before [DP-20]", async (t) => {
  const controller = await startFakeController();
  controller.push(resources);
  const node = makeNode(t, controller);
  node.writePod("client", "10.244.1.5");
  const first = await node.start();
  await node.get("/v1/pods/sync", "POST");
  await onDisk(node);
  first.agent.drain("over");
  await waitFor("ended", () => first.ended() === 0);
  await controller.stop();
  const second = await node.start();
  await node.get("/v1/pods/sync", "POST");
  assert.ok(second.native.svids.has("spiffe://cluster.local/ns/shop/sa/client"));
  const plan = await second.native.ask(outbound);
  assert.equal((plan.endpoints as { mode: string }[])[0]?.mode, "fairlead/1");
  assert.match((await node.get("/metrics")).text, /fairlead_controller_connected 0/);
});

const onDisk = (node: Node): Promise<unknown> =>
  waitFor("all of it on disk", () => {
    const [cache, svids] = [join(node.dir, "cache/discovery.cache"), join(node.dir, "run/svids")];
    if (!existsSync(cache) || !existsSync(svids) || readdirSync(svids).length === 0) return false;
    const known = decodeCache(readFileSync(cache));
    return known.ok && known.value.resources.length >= resources.length;
  });

/** An agent that has known the mesh and has ended, its controller still there. */
async function leftOnDisk(t: TestContext): Promise<{ controller: FakeController; node: Node }> {
  const controller = await startFakeController();
  t.after(() => controller.stop());
  controller.push(resources);
  const node = makeNode(t, controller, { FAIRLEAD_SVID_WAIT_MS: "2000" });
  node.writePod("client", "10.244.1.5");
  const first = await node.start();
  await node.get("/v1/pods/sync", "POST");
  await onDisk(node);
  first.agent.drain("over");
  await waitFor("ended", () => first.ended() === 0);
  return { controller, node };
}

const addressesOf = async (native: FakeNative): Promise<readonly string[]> =>
  ((await native.ask(outbound)).endpoints as { readonly ip: string }[]).map(({ ip }) => ip);

test("[DIS-3] [INT-14] an agent that starts again takes pods in when the controller has told it what has changed since it was killed", async (t) => {
  const { controller, node } = await leftOnDisk(t);
  const reported = controller.reports.length;
  controller.push([{ kind: "Workload", value: { ...far, addresses: ["10.244.2.9"] } }]);
  controller.discoveryHeld = sleep(500);
  const { native } = await node.start();
  assert.deepEqual(await addressesOf(native), ["10.244.2.9"], "not what is on disk");
  await waitFor("report", () => controller.reports.length > reported);
  for (const { pods } of controller.reports.slice(reported))
    assert.deepEqual(
      pods.map(({ pod, enrolled }) => [pod, enrolled]),
      [["shop/client", true]],
      "never told that the node's pods are not in the mesh",
    );
});

test("[DIS-3] an agent whose controller takes connections and says nothing starts from disk", async (t) => {
  const { controller, node } = await leftOnDisk(t);
  controller.discoveryHeld = new Promise(() => {});
  const { native } = await node.start();
  assert.deepEqual(await addressesOf(native), ["10.244.2.6"]);
});

test("[DP-20] an agent that never heard anything lets nothing through", async (t) => {
  const controller = await startFakeController();
  await controller.stop();
  const node = makeNode(t, controller, { FAIRLEAD_SVID_WAIT_MS: "50" });
  node.writePod("client", "10.244.1.5");
  const { native } = await node.start();
  const plan = await native.ask(outbound);
  assert.deepEqual([plan.action, plan.reason], ["refuse", "policies_stale"]);
  const ready = await node.get("/readyz");
  assert.equal(ready.status, 503, "alive, and of no use to pods yet");
  assert.match(ready.text, /nothing is known of the mesh yet/);
  assert.equal((await node.get("/healthz")).status, 200);
});

test("[DP-19] the second agent takes over from the first, which drains and ends", async (t) => {
  const controller = await startFakeController();
  t.after(() => controller.stop());
  controller.push(resources);
  const node = makeNode(t, controller);
  node.writePod("client", "10.244.1.5");
  const first = await node.start();
  await node.get("/v1/pods/sync", "POST");
  const second = await node.start();
  await waitFor("first ended", () => first.ended() === 0);
  assert.ok(first.native.calls.some((c) => c.method === "drain"));
  assert.ok(second.native.pods.has("shop/client"));
  assert.equal((await node.get("/readyz")).status, 200);
  const enrolledAt = second.native.calls.findIndex((c) => c.method === "pod.enrol");
  assert.ok(enrolledAt >= 0);
});

test("[INT-14] [OBS-7] a native thread that dies is counted; one that none replaces ends the agent", async (t) => {
  const controller = await startFakeController();
  t.after(() => controller.stop());
  const node = makeNode(t, controller);
  const { native, ended } = await node.start();
  native.event({ event: "worker_died", worker: 1, message: "a bug", lost: 3, restarted: true });
  await waitFor("counted", async () =>
    /fairlead_native_workers_died_total\{worker="1"\} 1/.test((await node.get("/metrics")).text),
  );
  assert.equal(ended(), undefined, "another worker serves in its place");
  native.event({ event: "worker_died", worker: 1, message: "a bug", lost: 0, restarted: false });
  await waitFor("ended", () => ended() === 1);
  assert.ok(
    native.calls.some((c) => c.method === "stop"),
    "open connections are reset, not left as if they had ended",
  );
});

test("[DP-9] a pod is told of as one of the mesh when its first certificate is there, since it could take no tunnel before", async (t) => {
  const controller = await startFakeController();
  t.after(() => controller.stop());
  controller.push(resources);
  controller.refuseCertificates = true;
  const node = makeNode(t, controller);
  node.writePod("client", "10.244.1.5");
  await node.start();
  const told = () => controller.reports.at(-1)?.pods.find((pod) => pod.pod === "shop/client");
  await waitFor("told of", () => told() !== undefined);
  assert.deepEqual([told()?.enrolled, told()?.reason], [false, "it has no certificate yet"]);
  controller.refuseCertificates = false;
  await waitFor("told of as enrolled", () => told()?.enrolled === true);
});
