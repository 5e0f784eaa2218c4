// Endpoints that a request has met already, and which it goes to instead.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { hasUnmet, type Member, preferUnmet } from "./member.ts";

interface Drawn {
  readonly weight: number;
  readonly tier: number;
  readonly isOpen: boolean;
  readonly isMet: boolean;
}
const clusterOf = (drawn: readonly Drawn[]) => ({
  members: drawn.map(({ weight, tier }, slot) => ({ slot: slot + 10, weight, tier }) as unknown as Member),
  isOpen: (index: number) => drawn[index]?.isOpen === true,
});
const metOf = (drawn: readonly Drawn[]): number[] => drawn.flatMap(({ isMet }, i) => (isMet ? [i + 10] : []));
const endpoint = fc.record({
  weight: fc.constantFrom(0, 1, 3),
  tier: fc.nat(3),
  isOpen: fc.boolean(),
  isMet: fc.boolean(),
});
const fresh = ({ weight, isOpen, isMet }: Drawn): boolean => weight > 0 && isOpen && !isMet;

test("[RES-5] [LB-7] a request that is tried again goes to an endpoint that it has not met: of the tier that was picked, else of the nearest", () => {
  fc.assert(
    fc.property(fc.array(endpoint, { minLength: 1, maxLength: 8 }), fc.nat(7), (drawn, at) => {
      const picked = at % drawn.length;
      const cluster = clusterOf(drawn);
      const index = preferUnmet(cluster, metOf(drawn), picked);
      const { tier, isMet } = drawn[picked] as Drawn;
      assert.equal(hasUnmet(cluster, metOf(drawn)), drawn.some(fresh));
      if (!isMet || !drawn.some(fresh)) return assert.equal(index, picked);
      const found = drawn[index] as Drawn;
      assert.ok(fresh(found));
      const tiers = drawn.filter(fresh).map((other) => other.tier);
      assert.equal(found.tier, tiers.includes(tier) ? tier : Math.min(...tiers));
    }),
    { numRuns: 1_000 },
  );
});

test("[RES-5] endpoints that were not met are taken all round, so that tries of many requests spread", () => {
  const all = [0, 0, 1, 0, 0].map((tier) => ({ weight: 1, tier, isOpen: true, isMet: false }));
  const cluster = clusterOf(all);
  assert.equal(preferUnmet(cluster, [10], 0), 1);
  assert.equal(preferUnmet(cluster, [11], 1), 3, "past the one of another tier");
  assert.equal(preferUnmet(cluster, [14], 4), 0);
  assert.equal(preferUnmet(cluster, [10, 11, 13, 14], 4), 2, "another tier, as there is none of its own");
});
