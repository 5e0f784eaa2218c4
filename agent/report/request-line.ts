// A request as one line of JSON: bounded, masked where that is asked for, and without a character that could end the line or steer a
// terminal. Pure.
import { isV4, parseIp } from "../base/ip.ts";
import type { Masks, RequestRecord } from "./observed.ts";
import type { ThreatKind } from "./threats.ts";

/** Characters of a path, and of any other text of a client, that are written. */
const maxPath = 1_024;
const maxText = 256;

const cut = (text: string, most: number): string => (text.length > most ? `${text.slice(0, most)}...` : text);

/** JSON in ASCII: control characters beyond JSON's own (C1, line separators) must not reach a terminal or a line reader either. */
export function safeJson(value: unknown): string {
  const text = JSON.stringify(value);
  if (!/[\u007f-\uffff]/.test(text)) return text;
  return text.replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** An address without its last part and its port: 10.244.1.x, fd00:1:2::x. What is no address is left as it is. */
export function maskAddress(address: string): string {
  const bare = /^\[([^\]]+)\](?::\d{1,5})?$/.exec(address)?.[1] ?? /^([^:]+):\d{1,5}$/.exec(address)?.[1] ?? address;
  const ip = parseIp(bare);
  if (ip === undefined) return address;
  if (isV4(ip)) return `${ip[12]}.${ip[13]}.${ip[14]}.x`;
  // The first 48 bits, which a site mostly has of its own.
  const group = (at: number): string => (((ip[at] as number) << 8) | (ip[at + 1] as number)).toString(16);
  return `${group(0)}:${group(2)}:${group(4)}::x`;
}

/** Addresses inside a text, such as the inputs of a verdict. */
const maskWithin = (text: string): string =>
  text.replace(/\b\d{1,3}(?:\.\d{1,3}){3}\b|[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}/g, (found) =>
    maskAddress(found),
  );

export function maskQuery(path: string): string {
  const at = path.indexOf("?");
  return at < 0 || at === path.length - 1 ? path : `${path.slice(0, at)}?...`;
}

/** The line without its end. Keys of the parties are those of connection lines (access-log.ts). `threat`: it is a threat record. */
export function requestLine(r: RequestRecord, masks: Masks, threat?: ThreatKind): string {
  const address = masks.addresses ? maskAddress : same;
  const path = masks.queries ? maskQuery(r.path) : r.path;
  return safeJson({
    time: new Date(r.startedMs + r.durationMs).toISOString(),
    type: threat === undefined ? "request" : "threat",
    threat,
    pod: threat === undefined ? undefined : orNull(r.pod),
    direction: r.direction,
    protocol: r.protocol,
    method: cut(r.method, 32),
    authority: address(cut(r.authority, maxText)),
    path: cut(path, maxPath),
    status: r.status,
    grpc_status: r.grpcStatus === "" ? undefined : cut(r.grpcStatus, 16),
    flags: r.flags,
    outcome: r.outcome === "finished" ? undefined : r.outcome,
    reason: r.reason === "" ? undefined : r.reason,
    duration_us: Math.round(r.durationMs * 1000),
    request_bytes: r.requestBytes,
    response_bytes: r.responseBytes,
    "src.addr": address(r.source),
    "src.workload": orNull(r.sourceWorkload),
    "src.identity": orNull(r.sourceIdentity),
    "dst.addr": address(r.destination),
    "dst.upstream": r.upstream === "" ? null : address(r.upstream),
    "dst.workload": orNull(r.destinationWorkload),
    "dst.service": orNull(r.service),
    "dst.identity": orNull(r.destinationIdentity),
    route: r.route === "" ? undefined : r.route,
    route_rule: r.routeRule < 0 ? undefined : r.routeRule,
    retries: r.retries === 0 ? undefined : r.retries,
    denied: r.denied ? true : undefined,
    policy: r.policy === "" ? undefined : r.policy,
    rule: r.policyRule < 0 ? undefined : r.policyRule,
    input: r.input === "" ? undefined : masks.addresses ? maskWithin(r.input) : r.input,
    notes: r.notes.length === 0 ? undefined : r.notes,
    features: r.features && { mesh: r.features.mesh, score: r.features.score, anomalies: r.features.anomalies },
    trace_id: orNull(r.traceId),
    span_id: r.spanId === "" ? undefined : r.spanId,
    request_id: cut(r.requestId, maxText) || undefined,
    correlation_id: cut(r.correlationId, maxText) || undefined,
    id: r.connection,
  });
}

const same = (text: string): string => text;
const orNull = (text: string): string | null => (text === "" ? null : text);
