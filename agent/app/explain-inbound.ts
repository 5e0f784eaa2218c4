// The other half of `explain`: what this node would say to a connection that arrives for one of its pods, from the code that decides.
import { parseSpiffeId, type SpiffeId } from "../api/names.ts";
import { policyNameOf } from "../api/policy.ts";
import { identityOf } from "../api/workload.ts";
import { parseHostPort } from "../base/env.ts";
import { err, ok, type Result } from "../base/result.ts";
import { decideInbound, subjectOf } from "../decide/inbound.ts";
import type { MeshState } from "../state/mesh-state.ts";
import { neededFeatures } from "./asked-features.ts";
import { describeLimits, describeMtls, type ExplainParts } from "./explain.ts";
import { type AskedRequest, headOf, judgeRequest } from "./explain-request.ts";

const tunnels = ["fairlead/1", "hbone", "plain", "local"] as const;

/**
 * `source`: its address. `destination`: "ip:port" of a pod here. `identity`: what the tunnel would prove, or null. `tunnel`: how it
 * arrives; "announced" is what discovery says that the source speaks, with its identity.
 */
export function explainInbound(
  parts: ExplainParts,
  asked: {
    readonly source: string;
    readonly destination: string;
    readonly identity: string | null;
    readonly tunnel: string;
    /** Asked about beside the connection. */
    readonly request: AskedRequest | undefined;
  },
): Result<Readonly<Record<string, unknown>>, string> {
  const destination = parseHostPort(asked.destination);
  if (destination === undefined) return err(`destination: "${asked.destination}" is not ip:port`);
  const { state } = parts;
  const speaker = asked.tunnel === "announced" ? announced(state, asked.source) : undefined;
  const tunnel = speaker?.tunnel ?? tunnels.find((t) => t === asked.tunnel);
  if (tunnel === undefined) return err(`tunnel: "${asked.tunnel}" is none of announced, ${tunnels.join(", ")}`);
  const proven = asked.identity ?? speaker?.identity ?? null;
  const identity = proven === null ? ok(null) : parseSpiffeId(proven);
  if (!identity.ok) return err(`identity: ${identity.error}`);
  const pod = parts.pods.byAddress(destination.host);
  if (pod === undefined) return err(`destination: no pod of this node has the address ${destination.host}`);
  const subject = subjectOf(state, pod);
  const arrival = {
    destination: { ip: destination.host, port: destination.port },
    sourceIp: asked.source,
    identity: identity.value,
    tunnel,
  };
  const { request } = asked;
  const asRequests = request !== undefined && parts.readsHttp();
  const posture = decideInbound(state, pod, arrival, parts.decide().knowledge, asRequests);
  const from = { ip: asked.source, identity: identity.value };
  const verdict =
    asRequests && posture.allow
      ? judgeRequest(state, pod, arrival.destination, from, headOf(request, ""), request.features)
      : posture;
  return ok({
    pod: pod.name,
    generation: state.generation,
    tunnel,
    identity: identity.value,
    verdict: verdict.allow ? "allow" : "refuse",
    reason: verdict.reason,
    policy: verdict.policy ?? null,
    rule: verdict.rule ?? null,
    ...(verdict.input === undefined ? {} : { input: verdict.input }),
    notes: verdict.notes,
    ...(asRequests ? { needs: neededFeatures(state, subject, request.features) } : {}),
    mtls: describeMtls(state, subject, destination.port),
    policies: state.authorizations
      .inForce(subject)
      .map((p) => ({ name: policyNameOf(p), action: p.action, dryRun: p.dryRun })),
    rateLimits: describeLimits(state, subject),
  });
}

function announced(
  state: MeshState,
  source: string,
): { readonly tunnel: (typeof tunnels)[number]; readonly identity: SpiffeId | null } {
  const workload = state.workloads.byAddress(source);
  if (workload === undefined || workload.hostNetwork || workload.tunnel === "none")
    return { tunnel: "plain", identity: null };
  return { tunnel: workload.tunnel, identity: identityOf(workload) };
}
