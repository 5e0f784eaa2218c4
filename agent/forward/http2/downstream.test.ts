// Which of many clients' requests on one connection are given up where it holds too much.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { heaviest } from "./downstream.ts";

const streams = (...all: readonly number[]) => all.map((queuedBytes) => ({ queuedBytes }));

test("[SEC-8] of requests that share a connection those whose answers nobody takes are given up, not the one that waits behind them", () => {
  assert.deepEqual(heaviest(streams(40_000, 11, 50_000), 90_011), streams(40_000, 50_000));
  // All that the others have is on its way out: it goes on, or comes to wait with them.
  assert.deepEqual(heaviest(streams(0, 11, 0), 200_011), []);
  assert.deepEqual(heaviest(streams(0, 0), 200_000), []);
});

test("[SEC-8] where nothing waits to be written out somebody is always given up, and nobody who holds less than the mean", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(1_000_000), { minLength: 1 }), (all) => {
      const sum = all.reduce((a, b) => a + b, 0);
      fc.pre(sum > 0);
      const given = heaviest(streams(...all), sum);
      assert.ok(given.length > 0);
      for (const { queuedBytes } of given) assert.ok(queuedBytes * all.length >= sum);
    }),
  );
});
