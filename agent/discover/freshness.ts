// How old what is known may be: connected is fresh; past the TTL it is marked stale; past maxStale STRICT workloads close (DP-20).
import type { Clock } from "../base/clock.ts";

export interface Freshness {
  connected: boolean;
  /** Unix ms of the last sign of life of the controller; 0 for never. */
  lastContactMs: number;
}

export const ageMs = (freshness: Freshness, clock: Clock): number =>
  freshness.connected ? 0 : Math.max(0, clock.now() - freshness.lastContactMs);

export const isStale = (freshness: Freshness, clock: Clock, ttlMs: number): boolean => ageMs(freshness, clock) > ttlMs;

/** True only for an agent that once knew policies: one that never had any has nothing that could be out of date. */
export const isExpired = (freshness: Freshness, clock: Clock, maxStaleMs: number): boolean =>
  freshness.lastContactMs > 0 && ageMs(freshness, clock) > maxStaleMs;
