// The simulation behind the choice of a balancer: the same seed gives the same, queues behave as queues must, and the traces show what they are for.
import assert from "node:assert/strict";
import { test } from "node:test";
import { defaultBreaker } from "../../agent/api/http-policy.ts";
import { drawLines } from "./lb/line-plot.ts";
import { best, costOf, sectionOf } from "./lb/report.ts";
import { type EndpointModel, type Scenario, simulate } from "./lb/simulate.ts";
import { Timeline } from "./lb/timeline.ts";
import { breakerTrace, FAILS, slowStartTrace } from "./lb/traces.ts";

const models = (count: number, model: (i: number) => EndpointModel): EndpointModel[] =>
  Array.from({ length: count }, (_, i) => model(i));
const scenario = (endpoints: readonly EndpointModel[], perSecond: number, more: Partial<Scenario> = {}): Scenario => ({
  name: "test",
  endpoints,
  agents: 2,
  seconds: 6,
  rate: () => perSecond,
  times: "usual",
  ...more,
});

test("a timeline gives the earliest first, and of equal times what was added first", () => {
  const line = new Timeline<string>();
  for (const [at, what] of [
    [3, "c"],
    [1, "a"],
    [2, "b"],
    [1, "a2"],
    [0, "zero"],
  ] as const)
    line.add(at, what);
  const order: string[] = [];
  for (let event = line.next(); event !== undefined; event = line.next()) order.push(event.what);
  assert.deepEqual(order, ["zero", "a", "a2", "b", "c"]);
});

test("a seed gives the same run, and a service with nothing to do answers in its own time", () => {
  const idle = scenario(
    models(4, () => ({ meanMs: 10, workers: 4 })),
    20,
  );
  const run = simulate(idle, "random", 7);
  assert.deepEqual(run, simulate(idle, "random", 7));
  assert.ok(run.p50Ms > 7 && run.p50Ms < 12 && run.failed === 0, JSON.stringify(run));
});

test("[LB-5] where half of the endpoints are slower, the latency decides better than the turn", () => {
  const mixed = scenario(
    models(6, (i) => ({ meanMs: i < 3 ? 5 : 20, workers: 2 })),
    900,
  );
  const [turn, latency] = [simulate(mixed, "round_robin", 3), simulate(mixed, "ewma", 3)];
  assert.ok(costOf(latency) < costOf(turn) / 2, JSON.stringify({ turn, latency }));
});

test("[RES-4] a breaker spares clients an endpoint that answers errors", () => {
  const failing = models(4, (i) => ({ meanMs: 5, workers: 4, trouble: () => (i === 0 ? { fails: true } : undefined) }));
  const without = simulate(scenario(failing, 400), "round_robin", 5);
  const withOne = simulate(scenario(failing, 400, { breaker: defaultBreaker }), "round_robin", 5);
  assert.ok(without.failed > 0.2 && withOne.failed < 0.05, JSON.stringify({ without, withOne }));
});

test("[LB-6] a new endpoint's share grows over the window, under every kind of balancer", () => {
  for (const algorithm of ["round_robin", "ewma", "maglev"] as const) {
    const { points } = slowStartTrace(algorithm);
    const share = (from: number, to: number): number => {
      const within = points.filter(([s]) => s >= from && s < to).map(([, v]) => v);
      return within.reduce((a, b) => a + b, 0) / within.length;
    };
    assert.equal(share(0, 5), 0, algorithm);
    assert.ok(share(5, 7) < 10 && share(9, 11) > share(5, 7) && share(16, 20) > 18, `${algorithm} ${points}`);
  }
});

test("[RES-4] the breaker's trace: open soon after the first error, probes while it lasts, closed afterwards", () => {
  const { states, lines } = breakerTrace();
  const opened = states.find(({ state }) => state === "open");
  assert.ok(opened && opened.fromS >= FAILS.fromS && opened.fromS < FAILS.fromS + 1, JSON.stringify(states));
  assert.equal(states.at(-1)?.state, "closed");
  const failed = lines[1]?.points.reduce((sum, [, perS]) => sum + perS / 4, 0) ?? 0;
  assert.ok(failed >= defaultBreaker.failures && failed < 20, String(failed));
  const bands = states.map(({ fromS, toS, state }) => ({ fromS, toS, label: state, colour: "#eee" }));
  assert.match(drawLines({ title: "t", y: "y", lines, bands }), /^<svg .*<path d="M[^N]*<\/svg>\n$/s);
});

test("the best over all is the one of the lowest geometric mean, and the page names it", () => {
  const outcome = (p99Ms: number, failed = 0) => ({ p50Ms: 1, p99Ms, p999Ms: p99Ms, failed });
  const result = {
    scenario: "one",
    outcomes: new Map([
      ["ewma", [outcome(10)]],
      ["random", [outcome(40)]],
    ] as const),
  };
  const winner = best([result, { ...result, scenario: "two" }]);
  assert.deepEqual(winner, { algorithm: "ewma", scores: { ewma: 1, random: 4 } });
  const page = sectionOf([result], winner, 1).join("\n");
  assert.match(page, /\| one \| 1\.0 \/ 10 \| 1\.0 \/ 40 \|/);
});
