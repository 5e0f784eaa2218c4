import assert from "node:assert/strict";
import { test } from "node:test";
import type { HealthCheck } from "../api/http-policy.ts";
import { seededRandom } from "../base/random.ts";
import { EndpointStats, gateBits } from "../decide/balance/endpoint-stats.ts";
import { DecisionCounts } from "../report/decisions.ts";
import { HealthChecks, type ProbeResult } from "./health.ts";
import { Member } from "./member.ts";

const check: HealthCheck = {
  kind: "tcp",
  path: "/",
  host: "",
  grpcService: "",
  port: 0,
  intervalMs: 1_000,
  timeoutMs: 1_000,
  unhealthy: 3,
  healthy: 2,
};
const member = (slot: number): Member =>
  new Member({ ip: `10.0.0.${slot}`, port: 80, weight: 1 } as Member["upstream"], slot, `m${slot}`, 0, 0);

/** Checks of `count` endpoints on a clock of their own; `answers` says what a probe finds, by slot. */
function checks(count: number, answers: (slot: number) => ProbeResult | undefined | "pending") {
  const stats = new EndpointStats(count);
  const asked: number[] = Array.from({ length: count }, () => 0);
  const told: string[] = [];
  const decisions = new DecisionCounts();
  let now = 0;
  const members = asked.map((_, slot) => member(slot));
  const health = new HealthChecks(check, {
    stats,
    random: seededRandom(3),
    nowMs: () => now,
    probe: (m) => {
      asked[m.slot] = (asked[m.slot] as number) + 1;
      const answer = answers(m.slot);
      return answer === "pending" ? new Promise(() => {}) : Promise.resolve(answer);
    },
    decisions,
    told: (m, isHealthy) => void told.push(`${m.slot} ${isHealthy}`),
  });
  health.set(check, members);
  const pass = async (ms: number): Promise<void> => {
    for (const end = now + ms; now < end; now += 100) {
      health.sweep(now);
      await Promise.resolve();
      await Promise.resolve();
    }
  };
  return { decisions, stats, asked, told, health, members, pass };
}
const good = { isGood: true, ms: 7, why: "connected" };
const bad = { isGood: false, ms: 1, why: "connect_refused" };

test("[RES-9] endpoints are asked side by side once per interval; one that never answers holds up no other", async () => {
  const { asked, decisions, stats, pass } = checks(3, (slot) => (slot === 0 ? "pending" : good));
  await pass(20_000);
  assert.equal(asked[0], 1);
  for (const slot of [1, 2]) assert.ok((asked[slot] as number) >= 17 && (asked[slot] as number) <= 23, `${asked}`);
  const told = decisions.flush();
  assert.equal(told?.goodProbes, (asked[1] as number) + (asked[2] as number));
  // The balancer starts from what the probe took (LB-5).
  assert.ok(stats.latency(1) > 0);
});

test("[RES-9] the gate closes after so many failures in a row and opens after so many successes; who stays unhealthy is asked less often", async () => {
  let answer: ProbeResult | undefined = bad;
  const { asked, told, stats, pass } = checks(1, () => answer);
  await pass(2_000);
  assert.equal(stats.gates[0], 0);
  await pass(3_000);
  assert.equal(stats.gates[0], gateBits.health);
  await pass(60_000);
  const before = asked[0] as number;
  await pass(80_000);
  assert.ok((asked[0] as number) - before <= 12, `asked ${(asked[0] as number) - before} times in 80 intervals`);
  // Nobody could ask: that says nothing.
  answer = undefined;
  await pass(30_000);
  assert.equal(stats.gates[0], gateBits.health);
  answer = good;
  await pass(12_000);
  assert.equal(stats.gates[0], 0);
  assert.deepEqual(told, ["0 false", "0 true"]);
});

test("[RES-9] whoever is checked no longer is let back in", async () => {
  const { stats, health, members, pass } = checks(2, () => bad);
  await pass(10_000);
  assert.deepEqual([...stats.gates], [gateBits.health, gateBits.health]);
  health.set(check, members.slice(1));
  assert.deepEqual([...stats.gates], [0, gateBits.health]);
  health.stop();
  assert.deepEqual([...stats.gates], [0, 0]);
});
