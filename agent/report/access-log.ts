// The access log: one JSON line per ended connection and, where data threads carry HTTP, per request. Every value goes through safeJson,
// so that no name, address or path can begin a line of its own.
import { createWriteStream } from "node:fs";
import { formatEndpoint, formatIp } from "../base/ip.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { Book } from "./facts-book.ts";
import { type LineSink, type SinkParts, StreamSink } from "./line-sink.ts";
import type { Masks } from "./observed.ts";
import { maskAddress, safeJson } from "./request-line.ts";
import { openSyslog, parseSyslogTarget } from "./syslog.ts";
import { type DecodedRecord, decodeRecord, noEndpoint } from "./wire-record.ts";

export interface AccessLog {
  readonly isOn: boolean;
  /** A connection's record. */
  record(b: Buffer, at: number, book: Book): void;
  /** Lines of requests with their ends, as a data thread made them. */
  requests(lines: string, count: number): void;
  /** Writes out what waits, for a bounded time. */
  close(): Promise<void>;
}

const forms = "off, stdout, file:PATH, syslog:udp:HOST:PORT, syslog:tcp:HOST:PORT, syslog:unix:PATH";

/** `target`: one of the forms above. */
export function openAccessLog(target: string, masks: Masks, parts: SinkParts): Result<AccessLog, string> {
  const sink = openSink(target, parts);
  if (!sink.ok) return sink;
  return ok(sink.value === undefined ? silent : writeTo(sink.value, masks));
}

/** `target`: as above; undefined: off. */
export function openSink(target: string, parts: SinkParts): Result<LineSink | undefined, string> {
  if (target === "off" || target === "") return ok(undefined);
  if (target === "stdout") return ok(new StreamSink(() => process.stdout, parts, false));
  if (target.startsWith("file:") && target.length > 5)
    return ok(new StreamSink(() => createWriteStream(target.slice(5), { flags: "a", mode: 0o640 }), parts, true));
  const address = target.startsWith("syslog:") ? parseSyslogTarget(target.slice(7)) : undefined;
  return address === undefined
    ? err(`"${target}" is none of ${forms}`)
    : address.ok
      ? ok(openSyslog(address.value, parts))
      : address;
}

const silent: AccessLog = { isOn: false, record: () => {}, requests: () => {}, close: async () => {} };

const writeTo = (sink: LineSink, { addresses }: Masks): AccessLog => ({
  isOn: true,
  record(b, at, book) {
    const line = describeRecord(b, at, book);
    sink.write(`${safeJson(addresses ? masked(line) : line)}\n`, 1);
  },
  requests: (lines, count) => sink.write(lines, count),
  close: () => sink.close(),
});

const addressKeys: ReadonlySet<string> = new Set(["src.addr", "dst.addr", "dst.upstream"]);
const masked = (line: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> =>
  Object.fromEntries(
    Object.entries(line).map(([key, value]) => [
      key,
      addressKeys.has(key) && typeof value === "string" ? maskAddress(value) : value,
    ]),
  );

export const decode = (b: Buffer, at: number): DecodedRecord =>
  decodeRecord(b, at, (bytes, port) => (port === 0 ? "" : formatEndpoint(formatIp(bytes), port)));

/** A record with the names behind its numbers, as in the access log and under /v1/records. */
export function describeRecord(b: Buffer, at: number, book: Book): Readonly<Record<string, unknown>> {
  const record = decode(b, at);
  const plan = book.planFacts(record.planId);
  const verdict = book.verdictFacts(record.verdictId);
  const target = plan?.targets[record.endpoint === noEndpoint ? 0 : record.endpoint]?.workload;
  const source = verdict?.source ?? plan?.source;
  const destination = verdict?.destination ?? (target?.name === "" ? undefined : target);
  const secured = record.lane !== "plain" && record.lane !== "none";
  const targetIdentity = target === undefined || target.name === "" ? undefined : identityText(target);
  const decided = verdict?.verdict ?? plan?.refused;
  const service = plan?.service ?? verdict?.service;
  const policy = decided?.policy ?? book.remotePolicyName(record.remotePolicy);
  return {
    time: new Date(record.startedMs + Math.floor(record.durationUs / 1000)).toISOString(),
    direction: record.direction,
    lane: record.lane,
    protocol: record.protocol,
    "src.addr": record.source,
    "src.workload": pairOf(source),
    "src.identity": verdict === undefined ? (plan?.sourceIdentity ?? null) : verdict.sourceIdentity,
    "dst.addr": record.destination,
    "dst.upstream": record.upstream,
    "dst.workload": pairOf(destination),
    "dst.service": service === undefined ? null : `${service.namespace}/${service.name}`,
    "dst.identity": verdict?.destinationIdentity ?? (secured ? (targetIdentity ?? null) : null),
    sent: record.sent,
    received: record.received,
    duration_us: record.durationUs,
    ready_us: record.readyUs,
    reason: record.reason,
    closed_by: record.closedBy,
    ...(record.reused ? { tunnel_reused: true } : {}),
    ...(record.retried ? { retried: true } : {}),
    ...(policy === undefined ? {} : { policy }),
    ...(decided?.rule === undefined ? {} : { rule: decided.rule }),
    ...(decided?.input === undefined ? {} : { input: decided.input }),
    ...(decided === undefined || decided.notes.length === 0 ? {} : { notes: decided.notes }),
    ...(plan?.passthrough === undefined ? {} : { passthrough: plan.passthrough }),
    id: record.id,
  };
}

const pairOf = (workload: { readonly namespace: string; readonly name: string } | undefined): string | null =>
  workload === undefined ? null : `${workload.namespace}/${workload.name}`;
const identityText = (w: { trustDomain: string; namespace: string; serviceAccount: string }): string =>
  `spiffe://${w.trustDomain}/ns/${w.namespace}/sa/${w.serviceAccount}`;
