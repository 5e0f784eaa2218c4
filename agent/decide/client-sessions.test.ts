// Clients that a service keeps with an endpoint: for how long, over threads, and what becomes of them when endpoints come and go.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { serviceName } from "../api/names.ts";
import { byAddress, ClientSessions } from "./client-sessions.ts";

const client = { service: serviceName("shop", "web"), port: 80, ip: "10.244.1.5" };
const idsOf = (count: number): string[] => Array.from({ length: count }, (_, i) => `10.244.2.${i}:8080`);

test("[DIS-10] a client stays while it comes back in time, whichever thread asks, and is forgotten after its service's seconds", () => {
  const memory = ClientSessions.createMemory();
  const [one, other] = [new ClientSessions(memory), new ClientSessions(memory)];
  const ids = idsOf(3);
  assert.equal(one.find(client, ids, 60, 1_000), -1);
  one.keep({ client, id: ids[1] as string, timeoutS: 60 }, 1_000);
  assert.equal(other.find(client, ids, 60, 1_059), 1);
  other.keep({ client, id: ids[1] as string, timeoutS: 60 }, 1_059);
  assert.equal(one.find(client, ids, 60, 1_118), 1, "each connection makes it longer");
  assert.equal(one.find(client, ids, 60, 1_119), -1);
  assert.equal(one.find(client, [ids[2] as string, ids[1] as string], 60, 1_100), 1, "wherever it stands");
  assert.equal(one.find(client, [ids[0] as string], 60, 1_100), -1, "its endpoint is gone");
  for (const another of [{ port: 81 }, { ip: "10.244.1.6" }, { service: serviceName("shop", "api") }])
    assert.equal(one.find({ ...client, ...another }, ids, 60, 1_060), -1);
});

test("[DIS-10] at time zero, too", () => {
  const sessions = new ClientSessions(ClientSessions.createMemory());
  sessions.keep({ client, id: "a:1", timeoutS: 1 }, 0);
  assert.equal(sessions.find(client, ["a:1"], 1, 0.5), 0);
  assert.equal(sessions.find(client, ["a:1"], 1, 1), -1);
});

test("[DIS-10] more clients than there is room for: those who have a session keep it, and places that ran out are used again", () => {
  const sessions = new ClientSessions(ClientSessions.createMemory());
  const ids = idsOf(4);
  const many = Array.from({ length: 90_000 }, (_, i) => ({
    ...client,
    ip: `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`,
  }));
  const at = (i: number): string => ids[i % 4] as string;
  for (const [i, each] of many.entries()) sessions.keep({ client: each, id: at(i), timeoutS: 60 }, 100);
  const found = many.map((each) => sessions.find(each, ids, 60, 100));
  assert.ok(found.every((index, i) => index === -1 || index === i % 4));
  const has = found.filter((index) => index >= 0).length;
  assert.ok(has > 50_000 && has <= 65_536, `${has}`);
  // A minute later all have run out.
  const fresh = many.slice(0, 20_000).map((each) => ({ ...each, port: 443 }));
  for (const [i, each] of fresh.entries()) sessions.keep({ client: each, id: at(i), timeoutS: 60 }, 200);
  const kept = fresh.filter((each, i) => sessions.find(each, ids, 60, 201) === i % 4).length;
  assert.ok(kept > 19_800, `${kept}`);
});

test("[DIS-10] generated endpoints: a client's address gives each its share, and only those of one that goes move", () => {
  const weights = fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 2, maxLength: 8 });
  const ips = Array.from({ length: 2_000 }, (_, i) => `10.244.${i >> 8}.${i & 255}`);
  fc.assert(
    fc.property(weights, fc.nat(7), (given, nth) => {
      const endpoints = given.map((weight, i) => ({ id: idsOf(8)[i] as string, weight }));
      const total = given.reduce((a, b) => a + b, 0);
      const counts = given.map(() => 0);
      const before = ips.map((ip) => byAddress(endpoints, ip));
      for (const index of before) counts[index] = (counts[index] as number) + 1;
      for (const [i, weight] of given.entries()) {
        const share = (counts[i] as number) / ips.length;
        assert.ok(Math.abs(share - weight / total) < 0.08, `${i}: ${share} of ${given}`);
      }
      const gone = nth % given.length;
      const left = endpoints.filter((_, i) => i !== gone);
      for (const [i, ip] of ips.entries()) {
        const now = left[byAddress(left, ip)];
        if (before[i] !== gone) assert.equal(now, endpoints[before[i] as number]);
      }
    }),
    { numRuns: 30 },
  );
  assert.equal(byAddress([], "10.0.0.1"), -1);
  assert.equal(byAddress([{ id: "a:1", weight: 0 }], "10.0.0.1"), -1);
});
