// The goals of layer 7, and the row of a measure that a variant would not carry.
import { atLeast, type Goal, least, type Measure, most, type Row, upTo } from "../rows.ts";
import type { VariantName } from "../variants.ts";

type Short = readonly [
  step: string,
  measure: string,
  unit: string,
  metric: string,
  peers: readonly VariantName[],
  goal: Goal,
];

const hop = ["none", "envoy", "nginx"] as const;
const hopCpu = ["envoy", "nginx"] as const;
const between = ["none", "envoy"] as const;
const envoy = ["envoy"] as const;

const list: readonly Short[] = [
  ...[16, 64].flatMap((n): Short[] => [
    [`hop-${n}`, `HTTP/1.1, one hop: CPU per request, ${n} connections`, "µs", "cpu", hopCpu, most("envoy", 0.5)],
    [`hop-${n}`, `HTTP/1.1, one hop: requests, ${n} connections`, "1/s", "requests", hop, least("envoy", 1.8)],
  ]),
  ...[16, 64].map((n): Short => {
    const what = `HTTP/1.1 between nodes, mTLS, both agents: CPU per request, ${n} connections`;
    return [`between-${n}`, what, "µs", "cpu", envoy, most("envoy", 0.45)];
  }),
  ["h2", "HTTP/2, one hop: CPU per request, 8 connections of 16 streams", "µs", "cpu", envoy, most("envoy", 0.8)],
  ["grpc", "gRPC, one hop: CPU per call, 8 connections of 16 streams", "µs", "cpu", envoy, most("envoy", 0.8)],
  ["big-hop", "16 MiB bodies, one hop: throughput", "MB/s", "megabytes", hop, least("envoy", 1)],
  ["big-between", "16 MiB bodies between nodes, mTLS: throughput", "MB/s", "megabytes", between, least("envoy", 1)],
  [
    "rate",
    "between nodes, policies on requests: p99 at 1,000 requests/s, over no mesh",
    "ms",
    "rate.added-p99",
    envoy,
    upTo(0.5),
  ],
  ["one-core", "one instance on one core: requests, 64 connections", "1/s", "requests", envoy, atLeast(25_000)],
  ["one-core", "one instance on one core: p99", "ms", "p99", envoy, upTo(20)],
  ["one-core", "one instance on one core: RssAnon", "MB", "anon", envoy, upTo(100)],
  ["telemetry", "access log and tracing at 1 % on, over off: CPU per request", "x", "ratio", [], upTo(1.1)],
];

export const measures: readonly Measure[] = list.map(([step, measure, unit, metric, peers, goal]) => ({
  measure,
  unit,
  step,
  metric,
  subject: "ours",
  peers,
  goal,
}));

/** A measure that has no value because it would not be carried: a row that misses its goal and says why. */
export const refusedRow = ({ measure, unit, goal }: Measure, why: string): Row => ({
  measure,
  unit,
  ours: Number.NaN,
  peers: {},
  goal,
  ratio: Number.NaN,
  met: false,
  rounds: {},
  spread: {},
  note: why,
});
