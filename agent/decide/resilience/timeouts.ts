// Which timeouts hold for a request: rule, then policy, then mesh. Pure.
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
