// When too few endpoints are healthy, and what is then still heeded.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { defaultPolicy } from "../api/http-policy.ts";
import { seededRandom } from "../base/random.ts";
import { buildPicker } from "../decide/balance/build-picker.ts";
import { EndpointStats, gateBits } from "../decide/balance/endpoint-stats.ts";
import type { Member } from "./member.ts";
import { Panic } from "./panic.ts";

const membersOf = (weights: readonly number[]): Member[] =>
  weights.map(
    (weight, slot) => ({ id: `10.0.0.${slot}:80`, slot, weight, tier: 0, readySinceMs: 0 }) as unknown as Member,
  );

test("[DIS-6] below the share all are used, but for those that a breaker holds back; above it the healthy ones alone", () => {
  for (const algorithm of [
    "round_robin",
    "random",
    "least_request",
    "ewma",
    "ring_hash",
    "maglev",
    "rendezvous",
  ] as const)
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom(0, gateBits.outlier, gateBits.health, gateBits.breaker, 6), {
          minLength: 1,
          maxLength: 8,
        }),
        fc.nat(100),
        fc.nat(),
        (gates, percent, seed) => {
          const stats = new EndpointStats(8);
          const members = membersOf(gates.map(() => 1));
          for (const [slot, bits] of gates.entries()) stats.gates[slot] = bits;
          const panic = new Panic();
          const change = panic.review(members, stats, percent);
          const healthy = gates.filter((bits) => (bits & 6) === 0).length;
          assert.equal(panic.isOn, (healthy / gates.length) * 100 < percent);
          assert.deepEqual(change, panic.isOn ? { isOn: true, healthy, endpoints: gates.length } : undefined);
          assert.equal(panic.review(members, stats, percent), undefined, "said once");
          const picker = buildPicker(members, {
            policy: { ...defaultPolicy, balancer: { ...defaultPolicy.balancer, algorithm, virtualNodes: 20 } },
            serviceDefault: "",
            stats,
            nowMs: 10,
            cursor: new Int32Array(1),
            heeded: panic.heeded,
          });
          const usable = gates.flatMap((bits, i) => ((panic.isOn ? bits & 1 : bits) === 0 ? [i] : []));
          const random = seededRandom(seed);
          for (let i = 0; i < 20; i++) {
            const picked = picker.pick(random, random.below(2 ** 32), -1);
            if (usable.length === 0) assert.equal(picked, -1);
            else assert.ok(usable.includes(picked), `${picked} of ${usable}`);
          }
        },
      ),
      { numRuns: 40 },
    );
});

test("[DIS-6] endpoints of weight 0 count for nothing, 0 percent is never, and no endpoint is no panic", () => {
  const stats = new EndpointStats(8);
  const members = membersOf([0, 0, 1]);
  const panic = new Panic();
  assert.equal(panic.review(members, stats, 50), undefined);
  stats.close(2, gateBits.health);
  assert.deepEqual(panic.review(members, stats, 50), { isOn: true, healthy: 0, endpoints: 1 });
  assert.deepEqual(panic.review(members, stats, 0), { isOn: false, healthy: 0, endpoints: 1 });
  assert.equal(panic.review([], stats, 100), undefined);
});
