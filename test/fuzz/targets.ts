// The TypeScript parsers that read bytes of others, each as a function that throws if what must hold does not. Replayed by
// corpus.test.ts, driven by mutate.ts.
import assert from "node:assert/strict";
import { encodeFrame, FrameReader } from "../../agent/base/frames.ts";
import { decodeRecord, recordBytes } from "../../agent/report/wire-record.ts";
import { checkCsr, maxCsrBytes } from "../../controller/issue/csr.ts";
import { authorizationTargets } from "./authorization-targets.ts";
import { callTargets } from "./call-targets.ts";
import { http1Targets } from "./http1-targets.ts";
import { http2Targets } from "./http2-targets.ts";
import { protoTargets } from "./proto-targets.ts";
import { type FuzzTarget, shape } from "./target.ts";
import { tokenTargets } from "./token-targets.ts";
import { traceTargets } from "./trace-targets.ts";
import { watchTargets } from "./watch-targets.ts";

const identity = "spiffe://cluster.local/ns/shop/sa/web";
export const armour = (bytes: Uint8Array): string =>
  `-----BEGIN CERTIFICATE REQUEST-----\n${Buffer.from(bytes).toString("base64")}\n-----END CERTIFICATE REQUEST-----\n`;

async function csr(pem: string): Promise<string> {
  const result = await checkCsr(pem, identity);
  if (!result.ok) {
    assert.ok(result.error.length > 0 && result.error.length < 400, "a refusal says why, and not at any length");
    return shape(result.error);
  }
  // The same request asked again means the same key.
  const again = await checkCsr(pem, identity);
  assert.ok(again.ok);
  assert.deepEqual(again.value.publicKey, result.value.publicKey);
  return `ok ${result.value.publicKey.length}`;
}

interface Cut {
  readonly frames: readonly { readonly kind: number; readonly payload: string }[];
  readonly broken: boolean;
}

function cut(bytes: Buffer, size: number): Cut {
  const frames: { kind: number; payload: string }[] = [];
  const reader = new FrameReader({
    frame: (kind, payload) => void frames.push({ kind, payload: payload.toString("latin1") }),
  });
  try {
    for (let at = 0; at < bytes.length; at += size) reader.push(bytes.subarray(at, at + size));
  } catch (error) {
    // The one documented way to say that the stream cannot be followed.
    assert.ok(error instanceof RangeError, String(error));
    return { frames, broken: true };
  }
  return { frames, broken: false };
}

function frames(input: Buffer): string {
  const size = (input[0] ?? 0) + 1;
  const bytes = input.subarray(1);
  const whole = cut(bytes, Math.max(1, bytes.length));
  assert.deepEqual(cut(bytes, size), whole, `in pieces of ${size}`);
  const again = Buffer.concat(whole.frames.map((f) => encodeFrame(f.kind, Buffer.from(f.payload, "latin1"))));
  assert.ok(bytes.subarray(0, again.length).equals(again), "frames are the bytes they were cut from");
  return `${whole.broken} ${Math.min(whole.frames.length, 20)} ${[...new Set(whole.frames.map((f) => f.kind % 8))].sort()}`;
}

function records(input: Buffer): string {
  // As the agent does: whole records only, anything in them.
  const seen: string[] = [];
  for (let at = 0; at + recordBytes <= input.length; at += recordBytes) {
    const record = decodeRecord(input, at, (bytes, port) => {
      assert.equal(bytes.length, 16);
      assert.ok(port >= 0 && port <= 65_535);
      return "address";
    });
    for (const [field, value] of Object.entries(record)) {
      assert.notEqual(value, undefined, field);
      if (typeof value === "number") assert.ok(Number.isFinite(value) && value >= 0, `${field} is ${value}`);
    }
    JSON.stringify(record);
    seen.push(`${record.direction} ${record.lane} ${record.protocol} ${record.closedBy} ${shape(record.reason)}`);
  }
  return seen.slice(0, 2).join();
}

export const targets: readonly FuzzTarget[] = [
  { name: "csr-pem", maxBytes: maxCsrBytes + 100, run: (input) => csr(input.toString("latin1")) },
  { name: "csr-der", maxBytes: 4_096, run: (input) => csr(armour(input)) },
  { name: "frames", maxBytes: 8_192, run: frames },
  { name: "records", maxBytes: 4 * recordBytes, run: records },
  ...authorizationTargets,
  ...http1Targets,
  ...protoTargets,
  ...callTargets,
  ...http2Targets,
  ...traceTargets,
  ...watchTargets,
  ...tokenTargets,
];
