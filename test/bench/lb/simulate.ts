// A service in simulated time: agents with the real pickers, breakers and statistics send requests to endpoints with queues. No clock, no
// sockets; a seed gives the same run always.
import { type Breaker, defaultPolicy } from "../../../agent/api/http-policy.ts";
import { type Random, seededRandom } from "../../../agent/base/random.ts";
import { buildPicker, type ChosenAlgorithm } from "../../../agent/decide/balance/build-picker.ts";
import { EndpointStats } from "../../../agent/decide/balance/endpoint-stats.ts";
import type { Picker } from "../../../agent/decide/balance/picker.ts";
import { Breakers } from "../../../agent/decide/resilience/breaker.ts";
import { Timeline } from "./timeline.ts";

export interface EndpointModel {
  /** Time of one request alone. */
  readonly meanMs: number;
  /** Requests served at the same time; others wait in line. */
  readonly workers: number;
  /** What is wrong with it at a time: it takes so many times longer, or answers at once with an error. */
  readonly trouble?: (ms: number) => { readonly slower?: number; readonly fails?: boolean } | undefined;
}

export interface Scenario {
  readonly name: string;
  readonly endpoints: readonly EndpointModel[];
  /** Nodes with clients; each knows only of its own requests. */
  readonly agents: number;
  readonly seconds: number;
  /** Requests per second of all clients together at a time. */
  readonly rate: (ms: number) => number;
  /** Service times: around the mean (log-normal, sigma 0.5), or with a long tail (Pareto, alpha 1.8, at most 100 means). */
  readonly times: "usual" | "long-tailed";
  readonly breaker?: Breaker;
}

export interface Outcome {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
  /** Share of requests that failed or took longer than a second. */
  readonly failed: number;
}

const NETWORK_MS = 0.3;
const ERROR_MS = 1;
const TIMEOUT_MS = 1000;
const WARM_MS = 2000;
/** How often an agent asks breakers whether their time is over. */
const WAKE_MS = 50;
/** Clients that keyed balancers tell apart; the k-th sends in proportion to 1/k. */
const CLIENTS = 2000;

interface Request {
  readonly agent: Agent;
  readonly endpoint: number;
  readonly sentMs: number;
  readonly fails: boolean;
}

class Agent {
  readonly stats: EndpointStats;
  readonly picker: Picker;
  readonly breakers: Breakers;
  constructor(algorithm: ChosenAlgorithm, endpoints: number) {
    this.stats = new EndpointStats(endpoints);
    this.breakers = new Breakers(this.stats);
    const set = Array.from({ length: endpoints }, (_, i) => ({
      id: `10.0.${i >> 8}.${i & 255}:80`,
      weight: 1,
      slot: i,
      tier: 0,
      readySinceMs: -1e9,
    }));
    this.picker = buildPicker(set, {
      policy: { ...defaultPolicy, balancer: { ...defaultPolicy.balancer, algorithm } },
      serviceDefault: "",
      stats: this.stats,
      nowMs: 0,
      cursor: new Int32Array(1),
    });
  }
}

function serviceMs(model: EndpointModel, times: Scenario["times"], slower: number, random: Random): number {
  const mean = model.meanMs * slower;
  if (times === "long-tailed") return Math.min(100 * mean, (mean * 0.8) / 1.8 / (1 - random.next()) ** (1 / 1.8));
  const sigma = 0.5;
  const normal = Math.sqrt(-2 * Math.log(1 - random.next())) * Math.cos(2 * Math.PI * random.next());
  return mean * Math.exp(sigma * normal - (sigma * sigma) / 2);
}

/** Runs a scenario with one balancer. Requests of the first two seconds are left out of the outcome. */
export function simulate(scenario: Scenario, algorithm: ChosenAlgorithm, seed: number): Outcome {
  const random = seededRandom(seed);
  const { endpoints, breaker, times } = scenario;
  const agents = Array.from({ length: scenario.agents }, () => new Agent(algorithm, endpoints.length));
  const slots = endpoints.map((_, i) => i);
  const lines: Request[][] = endpoints.map(() => []);
  const busy = new Int32Array(endpoints.length);
  const events = new Timeline<() => void>();
  const endMs = scenario.seconds * 1000;
  const latencies: number[] = [];
  let nowMs = 0;
  let failed = 0;

  const serve = (request: Request): void => {
    const model = endpoints[request.endpoint] as EndpointModel;
    busy[request.endpoint] = (busy[request.endpoint] as number) + 1;
    const slower = model.trouble?.(nowMs)?.slower ?? 1;
    events.add(nowMs + serviceMs(model, times, slower, random), () => {
      busy[request.endpoint] = (busy[request.endpoint] as number) - 1;
      const next = lines[request.endpoint]?.shift();
      if (next !== undefined) serve(next);
      events.add(nowMs + NETWORK_MS, () => answered(request));
    });
  };
  const answered = ({ agent, endpoint, sentMs, fails }: Request): void => {
    const ms = nowMs - sentMs;
    agent.stats.end(endpoint);
    if (fails) agent.stats.observeFailure(endpoint, ms, true, nowMs);
    else agent.stats.observe(endpoint, ms, nowMs);
    if (breaker !== undefined) agent.breakers.report(endpoint, fails, breaker, nowMs);
    if (sentMs < WARM_MS) return;
    if (fails || ms > TIMEOUT_MS) failed++;
    latencies.push(ms);
  };
  const send = (): void => {
    const agent = agents[random.below(agents.length)] as Agent;
    agent.stats.nowMs = nowMs;
    const client = Math.floor((CLIENTS + 1) ** random.next());
    const key = Math.imul(client, 0x9e37_79b1) >>> 0;
    let endpoint = agent.picker.pick(random, key, -1);
    if (breaker !== undefined && endpoint >= 0 && !agent.breakers.admit(endpoint, breaker, nowMs))
      endpoint = agent.picker.pick(random, key, endpoint);
    if (endpoint < 0) {
      if (nowMs >= WARM_MS) failed++;
      return;
    }
    const model = endpoints[endpoint] as EndpointModel;
    const fails = model.trouble?.(nowMs)?.fails === true;
    const request = { agent, endpoint, sentMs: nowMs, fails };
    agent.stats.begin(endpoint);
    if (fails) events.add(nowMs + ERROR_MS, () => answered(request));
    else if ((busy[endpoint] as number) < model.workers) serve(request);
    else lines[endpoint]?.push(request);
  };
  const arrive = (): void => {
    send();
    const next = nowMs - (Math.log(1 - random.next()) / scenario.rate(nowMs)) * 1000;
    if (next < endMs) events.add(next, arrive);
  };
  const wake = (): void => {
    for (const agent of agents) agent.breakers.wake(slots, nowMs);
    if (nowMs < endMs) events.add(nowMs + WAKE_MS, wake);
  };
  events.add(0, arrive);
  if (breaker !== undefined) events.add(WAKE_MS, wake);
  for (let event = events.next(); event !== undefined; event = events.next()) {
    nowMs = event.at;
    event.what();
  }
  const sorted = Float64Array.from(latencies).sort();
  const at = (q: number): number => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
  const sent = Math.max(1, sorted.length);
  return { p50Ms: at(0.5), p99Ms: at(0.99), p999Ms: at(0.999), failed: failed / sent };
}
