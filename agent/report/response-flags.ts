// Envoy's response flags, which Istio's dashboards and access logs show: why a request ended as it did. Pure.
import type { Verdict } from "../flow.ts";

/** Of a request that a verdict refused. */
export function refusedFlags(reason: Verdict["reason"]): string {
  if (denials.has(reason)) return "UAEX";
  if (reason === "no_endpoints" || reason === "no_local_endpoint") return "UH";
  return reason === "unknown_destination" ? "NR" : "LR";
}

/** Of an exchange that ended with this outcome (forward/http1/exchange.ts). */
export function flagsOf(outcome: string): string {
  if (/^(connect|tunnel|tls)_/.test(outcome)) return "UF";
  if (denials.has(outcome)) return "UAEX";
  if (outcome === "pool_overflow" || outcome === "memory_overflow") return "UO";
  if (timeouts.has(outcome)) return "UT";
  if (outcome === "client_gone") return "DC";
  if (outcome.startsWith("refused:")) return "UPE";
  return "UC";
}
const denials: ReadonlySet<string> = new Set(["policy_denied", "plaintext_refused", "policies_stale"]);
const timeouts = new Set(["request_timeout", "try_timeout", "response_timeout", "response_stalled"]);
