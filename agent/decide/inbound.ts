// The decision about a connection that arrives at a pod of this node, and about what to expect of its peer (DP-8). Pure.
import type { SpiffeId } from "../api/names.ts";
import { policyNameOf } from "../api/policy.ts";
import type { Workload } from "../api/workload.ts";
import type { Endpoint, Knowledge, LocalPod, LocalPods, PeerAnswer, Verdict, VerdictNote } from "../flow.ts";
import type { MeshState } from "../state/mesh-state.ts";
import { authorize } from "./authorize.ts";
import { mtlsFor, mtlsTrials } from "./mtls.ts";
import { servicePortsOf } from "./service-ports.ts";

export interface Arrival {
  readonly destination: Endpoint;
  readonly sourceIp: string;
  /** Proven by the tunnel, or by enrolment on this node; null for plaintext. */
  readonly identity: SpiffeId | null;
  readonly tunnel: "fairlead/1" | "hbone" | "plain" | "local";
}

/**
 * mTLS first, since without it the source's identity is unknown to every rule; then authorization, unless a data thread will ask about
 * each request (`perRequest`).
 */
export function decideInbound(
  state: MeshState,
  pod: LocalPod,
  arrival: Arrival,
  knowledge: Knowledge,
  perRequest = false,
): Verdict {
  // Before anything was ever heard, "no policy" would only mean "not told yet".
  if (knowledge === "none") return { allow: false, reason: "policies_stale", notes: [] };
  const subject = subjectOf(state, pod);
  const mtls = mtlsFor(state, subject, arrival.destination.port);
  if (mtls.mode === "strict") {
    const policy = mtls.policy === undefined ? {} : { policy: policyNameOf(mtls.policy) };
    if (knowledge === "expired") return { allow: false, reason: "policies_stale", ...policy, notes: [] };
    if (arrival.tunnel === "plain")
      return withTrials(state, subject, arrival, { allow: false, reason: "plaintext_refused", ...policy, notes: [] });
  }
  const verdict: Verdict = perRequest
    ? { allow: true, reason: "allowed", notes: [] }
    : authorize(state, {
        destination: subject,
        identity: arrival.identity,
        sourceIp: arrival.sourceIp,
        destinationIp: arrival.destination.ip,
        port: arrival.destination.port,
      });
  return arrival.tunnel === "plain" ? withTrials(state, subject, arrival, verdict) : verdict;
}

/** Notes which PeerAuthentications in dry run would refuse this plaintext, or would not refuse it where another does. */
function withTrials(state: MeshState, subject: Workload, { destination }: Arrival, verdict: Verdict): Verdict {
  if (!verdict.allow && verdict.reason !== "plaintext_refused") return verdict;
  const notes: VerdictNote[] = [];
  for (const { mode, policy } of mtlsTrials(state, subject, destination.port))
    if ((mode === "strict") === verdict.allow)
      notes.push({ kind: verdict.allow ? "would_deny" : "would_allow", policy: policyNameOf(policy) });
  return notes.length === 0 ? verdict : { ...verdict, notes: [...verdict.notes, ...notes] };
}

/** The pod with the node's own knowledge of it (labels, addresses), and discovery's of what it serves. */
export function subjectOf(state: MeshState, pod: LocalPod): Workload {
  const known = state.workloads.byUid(pod.workload.uid);
  if (known === undefined) return pod.workload;
  const made = subjects.get(pod.workload);
  if (made?.known === known) return made.subject;
  const subject = { ...pod.workload, services: known.services, region: known.region, zone: known.zone };
  subjects.set(pod.workload, { known, subject });
  return subject;
}
// One object per pod while neither side changes: what is kept per subject (policies in force) is then found again.
const subjects = new WeakMap<Workload, { readonly known: Workload; readonly subject: Workload }>();

export interface PeerWaits {
  /** At most this long for a tunnel hello under PERMISSIVE, ms. */
  readonly permissiveMs: number;
  /** And under STRICT, ms: the handshake's own timeout. */
  readonly strictMs: number;
}

/** A peer's address is a hint for waiting, never proof: bytes decide what it is, this only says how long to wait for them. */
export function decidePeer(
  state: MeshState,
  locals: LocalPods,
  pod: LocalPod,
  sourceIp: string,
  port: number,
  waits: PeerWaits,
): PeerAnswer {
  const subject = subjectOf(state, pod);
  const { mode } = mtlsFor(state, subject, port);
  const speaker = isSpeaker(state, locals, sourceIp);
  if (mode === "disable") return { speaker, mode, waitMs: 0 };
  if (mode === "strict") return { speaker, mode, waitMs: waits.strictMs };
  const waitMs = !speaker && servesFirst(state, subject, port) ? 0 : waits.permissiveMs;
  return { speaker, mode, waitMs };
}

export function isSpeaker(state: MeshState, locals: LocalPods, ip: string): boolean {
  if (locals.byAddress(ip) !== undefined) return true;
  const workload = state.workloads.byAddress(ip);
  return workload !== undefined && !workload.hostNetwork && workload.tunnel !== "none";
}

/** Whether some service says that this port's server greets first. */
function servesFirst(state: MeshState, workload: Workload, port: number): boolean {
  if (state.settings.serverFirstPorts.includes(port)) return true;
  return servicePortsOf(state, workload, port).some((declared) => declared?.serverFirst === true);
}
