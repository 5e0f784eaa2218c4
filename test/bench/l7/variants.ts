// What is compared on layer 7: no mesh, Envoy, nginx, ours; each as addresses of the same servers and the cgroups that its work is done in.
import { mkdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { run } from "../../lab/command.ts";
import type { LabStatus } from "../../lab/lab-options.ts";
import { call } from "../../lab/unix-http.ts";
import { untilServing } from "../loads.ts";
import { envoyBinary, fill, makeCertificates } from "../peers.ts";
import { type Place, startIn } from "../place.ts";
import { buildTopology, type LabKind, type Topology } from "../topology.ts";
import type { VariantName } from "../variants.ts";
import { startServers, writeGrpcMessage } from "./servers.ts";
import { documents, ports, serviceAddresses } from "./topology.ts";

/** One way to the servers: where clients find them, and whose CPU counts. */
export interface Way {
  readonly target: string;
  readonly cgroups: readonly string[];
}

export interface Variant {
  readonly name: VariantName;
  /** Client pods on the other node than the servers, and on theirs. */
  readonly far: Place;
  readonly near: Place;
  /** The pod with the servers, for pinning them to a core. */
  readonly server: Place;
  readonly grpcMessage: string;
  /** From `near`, one hop; undefined where the variant does not speak that. */
  readonly hop: Way;
  readonly h2: Way | undefined;
  readonly grpc: Way | undefined;
  /** From `far`, mTLS between the nodes; `guarded` asks a policy about every request on the server's side. */
  readonly between: Way | undefined;
  readonly guarded: Way | undefined;
  /** Requests that the agents have counted so far, both nodes and reporters; undefined for those who are not ours. */
  readonly counted?: (() => Promise<number>) | undefined;
  /** The same agents but for an access log and spans, where a step asks for them. */
  readonly watched?: Watched | undefined;
}

/** Agents that log and trace some of the requests, in a lab of their own. */
export interface Watched extends Pick<Variant, "near" | "hop" | "counted"> {
  /** Lines of the access log so far, and spans that the collector took. */
  logged(): number;
  sent(): Promise<number>;
}

export interface Built {
  readonly variants: readonly Variant[];
  readonly versions: Readonly<Record<string, string>>;
  readonly watched?: Watched;
  /** Last lines of the logs, for the report of a failure. */
  logs(): string;
  down(): Promise<void>;
}

/** Both pods' servers, and what is the same for every variant of a topology. */
async function common(topology: Topology) {
  for (const pod of ["server", "guarded"]) {
    const home = join(topology.dir, pod);
    mkdirSync(home);
    await startServers(topology.pod(pod), home, pod === "server");
  }
  return {
    far: topology.pod("client"),
    near: topology.pod("near"),
    server: topology.pod("server"),
    grpcMessage: writeGrpcMessage(topology.dir),
  };
}

/** No mesh, Envoy and nginx in one topology; who is not measured waits idle. */
export async function startBare(say: (line: string) => void): Promise<Built> {
  const topology = await buildTopology(undefined, say, documents());
  try {
    const base = await common(topology);
    const certs = await makeCertificates(topology.dir);
    const { ip } = topology.pod("server");
    const guardedIp = topology.pod("guarded").ip;
    const [one, two] = [1, 2].map((n) => topology.onNode(n as 1 | 2, "plan"));
    const values = {
      CERTS: certs,
      CLIENT_GATEWAY: one?.podGateway ?? "",
      SERVER_GATEWAY: two?.podGateway ?? "",
      SERVER_NODE: two?.ip ?? "",
      SERVER_POD: ip,
      GUARDED_POD: guardedIp,
    };
    const direct = (target: string): Way => ({ target, cgroups: [] });
    const none: Variant = {
      ...base,
      name: "none",
      hop: direct(`${ip}:${ports.http}`),
      h2: direct(`${ip}:${ports.h2}`),
      grpc: direct(`${ip}:${ports.grpc}`),
      between: direct(`${ip}:${ports.http}`),
      guarded: direct(`${guardedIp}:${ports.http}`),
    };

    const binary = envoyBinary();
    const flags = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"];
    const envoy = (node: 1 | 2, part: string): Place => {
      const place = topology.onNode(node, `envoy-${part}`);
      const config = fill(`envoy-l7-${part}.yaml`, join(topology.dir, `envoy-l7-${part}.yaml`), values);
      startIn(place, [binary, "-c", config, ...flags], join(topology.dir, "log", `envoy-${part}.log`));
      return place;
    };
    const hop = [envoy(2, "hop").cgroup];
    const pair = [envoy(1, "client").cgroup, envoy(2, "server").cgroup];
    const onTwo = (port: number): Way => ({ target: `${values.SERVER_GATEWAY}:${port}`, cgroups: hop });
    const onOne = (port: number): Way => ({ target: `${values.CLIENT_GATEWAY}:${port}`, cgroups: pair });
    const envoyVariant: Variant = {
      ...base,
      name: "envoy",
      hop: onTwo(13080),
      h2: onTwo(13081),
      grpc: onTwo(13082),
      between: onOne(13090),
      guarded: onOne(13091),
    };

    const proxy = topology.onNode(2, "nginx-proxy");
    const home = join(topology.dir, "nginx-proxy");
    mkdirSync(home);
    const config = fill("nginx-l7-proxy.conf", join(home, "nginx.conf"), { ...values, DIR: home });
    startIn(proxy, ["nginx", "-p", home, "-c", config, "-e", join(home, "error.log")], join(home, "out.log"));
    const nginx: Variant = {
      ...base,
      name: "nginx",
      hop: { target: `${values.SERVER_GATEWAY}:14080`, cgroups: [proxy.cgroup] },
      h2: undefined,
      grpc: undefined,
      between: undefined,
      guarded: undefined,
    };
    const variants = [none, envoyVariant, nginx];
    for (const v of variants) {
      await untilServing(v.near, v.hop.target);
      for (const way of [v.between, v.guarded]) if (way !== undefined) await untilServing(v.far, way.target);
    }
    const versions = {
      envoy: /\/(\d+\.\d+\.\d+)\//.exec(await run([binary, "--version"]))?.[1] ?? "?",
      nginx: /nginx\/([\d.]+)/.exec(await run(["sh", "-c", "nginx -v 2>&1"]))?.[1] ?? "?",
    };
    return { variants, versions, logs: () => "", down: topology.down };
  } catch (error) {
    await topology.down();
    throw error;
  }
}

/** One worker and one data thread, as the peers have; no access log, no headers of traces and ids, as they are configured. */
const comparable = {
  FAIRLEAD_WORKERS: "1",
  FAIRLEAD_DATA_THREADS: "1",
  FAIRLEAD_ACCESS_LOG: "off",
  FAIRLEAD_TRACE_HEADERS: "none",
} as const;

/** @param env settings of the agents beside those that make them comparable */
export async function startMesh(
  say: (line: string) => void,
  env: Readonly<Record<string, string>> = {},
  kind: LabKind = "mesh",
): Promise<Built & { readonly topology: Topology }> {
  const topology = await buildTopology({ ...comparable, ...env }, say, documents(), kind);
  const { status } = topology;
  try {
    const base = await common(topology);
    const cgroups = status.nodes.map((n) => join(n.cgroup, "agent"));
    const own = cgroups.slice(1, 2);
    const at = (name: keyof typeof serviceAddresses, port: number, groups: readonly string[]): Way => ({
      target: `${serviceAddresses[name]}:${port}`,
      cgroups: groups,
    });
    const ours: Variant = {
      ...base,
      name: "ours",
      hop: at("web", ports.http, own),
      h2: at("web", ports.h2, own),
      grpc: at("web", ports.grpc, own),
      between: at("web", ports.http, cgroups),
      guarded: at("guarded", ports.http, cgroups),
      counted: () => countedBy(status),
    };
    await untilServing(ours.near, ours.hop.target);
    await untilServing(ours.far, `${serviceAddresses.web}:${ports.http}`);
    await untilServing(ours.far, `${serviceAddresses.guarded}:${ports.http}`);
    return { variants: [ours], versions: {}, logs: () => agentLogs(status), down: topology.down, topology };
  } catch (error) {
    say(agentLogs(status));
    await topology.down();
    throw error;
  }
}

async function countedBy(status: LabStatus): Promise<number> {
  let sum = 0;
  for (const { adminSocket } of status.nodes) {
    const reply = await call(adminSocket, "/metrics");
    if (!reply.ok) throw new Error(reply.error);
    for (const [, value] of reply.value.text.matchAll(/^istio_requests_total\{[^\n]*\} (\d+)/gm)) sum += Number(value);
  }
  return sum;
}

function agentLogs(status: LabStatus): string {
  return status.nodes
    .map((n) => join(dirname(n.adminSocket), "agent.log"))
    .map((path) => `${path}:\n${readFileSync(path, "utf8").split("\n").slice(-15).join("\n")}`)
    .join("\n");
}
