// A policy's limits as the pools of connections to servers keep them. Pure.
import type { HttpPolicy } from "../api/http-policy.ts";
import { defaultPoolLimits, type PoolLimits } from "../forward/server-pool.ts";

export const poolLimitsOf = ({ limits, timeouts }: Pick<HttpPolicy, "limits" | "timeouts">): PoolLimits => ({
  ...defaultPoolLimits,
  maxConnections: limits.maxConnections || defaultPoolLimits.maxConnections,
  maxWaiting: limits.maxPending || defaultPoolLimits.maxWaiting,
  maxRequests: limits.maxRequestsPerConnection,
  connectTimeoutMs: timeouts.connectMs ?? defaultPoolLimits.connectTimeoutMs,
});
