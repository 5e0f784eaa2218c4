// The record of a connection that a data thread carried byte for byte, in the form in which native tells of its own (wire-record.ts).
import { parseIp } from "../base/ip.ts";
import { closeReasons, type Endpoint } from "../flow.ts";
import { type Lane, lanes, noEndpoint, recordBytes, recordVersion } from "../report/wire-record.ts";
import type { HandedEnd, HandedSocket } from "../threads.ts";

const tcp = 4;
const codes = new Map(Object.entries(closeReasons).map(([code, reason]) => [reason as string, Number(code)]));

/** 128 bytes; the opening is told with the end. undefined: native has a record of it, since one of its sides is a stream in a tunnel. */
export function carriedRecord(end: HandedEnd): Buffer | undefined {
  const { handed, reason } = end;
  const lane = laneOf(handed);
  const isTold = (lane === "tunnel" || lane === "hbone") && (handed.direction === "inbound" || end.readyUs > 0);
  if (isTold) return undefined;
  const record = Buffer.alloc(recordBytes);
  const put = (at: number, portAt: number, address: Endpoint | undefined): void => {
    if (address === undefined) return;
    record.set(parseIp(address.ip) ?? [], at);
    record.writeUInt16LE(address.port, portAt);
  };
  const isInbound = handed.direction === "inbound";
  record.set([recordVersion, isInbound ? 1 : 0, lanes.indexOf(lane), tcp]);
  record.writeUInt16LE(codes.get(reason) ?? 0, 4);
  record[6] = reason === "client_reset" ? 1 : reason === "server_reset" ? 2 : 0;
  record.writeUInt32LE(handed.planId, 8);
  record.writeUInt32LE(handed.verdictId, 12);
  record.writeUInt16LE(handed.upstream?.index ?? noEndpoint, 16);
  put(64, 18, handed.source);
  put(80, 20, handed.original);
  put(96, 22, isInbound ? handed.original : (handed.upstream ?? handed.original));
  record.writeBigUInt64LE(BigInt(end.startedMs), 32);
  record.writeUInt32LE(Math.min(end.durationUs, 0xffff_ffff), 40);
  record.writeUInt32LE(Math.min(end.readyUs, 0xffff_ffff), 44);
  record.writeBigUInt64LE(BigInt(end.sent), 48);
  record.writeBigUInt64LE(BigInt(end.received), 56);
  record.writeBigUInt64LE(BigInt(handed.id), 112);
  return record;
}

function laneOf({ direction, tunnel, upstream }: HandedSocket): Lane {
  const mode = direction === "inbound" ? tunnel : (upstream?.mode ?? "plain");
  if (mode === "fairlead/1") return "tunnel";
  return mode === "hbone" || mode === "local" ? mode : "plain";
}
