// The three steps of a root's rotation, each refused while it would cut somebody off (unless forced).
import { codecs } from "../../agent/api/resources.ts";
import { err, type Result } from "../../agent/base/result.ts";
import type { Authority } from "../issue/authority.ts";
import type { AgentRegistry } from "../serve/registry.ts";
import type { Ledger } from "./ledger.ts";

export interface RotationParts {
  readonly authority: Authority;
  readonly registry: AgentRegistry;
  readonly ledger: Ledger;
  readonly trustDomain: string;
  readonly now: () => number;
  /** Longest life of any certificate that agents hold. */
  readonly longestLifeMs: number;
  /** They hear of a root only with their next certificate. */
  readonly hasZtunnels: boolean;
}
export const rotationPhases = ["begin", "switch", "finish"] as const;
export type RotationStep = (typeof rotationPhases)[number];

/** Replicas look at the CA every few seconds, and their agents come back within one. */
const sharedSettleMs = 60_000;

/** Takes one step. The error says what is missing. */
export async function rotate(
  step: RotationStep,
  isForced: boolean,
  parts: RotationParts,
): Promise<Result<void, string>> {
  const { authority } = parts;
  const hindrance = isForced ? undefined : hindranceTo(step, parts);
  if (hindrance !== undefined) return err(`${hindrance}; or give "force": true`);
  switch (step) {
    case "begin":
      return authority.beginRotation();
    case "switch":
      return authority.switchRoot();
    case "finish":
      return authority.finishRotation();
  }
}

function hindranceTo(step: RotationStep, parts: RotationParts): string | undefined {
  const { authority, registry, ledger } = parts;
  if (step === "begin") return undefined;
  // Other replicas' agents are not seen here, and neither is what those have issued: time must have passed.
  if (authority.isShared && step === "switch" && authority.phase === "both-trusted") {
    const readyMs = authority.begunAtMs + sharedSettleMs;
    if (parts.now() < readyMs)
      return `agents of other replicas may not have taken the trust bundle yet, until ${new Date(readyMs).toISOString()}`;
  }
  const { typeUrl } = codecs.TrustBundle;
  const behind = registry.current().filter((stream) => !stream.stateOf(typeUrl, parts.trustDomain).isCurrent);
  if (behind.length > 0)
    return `agents have not taken the trust bundle yet: ${behind
      .map((s) => s.node)
      .slice(0, 10)
      .join(", ")}`;
  if (step === "switch" && authority.phase === "both-trusted" && parts.hasZtunnels) return ztunnelsBehind(parts);
  if (step === "switch" || authority.phase !== "switched") return undefined;
  const old = ledger.underOtherRoots(authority.activeRoot);
  if (old.length > 0) {
    return `${old.length} certificates of the old root are in force (${named(old)})`;
  }
  // A controller without a ledger from before the switch does not know what was issued then.
  const endMs = authority.switchedAtMs + parts.longestLifeMs;
  if ((authority.isShared || ledger.knownSinceMs > authority.switchedAtMs) && parts.now() < endMs) {
    return `certificates of the old root may be in force until ${new Date(endMs).toISOString()}`;
  }
  return undefined;
}

const named = (entries: readonly { readonly identity: string; readonly node: string }[]): string =>
  entries
    .slice(0, 5)
    .map((entry) => `${entry.identity} on ${entry.node}`)
    .join(", ");

function ztunnelsBehind({ authority, ledger, longestLifeMs, now }: RotationParts): string | undefined {
  const unaware = ledger.unawareOf(authority.newestRoot);
  if (unaware.length > 0)
    return `${unaware.length} certificates in force were given to ztunnels without the new root (${named(unaware)})`;
  const endMs = authority.begunAtMs + longestLifeMs;
  return (authority.isShared || ledger.knownSinceMs > authority.begunAtMs) && now() < endMs
    ? `ztunnels may not have heard of the new root until ${new Date(endMs).toISOString()}`
    : undefined;
}
