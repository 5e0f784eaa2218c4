// What balancers are tried on: equal, unequal, bursty, degrading and failing endpoints. Loads are 60 to 80 % of what the endpoints can do.
import { defaultBreaker } from "../../../agent/api/http-policy.ts";
import type { EndpointModel, Scenario } from "./simulate.ts";

const endpoint = (meanMs: number, workers = 4): EndpointModel => ({ meanMs, workers });
const many = (count: number, model: (i: number) => EndpointModel): EndpointModel[] =>
  Array.from({ length: count }, (_, i) => model(i));
const even = many(10, () => endpoint(10));
/** Requests per second that endpoints can serve. */
const capacity = (endpoints: readonly EndpointModel[]): number =>
  endpoints.reduce((sum, e) => sum + (e.workers * 1000) / e.meanMs, 0);
const steady = (endpoints: readonly EndpointModel[], share: number) => (): number => capacity(endpoints) * share;
const within = (ms: number, from: number, to: number): boolean => ms >= from && ms < to;

const usual = { agents: 4, seconds: 12, times: "usual" } as const;
const mixed = many(10, (i) => endpoint(i < 5 ? 5 : 15));
const oneSlow = many(10, (i) =>
  i > 0 ? endpoint(10) : { ...endpoint(10), trouble: (ms) => (within(ms, 4000, 8000) ? { slower: 8 } : undefined) },
);
const oneFails = many(10, (i) =>
  i > 0 ? endpoint(10) : { ...endpoint(10), trouble: (ms) => (within(ms, 4000, 8000) ? { fails: true } : undefined) },
);
const pauses = many(10, (i) => ({
  ...endpoint(10),
  // Every endpoint stands nearly still for 150 ms every 3 s, each at another time, as with garbage collection.
  trouble: (ms: number) => (within((ms + i * 300) % 3000, 0, 150) ? { slower: 20 } : undefined),
}));
const slowFew = many(50, (i) => endpoint(i % 5 === 0 ? 25 : 10, 2));

export const scenarios: readonly Scenario[] = [
  { name: "equal endpoints", endpoints: even, rate: steady(even, 0.7), ...usual },
  { name: "half of them three times slower", endpoints: mixed, rate: steady(mixed, 0.6), ...usual },
  {
    name: "bursts: 200 ms of each second at four times the rate",
    endpoints: even,
    rate: (ms) => capacity(even) * (ms % 1000 < 200 ? 1.4 : 0.35),
    ...usual,
  },
  { name: "long-tailed service times", endpoints: even, rate: steady(even, 0.6), ...usual, times: "long-tailed" },
  { name: "one degrades to an eighth for 4 s", endpoints: oneSlow, rate: steady(even, 0.6), ...usual },
  { name: "each pauses in turn", endpoints: pauses, rate: steady(even, 0.6), ...usual },
  { name: "one answers errors for 4 s", endpoints: oneFails, rate: steady(even, 0.6), ...usual },
  {
    name: "the same with breakers",
    endpoints: oneFails,
    rate: steady(even, 0.6),
    ...usual,
    breaker: defaultBreaker,
  },
  {
    name: "50 endpoints, 30 nodes that see little each",
    endpoints: slowFew,
    rate: steady(slowFew, 0.6),
    ...usual,
    agents: 30,
  },
];
