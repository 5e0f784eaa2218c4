// Maps marked FROZEN are shared by all versions that ever ran on a node (rule DP-18): their bytes may not move.
import assert from "node:assert/strict";
import test from "node:test";
import {
  bypassKey,
  bypassValue,
  listenerKey,
  socketState,
  synKey,
  synValue,
} from "../../agent/intercept/layout.gen.ts";

const bytes = (fill: number): Uint8Array => new Uint8Array(16).fill(fill);
const hex = (value: Uint8Array): string =>
  Buffer.from(value)
    .toString("hex")
    .replace(/(?:00)+$/, "");

test("[DP-18] frozen keys and values have the sizes and places that running agents rely on", () => {
  assert.deepEqual(
    [listenerKey, synKey, synValue, socketState, bypassKey, bypassValue].map((codec) => codec.size),
    [16, 48, 104, 120, 40, 8],
  );
  assert.equal(hex(listenerKey.encode({ cookie: 1n, traffic: 2, family: 3 })), "01000000000000000200000003");
  assert.equal(
    hex(synKey.encode({ cookie: 1n, source: bytes(2), destination: bytes(3), sourcePort: 4, destinationPort: 5 })),
    `0100000000000000${"02".repeat(16)}${"03".repeat(16)}04000500`.replace(/(?:00)+$/, ""),
  );
  const row = {
    version: 1,
    role: 2,
    flags: 3,
    verdict: 4,
    sourceCookie: 5n,
    generation: 6n,
    timeNs: 7n,
    original: bytes(8),
    originalPort: 9,
    backendPort: 10,
    backend: bytes(11),
  };
  assert.equal(
    hex(synValue.encode(row)),
    `0102030004000000${"0500000000000000"}${"0600000000000000"}${"0700000000000000"}${"08".repeat(16)}09000a0000000000${"0b".repeat(16)}`,
  );
  const state = {
    version: 1,
    role: 2,
    flags: 3,
    openingTold: 15,
    verdict: 4,
    sourceCookie: 5n,
    destinationCookie: 6n,
    generation: 7n,
    startedNs: 8n,
    original: bytes(9),
    target: bytes(10),
    originalPort: 11,
    targetPort: 12,
    identity: 13,
    bypassSent: 14n,
  };
  assert.equal(
    hex(socketState.encode(state)),
    `0102030f04000000${"0500000000000000"}${"0600000000000000"}${"0700000000000000"}${"0800000000000000"}${"09".repeat(16)}${"0a".repeat(16)}0b000c000d0000000e`,
  );
  assert.equal(
    hex(bypassKey.encode({ local: bytes(1), remote: bytes(2), localPort: 3, remotePort: 4 })),
    `${"01".repeat(16)}${"02".repeat(16)}03000400`.replace(/(?:00)+$/, ""),
  );
});
