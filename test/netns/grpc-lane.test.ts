// gRPC and HTTP/2 in the HTTP lane between real nodes: all kinds of calls, routed by method, judged by path on the server's node, counted;
// HTTP/1.1 and HTTP/2 on either side of a port that is declared as one of them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import type { PodCall } from "../kit/grpc-pod.ts";
import { skipLab, type TestLab, withLab } from "../kit/lab.ts";
import {
  authorization,
  clientPod,
  declaredPort,
  manifest,
  namespace,
  nodePod,
  peerAuthentication,
  pod,
  readyOn,
  service,
} from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";
import { call } from "../lab/unix-http.ts";

const program = fileURLToPath(new URL("../kit/grpc-pod.ts", import.meta.url));
const grpcPod = (name: string, node: string): unknown =>
  pod(`shop/${name}`, [process.execPath, "--disable-warning=ExperimentalWarning", program, "serve", "8080", name], {
    node,
    container: readyOn(8080),
  });
const page = (kind: string): string =>
  `require("${kind}").createServer((q, s) => q.resume().on("end", () => s.end("${kind} " + q.httpVersion + " " + q.method + " " + q.url))).listen(8080, "::")`;
const pagePod = (name: string, kind: string): unknown => nodePod(`shop/${name}`, page(kind), { node: "node2" });
const route = {
  apiVersion: "gateway.networking.k8s.io/v1",
  kind: "GRPCRoute",
  metadata: { name: "echo", namespace: "shop" },
  spec: {
    parentRefs: [{ group: "", kind: "Service", name: "echo", port: 80 }],
    rules: [
      { matches: [{ method: { service: "test.Echo", method: "One" } }], backendRefs: [{ name: "canary", port: 80 }] },
      { backendRefs: [{ name: "echo", port: 80 }] },
    ],
  },
};
const manifests = {
  "all.yaml": manifest(
    namespace("shop"),
    peerAuthentication("shop/strict", "STRICT"),
    clientPod("shop/client", { node: "node1" }),
    clientPod("shop/beside", { node: "node2" }),
    grpcPod("echo", "node2"),
    grpcPod("canary", "node1"),
    pagePod("web", "http"),
    pagePod("web2", "http2"),
    service("shop/echo", "echo", {}, declaredPort("grpc")),
    service("shop/canary", "canary", {}, declaredPort("grpc")),
    service("shop/web", "web", {}, declaredPort("http")),
    service("shop/web2", "web2", {}, declaredPort("kubernetes.io/h2c")),
    service("shop/misnamed", "echo", {}, declaredPort("http")),
  ),
};
const clients = ["shop/client", "shop/beside"] as const;

async function calls(lab: TestLab, from: string, to: string, ...made: readonly string[]): Promise<PodCall[]> {
  const command = [process.execPath, "--disable-warning=ExperimentalWarning", program, "call", `${to}:80`, ...made];
  const { stdout, stderr } = await lab.run(from, command);
  const lines = stdout.split("\n").filter((line) => line !== "");
  assert.equal(lines.length, made.length, stdout + stderr);
  return lines.map((line) => JSON.parse(line) as PodCall);
}
const brief = ({ call: made, code, pod: by, messages, bytes }: PodCall): string =>
  `${made} ${code} ${by} ${messages} ${bytes}`;

async function metrics(lab: TestLab, node: string): Promise<string> {
  const reply = await call(lab.node(node).adminSocket, "/metrics");
  if (!reply.ok) throw new Error(JSON.stringify(reply.error));
  return reply.value.text;
}

test("[TRF-7] [TRF-1] [SEC-1] [OBS-1] gRPC between nodes: all kinds of calls, routed by method, denied by path, counted by status", {
  skip: skipLab,
  timeout: 300_000,
}, async (t) => {
  await withLab(manifests, { nodes: 2, agentEnv: { FAIRLEAD_DATA_THREADS: "1" } }, async (lab) => {
    for (const name of ["echo", "canary", "web", "web2"]) await lab.ready(`shop/${name}`);

    await t.test("[TRF-7] unary, client streaming, server streaming and both, with trailers", async () => {
      for (const from of clients) {
        const made = await calls(lab, from, "echo", "One=hello", "Many=100", "Sum=200", "Chat=20", "One=fail");
        assert.deepEqual(made.map(brief), [
          "One=hello 0 echo 1 5",
          "Many=100 0 echo 100 1000000",
          "Sum=200 0 echo 1 6",
          "Chat=20 0 echo 20 20000",
          "One=fail 9 echo 0 0",
        ]);
        assert.equal(made[0]?.trailer, "t");
        assert.equal(made[4]?.details, "not now: ä%\n");
      }
    });

    await t.test(
      "[DP-28] [INT-7] either version on either side, as the port is declared; gRPC is not sent to HTTP/1",
      async () => {
        const curl = async (from: string, ...args: string[]): Promise<string> => {
          const { stdout, stderr } = await lab.run(from, [
            "curl",
            "-sS",
            "-m",
            "10",
            "-w",
            " %{http_version} %{http_code}",
            ...args,
          ]);
          return stdout + stderr;
        };
        for (const from of clients) {
          assert.equal(await curl(from, "http://web/a"), "http 1.1 GET /a 1.1 200");
          assert.equal(await curl(from, "--http2-prior-knowledge", "http://web/a"), "http 1.1 GET /a 2 200");
          assert.equal(await curl(from, "http://web2/a"), "http2 2.0 GET /a 1.1 200");
          assert.equal(
            await curl(from, "--http2-prior-knowledge", "-d", "x", "http://web2/a"),
            "http2 2.0 POST /a 2 200",
          );
          const [refused] = await calls(lab, from, "misnamed", "One=x");
          assert.equal(refused?.code, 12);
          assert.match(refused.details, /appProtocol grpc/);
        }
      },
    );

    await t.test("[TRF-1] a GRPCRoute sends one method elsewhere, and leaves the others", async () => {
      lab.write("route.yaml", manifest(route));
      for (const from of clients) {
        const isRouted = async (): Promise<boolean> => (await calls(lab, from, "echo", "One=a"))[0]?.pod === "canary";
        await waitFor("the route", isRouted);
        const made = await calls(lab, from, "echo", "One=a", "Many=1", "Chat=2");
        assert.deepEqual(
          made.map(({ pod: by }) => by),
          ["canary", "echo", "echo"],
        );
      }
    });

    await t.test(
      "[SEC-1] a policy that denies a path refuses that method on the server's node, with a status of gRPC",
      async () => {
        const deny = { action: "DENY", rules: [{ to: [{ operation: { paths: ["/test.Echo/Many"] } }] }] };
        lab.write("deny.yaml", manifest(authorization("shop/no-many", deny)));
        for (const from of clients) {
          const isDenied = async (): Promise<boolean> => (await calls(lab, from, "echo", "Many=1"))[0]?.code === 7;
          await waitFor("the policy", isDenied);
          const [denied, allowed] = await calls(lab, from, "echo", "Many=1", "Sum=1");
          assert.deepEqual([denied?.details, denied?.messages, allowed?.code], ["RBAC: access denied", 0, 0]);
        }
      },
    );

    await t.test("[OBS-1] both sides count calls by their status", async () => {
      const line = (reporter: string, code: string): RegExp =>
        new RegExp(
          `^istio_requests_total\\{reporter="${reporter}".*request_protocol="grpc".*grpc_response_status="${code}".*\\} [1-9]`,
          "m",
        );
      await waitFor("metrics", async () => {
        const source = await metrics(lab, "node1");
        const destination = await metrics(lab, "node2");
        return (
          line("source", "0").test(source) &&
          line("source", "9").test(source) &&
          line("destination", "7").test(destination)
        );
      });
    });
  });
});
