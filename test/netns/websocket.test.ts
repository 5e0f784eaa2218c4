// WebSocket between real nodes where client and server speak different versions of HTTP: routed, judged on the server's node and counted
// like any request, on one node and between two.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { skipLab, type TestLab, withLab } from "../kit/lab.ts";
import {
  authorization,
  clientPod,
  declaredPort,
  manifest,
  namespace,
  peerAuthentication,
  pod,
  readyOn,
  service,
} from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";

const program = fileURLToPath(new URL("../kit/websocket-pod.ts", import.meta.url));
const command = [process.execPath, "--disable-warning=ExperimentalWarning", program] as const;
const echoPod = (name: string, node: string): unknown =>
  pod(`shop/${name}`, [...command, "serve", "8080", "8081", name], { node, container: readyOn(8081) });
const places = [
  { name: "near", node: "node1" },
  { name: "far", node: "node2" },
] as const;
const versions = [1, 2] as const;
const route = {
  apiVersion: "gateway.networking.k8s.io/v1",
  kind: "HTTPRoute",
  metadata: { name: "moved", namespace: "shop" },
  spec: {
    parentRefs: [{ group: "", kind: "Service", name: "far1", port: 80 }],
    rules: [
      {
        matches: [{ path: { type: "Exact", value: "/moved" }, method: "GET" }],
        backendRefs: [{ name: "near1", port: 80 }],
      },
      { backendRefs: [{ name: "far1", port: 80 }] },
    ],
  },
};
const deny = { action: "DENY", rules: [{ to: [{ operation: { paths: ["/secret"], methods: ["GET"] } }] }] };
const manifests = {
  "all.yaml": manifest(
    namespace("shop"),
    peerAuthentication("shop/strict", "STRICT"),
    authorization("shop/no-secret", deny),
    clientPod("shop/client", { node: "node1" }),
    pod("shop/deaf", [...command, "both", "8080", "deaf"], { node: "node2", container: readyOn(8080) }),
    service("shop/deaf", "deaf", {}, declaredPort("kubernetes.io/h2c")),
    service("shop/deaf-ws", "deaf", {}, declaredPort("kubernetes.io/ws")),
    ...places.flatMap(({ name, node }) => [
      echoPod(name, node),
      service(`shop/${name}1`, name, {}, declaredPort("http")),
      service(`shop/${name}2`, name, {}, declaredPort("kubernetes.io/h2c", 8081)),
    ]),
  ),
};

const ask = async (lab: TestLab, version: number, to: string, path = "/chat", size = 300_000): Promise<string> => {
  const done = await lab.run("shop/client", [...command, "ask", String(version), to, path, String(size)]);
  return (done.stdout + done.stderr).trim();
};
const counted = (lab: TestLab, node: string, reporter: string, to: string): Promise<number> =>
  lab.metric(node, "istio_requests_total", `reporter="${reporter}"`, `destination_service_name="${to}"`);

test("[TRF-7] [SEC-1] [OBS-1] WebSocket in every pair of versions is carried, judged and counted once, on one node and between nodes", {
  skip: skipLab,
  timeout: 600_000,
}, async (t) => {
  await withLab(manifests, { nodes: 2, agentEnv: { FAIRLEAD_DATA_THREADS: "1" } }, async (lab) => {
    for (const name of ["near", "far", "deaf"]) await lab.ready(`shop/${name}`);
    const pairs = places.flatMap((place) => versions.flatMap((to) => versions.map((from) => ({ ...place, from, to }))));

    for (const { name, node, from, to } of pairs)
      await t.test(`HTTP/${from} to HTTP/${to}, ${name}`, async () => {
        const host = `${name}${to}`;
        const before = [await counted(lab, "node1", "source", host), await counted(lab, node, "destination", host)];
        const asked = to === 2 ? "CONNECT" : "GET";
        assert.equal(await ask(lab, from, host), `${from === 1 ? 101 : 200} ${name} ${asked} /chat true`);
        const after = [(before[0] as number) + 1, (before[1] as number) + 1];
        await waitFor("its records", async () => {
          const now = [await counted(lab, "node1", "source", host), await counted(lab, node, "destination", host)];
          assert.ok(
            now.every((n, i) => n <= (after[i] as number)),
            `counted more than once: ${now}`,
          );
          return now.every((n, i) => n === after[i]);
        });
      });

    await t.test("a policy about paths and methods holds, on the server's node", async () => {
      for (const { name, from, to } of pairs)
        assert.match(
          await ask(lab, from, `${name}${to}`, "/secret"),
          /^403 RBAC: access denied/,
          `${from} ${name}${to}`,
        );
    });

    await t.test("a route leads it, by the path and method that it has in HTTP/1.1", async () => {
      lab.write("route.yaml", manifest(route));
      for (const from of versions)
        await waitFor("the route", async () =>
          / near GET \/moved true$/.test(await ask(lab, from, "far1", "/moved", 10)),
        );
      assert.match(await ask(lab, 2, "far1", "/chat", 10), / far GET \/chat true$/);
    });

    await t.test("a server of HTTP/2 that takes no such thing is not asked, and clients are told why", async () => {
      for (const from of versions)
        assert.match(
          await ask(lab, from, "deaf"),
          /^501 the server's port is declared HTTP\/2, and it does not take WebSocket/,
        );
    });

    await t.test("the same port of that server, declared to be of HTTP/1.1 by another Service, takes it", async () => {
      for (const from of versions)
        assert.equal(await ask(lab, from, "deaf-ws"), `${from === 1 ? 101 : 200} deaf GET /chat true`);
    });
  });
});
