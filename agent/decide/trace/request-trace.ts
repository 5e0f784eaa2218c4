// Where a request stands in a trace, and what of that its next server is told: read from its headers, begun where there is nothing.
// One object serves the requests of a connection one after the other. Pure; chance is an argument.
import type { Random } from "../../base/random.ts";
import type { HeaderEdits, RequestHead } from "../../http.ts";
import { type B3Place, parseB3, readB3Headers, writeB3 } from "./b3.ts";
import { newRequestId, newSpanId, newTraceId } from "./ids.ts";
import { MadeIds } from "./made-fields.ts";
import { isTracestate, readTraceparent, sampledFlag, writeTraceparent } from "./w3c.ts";

/** Headers that are made where a request has none. */
export const madeHeaders = ["w3c", "b3", "b3multi", "request-id", "correlation-id"] as const;
export type MadeHeader = (typeof madeHeaders)[number];

export interface TraceSettings {
  readonly make: readonly MadeHeader[];
  /** Share of the traces begun here that are sampled, 0 to 1. A request that is in a trace keeps its decision. */
  readonly ratio: number;
  /** Spans go to a collector: this hop is one of sampled traces. */
  readonly exports: boolean;
}

/** Settings made ready: one look each. */
export class TracePlan {
  readonly ratio: number;
  readonly exports: boolean;
  readonly w3c: boolean;
  readonly b3: boolean;
  readonly b3multi: boolean;
  readonly requestId: boolean;
  readonly correlationId: boolean;
  /** Of a trace begun here one header tells. */
  readonly hasOneHeader: boolean;

  constructor({ make, ratio, exports }: TraceSettings) {
    this.ratio = ratio;
    this.exports = exports;
    this.w3c = make.includes("w3c");
    this.b3 = make.includes("b3");
    this.b3multi = make.includes("b3multi");
    this.requestId = make.includes("request-id");
    this.correlationId = make.includes("correlation-id");
    this.hasOneHeader = this.w3c && !this.b3 && !this.b3multi;
  }

  /** Whether a trace is begun where there is none. */
  get begins(): boolean {
    return this.w3c || this.b3 || this.b3multi;
  }
}

const nothing: readonly string[] = [];
const stateName: readonly string[] = ["tracestate"];

export class RequestTrace {
  // undefined: made here, and not asked for as text so far.
  #traceId: string | undefined = "";
  #spanId: string | undefined = "";
  #requestId: string | undefined = "";
  #correlationId: string | undefined = "";
  /** The span that the sender is in; "" where the trace begins here. */
  parentId = "";
  flags = 0;
  /** As the client sent it, where a span is recorded and it is valid. */
  traceState = "";
  /** A span is to be told to the collector. */
  recorded = false;

  /** What is added to a request that brought nothing of the kind, as most do. */
  readonly #made = new MadeIds();
  readonly #madeAlone: HeaderEdits = { remove: nothing, set: nothing, add: nothing, made: this.#made };
  /** Headers to be set in place of what came, and to be added: made only where there are any. */
  #set: string[] | undefined;
  #add: string[] | undefined;

  /** 32 digits; "" where the request is in no trace. */
  get traceId(): string {
    this.#traceId ??= this.#made.traceId;
    return this.#traceId;
  }
  set traceId(id: string) {
    this.#traceId = id;
  }
  /** The span that this request is here; "" where it is none. */
  get spanId(): string {
    this.#spanId ??= this.#made.spanId;
    return this.#spanId;
  }
  get requestId(): string {
    this.#requestId ??= this.#made.requestId;
    return this.#requestId;
  }
  get correlationId(): string {
    this.#correlationId ??= this.#made.requestId;
    return this.#correlationId;
  }

  /** Reads the head, decides, and gives the changes of the request's head; undefined: it goes on as it is. */
  begin(head: RequestHead, plan: TracePlan, random: Random): HeaderEdits | undefined {
    this.#traceId = "";
    this.#spanId = "";
    this.parentId = "";
    this.flags = 0;
    this.traceState = "";
    this.recorded = false;
    this.#set = undefined;
    this.#add = undefined;
    this.#made.clear();
    const remove = this.#place(head, plan, random);
    this.#ids(head, plan, random);
    const made = this.#made.isEmpty ? undefined : this.#made;
    if (this.#set === undefined && this.#add === undefined && remove.length === 0)
      return made === undefined ? undefined : this.#madeAlone;
    return { remove, set: this.#set ?? nothing, add: this.#add ?? nothing, made };
  }

  /** Gives the names of headers to be removed. */
  #place(head: RequestHead, plan: TracePlan, random: Random): readonly string[] {
    const given = head.header("traceparent");
    const isW3c = given !== undefined && readTraceparent(given, this);
    // Nothing of this hop is told: what came goes on as it came.
    if (isW3c && !(plan.exports && (this.flags & sampledFlag) !== 0) && !plan.b3 && !plan.b3multi) return nothing;
    const single = head.header("b3");
    const multi = head.header("x-b3-traceid") ?? head.header("x-b3-sampled") ?? head.header("x-b3-flags");
    if (given === undefined && single === undefined && multi === undefined && plan.hasOneHeader) {
      this.#begin(plan, random);
      return head.header("tracestate") === undefined ? nothing : stateName;
    }
    const b3 = isW3c ? undefined : readEither(single, multi, head);
    const isNew = !isW3c && (b3 === undefined || b3.traceId === "");
    if (isNew && !plan.begins) return nothing;
    if (isNew) this.traceId = newTraceId(random);
    else if (b3 !== undefined) {
      this.traceId = b3.traceId.padStart(32, "0");
      this.parentId = b3.spanId;
    }
    if (!isW3c) this.flags = (b3?.sampled ?? random.next() < plan.ratio) ? sampledFlag : 0;
    this.recorded = plan.exports && (this.flags & sampledFlag) !== 0;
    if (this.recorded || isNew) this.#spanId = newSpanId(random);
    this.#write(head, plan, given, isW3c, single, multi, b3);
    const state = this.recorded || !isW3c ? head.header("tracestate") : undefined;
    if (state === undefined) return nothing;
    // What belongs to no valid parent, or cannot be read, is not carried on (§3.2.2.3 and §3.3.1).
    if (!isW3c || !isTracestate(state)) return stateName;
    this.traceState = state;
    return nothing;
  }

  /** A trace of which one header tells. */
  #begin(plan: TracePlan, random: Random): void {
    this.flags = random.next() < plan.ratio ? sampledFlag : 0;
    this.recorded = plan.exports && this.flags !== 0;
    this.#made.beginTrace(random, this.flags);
    this.#traceId = this.#spanId = undefined;
  }

  #write(
    head: RequestHead,
    plan: TracePlan,
    given: string | undefined,
    isW3c: boolean,
    single: string | undefined,
    multi: string | undefined,
    b3: B3Place | undefined,
  ): void {
    const span = this.spanId === "" ? this.parentId : this.spanId;
    if (given === undefined ? plan.w3c : !isW3c || this.recorded)
      this.#put(given, "traceparent", writeTraceparent(this.traceId, span, this.flags));
    // The sender's B3 headers say what ours say where they are about the same trace, or about none.
    const speaks = this.recorded || b3 !== undefined;
    if (single === undefined ? plan.b3 : speaks && this.#isOwn(parseB3(single)?.traceId)) {
      const parent = this.spanId === "" ? "" : this.parentId;
      const sampled = (this.flags & sampledFlag) !== 0;
      this.#put(single, "b3", writeB3(this.traceId, span, sampled, b3?.debug === true, parent));
    }
    if (multi === undefined ? plan.b3multi : speaks && this.#isOwn(head.header("x-b3-traceid")))
      this.#several(span, b3);
  }

  #isOwn(traceId: string | undefined): boolean {
    return traceId === undefined || traceId === "" || traceId.padStart(32, "0") === this.traceId;
  }

  /** In place of any of them: a client may send some without the others. */
  #several(span: string, b3: B3Place | undefined): void {
    this.#put("", "x-b3-traceid", this.traceId);
    this.#put("", "x-b3-spanid", span);
    if (this.spanId !== "" && this.parentId !== "") this.#put("", "x-b3-parentspanid", this.parentId);
    // Debug says that it is sampled, and excludes the other header.
    if (b3?.debug === true) this.#put("", "x-b3-flags", "1");
    else this.#put("", "x-b3-sampled", (this.flags & sampledFlag) === 0 ? "0" : "1");
  }

  #ids(head: RequestHead, plan: TracePlan, random: Random): void {
    const request = head.header("x-request-id");
    const correlation = head.header("x-correlation-id");
    this.#requestId = request ?? "";
    this.#correlationId = correlation ?? "";
    if (this.#requestId === "" && plan.requestId) this.#makeRequestId(request, random);
    if (this.#correlationId !== "" || !plan.correlationId) return;
    this.#correlationId = this.#requestId;
    if (this.#requestId === undefined && correlation === undefined) {
      this.#made.correlate();
      return;
    }
    if (this.requestId === "") this.#correlationId = newRequestId(random);
    this.#put(correlation, "x-correlation-id", this.correlationId);
  }

  #makeRequestId(given: string | undefined, random: Random): void {
    if (given === undefined) {
      this.#made.newRequestId(random);
      this.#requestId = undefined;
    } else {
      this.#requestId = newRequestId(random);
      this.#put(given, "x-request-id", this.#requestId);
    }
  }

  /** `given`: what came under that name, or with it. */
  #put(given: string | undefined, name: string, value: string): void {
    if (given === undefined) {
      if (this.#add === undefined) this.#add = [name, value];
      else this.#add.push(name, value);
    } else if (this.#set === undefined) this.#set = [name, value];
    else this.#set.push(name, value);
  }
}

function readEither(single: string | undefined, multi: string | undefined, head: RequestHead): B3Place | undefined {
  const one = single === undefined ? undefined : parseB3(single);
  return one ?? (multi === undefined ? undefined : readB3Headers(head));
}
