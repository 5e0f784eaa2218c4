// The interop cases of gRPC: client and server of grpc-go and of grpc-js, each with each. Cases that need credentials of a cloud are not among them.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import type { TestLab } from "../../kit/lab.ts";
import { clientPod, declaredPort, manifest, namespace, pod, service } from "../../kit/manifests.ts";
import { goProgram, goVersion } from "../foreign.ts";
import { type Case, counted, judged, type Place, places, type Suite, skipped, withHttpLab } from "../suite.ts";

const jsPeer = fileURLToPath(new URL("../clients/grpc-js-peer.ts", import.meta.url));
const jsVersion = (): string => {
  const file = createRequire(import.meta.url).resolve("@grpc/grpc-js/package.json");
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
};

/** What both clients know; the requests that reach the mesh from each at least. */
const common: Readonly<Record<string, number>> = {
  empty_unary: 1,
  large_unary: 1,
  client_streaming: 1,
  server_streaming: 1,
  ping_pong: 1,
  empty_stream: 1,
  timeout_on_sleeping_server: 0,
  cancel_after_begin: 0,
  cancel_after_first_response: 1,
  status_code_and_message: 2,
  special_status_message: 1,
  custom_metadata: 2,
  unimplemented_method: 1,
  unimplemented_service: 1,
};
/** What only the client of grpc-go knows; all that needs no credentials. */
const ofGo: Readonly<Record<string, number>> = {
  pick_first_unary: 1,
  orca_per_rpc: 1,
  orca_oob: 1,
  rpc_soak: 10,
  channel_soak: 10,
};
const orca = '{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}';

interface Peer {
  readonly name: string;
  readonly server: readonly string[];
  readonly knows: Readonly<Record<string, number>>;
  /** Cases of clients that its server has no part for: they fail without a mesh too. */
  readonly lacks: Readonly<Record<string, string>>;
  command(to: string, name: string): readonly string[];
}

function goPeer(client: string, server: string): Peer {
  return {
    name: "go",
    server: [server, "-port", "8080"],
    knows: { ...common, ...ofGo },
    lacks: { pick_first_unary: "the server of grpc-go tells no server_id" },
    command: (to, name) => [
      ...[client, "-server_host", to, "-server_port", "80", "-test_case", name, "-soak_overall_timeout_seconds", "120"],
      ...["-soak_per_iteration_max_acceptable_latency_ms", "10000"],
      ...(name.startsWith("orca_") ? ["-service_config_json", orca] : []),
    ],
  };
}
const noOrca = "grpc-js has no load reports of ORCA in its server";
const js: Peer = {
  name: "js",
  server: [process.execPath, jsPeer, "serve", "8080"],
  knows: common,
  lacks: { orca_per_rpc: noOrca, orca_oob: noOrca },
  command: (to, name) => [process.execPath, jsPeer, "call", `${to}:80`, name],
};

const grpcPort = declaredPort("grpc");
const container = { readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 } };
const manifests = (peers: readonly Peer[]): Readonly<Record<string, string>> => ({
  "all.yaml": manifest(
    namespace("shop"),
    clientPod("shop/client", { node: "node1" }),
    ...places.flatMap(({ node, suffix }) =>
      peers.flatMap((p) => [
        pod(`shop/${p.name}-${suffix}`, p.server, { node, container }),
        service(`shop/${p.name}-${suffix}`, `${p.name}-${suffix}`, {}, grpcPort),
      ]),
    ),
  ),
});

async function runCase(lab: TestLab, from: Peer, server: Peer, to: string, group: string, name: string): Promise<Case> {
  const lacking = server.lacks[name];
  if (lacking !== undefined) return skipped(group, name, lacking);
  const done = await lab.run("shop/client", from.command(to, name), 150_000);
  return judged(group, name, done.code === 0 ? undefined : `exit code ${done.code}: ${done.stderr}`);
}

export const grpcInterop: Suite = {
  name: "grpc",
  about: "gRPC's interop cases between grpc-go and grpc-js, all that need no credentials of a cloud",
  async run(say) {
    const peers = [goPeer(await goProgram("grpc-client"), await goProgram("grpc-server")), js];
    const cases: Case[] = [];
    await withHttpLab(manifests(peers), async (lab) => {
      const pair = async (place: Place, from: Peer, server: Peer): Promise<void> => {
        const group = `grpc-${from.name} to grpc-${server.name}, ${place.name}`;
        say(group);
        const to = `${server.name}-${place.suffix}`;
        await lab.ready(`shop/${to}`);
        const names = Object.keys(from.knows);
        const all = async (): Promise<readonly Case[]> => {
          const done: Case[] = [];
          for (const name of names) done.push(await runCase(lab, from, server, to, group, name));
          return done;
        };
        const least = (of: readonly Case[]): number =>
          of.reduce((sum, c) => sum + (c.outcome === "passed" ? (from.knows[c.name] ?? 0) : 0), 0);
        cases.push(...(await counted(lab, group, to, place, all, least)));
      };
      for (const place of places) for (const from of peers) for (const server of peers) await pair(place, from, server);
    });
    return { programs: [`grpc-go ${goVersion("google.golang.org/grpc")}`, `grpc-js ${jsVersion()}`], cases };
  },
};
