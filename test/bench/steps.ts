// The loads of one round. A step puts one load on one variant and returns named numbers; the main program interleaves the variants.
import { setTimeout as sleep } from "node:timers/promises";
import type { StepOf } from "./interleave.ts";
import { atRate, failures, iperf, newConnections, storm, type Tally, wrk } from "./loads.ts";
import { cpuMicros, type Memory, memoryOf } from "./place.ts";
import type { Variant } from "./variants.ts";

export type Sample = Readonly<Record<string, number>>;

export type Step = StepOf<Variant>;

const WARM_SECONDS = 0.4;
const everyone = ["none", "envoy", "haproxy", "ours"] as const;
const meshes = ["envoy", "haproxy", "ours"] as const;
const sameNode = ["none", "ours", "bypass"] as const;

/** CPU of the proxies of both nodes while `work` runs and until what it left is tidied up. */
async function withCpu<T>(v: Variant, work: () => Promise<T>): Promise<{ readonly result: T; readonly cpu: number }> {
  const before = cpuMicros(v.cgroups);
  const result = await work();
  await sleep(100);
  return { result, cpu: cpuMicros(v.cgroups) - before };
}

const requests = (connections: number): Step => ({
  name: `requests-${connections}`,
  variants: everyone,
  async run(v, seconds) {
    await wrk(v.far, v.http, connections, 1);
    const { result, cpu } = await withCpu(v, () => wrk(v.far, v.http, connections, seconds));
    return {
      [`requests.${connections}`]: result.perSecond,
      [`p99.${connections}`]: result.p99Ms,
      [`cpu-per-request.${connections}`]: cpu / result.requests,
    };
  },
});

const streams = (count: number): Step => ({
  name: `streams-${count}`,
  variants: everyone,
  async run(v, seconds) {
    const { result, cpu } = await withCpu(v, () => iperf(v.far, v.stream, count, seconds));
    return { [`gbits.${count}`]: result.gbits, [`cpu-per-gb.${count}`]: cpu / 1e6 / result.gigabytes };
  },
});

/** A wave of a storm as numbers; refusals are counted, not fatal: they are what is measured. */
const waveSample = (name: string, wave: Tally, cpu: number): Sample => ({
  [`${name}.cpu`]: cpu / 1000,
  [`${name}.refused`]: failures(wave),
  [`${name}.last-ready`]: wave.maxMs,
});

const STORM = { connections: 2000, withinMs: 1000 } as const;

const storms: Step = {
  name: "storms",
  variants: everyone,
  async run(v) {
    const load = storm(v.far, v.coldHttp(), STORM.connections, STORM.withinMs);
    try {
      const cold = await withCpu(v, () => load.wave());
      await v.servers.restartWeb();
      // The end of the old server's connections has to arrive before the clients come back, as it does while a pod is replaced.
      for (let waited = 0; (await load.open()) > 0 && waited < 5000; waited += 50) await sleep(50);
      await sleep(300);
      const again = await withCpu(v, () => load.wave());
      return { ...waveSample("cold", cold.result, cold.cpu), ...waveSample("restart", again.result, again.cpu) };
    } finally {
      await load.end();
    }
  },
};

const peak = (list: readonly Memory[], of: (m: Memory) => number): number => Math.max(...list.map(of));

const memory: Step = {
  name: "memory",
  variants: meshes,
  async run(v, seconds) {
    const now = (): readonly Memory[] => v.cgroups.map(memoryOf);
    await v.restart();
    await sleep(seconds * 1000);
    const idle = now();
    const load = storm(v.far, v.coldHttp(), 1000, 1000);
    try {
      await load.wave();
      await sleep(500);
      const held = now();
      const grown = (of: (m: Memory) => number): number => Math.max(...held.map((m, i) => of(m) - of(idle[i] ?? m)));
      return {
        "idle.anon": peak(idle, (m) => m.anonMb),
        "idle.rss": peak(idle, (m) => m.rssMb),
        threads: peak(idle, (m) => m.threads),
        "held.anon": grown((m) => m.anonMb),
        "held.rss": grown((m) => m.rssMb),
      };
    } finally {
      await load.end();
    }
  },
};

const workloads: Step = {
  name: "workloads",
  variants: ["ours"],
  async run(v, seconds) {
    if (v.knowWorkloads === undefined) return {};
    await v.restart();
    await sleep(seconds * 1000);
    const idle = v.cgroups.map(memoryOf);
    const forget = await v.knowWorkloads(10_000);
    await sleep(seconds * 1000);
    const known = v.cgroups.map(memoryOf);
    await forget();
    const grown = (of: (m: Memory) => number): number => Math.max(...known.map((m, i) => of(m) - of(idle[i] ?? m)));
    return {
      threads: Math.max(...known.map((m) => m.threads)),
      "known.anon": grown((m) => m.anonMb),
      "known.rss": grown((m) => m.rssMb),
    };
  },
};

export const steps: readonly Step[] = [
  memory,
  {
    name: "same-node",
    variants: sameNode,
    turns: 4,
    async run(v, seconds) {
      const slice = Math.max(1, Math.floor(seconds / 2));
      const load = await wrk(v.near, v.nearHttp, 16, slice);
      const stream = await iperf(v.near, v.nearStream, 1, slice);
      return { "near.requests": load.perSecond, "near.p99": load.p99Ms, "near.gbits": stream.gbits };
    },
  },
  requests(16),
  requests(64),
  {
    name: "new-connections",
    variants: everyone,
    async run(v, seconds) {
      await newConnections(v.far, v.http, 16, WARM_SECONDS);
      const { result, cpu } = await withCpu(v, () => newConnections(v.far, v.http, 16, seconds));
      return { "new.per-second": result.perSecond, "new.p99": result.p99Ms, "new.cpu": cpu / result.ok };
    },
  },
  streams(1),
  streams(4),
  {
    name: "rate",
    variants: everyone,
    turns: 5,
    async run(v, seconds) {
      const load = await atRate(v.far, v.http, 1000, 16, seconds + 1);
      return { "rate.p50": load.p50Ms, "rate.p99": load.p99Ms };
    },
  },
  storms,
  workloads,
];
