// Which timeouts hold for a request: rule, then policy, then mesh; and what a gRPC client allows. Pure.
import type { HttpTimeouts } from "../../api/http-policy.ts";

/** ms; 0: none. */
export interface EffectiveTimeouts {
  readonly requestMs: number;
  readonly tryMs: number;
  readonly responseMs: number;
  readonly connectMs: number;
  readonly idleMs: number;
}
/** Nothing but what every connection needs: applications choose their own times for requests. */
export const meshTimeouts: EffectiveTimeouts = {
  requestMs: 0,
  tryMs: 0,
  responseMs: 0,
  connectMs: 5000,
  idleMs: 300_000,
};

/** Made once per rule and policy, not per request. Of a whole request and one try of it the shorter bounds both. */
export function effectiveTimeouts(rule: HttpTimeouts, policy: HttpTimeouts, mesh = meshTimeouts): EffectiveTimeouts {
  const of = (key: keyof EffectiveTimeouts): number => rule[key] ?? policy[key] ?? mesh[key];
  const requestMs = of("requestMs");
  return {
    requestMs,
    tryMs: shorter(of("tryMs"), requestMs),
    responseMs: of("responseMs"),
    connectMs: of("connectMs"),
    idleMs: of("idleMs"),
  };
}

/** The shorter of two limits where 0 is none. */
export const shorter = (a: number, b: number): number => (a === 0 ? b : b === 0 ? a : Math.min(a, b));

const unitMs: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 1e-3, n: 1e-6 };

/**
 * `grpc-timeout` in ms, never 0 (a limit too short to measure is still one); undefined if missing or malformed: at most 8 digits and a
 * unit (gRPC over HTTP/2, Timeout).
 */
export function grpcTimeoutMs(field: string | undefined): number | undefined {
  const unit = field === undefined ? undefined : unitMs[field.slice(-1)];
  if (field === undefined || unit === undefined || !/^[0-9]{1,8}.$/.test(field)) return undefined;
  return Math.max(0.001, Number(field.slice(0, -1)) * unit);
}

/** What goes on upstream as `grpc-timeout` when `ms` are left: in a unit that 8 digits hold, never longer than what is left. */
export function grpcTimeoutField(ms: number): string {
  const left = Math.max(0, ms);
  if (left < 1e5) return `${Math.floor(left * 1000)}u`;
  if (left < 1e8) return `${Math.floor(left)}m`;
  return `${Math.min(99_999_999, Math.floor(left / 1000))}S`;
}
