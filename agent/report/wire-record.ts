// The 128-byte record of an ended connection (docs/native-channel.md, kind 5): where each field lies, and readers that make no
// garbage. A record is read in place; only the access log and the admin page turn one into an object.
import { type CloseReason, closeReasons } from "../flow.ts";

export const recordBytes = 128;
export const recordVersion = 1;
/** Not an end but a count of openings, in the place of the bytes sent. */
export const openedVersion = 2;

export const lanes = ["direct", "tunnel", "hbone", "plain", "local", "http", "none"] as const;
export type Lane = (typeof lanes)[number];
const protocols = ["unknown", "tls", "http", "http2", "tcp", "server_first"] as const;
const closers = ["nobody", "client", "server", "agent"] as const;

export const noEndpoint = 65_535;
const flagReused = 2;
const flagRetried = 4;
const flagOpened = 8;

export const laneCode = (b: Buffer, at: number): number => b[at + 2] ?? 6;
export const isInbound = (b: Buffer, at: number): boolean => b[at + 1] === 1;
export const reasonCode = (b: Buffer, at: number): number => b.readUInt16LE(at + 4);
export const planId = (b: Buffer, at: number): number => b.readUInt32LE(at + 8);
export const verdictId = (b: Buffer, at: number): number => b.readUInt32LE(at + 12);
export const endpointIndex = (b: Buffer, at: number): number => b.readUInt16LE(at + 16);
export const durationUs = (b: Buffer, at: number): number => b.readUInt32LE(at + 40);
export const readyUs = (b: Buffer, at: number): number => b.readUInt32LE(at + 44);
/** Its opening was told when it happened, and does not count again. */
export const wasOpened = (b: Buffer, at: number): boolean => ((b[at + 7] ?? 0) & flagOpened) !== 0;
/** Number of the policy by which the other agent refused it, 0 none. */
export const remotePolicy = (b: Buffer, at: number): number => b.readUInt32LE(at + 120);
/** Exact up to 2^53 bytes. */
export const sentBytes = (b: Buffer, at: number): number => u64(b, at + 48);
export const receivedBytes = (b: Buffer, at: number): number => u64(b, at + 56);

const u64 = (b: Buffer, at: number): number => b.readUInt32LE(at) + b.readUInt32LE(at + 4) * 4_294_967_296;

export const reasonText = (code: number): CloseReason | `code_${number}` =>
  (closeReasons as Readonly<Record<number, CloseReason>>)[code] ?? `code_${code}`;

export interface DecodedRecord {
  readonly direction: "outbound" | "inbound";
  readonly lane: Lane;
  readonly protocol: (typeof protocols)[number];
  readonly reason: CloseReason | `code_${number}`;
  readonly closedBy: (typeof closers)[number];
  readonly reused: boolean;
  readonly retried: boolean;
  readonly planId: number;
  readonly verdictId: number;
  readonly endpoint: number;
  readonly source: string;
  readonly destination: string;
  readonly upstream: string;
  readonly startedMs: number;
  readonly durationUs: number;
  readonly readyUs: number;
  readonly sent: number;
  readonly received: number;
  readonly id: number;
  readonly remotePolicy: number;
}

/** `formatAddress` turns 16 bytes and a port into text. */
export function decodeRecord(
  b: Buffer,
  at: number,
  formatAddress: (bytes: Uint8Array, port: number) => string,
): DecodedRecord {
  const flags = b[at + 7] ?? 0;
  const address = (offset: number, portAt: number): string =>
    formatAddress(b.subarray(at + offset, at + offset + 16), b.readUInt16LE(at + portAt));
  return {
    direction: isInbound(b, at) ? "inbound" : "outbound",
    lane: lanes[laneCode(b, at)] ?? "none",
    protocol: protocols[b[at + 3] ?? 0] ?? "unknown",
    reason: reasonText(reasonCode(b, at)),
    closedBy: closers[b[at + 6] ?? 0] ?? "nobody",
    reused: (flags & flagReused) !== 0,
    retried: (flags & flagRetried) !== 0,
    planId: planId(b, at),
    verdictId: verdictId(b, at),
    endpoint: endpointIndex(b, at),
    source: address(64, 18),
    destination: address(80, 20),
    upstream: address(96, 22),
    startedMs: u64(b, at + 32),
    durationUs: durationUs(b, at),
    readyUs: readyUs(b, at),
    sent: sentBytes(b, at),
    received: receivedBytes(b, at),
    id: u64(b, at + 112),
    remotePolicy: remotePolicy(b, at),
  };
}
