// The CA's own certificates over the years, with a clock that moves and a store in memory.
import assert from "node:assert/strict";
import { test } from "node:test";
import { defaultTrustDomain } from "../../agent/api/names.ts";
import { Authority } from "./authority.ts";
import type { CaFiles, CaStore } from "./ca-store.ts";
import { dayMs, intermediateLifeMs, rootLifeMs } from "./pki.ts";

test("[IDN-1] an intermediate is made anew near its end, and near its root's end only once", async () => {
  let nowMs = Date.parse("2030-01-01T00:00:00Z");
  const files = new Map<string, string>();
  const store: CaStore = {
    ...{ where: "memory", isShared: false },
    load: async (): Promise<CaFiles> => new Map(files),
    async save({ put, remove }) {
      for (const [name, text] of put) files.set(name, text);
      for (const name of remove) files.delete(name);
      return "saved";
    },
  };
  const authority = await Authority.open({
    ...{ trustDomain: defaultTrustDomain, store, supplied: undefined },
    now: () => nowMs,
  });
  const marginMs = 60 * dayMs;
  const renewed = (): Promise<boolean> => authority.renewIntermediate(marginMs);
  assert.equal(await renewed(), false, "it is new");
  nowMs += intermediateLifeMs - marginMs + 1000;
  assert.deepEqual([await renewed(), await renewed()], [true, false]);
  nowMs = Date.parse("2030-01-01T00:00:00Z") + rootLifeMs - 30 * dayMs;
  assert.deepEqual([await renewed(), await renewed()], [true, false], "the next one could last no longer");
});
