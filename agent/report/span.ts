// A request as a span of OpenTelemetry (semantic conventions for HTTP, 1.23 and later): names and shapes alone, nothing is sent here.
import { type Attributes, type HrTime, SpanKind, type SpanStatus, SpanStatusCode } from "@opentelemetry/api";
import { type Resource, resourceFromAttributes } from "@opentelemetry/resources";
import type { ReadableSpan } from "@opentelemetry/sdk-trace";
import type { Masks, RequestRecord } from "./observed.ts";
import { maskAddress, maskQuery } from "./request-line.ts";

/** Pods whose resource is kept: the exporter groups spans by it. */
const maxResources = 1_000;
const maxText = 1_024;

export interface SpanMakerParts {
  readonly node: string;
  readonly version: string;
  readonly masks: Masks;
}

export class SpanMaker {
  readonly #parts: SpanMakerParts;
  readonly #scope;
  readonly #resources = new Map<string, Resource>();

  constructor(parts: SpanMakerParts) {
    this.#parts = parts;
    this.#scope = { name: "fairlead", version: parts.version };
  }

  span(r: RequestRecord): ReadableSpan {
    const traceState = r.traceState === "" ? {} : { traceState: carried(r.traceState) };
    const context = { traceId: r.traceId, spanId: r.spanId, traceFlags: 1, ...traceState };
    const parent = { traceId: r.traceId, spanId: r.parentSpanId, traceFlags: 1, isRemote: true };
    return {
      // Of bounded variety, as the conventions ask: the route, never the path.
      name: r.route === "" ? methodOf(r) : `${methodOf(r)} ${r.route}`,
      kind: r.direction === "outbound" ? SpanKind.CLIENT : SpanKind.SERVER,
      spanContext: () => context,
      ...(r.parentSpanId === "" ? {} : { parentSpanContext: parent }),
      startTime: hrTime(r.startedMs),
      endTime: hrTime(r.startedMs + r.durationMs),
      duration: hrTime(r.durationMs),
      status: statusOf(r),
      attributes: this.#attributes(r),
      links: [],
      events: [],
      ended: true,
      resource: this.#resource(r),
      instrumentationScope: this.#scope,
      droppedAttributesCount: 0,
      droppedEventsCount: 0,
      droppedLinksCount: 0,
    };
  }

  #attributes(r: RequestRecord): Attributes {
    const { masks } = this.#parts;
    const address = masks.addresses ? maskAddress : (text: string): string => text;
    const [path = "", query = ""] = split(masks.queries ? maskQuery(r.path) : r.path, "?");
    const [host = "", port = ""] = hostPort(r.authority);
    const isKnown = knownMethods.has(r.method);
    return {
      "http.request.method": isKnown ? r.method : "_OTHER",
      ...(isKnown ? {} : { "http.request.method_original": cut(r.method) }),
      ...(r.status === 0 ? {} : { "http.response.status_code": r.status }),
      ...(r.grpcStatus === "" ? {} : { "rpc.grpc.status_code": r.grpcStatus }),
      "http.request.body.size": r.requestBytes,
      "http.response.body.size": r.responseBytes,
      ...(r.retries === 0 ? {} : { "http.request.resend_count": r.retries }),
      "url.scheme": "http",
      "url.path": cut(path),
      ...(query === "" ? {} : { "url.query": cut(query) }),
      "server.address": address(host),
      ...(port === "" ? {} : { "server.port": Number(port) }),
      "client.address": address(hostPort(r.source)[0] ?? ""),
      "network.peer.address": address(hostPort(r.upstream)[0] ?? ""),
      ...(r.outcome === "finished" ? {} : { "error.type": r.outcome }),
      ...(r.requestId === "" ? {} : { "http.request.header.x-request-id": [cut(r.requestId)] }),
      "fairlead.response_flags": r.flags,
      ...named("fairlead.source.workload", r.sourceWorkload),
      ...named("fairlead.source.identity", r.sourceIdentity),
      ...named("fairlead.destination.workload", r.destinationWorkload),
      ...named("fairlead.destination.service", r.service),
      ...named("fairlead.destination.identity", r.destinationIdentity),
      ...named("fairlead.route", r.route),
      ...(r.denied ? { "fairlead.denied": true } : {}),
      ...named("fairlead.policy", r.policy),
      ...(r.policyRule < 0 ? {} : { "fairlead.policy.rule": r.policyRule }),
    };
  }

  /** The workload that the span is told for: its client's side or its server's. */
  #resource(r: RequestRecord): Resource {
    let resource = this.#resources.get(r.pod);
    if (resource === undefined) {
      if (this.#resources.size >= maxResources) this.#resources.clear();
      const [namespace = "", pod = ""] = split(r.pod, "/");
      const workload = r.direction === "outbound" ? r.sourceWorkload : r.destinationWorkload;
      resource = resourceFromAttributes({
        "service.name": split(workload, "/")[1] || pod || "unknown",
        "service.namespace": namespace,
        "k8s.namespace.name": namespace,
        "k8s.pod.name": pod,
        "k8s.node.name": this.#parts.node,
      });
      this.#resources.set(r.pod, resource);
    }
    return resource;
  }
}

const knownMethods: ReadonlySet<string> = new Set([
  "GET",
  "HEAD",
  "POST",
  "PUT",
  "DELETE",
  "CONNECT",
  "OPTIONS",
  "TRACE",
  "PATCH",
  "QUERY",
]);
const methodOf = (r: RequestRecord): string => (knownMethods.has(r.method) ? r.method : "HTTP");
const cut = (text: string): string => (text.length > maxText ? text.slice(0, maxText) : text);
const named = (key: string, value: string): Attributes => (value === "" ? {} : { [key]: value });

/** A client's span fails with any refusal, a server's only by its own fault. */
function statusOf(r: RequestRecord): SpanStatus {
  const failed = r.outcome !== "finished" || r.status >= (r.direction === "outbound" ? 400 : 500);
  return failed ? { code: SpanStatusCode.ERROR } : { code: SpanStatusCode.UNSET };
}

/** Seconds and nanoseconds. */
export function hrTime(ms: number): HrTime {
  const seconds = Math.floor(ms / 1000);
  return [seconds, Math.min(999_999_999, Math.round((ms - seconds * 1000) * 1e6))];
}

const carried = (text: string) => ({
  set: () => carried(text),
  unset: () => carried(text),
  get: () => undefined,
  serialize: () => text,
});

/** Before and behind the first `mark`. */
function split(text: string, mark: string): readonly [string, string] {
  const at = text.indexOf(mark);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}
function hostPort(text: string): readonly [string, string] {
  const words = /^(\[[^\]]*\]|[^:]*)(?::(\d{1,5}))?$/.exec(text);
  return words === null ? [text, ""] : [(words[1] ?? "").replace(/[[\]]/g, ""), words[2] ?? ""];
}
