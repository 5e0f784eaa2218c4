// Trace headers: parsers against the words of their specifications, what is carried on, and what is made where there is nothing.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { requestHead } from "../../../test/kit/http-heads.ts";
import { seededRandom } from "../../base/random.ts";
import type { HeaderEdits } from "../../http.ts";
import { parseB3, readB3Headers, writeB3 } from "./b3.ts";
import { newRequestId, newSpanId, newTraceId } from "./ids.ts";
import { MadeIds } from "./made-fields.ts";
import { madeHeaders, RequestTrace, TracePlan, type TraceSettings } from "./request-trace.ts";
import { isTracestate, readTraceparent, type TracePlace, writeTraceparent } from "./w3c.ts";

const trace = "4bf92f3577b34da6a3ce929d0e0e4736";
const span = "00f067aa0ba902b7";
const place = (): TracePlace => ({ traceId: "", parentId: "", flags: 0 });
const random = seededRandom(5);
type Headers = Readonly<Record<string, string>>;

test("[OBS-4] traceparent is read as W3C says, and what is not valid is as if it were absent", () => {
  const good: readonly (readonly [string, number])[] = [
    [`00-${trace}-${span}-01`, 1],
    [`00-${trace}-${span}-00`, 0],
    [`00-${trace}-${span}-03`, 3],
    [`00-${trace}-${span}-ff`, 3],
    [`cc-${trace}-${span}-01`, 1],
    [`cc-${trace}-${span}-01-what.the.future.holds`, 1],
  ];
  for (const [text, flags] of good) {
    const read = place();
    assert.ok(readTraceparent(text, read), text);
    assert.deepEqual(read, { traceId: trace, parentId: span, flags });
  }
  const bad = [
    "",
    `ff-${trace}-${span}-01`,
    `00-${"0".repeat(32)}-${span}-01`,
    `00-${trace}-${"0".repeat(16)}-01`,
    `00-${trace.toUpperCase()}-${span}-01`,
    `00-${trace}-${span}-1`,
    `00-${trace}-${span}-01-`,
    `00-${trace}-${span}-01 `,
    `cc-${trace}-${span}-01.x`,
    `00_${trace}-${span}-01`,
    `00-${trace}-${span}-0x`,
    `00-${trace}-${span}-01, 00-${trace}-${span}-01`,
  ];
  for (const text of bad) {
    const read = place();
    assert.equal(readTraceparent(text, read), false, text);
    assert.deepEqual(read, place(), "and nothing is half read");
  }
});

const hex = (length: number) =>
  fc
    .array(fc.constantFrom(..."0123456789abcdef"), { minLength: length, maxLength: length })
    .map((digits) => digits.join(""))
    .filter((text) => !/^0+$/.test(text));

test("[OBS-4] what is written as traceparent or B3 reads back as the same", () => {
  fc.assert(
    fc.property(hex(32), hex(16), fc.integer({ min: 0, max: 3 }), (traceId, parentId, flags) => {
      const read = place();
      assert.ok(readTraceparent(writeTraceparent(traceId, parentId, flags), read));
      assert.deepEqual(read, { traceId, parentId, flags });
    }),
  );
  const ids = fc.oneof(hex(32), hex(16));
  fc.assert(
    fc.property(
      ids,
      hex(16),
      fc.boolean(),
      fc.boolean(),
      fc.oneof(fc.constant(""), hex(16)),
      (t, s, on, debug, parent) => {
        const read = parseB3(writeB3(t, s, on, debug, parent));
        assert.deepEqual(read, { traceId: t, spanId: s, sampled: on || debug, debug });
      },
    ),
  );
});

test("[OBS-4] tracestate: members, keys and values by the grammar", () => {
  for (const good of [
    "congo=t61rcWkgMzE",
    "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
    "a=1, b=2\t,,c= x",
    "fw529a3039@dt=FfFf",
    "0vendor=1",
    `${"a".repeat(256)}=${"v".repeat(256)}`,
  ])
    assert.ok(isTracestate(good), good);
  const many = Array.from({ length: 33 }, (_, i) => `k${i}=v`).join(",");
  for (const bad of ["", ",", "a", "=1", "A=1", "a=", "a=1=2", "a=1,a=2", "a=\u007f", `${"a".repeat(257)}=v`, many])
    assert.equal(isTracestate(bad), false, bad);
});

test("[OBS-4] B3: one header, several, decisions alone, and what is none of them", () => {
  const sampled = { traceId: trace, spanId: span, sampled: true, debug: false };
  assert.deepEqual(parseB3(`${trace}-${span}-1`), sampled);
  assert.deepEqual(parseB3(`${trace}-${span}-1-05e3ac9a4f6e3b90`), sampled);
  assert.deepEqual(parseB3(`${trace}-${span}`), { ...sampled, sampled: undefined });
  assert.deepEqual(parseB3(`${trace}-${span}-d`), { ...sampled, debug: true });
  assert.deepEqual(parseB3("0"), { traceId: "", spanId: "", sampled: false, debug: false });
  for (const bad of [
    "",
    "2",
    "true",
    trace,
    `${trace}-${span}-2`,
    `${trace}-${span}-1-x`,
    `${trace}-${span}-1-${span}-`,
  ])
    assert.equal(parseB3(bad), undefined, bad);
  const several = (headers: Headers) => readB3Headers(requestHead({ headers }));
  const ids = { "x-b3-traceid": trace, "x-b3-spanid": span };
  assert.deepEqual(several({ ...ids, "x-b3-sampled": "true" }), sampled);
  assert.deepEqual(several({ ...ids, "x-b3-flags": "1" }), { ...sampled, debug: true });
  assert.deepEqual(several({ "x-b3-sampled": "0" })?.sampled, false);
  assert.equal(several({ "x-b3-traceid": trace }), undefined);
  assert.equal(several({}), undefined);
});

const defaults: TraceSettings = { make: ["w3c", "request-id", "correlation-id"], ratio: 0, exports: false };

/** The headers as the next server gets them, and what was noted. */
function pass(headers: Headers, settings: Partial<TraceSettings> = {}): { trace: RequestTrace; to: Headers } {
  const traced = new RequestTrace();
  const edits = traced.begin(requestHead({ headers }), new TracePlan({ ...defaults, ...settings }), random);
  return { trace: traced, to: applied(headers, edits) };
}
const linesOf = (list: readonly string[]): string =>
  list.map((text, i) => (i % 2 === 0 ? `${text}: ` : `${text}\r\n`)).join("");

function applied(headers: Headers, edits: HeaderEdits | undefined): Headers {
  const to: Record<string, string> = { ...headers };
  for (const name of edits?.remove ?? []) delete to[name];
  const made = edits?.made?.list ?? [];
  assert.equal(edits?.made?.lines.toString("latin1") ?? "", linesOf(made), "the same in both forms");
  for (const list of [edits?.set ?? [], edits?.add ?? [], made])
    for (let i = 0; i < list.length; i += 2) {
      if (list !== edits?.set) assert.equal(to[list[i] as string], undefined, `${list[i]} is added beside another`);
      to[list[i] as string] = list[i + 1] as string;
    }
  return to;
}

test("[OBS-4] a request without headers gets them: one trace, one request id, which is also the correlation id", () => {
  const { trace: made, to } = pass({});
  assert.match(to.traceparent ?? "", /^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/);
  assert.match(to["x-request-id"] ?? "", /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.equal(to["x-correlation-id"], to["x-request-id"]);
  assert.deepEqual(Object.keys(to).sort(), ["traceparent", "x-correlation-id", "x-request-id"]);
  assert.equal(made.traceId, to.traceparent?.slice(3, 35));
  // The next hop finds all of it, and changes nothing.
  assert.deepEqual(pass(to).to, to);
});

test("[OBS-4] what came is carried on unchanged where this hop tells of no span", () => {
  const headers = {
    traceparent: `00-${trace}-${span}-01`,
    tracestate: "congo=t61rcWkgMzE",
    "x-request-id": "abc",
    "x-correlation-id": "def",
  };
  const { trace: seen, to } = pass(headers);
  assert.deepEqual(to, headers);
  assert.deepEqual([seen.traceId, seen.parentId, seen.spanId, seen.recorded], [trace, span, "", false]);
  assert.deepEqual([seen.requestId, seen.correlationId], ["abc", "def"]);
  const unsampled = { ...headers, traceparent: `00-${trace}-${span}-00` };
  assert.deepEqual(pass(unsampled, { exports: true, ratio: 1 }).to, unsampled, "the sender's decision holds");
});

test("[OBS-4] where a span is told, the next server's parent is this span, in every kind that came", () => {
  const headers = {
    traceparent: `00-${trace}-${span}-01`,
    tracestate: "congo=t61rcWkgMzE",
    b3: `${trace}-${span}-1`,
    "x-b3-traceid": trace,
    "x-b3-spanid": span,
    "x-b3-sampled": "1",
  };
  const { trace: seen, to } = pass(headers, { exports: true });
  assert.equal(seen.recorded, true);
  assert.notEqual(seen.spanId, span);
  assert.equal(to.traceparent, `00-${trace}-${seen.spanId}-01`);
  assert.equal(to.b3, `${trace}-${seen.spanId}-1-${span}`);
  assert.deepEqual([to["x-b3-spanid"], to["x-b3-parentspanid"]], [seen.spanId, span]);
  assert.deepEqual([to.tracestate, seen.traceState], ["congo=t61rcWkgMzE", "congo=t61rcWkgMzE"]);
  const other = pass({ ...headers, b3: `${span}-${span}-1` }, { exports: true });
  assert.equal(other.to.b3, `${span}-${span}-1`, "a B3 header about another trace is left alone");
});

test("[OBS-4] a trace that came by B3 goes on by both, and its decision holds", () => {
  const one = pass({ b3: `${span}-${span}-1` }, { exports: true });
  const padded = `${"0".repeat(16)}${span}`;
  assert.equal(one.to.traceparent, `00-${padded}-${one.trace.spanId}-01`);
  assert.equal(one.to.b3, `${padded}-${one.trace.spanId}-1-${span}`);
  const several = pass(
    { "x-b3-traceid": trace, "x-b3-spanid": span, "x-b3-sampled": "0" },
    { exports: true, ratio: 1 },
  );
  assert.equal(several.trace.recorded, false);
  assert.equal(several.to.traceparent, `00-${trace}-${span}-00`);
  assert.equal(several.to["x-b3-spanid"], span);
  assert.equal(pass({ b3: "0" }, { exports: true, ratio: 1 }).trace.recorded, false);
  assert.equal(pass({ b3: "d" }, { exports: true, ratio: 0 }).trace.recorded, true);
});

test("[OBS-4] a traceparent that is not valid is replaced, and its tracestate goes with it", () => {
  const { to, trace: made } = pass({ traceparent: `00-${trace}-${span}`, tracestate: "a=1" });
  assert.notEqual(made.traceId, trace);
  assert.equal(to.traceparent, `00-${made.traceId}-${made.spanId}-00`);
  assert.equal(to.tracestate, undefined);
});

test("[OBS-4] sampling: the share of new traces, and nothing made where nothing is to be", () => {
  const ratio = (share: number): number => {
    let sampled = 0;
    for (let i = 0; i < 2_000; i++) if (pass({}, { ratio: share, exports: true }).trace.recorded) sampled++;
    return sampled / 2_000;
  };
  assert.deepEqual([ratio(0), ratio(1)], [0, 1]);
  const tenth = ratio(0.1);
  assert.ok(tenth > 0.07 && tenth < 0.13, String(tenth));
  const off = new RequestTrace();
  const plan = new TracePlan({ make: [], ratio: 1, exports: true });
  assert.equal(off.begin(requestHead({ headers: { "x-request-id": "x" } }), plan, random), undefined);
  assert.deepEqual([off.traceId, off.recorded, off.requestId], ["", false, "x"]);
});

test("[OBS-4] whatever the headers say, one trace results, which the next hop reads as the same", () => {
  const texts = fc.oneof(
    fc.constantFrom(
      `00-${trace}-${span}-01`,
      `00-${trace}-${span}-00`,
      `${trace}-${span}-1`,
      `${span}-${span}`,
      "0",
      "d",
      trace,
      span,
      "1",
      "",
    ),
    fc.string({ maxLength: 60 }),
  );
  const names = [
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-request-id",
  ];
  const headers = fc.dictionary(fc.constantFrom(...names), texts, { noNullPrototype: true });
  const settings = fc.record({
    make: fc.subarray([...madeHeaders]),
    ratio: fc.constantFrom(0, 1),
    exports: fc.boolean(),
  });
  fc.assert(
    fc.property(headers, settings, (given, chosen) => {
      const made = pass(given, chosen);
      if (made.trace.traceId === "")
        return assert.deepEqual(
          chosen.make.filter((m) => m.startsWith("w3c") || m.startsWith("b3")),
          [],
        );
      assert.match(made.trace.traceId, /^[0-9a-f]{32}$/);
      assert.ok(!made.trace.recorded || made.trace.spanId !== "");
      const next = pass(made.to, { ...chosen, make: ["w3c"], exports: false });
      if (chosen.make.includes("w3c") || given.traceparent !== undefined) {
        assert.equal(next.trace.traceId, made.trace.traceId);
        assert.equal(next.trace.parentId, made.trace.spanId || made.trace.parentId);
        assert.equal(next.trace.flags, made.trace.flags);
      }
    }),
  );
});

test("[OBS-4] ids are of the right length and never all zeros", () => {
  const zero = { next: () => 0, below: () => 0 };
  for (const source of [zero, seededRandom(1)]) {
    assert.match(newTraceId(source), /^(?!0+$)[0-9a-f]{32}$/);
    assert.match(newSpanId(source), /^(?!0+$)[0-9a-f]{16}$/);
    assert.match(newRequestId(source), /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    const made = new MadeIds();
    made.beginTrace(source, 1);
    assert.match(made.traceId, /^(?!0+$)[0-9a-f]{32}$/);
    assert.match(made.spanId, /^(?!0+$)[0-9a-f]{16}$/);
  }
});
