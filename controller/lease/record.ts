// The Lease object (coordination.k8s.io/v1) as an election reads and writes it.
import { microTime } from "../../agent/kubernetes/wire.ts";

export interface LeaseRecord {
  /** "" when nobody holds it. */
  readonly holder: string;
  readonly durationMs: number;
  /** Changes with every renewal; only whether it changed is looked at, never how it compares with our clock. */
  readonly renewTime: string;
  readonly resourceVersion: string;
  readonly transitions: number;
  /** The object as it was read: fields of others are written back. */
  readonly raw: Readonly<Record<string, unknown>>;
}

const record = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
const text = (value: unknown): string => (typeof value === "string" ? value : "");

/** undefined when it is no Lease that could be written back. */
export function readLease(value: unknown): LeaseRecord | undefined {
  const raw = record(value);
  const resourceVersion = text(record(raw.metadata).resourceVersion);
  if (resourceVersion === "") return undefined;
  const { holderIdentity, leaseDurationSeconds, renewTime, leaseTransitions } = record(raw.spec);
  const seconds = typeof leaseDurationSeconds === "number" && leaseDurationSeconds > 0 ? leaseDurationSeconds : 1;
  return {
    holder: text(holderIdentity),
    durationMs: Math.min(seconds, 3_600) * 1000,
    renewTime: text(renewTime),
    resourceVersion,
    transitions: typeof leaseTransitions === "number" ? leaseTransitions : 0,
    raw,
  };
}

export interface LeaseClaim {
  readonly namespace: string;
  readonly name: string;
  /** "" gives it up. */
  readonly holder: string;
  readonly durationMs: number;
  readonly nowMs: number;
}

/** The object to write: taken over, renewed or given up, on top of what was read (undefined: there is none yet). */
export function writeLease(claim: LeaseClaim, before: LeaseRecord | undefined): object {
  const spec = record(before?.raw.spec);
  const isSame = before?.holder === claim.holder;
  const now = microTime(claim.nowMs);
  return {
    ...before?.raw,
    apiVersion: "coordination.k8s.io/v1",
    kind: "Lease",
    metadata: before === undefined ? { name: claim.name, namespace: claim.namespace } : before.raw.metadata,
    spec: {
      ...spec,
      holderIdentity: claim.holder,
      // Given up, it is free after the shortest time that the API takes, also for those who do not look at the holder.
      leaseDurationSeconds: claim.holder === "" ? 1 : Math.ceil(claim.durationMs / 1000),
      acquireTime: isSame ? (spec.acquireTime ?? now) : now,
      renewTime: now,
      leaseTransitions:
        before === undefined || isSame || claim.holder === "" ? (before?.transitions ?? 0) : before.transitions + 1,
    },
  };
}
