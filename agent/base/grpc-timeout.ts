// The deadline of a gRPC call as it stands in its head (grpc/doc/PROTOCOL-HTTP2.md, Timeout). Pure.

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
