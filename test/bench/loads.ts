// Runs one load from a place against a target and returns numbers: wrk, iperf3 and the project's own load program.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { PROJECT } from "./peers.ts";
import { type Dialogue, dialogueIn, type Place, runIn } from "./place.ts";

export interface Requests {
  readonly requests: number;
  readonly perSecond: number;
  /** Of answers, heads included. */
  readonly megabytesPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const units: Readonly<Record<string, number>> = { us: 0.001, ms: 1, s: 1000 };
const latency = (text: string, quantile: string): number => {
  const found = new RegExp(`^\\s+${quantile}%\\s+([\\d.]+)(us|ms|s)$`, "m").exec(text);
  return found === null ? Number.NaN : Number(found[1]) * (units[found[2] ?? ""] ?? Number.NaN);
};
const byteUnits: Readonly<Record<string, number>> = { B: 1e-6, KB: 1024e-6, MB: 1.048_576, GB: 1073.741_824 };

export interface LoadOptions {
  readonly path?: string;
  /** The core that the load program may run on. */
  readonly core?: number;
}
const pinned = ({ core }: LoadOptions): readonly string[] =>
  core === undefined ? [] : ["taskset", "-c", String(core)];

/** Keep-alive requests as fast as they go over `connections` connections. Any failed request is an error: a number must not come from refusals. */
export async function wrk(
  place: Place,
  target: string,
  connections: number,
  seconds: number,
  options: LoadOptions = {},
): Promise<Requests> {
  const url = `http://${target}${options.path ?? "/"}`;
  const command = [...pinned(options), "wrk", "--latency", "-t1", `-c${connections}`, `-d${seconds}s`, url];
  const text = await runIn(place, command, (seconds + 20) * 1000);
  const done = /^\s*(\d+) requests in ([\d.]+)(m?s)/m.exec(text);
  const failed = /Non-2xx[^\n]*|Socket errors:[^\n]*/.exec(text);
  if (done === null || failed !== null) throw new Error(`wrk ${target}: ${failed?.[0] ?? text}`);
  const requests = Number(done[1]);
  const took = Number(done[2]) * (done[3] === "ms" ? 0.001 : 1);
  const transfer = /Transfer\/sec:\s+([\d.]+)([KMG]?B)/.exec(text);
  const megabytesPerSecond = Number(transfer?.[1]) * (byteUnits[transfer?.[2] ?? ""] ?? Number.NaN);
  const perSecond = requests / took;
  return { requests, perSecond, megabytesPerSecond, p50Ms: latency(text, "50"), p99Ms: latency(text, "99") };
}

/** HTTP/2 without TLS. `grpcMessage`: file with one framed message, posted as a gRPC call. A failed request is an error, as for wrk. */
export async function h2load(
  place: Place,
  target: string,
  shape: { readonly connections: number; readonly streams: number; readonly seconds: number },
  options: LoadOptions & { readonly grpcMessage?: string } = {},
): Promise<{ readonly requests: number; readonly perSecond: number }> {
  const { connections, streams, seconds } = shape;
  const call = options.grpcMessage === undefined ? [] : ["-d", options.grpcMessage];
  const fields = call.length === 0 ? [] : ["-H", "content-type: application/grpc", "-H", "te: trailers"];
  const command = [
    ...[...pinned(options), "h2load", "-p", "h2c", "-t1", `-c${connections}`, `-m${streams}`, `-D${seconds}`],
    ...[...call, ...fields, `http://${target}${options.path ?? "/"}`],
  ];
  const text = await runIn(place, command, (seconds + 20) * 1000);
  // Of a load by time the totals count what was under way at its end as neither.
  const tally = /(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout/.exec(text);
  const [succeeded = 0, ...bad] = (tally ?? []).slice(1).map(Number);
  const other = /status codes: \d+ 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx/.exec(text)?.slice(1).map(Number) ?? [1];
  if (succeeded === 0 || [...bad, ...other].some((n) => n > 0))
    throw new Error(`h2load ${target}: ${tally?.[0] ?? text}; ${/status codes: [^\n]*/.exec(text)?.[0] ?? ""}`);
  return { requests: succeeded, perSecond: succeeded / seconds };
}

export interface Stream {
  readonly gbits: number;
  readonly gigabytes: number;
}

/** Bytes from client to server over `streams` connections, 128 KiB a write. */
export async function iperf(place: Place, target: string, streams: number, seconds: number): Promise<Stream> {
  const [host = "", port = ""] = target.split(":");
  const command = ["iperf3", "-c", host, "-p", port, "-t", String(seconds), "-P", String(streams), "-J"];
  const result = JSON.parse(await runIn(place, command, (seconds + 20) * 1000)) as {
    readonly end: { readonly sum_received: { readonly bytes: number; readonly bits_per_second: number } };
  };
  const { bytes, bits_per_second } = result.end.sum_received;
  return { gbits: bits_per_second / 1e9, gigabytes: bytes / 1e9 };
}

/** What the load program prints; `errors` is by kind. */
export interface Tally {
  readonly seconds: number;
  readonly ok: number;
  readonly errors: Readonly<Record<string, number>>;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

export const failures = (tally: Tally): number => Object.values(tally.errors).reduce((sum, n) => sum + n, 0);

export function loadBinary(): string {
  const path = join(PROJECT, "native/target/release/examples/load");
  if (!existsSync(path)) throw new Error("the load program is not built; build it with: sh scripts/setup bench");
  return path;
}

async function load(
  place: Place,
  mode: string,
  target: string,
  options: Readonly<Record<string, number>>,
  timeoutMs: number,
): Promise<Tally> {
  const named = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const tally = JSON.parse(await runIn(place, [loadBinary(), mode, "--target", target, ...named], timeoutMs)) as Tally;
  if (failures(tally) > 0) throw new Error(`load ${mode} ${target}: failures ${JSON.stringify(tally.errors)}`);
  return tally;
}

/** Requests at a fixed rate; latencies count from when a request was due. */
export const atRate = (
  place: Place,
  target: string,
  rate: number,
  connections: number,
  seconds: number,
): Promise<Tally> => load(place, "rate", target, { rate, connections, seconds }, (seconds + 20) * 1000);

/** A new connection for each request, `connections` at a time. */
export const newConnections = (place: Place, target: string, connections: number, seconds: number): Promise<Tally> =>
  load(place, "connect", target, { connections, seconds }, (seconds + 20) * 1000);

/** Resolves once `target` answers, and gives up after 10 s. */
export async function untilServing(place: Place, target: string): Promise<void> {
  for (let tries = 0; ; tries++) {
    try {
      await newConnections(place, target, 1, 0.05);
      return;
    } catch (error) {
      if (tries > 100) throw error;
      await sleep(100);
    }
  }
}

/** Connections opened in waves and held. */
export interface Storm {
  wave(): Promise<Tally>;
  open(): Promise<number>;
  end(): Promise<void>;
}

export function storm(place: Place, target: string, connections: number, withinMs: number): Storm {
  const program: Dialogue = dialogueIn(place, [
    ...[loadBinary(), "storm", "--target", target],
    ...["--connections", String(connections), "--within-ms", String(withinMs)],
  ]);
  return {
    wave: async () => JSON.parse(await program.ask("go", 40_000)) as Tally,
    open: async () => (JSON.parse(await program.ask("state", 5_000)) as { readonly open: number }).open,
    end: () => program.end(),
  };
}
