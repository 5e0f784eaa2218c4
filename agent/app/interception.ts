// How this node intercepts: asked of native once at start, logged in one line, told by status, explain and a metric.
import type { Logger } from "../base/log.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { Native } from "../native.ts";

export interface Interception {
  readonly way: "none" | "ebpf" | "nftables";
  /** Why it is that way: what was asked for, or what is missing and what is done instead. */
  readonly reason: string;
}

/** Loads what intercepts. A fallback is a warning, since it costs the direct lane; the error names what is missing. */
export async function loadInterception(
  native: Native,
  log: Logger,
  asked: string,
): Promise<Result<Interception, string>> {
  const host = await native.call("host.probe", {});
  if (!host.ok) return err(`host.probe: ${host.error.message}`);
  const loaded = await native.call("programs.load", {}, 30_000);
  if (!loaded.ok) return err(`interception: ${loaded.error.code}: ${loaded.error.message}`);
  const { interception, reason } = loaded.value;
  const level = asked === "auto" && interception !== "ebpf" ? "warn" : "info";
  const { kernel, missing } = host.value;
  log[level]("interception", { asked, ...loaded.value, kernel, ...(missing.length > 0 ? { missing } : {}) });
  return ok({ way: interception, reason });
}

/** For status and explain. */
export function describeInterception({ way, reason }: Interception): Readonly<Record<string, unknown>> {
  return { way, reason, directLane: way === "ebpf" };
}
