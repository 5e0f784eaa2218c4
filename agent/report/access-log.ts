// One JSON line per ended connection: off, standard output or a file. Never blocks: what the writer cannot take is dropped and
// counted. Every value goes through JSON.stringify, so no name or address can begin a line of its own.
import { createWriteStream, type WriteStream } from "node:fs";
import type { Writable } from "node:stream";
import { formatEndpoint, formatIp } from "../base/ip.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { Book } from "./facts-book.ts";
import { type DecodedRecord, decodeRecord, noEndpoint } from "./wire-record.ts";

export interface AccessLog {
  record(b: Buffer, at: number, book: Book): void;
  /** Writes out what waits, at most for `ms`. */
  close(): Promise<void>;
}

/** Bytes that may wait for the writer. */
const mostQueued = 4 * 1024 * 1024;

/** `target`: "off", "stdout" or "file:PATH". */
export function openAccessLog(target: string, dropped: () => void): Result<AccessLog, string> {
  if (target === "off" || target === "") return ok(silent);
  if (target === "stdout") return ok(writeTo(process.stdout, dropped, async () => {}));
  if (!target.startsWith("file:")) return err(`"${target}" is none of off, stdout, file:PATH`);
  const stream: WriteStream = createWriteStream(target.slice(5), { flags: "a", mode: 0o640 });
  return ok(writeTo(stream, dropped, () => new Promise((resolve) => stream.end(() => resolve()))));
}

const silent: AccessLog = { record: () => {}, close: async () => {} };

function writeTo(stream: Writable, dropped: () => void, close: () => Promise<void>): AccessLog {
  let broken = false;
  stream.on("error", () => {
    broken = true; // a full disk or a closed pipe: every line from now on is counted as dropped
  });
  return {
    record(b, at, book) {
      if (broken || stream.writableLength > mostQueued) return dropped();
      stream.write(`${JSON.stringify(describeRecord(b, at, book))}\n`);
    },
    close: () => (broken ? Promise.resolve() : close()),
  };
}

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
    ...(decided === undefined || decided.notes.length === 0 ? {} : { notes: decided.notes }),
    ...(plan?.passthrough === undefined ? {} : { passthrough: plan.passthrough }),
    id: record.id,
  };
}

const pairOf = (workload: { readonly namespace: string; readonly name: string } | undefined): string | null =>
  workload === undefined ? null : `${workload.namespace}/${workload.name}`;
const identityText = (w: { trustDomain: string; namespace: string; serviceAccount: string }): string =>
  `spiffe://${w.trustDomain}/ns/${w.namespace}/sa/${w.serviceAccount}`;
