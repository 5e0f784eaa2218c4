// What a data thread tells of a connection that it carried byte for byte, as a record.
import assert from "node:assert/strict";
import { test } from "node:test";
import { handedSocket } from "../../test/kit/handed.ts";
import { formatEndpoint, formatIp } from "../base/ip.ts";
import { closeReasonOf } from "../flow.ts";
import { decodeRecord } from "../report/wire-record.ts";
import type { HandedEnd, HandedSocket } from "../threads.ts";
import { carriedRecord } from "./carried-record.ts";

const handed = handedSocket({
  pod: "shop/client",
  original: { ip: "fd00:96::1", port: 80 },
  upstream: { ip: "10.244.2.9", port: 8080, mode: "plain", index: 2 },
});
const end: HandedEnd = {
  handed,
  reason: "server_reset",
  startedMs: 1_700_000_000_000,
  durationUs: 2_000,
  readyUs: 300,
  sent: 100,
  received: 5_000_000_000,
};
const formatAddress = (bytes: Uint8Array, port: number): string => formatEndpoint(formatIp(bytes), port);
const recordOf = (more: Partial<HandedSocket>, of: Partial<HandedEnd> = {}) =>
  carriedRecord({ ...end, ...of, handed: { ...handed, ...more } });
const decoded = (more: Partial<HandedSocket>, of: Partial<HandedEnd> = {}) =>
  decodeRecord(recordOf(more, of) as Buffer, 0, formatAddress);

test("[OBS-3] the record of a connection that a data thread carried says what native's would", () => {
  assert.deepEqual(decoded({}), {
    direction: "outbound",
    lane: "plain",
    protocol: "tcp",
    reason: "server_reset",
    closedBy: "server",
    reused: false,
    retried: false,
    planId: 5,
    verdictId: 0,
    endpoint: 2,
    source: "10.244.1.5:40000",
    destination: "[fd00:96::1]:80",
    upstream: "10.244.2.9:8080",
    startedMs: 1_700_000_000_000,
    durationUs: 2_000,
    readyUs: 300,
    sent: 100,
    received: 5_000_000_000,
    id: 7,
    remotePolicy: 0,
  });
});

test("[OBS-1] [OBS-3] a stream in a tunnel has a record of native's, so the connection has no other", () => {
  const upstream = { ip: "10.244.2.9", port: 8080, mode: "fairlead/1", index: 0 } as const;
  assert.equal(recordOf({ upstream }), undefined);
  assert.equal(recordOf({ upstream: { ...upstream, mode: "hbone" } }), undefined);
  assert.equal(recordOf({ direction: "inbound", tunnel: "fairlead/1" }), undefined);
  // It came to no stream.
  const refused = decoded({ upstream }, { readyUs: 0, reason: "connect_refused", sent: 0, received: 0 });
  assert.deepEqual([refused.lane, refused.reason], ["tunnel", "connect_refused"]);
});

test("[OBS-3] its lane is how it came to a pod of this node, or the way it went out; no endpoint and long times fit too", () => {
  assert.equal(decoded({ direction: "inbound", tunnel: "plain" }).lane, "plain");
  assert.equal(decoded({ upstream: { ip: "10.244.1.9", port: 80, mode: "local" } }).lane, "local");
  const { upstream: _, ...bare } = handed;
  const passed = decodeRecord(carriedRecord({ ...end, handed: bare, durationUs: 2 ** 40 }) as Buffer, 0, formatAddress);
  assert.deepEqual(
    [passed.lane, passed.endpoint, passed.upstream, passed.durationUs],
    ["plain", 65_535, "[fd00:96::1]:80", 2 ** 32 - 1],
  );
});

test("what a dial failed with is a close reason, whatever word it is", () => {
  assert.deepEqual([closeReasonOf("connect_refused"), closeReasonOf("timeout")], ["connect_refused", "connect_failed"]);
});
