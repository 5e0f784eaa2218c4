// Records of ended connections as native encodes them (native/src/record.rs), for tests of the reading side.
import { parseIp } from "../../agent/base/ip.ts";

export interface RecordFields {
  readonly inbound?: boolean;
  readonly lane?: number;
  readonly protocol?: number;
  readonly reason?: number;
  readonly closer?: number;
  readonly flags?: number;
  readonly plan?: number;
  readonly verdict?: number;
  readonly endpoint?: number;
  readonly source?: readonly [string, number];
  readonly destination?: readonly [string, number];
  readonly upstream?: readonly [string, number];
  readonly startedMs?: number;
  readonly durationUs?: number;
  readonly readyUs?: number;
  readonly sent?: number;
  readonly received?: number;
  readonly id?: number;
  readonly policy?: number;
}

export function encodeRecord(fields: RecordFields): Buffer {
  const b = Buffer.alloc(128);
  const address = (at: number, portAt: number, end: readonly [string, number] | undefined): void => {
    if (end === undefined) return;
    b.set(parseIp(end[0]) ?? [], at);
    b.writeUInt16LE(end[1], portAt);
  };
  b.set([1, fields.inbound ? 1 : 0, fields.lane ?? 1, fields.protocol ?? 4]);
  b.writeUInt16LE(fields.reason ?? 0, 4);
  b.set([fields.closer ?? 1, fields.flags ?? 0], 6);
  b.writeUInt32LE(fields.plan ?? 0, 8);
  b.writeUInt32LE(fields.verdict ?? 0, 12);
  b.writeUInt16LE(fields.endpoint ?? 0, 16);
  address(64, 18, fields.source ?? ["10.244.1.5", 40000]);
  address(80, 20, fields.destination ?? ["10.96.0.1", 80]);
  address(96, 22, fields.upstream);
  b.writeBigUInt64LE(BigInt(fields.startedMs ?? 1_700_000_000_000), 32);
  b.writeUInt32LE(fields.durationUs ?? 1000, 40);
  b.writeUInt32LE(fields.readyUs ?? 100, 44);
  b.writeBigUInt64LE(BigInt(fields.sent ?? 0), 48);
  b.writeBigUInt64LE(BigInt(fields.received ?? 0), 56);
  b.writeBigUInt64LE(BigInt(fields.id ?? 1), 112);
  b.writeUInt32LE(fields.policy ?? 0, 120);
  return b;
}
