// The peers: an Envoy pair and an HAProxy pair as mutual-TLS TCP proxies, one of each on both nodes, from the configurations in peers/.
import { existsSync, globSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { run } from "../lab/command.ts";
import { type Place, startIn } from "./place.ts";
import type { Topology } from "./topology.ts";

const templates = join(dirname(fileURLToPath(import.meta.url)), "peers");
export const PROJECT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

export type PeerName = "envoy" | "haproxy";
export interface Peer {
  readonly name: PeerName;
  readonly version: string;
  /** Where the client pod finds the web server and the stream server. */
  readonly http: string;
  readonly stream: string;
  /** TLS port between the nodes, as seen in a capture. */
  readonly wirePort: number;
  /** cgroups of the proxies: client's node, server's node. */
  readonly cgroups: readonly [string, string];
}

/** Writes a template of peers/ with its {{NAMES}} filled in and returns the path. */
export function fill(template: string, to: string, values: Readonly<Record<string, string>>): string {
  const text = readFileSync(join(templates, template), "utf8").replace(/\{\{([A-Z_]+)\}\}/g, (whole, name: string) => {
    if (name === "NAMES") return whole;
    const value = values[name];
    if (value === undefined) throw new Error(`${template}: no value for {{${name}}}`);
    return value;
  });
  writeFileSync(to, text);
  return to;
}

/** P-256 certificates as a mesh would give them: a CA, a client and a server with SPIFFE and DNS names. */
export async function makeCertificates(dir: string): Promise<string> {
  const certs = join(dir, "certs");
  mkdirSync(certs, { recursive: true });
  const at = (name: string): string => join(certs, name);
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  await run([
    "openssl",
    "req",
    "-x509",
    ...key,
    "-days",
    "2",
    "-subj",
    "/CN=bench CA",
    "-keyout",
    at("ca.key"),
    "-out",
    at("ca.pem"),
  ]);
  for (const who of ["client", "server"]) {
    await run([
      "openssl",
      "req",
      ...key,
      "-subj",
      `/CN=bench-${who}`,
      "-keyout",
      at(`${who}.key`),
      "-out",
      at(`${who}.csr`),
    ]);
    writeFileSync(
      at(`${who}.ext`),
      `subjectAltName=URI:spiffe://cluster.local/ns/bench/sa/${who},DNS:bench-${who}\nextendedKeyUsage=serverAuth,clientAuth\n`,
    );
    await run([
      ...["openssl", "x509", "-req", "-in", at(`${who}.csr`), "-CA", at("ca.pem"), "-CAkey", at("ca.key")],
      ...["-CAcreateserial", "-days", "2", "-extfile", at(`${who}.ext`), "-out", at(`${who}.pem`)],
    ]);
    writeFileSync(at(`${who}.both`), readFileSync(at(`${who}.pem`), "utf8") + readFileSync(at(`${who}.key`), "utf8"));
  }
  return certs;
}

/** Envoy's own program, out of the virtual environment that the set-up made (its wrapper script would start it through Python). */
export function envoyBinary(): string {
  const [found] = globSync(join(PROJECT, "build/peers/lib/python3*/site-packages/envoy/_bin/envoy"));
  if (found === undefined) throw new Error("Envoy is missing; install it with: sh scripts/setup bench");
  return found;
}

const values = (topology: Topology, certs: string): Record<string, string> => ({
  CERTS: certs,
  CLIENT_GATEWAY: topology.onNode(1, "plan").podGateway,
  SERVER_NODE: topology.onNode(2, "plan").ip,
  SERVER_POD: topology.pod("server").ip,
});

type Pair = (place: Place, config: string, side: "client" | "server") => readonly string[];

/** Starts both halves of a peer; they live in cgroups of their own and end with the topology. */
async function startPair(
  topology: Topology,
  name: PeerName,
  certs: string,
  suffix: string,
  command: Pair,
): Promise<readonly [string, string]> {
  const groups: string[] = [];
  for (const [node, side] of [
    [1, "client"],
    [2, "server"],
  ] as const) {
    const place = topology.onNode(node, name);
    const config = fill(
      `${name}-${side}.${suffix}`,
      join(topology.dir, `${name}-${side}.${suffix}`),
      values(topology, certs),
    );
    startIn(place, command(place, config, side), join(topology.dir, "log", `${name}-${side}.log`));
    groups.push(place.cgroup);
  }
  return [groups[0] ?? "", groups[1] ?? ""];
}

export async function startEnvoy(topology: Topology, certs: string): Promise<Peer> {
  const binary = envoyBinary();
  const cgroups = await startPair(topology, "envoy", certs, "yaml", (_place, config) => [
    ...[binary, "-c", config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"],
  ]);
  const version = /\/(\d+\.\d+\.\d+)\//.exec(await run([binary, "--version"]))?.[1] ?? "?";
  const gateway = topology.onNode(1, "plan").podGateway;
  return { name: "envoy", version, http: `${gateway}:11080`, stream: `${gateway}:11201`, wirePort: 11443, cgroups };
}

export async function startHaproxy(topology: Topology, certs: string): Promise<Peer> {
  const binary = ["/usr/sbin/haproxy", "/usr/bin/haproxy", "/usr/local/sbin/haproxy"].find((path) => existsSync(path));
  if (binary === undefined) throw new Error("HAProxy is missing; install it with: sh scripts/setup bench");
  const cgroups = await startPair(topology, "haproxy", certs, "cfg", (_place, config) => [binary, "-db", "-f", config]);
  const version = /version (\d+\.\d+\.\d+)/.exec(await run([binary, "-v"]))?.[1] ?? "?";
  const gateway = topology.onNode(1, "plan").podGateway;
  return { name: "haproxy", version, http: `${gateway}:12080`, stream: `${gateway}:12201`, wirePort: 12443, cgroups };
}
