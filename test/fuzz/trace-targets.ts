// Trace headers as anyone may send them: whatever they say, one place in a trace results, what is written on is well-formed, and the next
// hop reads it as what was written.
import assert from "node:assert/strict";
import { seededRandom } from "../../agent/base/random.ts";
import { parseB3 } from "../../agent/decide/trace/b3.ts";
import { madeHeaders, RequestTrace, TracePlan } from "../../agent/decide/trace/request-trace.ts";
import { isTracestate, readTraceparent } from "../../agent/decide/trace/w3c.ts";
import { requestHead } from "../kit/http-heads.ts";
import type { FuzzTarget } from "./target.ts";

const names = [
  "traceparent",
  "tracestate",
  "b3",
  "x-b3-traceid",
  "x-b3-spanid",
  "x-b3-sampled",
  "x-b3-flags",
  "x-request-id",
  "x-correlation-id",
];

/** First byte: settings; then values, each behind a byte that says whose it is, up to a line end. */
function traceHeaders(input: Buffer): string {
  const [mode = 0] = input;
  const headers: Record<string, string> = {};
  for (const line of input.subarray(1).toString("latin1").split("\n")) {
    const name = names[line.charCodeAt(0) % names.length];
    if (line !== "" && name !== undefined) headers[name] = line.slice(1);
  }
  const make = madeHeaders.filter((_, i) => (mode & (1 << i)) !== 0);
  const plan = new TracePlan({ make, ratio: (mode & 32) === 0 ? 0 : 1, exports: (mode & 64) !== 0 });
  const trace = new RequestTrace();
  const edits = trace.begin(requestHead({ headers }), plan, seededRandom(mode));
  const to = { ...headers };
  for (const name of edits?.remove ?? []) delete to[name];
  for (const list of [edits?.set ?? [], edits?.add ?? []])
    for (let i = 0; i < list.length; i += 2) to[list[i] as string] = list[i + 1] as string;
  assert.match(trace.traceId, /^$|^(?!0+$)[0-9a-f]{32}$/);
  assert.match(trace.spanId, /^$|^(?!0+$)[0-9a-f]{16}$/);
  assert.match(trace.parentId, /^$|^(?!0+$)[0-9a-f]{16}$/);
  assert.ok(!trace.recorded || (trace.spanId !== "" && isSampled(trace)));
  assert.ok(trace.traceState === "" || isTracestate(trace.traceState));
  const written = [...(edits?.set ?? []), ...(edits?.add ?? [])];
  const place = { traceId: "", parentId: "", flags: 0 };
  if (written.includes("traceparent")) {
    assert.ok(readTraceparent(to.traceparent as string, place));
    assert.deepEqual(place, {
      traceId: trace.traceId,
      parentId: trace.spanId || trace.parentId,
      flags: trace.flags,
    });
  }
  if (written.includes("b3")) assert.equal(parseB3(to.b3 as string)?.traceId, trace.traceId);
  const seen = ["traceparent", "b3", "x-b3-traceid"].map((name) =>
    name in headers ? (written.includes(name) ? 2 : 1) : 0,
  );
  return `${seen} ${trace.recorded} ${trace.parentId === ""} ${isTracestate(headers.tracestate ?? "")} ${edits?.remove.length ?? 0}`;
}
const isSampled = ({ flags }: RequestTrace): boolean => (flags & 1) === 1;

export const traceTargets: readonly FuzzTarget[] = [{ name: "trace-headers", maxBytes: 600, run: traceHeaders }];
