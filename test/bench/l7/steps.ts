// The loads of one round on layer 7. A step puts one load on one variant and returns named numbers.
import { setTimeout as sleep } from "node:timers/promises";
import { cgroupProcesses } from "../../lab/cgroup.ts";
import { run } from "../../lab/command.ts";
import { NotCarried, type StepOf } from "../interleave.ts";
import { atRate, h2load, wrk } from "../loads.ts";
import { cpuMicros, memoryOf } from "../place.ts";
import type { Sample } from "../steps.ts";
import { BIG_BYTES, GRPC_PATH } from "./servers.ts";
import type { Variant, Way } from "./variants.ts";

export type Step = StepOf<Variant>;

const WARM_SECONDS = 1;
/** Data threads tell what they counted once a second. */
const COUNTED_WITHIN_MS = 5_000;

const given = (way: Way | undefined): Way => {
  if (way === undefined) throw new Error("the variant has no such way");
  return way;
};

/** CPU of a way's proxies while `work` runs and until what it left is tidied up, µs. */
async function withCpu<T>(way: Way, work: () => Promise<T>): Promise<{ readonly result: T; readonly cpu: number }> {
  const before = cpuMicros(way.cgroups);
  const result = await work();
  await sleep(100);
  return { result, cpu: cpuMicros(way.cgroups) - before };
}

/** Ours must have read and counted each of the requests: one that was carried as bytes would not be the same work. */
async function counting<T extends { readonly requests: number }>(
  v: Pick<Variant, "counted">,
  work: () => Promise<T>,
): Promise<T> {
  const before = await v.counted?.();
  const result = await work();
  if (v.counted === undefined || before === undefined) return result;
  for (let waited = 0; ; waited += 100) {
    const seen = (await v.counted()) - before;
    if (seen >= result.requests) return result;
    if (waited >= COUNTED_WITHIN_MS)
      throw new NotCarried(`${result.requests} requests were answered, but only ${seen} were read and counted`);
    await sleep(100);
  }
}

const requests = (which: "hop" | "between", connections: number): Step => ({
  name: `${which}-${connections}`,
  variants: which === "hop" ? ["none", "envoy", "nginx", "ours"] : ["none", "envoy", "ours"],
  async run(v, seconds) {
    const way = given(v[which]);
    const from = which === "hop" ? v.near : v.far;
    await wrk(from, way.target, connections, WARM_SECONDS);
    const { result, cpu } = await withCpu(way, () => counting(v, () => wrk(from, way.target, connections, seconds)));
    return {
      requests: result.perSecond,
      p99: result.p99Ms,
      ...(way.cgroups.length === 0 ? {} : { cpu: cpu / result.requests }),
    };
  },
});

/** HTTP/2 with 8 connections of 16 streams. */
const multiplexed = (which: "h2" | "grpc"): Step => ({
  name: which,
  variants: ["none", "envoy", "ours"],
  async run(v, seconds) {
    const way = given(v[which]);
    const load = which === "grpc" ? { path: GRPC_PATH, grpcMessage: v.grpcMessage } : {};
    const once = (for_: number): Promise<{ readonly requests: number; readonly perSecond: number }> =>
      h2load(v.near, way.target, { connections: 8, streams: 16, seconds: for_ }, load);
    try {
      await once(WARM_SECONDS);
    } catch (error) {
      if (v.name !== "ours") throw error;
      throw new NotCarried(`the HTTP lane refuses it: ${(error as Error).message}`);
    }
    const { result, cpu } = await withCpu(way, () => counting(v, () => once(seconds)));
    return { requests: result.perSecond, ...(way.cgroups.length === 0 ? {} : { cpu: cpu / result.requests }) };
  },
});

const big = (which: "hop" | "between"): Step => ({
  name: `big-${which}`,
  variants: which === "hop" ? ["none", "envoy", "nginx", "ours"] : ["none", "envoy", "ours"],
  // A throughput of so few requests strays: the median of two turns in each round.
  turns: 2,
  async run(v, seconds) {
    const way = given(v[which]);
    const from = which === "hop" ? v.near : v.far;
    const { result, cpu } = await withCpu(way, () => wrk(from, way.target, 4, seconds, { path: "/big" }));
    const gigabytes = (result.requests * BIG_BYTES) / 1e9;
    return {
      megabytes: result.megabytesPerSecond,
      ...(way.cgroups.length === 0 ? {} : { "cpu-per-gb": cpu / 1e6 / gigabytes }),
    };
  },
});

const rate: Step = {
  name: "rate",
  variants: ["none", "envoy", "ours"],
  turns: 5,
  async run(v, seconds): Promise<Sample> {
    const load = await atRate(v.far, given(v.guarded).target, 1000, 16, seconds + 1);
    return { "rate.p50": load.p50Ms, "rate.p99": load.p99Ms };
  },
};

/** Share of the requests that are logged and traced; of so many requests at least half of that must be there in the end. */
const WATCHED_SHARE = 0.01;

/** CPU per request with an access log and spans of 1 % of them, over that without, in turns within one round. */
const telemetry: Step = {
  name: "telemetry",
  variants: ["ours"],
  turns: 4,
  async run(v, seconds) {
    const { watched } = v;
    if (watched === undefined) throw new Error("no agents that log and trace were started");
    const perRequest = async (of: Pick<Variant, "near" | "hop" | "counted">) => {
      await wrk(of.near, of.hop.target, 16, WARM_SECONDS);
      const load = () => counting(of, () => wrk(of.near, of.hop.target, 16, seconds));
      const { result, cpu } = await withCpu(of.hop, load);
      return { requests: result.requests, cpu: cpu / result.requests };
    };
    const before = { logged: watched.logged(), sent: await watched.sent() };
    const on = await perRequest(watched);
    const off = await perRequest(v);
    const least = (on.requests * WATCHED_SHARE) / 2;
    const noted = { logged: watched.logged() - before.logged, sent: (await watched.sent()) - before.sent };
    if (noted.logged < least || noted.sent < least)
      throw new Error(`of ${on.requests} requests ${noted.logged} were logged and ${noted.sent} spans sent`);
    return { "cpu.on": on.cpu, "cpu.off": off.cpu, ratio: on.cpu / off.cpu };
  },
};

/** Sets the cores of all threads in cgroups; those they start inherit it. */
async function pin(cgroups: readonly string[], cores: string): Promise<void> {
  for (const pid of cgroups.flatMap(cgroupProcesses)) await run(["taskset", "-a", "-p", "-c", cores, String(pid)]);
}

/** One instance with a core to itself: client and server have the other. */
const oneCore: Step = {
  name: "one-core",
  variants: ["envoy", "ours"],
  async run(v, seconds) {
    const way = v.hop;
    const everywhere = "0-1";
    await pin(way.cgroups, "1");
    await pin([v.server.cgroup], "0");
    try {
      await wrk(v.near, way.target, 64, WARM_SECONDS, { core: 0 });
      const load = await wrk(v.near, way.target, 64, seconds, { core: 0 });
      const [memory] = way.cgroups.map(memoryOf);
      return {
        requests: load.perSecond,
        p99: load.p99Ms,
        anon: memory?.anonMb ?? Number.NaN,
        threads: memory?.threads ?? 0,
      };
    } finally {
      await pin(way.cgroups, everywhere);
      await pin([v.server.cgroup], everywhere);
    }
  },
};

export const steps: readonly Step[] = [
  requests("hop", 16),
  requests("hop", 64),
  requests("between", 16),
  requests("between", 64),
  multiplexed("h2"),
  multiplexed("grpc"),
  big("hop"),
  big("between"),
  oneCore,
  telemetry,
  rate,
];
