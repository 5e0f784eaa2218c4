// The other half of `explain`: what this node would say to a connection that arrives for one of its pods, from the code that decides.
import { parseSpiffeId } from "../api/names.ts";
import { policyNameOf } from "../api/policy.ts";
import { parseHostPort } from "../base/env.ts";
import { err, ok, type Result } from "../base/result.ts";
import { decideInbound, subjectOf } from "../decide/inbound.ts";
import { mtlsFor } from "../decide/mtls.ts";
import type { ExplainParts } from "./explain.ts";

const tunnels = ["fairlead/1", "hbone", "plain", "local"] as const;

/** `source`: its address. `destination`: "ip:port" of a pod here. `identity`: what the tunnel would prove, or null. */
export function explainInbound(
  parts: ExplainParts,
  asked: {
    readonly source: string;
    readonly destination: string;
    readonly identity: string | null;
    readonly tunnel: string;
  },
): Result<Readonly<Record<string, unknown>>, string> {
  const destination = parseHostPort(asked.destination);
  if (destination === undefined) return err(`destination: "${asked.destination}" is not ip:port`);
  const tunnel = tunnels.find((t) => t === asked.tunnel);
  if (tunnel === undefined) return err(`tunnel: "${asked.tunnel}" is none of ${tunnels.join(", ")}`);
  const identity = asked.identity === null ? ok(null) : parseSpiffeId(asked.identity);
  if (!identity.ok) return err(`identity: ${identity.error}`);
  const pod = parts.pods.byAddress(destination.host);
  if (pod === undefined) return err(`destination: no pod of this node has the address ${destination.host}`);
  const { state } = parts;
  const subject = subjectOf(state, pod);
  const mtls = mtlsFor(state, subject, destination.port);
  const arrival = {
    destination: { ip: destination.host, port: destination.port },
    sourceIp: asked.source,
    identity: identity.value,
    tunnel,
  };
  const verdict = decideInbound(state, pod, arrival, parts.decide().knowledge);
  return ok({
    pod: pod.name,
    generation: state.generation,
    tunnel,
    verdict: verdict.allow ? "allow" : "refuse",
    reason: verdict.reason,
    policy: verdict.policy ?? null,
    rule: verdict.rule ?? null,
    notes: verdict.notes,
    mtls: { mode: mtls.mode, policy: mtls.policy === undefined ? null : policyNameOf(mtls.policy) },
    policies: state.authorizations
      .inForce(subject)
      .map((p) => ({ name: policyNameOf(p), action: p.action, dryRun: p.dryRun })),
  });
}
