// `explain SOURCE DESTINATION`: what the running agent would do with a connection, step by step, from the code that decides.
import { parsePodName, serviceName } from "../api/names.ts";
import { policyNameOf } from "../api/policy.ts";
import { identityOf } from "../api/workload.ts";
import { parseHostPort } from "../base/env.ts";
import { err, ok, type Result } from "../base/result.ts";
import { connectionLimits } from "../decide/connection-limits.ts";
import { type DirectSettings, decideDirect } from "../decide/direct-rows.ts";
import { subjectOf } from "../decide/inbound.ts";
import { mtlsFor, mtlsTrials } from "../decide/mtls.ts";
import { askedOf, type DecideSettings, decideOutbound, type OutboundDecision } from "../decide/outbound.ts";
import { serviceEndpoints } from "../decide/service-endpoints.ts";
import type { Upstream } from "../decide/upstreams.ts";
import type { Endpoint } from "../flow.ts";
import type { EnrolledPod, Enrolment } from "../intercept/enrol.ts";
import type { MeshState } from "../state/mesh-state.ts";
import type { PolicySubject } from "../state/policies.ts";
import { describeInterception, type Interception } from "./interception.ts";

export interface ExplainParts {
  readonly state: MeshState;
  readonly pods: Enrolment;
  readonly interception: () => Interception;
  readonly decide: () => DecideSettings;
  readonly direct: () => DirectSettings;
  /** Whether data threads read HTTP here. */
  readonly readsHttp: () => boolean;
  /** Unix ms. */
  readonly wallMs: () => number;
}

/**
 * `destination`: "namespace/service:port" or "ip:port". `perRequest`: the HTTP lane takes the connection, so that policies about requests
 * are asked later.
 */
export function explain(
  parts: ExplainParts,
  sourceText: string,
  destinationText: string,
  perRequest = false,
): Result<Readonly<Record<string, unknown>>, string> {
  const name = parsePodName(sourceText);
  if (!name.ok) return err(`source: ${name.error}`);
  const source = parts.pods.byName(name.value);
  if (source === undefined) return err(`source: ${name.value} is not enrolled on this node`);
  const destination = resolve(parts.state, source, destinationText);
  if (!destination.ok) return destination;
  const family = destination.value.ip.includes(":");
  const sourceIp = source.workload.addresses.find((a) => a.includes(":") === family) ?? "";
  const settings = { ...parts.decide(), perRequest };
  const decision = decideOutbound(parts.state, parts.pods, source, sourceIp, destination.value, settings);
  const base = {
    source: { pod: source.name, identity: source.identity, address: sourceIp },
    destination: destinationText,
    address: destination.value,
    interception: describeInterception(parts.interception()),
    generation: parts.state.generation,
    route: describeRoute(decision.route),
    ...describeChoice(parts.state, source, decision, destination.value),
  };
  if (decision.kind === "refuse") {
    const { reason, policy, verdict } = decision;
    return ok({
      ...base,
      verdict: "refuse",
      lane: "none",
      reason,
      policy: policy ?? null,
      rule: verdict?.rule ?? null,
      notes: verdict?.notes ?? [],
      endpoints: [],
    });
  }
  const endpoints = decision.upstreams.map((upstream, i) => {
    const verdict = decision.verdicts[i];
    return { ...describeUpstream(parts, source, upstream), ...(verdict === undefined ? {} : { verdict }) };
  });
  const lanes = [...new Set(endpoints.map((e) => e.lane))];
  const first = endpoints[0];
  return ok({
    ...base,
    verdict: "allow",
    lane: lanes.join(","),
    reason: "allowed",
    policy: decision.verdicts[0]?.policy ?? null,
    rule: decision.verdicts[0]?.rule ?? null,
    decidedBy:
      first?.lane === "tunnel" || first?.lane === "hbone"
        ? "the destination's node, at the stream's opening"
        : "this node",
    protocol: decision.protocol === "" ? "detected" : decision.protocol,
    connectionLimits: connectionLimits(parts.state, source.workload.namespace, decision.route) ?? null,
    endpoints,
  });
}

/** How the service leads this client: endpoints that are not for it, each with why, and the one that it is kept with. */
function describeChoice(
  state: MeshState,
  source: EnrolledPod,
  decision: OutboundDecision,
  destination: Endpoint,
): Readonly<Record<string, unknown>> {
  const { route } = decision;
  if (route.kind !== "service") return {};
  const endpoints = serviceEndpoints(
    state,
    route.service,
    route.port,
    askedOf(state, source, route.service, destination),
  );
  const leftOut = endpoints.flatMap(({ workload, to, leftOut: why }) =>
    why === undefined ? [] : [{ address: to ?? null, workload: `${workload.namespace}/${workload.name}`, why }],
  );
  const kept = decision.kind === "forward" ? decision.kept : undefined;
  return { leftOut, affinity: kept === undefined ? null : { endpoint: kept.id, seconds: kept.timeoutS } };
}

const laneOf = { "fairlead/1": "tunnel", hbone: "hbone", plain: "plain", local: "local" } as const;

function describeUpstream(parts: ExplainParts, source: EnrolledPod, upstream: Upstream) {
  const { state, pods } = parts;
  const { ip, port, mode, workload, weight } = upstream;
  const known = workload.name !== "";
  const subject = upstream.local === undefined ? workload : subjectOf(state, upstream.local);
  const policies = state.authorizations
    .inForce(subject)
    .map((p) => ({ name: policyNameOf(p), action: p.action, dryRun: p.dryRun }));
  const base = {
    address: { ip, port },
    weight,
    workload: known ? `${workload.namespace}/${workload.name}` : null,
    node: workload.node,
    identity: known && mode !== "plain" ? identityOf(workload) : null,
    mtls: describeMtls(state, subject, port),
    policies: known ? policies : [],
    rateLimits: known ? describeLimits(state, subject) : [],
  };
  const destination = upstream.local && pods.byName(upstream.local.name);
  if (destination === undefined) return { ...base, lane: laneOf[mode], direct: false, whyNotDirect: whyRemote(mode) };
  const direct = decideDirect(state, { source, destination, ip, port }, parts.direct());
  if (!direct.direct) return { ...base, lane: laneOf[mode], direct: false, whyNotDirect: direct.why };
  if (destination.options.inboundPorts.includes(port))
    return { ...base, lane: laneOf[mode], direct: false, whyNotDirect: "excluded" };
  if (!destination.listening.has(port))
    return { ...base, lane: laneOf[mode], direct: false, whyNotDirect: "not_listening" };
  return { ...base, lane: "direct", direct: true };
}

/** The mutual TLS of a pod's port, who set it, and what policies in dry run would set. */
export function describeMtls(state: MeshState, subject: PolicySubject, port: number) {
  const { mode, policy } = mtlsFor(state, subject, port);
  const trials = mtlsTrials(state, subject, port).map((t) => ({ mode: t.mode, policy: policyNameOf(t.policy) }));
  const dryRun = trials.length === 0 ? {} : { dryRun: trials };
  return { mode, policy: policy === undefined ? null : policyNameOf(policy), ...dryRun };
}

/** Rate limits over a pod, each with what it counts by and how much it lets through. */
export const describeLimits = (state: MeshState, subject: PolicySubject): readonly string[] =>
  state.rateLimits.inForce(subject).flatMap((policy) => {
    const name = `${policyNameOf(policy)}${policy.dryRun ? " (dry run)" : ""}`;
    const limits = policy.limits.map((l) => `${name} ${l.name}: ${l.requests} in ${l.windowMs} ms by ${l.key}`);
    return policy.concurrency === undefined ? limits : [...limits, `${name} concurrency`];
  });

const whyRemote = (mode: Upstream["mode"]): string => (mode === "plain" ? "not_in_mesh" : "other_node");

function describeRoute(route: ReturnType<typeof decideOutbound>["route"]): Readonly<Record<string, unknown>> {
  if (route.kind === "service")
    return {
      kind: route.kind,
      service: `${route.service.namespace}/${route.service.name}`,
      port: route.port.port,
      via: route.via,
    };
  if (route.kind === "workload") return { kind: route.kind, workload: route.workload.uid };
  return { kind: route.kind, why: route.why };
}

function resolve(state: MeshState, source: EnrolledPod, text: string): Result<Endpoint, string> {
  const match = /^([^/]+)\/([^/:]+):([0-9]{1,5})$/.exec(text);
  if (match === null) {
    const at = parseHostPort(text);
    return at === undefined || at.port === 0
      ? err(`destination: "${text}" is neither namespace/service:port nor ip:port`)
      : ok({ ip: at.host, port: at.port });
  }
  const [, namespace = "", name = "", port = ""] = match;
  const service = state.services.byName(serviceName(namespace, name));
  if (service === undefined) return err(`destination: no service ${namespace}/${name} is known`);
  if (!service.ports.some((p) => p.port === Number(port)))
    return err(
      `destination: ${namespace}/${name} has no port ${port}, only ${service.ports.map((p) => p.port).join(", ")}`,
    );
  const families = new Set(source.workload.addresses.map((a) => a.includes(":")));
  const ip = service.addresses.find((a) => families.has(a.includes(":")));
  if (ip !== undefined) return ok({ ip, port: Number(port) });
  // Headless: clients reach its members by their own addresses.
  for (const workload of state.workloads.membersOf(serviceName(namespace, name))) {
    const target = workload.services.find((m) => m.service === `${namespace}/${name}`);
    const mapping = target?.ports.find((p) => p.servicePort === Number(port));
    const address = workload.addresses.find((a) => families.has(a.includes(":")));
    if (mapping !== undefined && address !== undefined) return ok({ ip: address, port: mapping.targetPort });
  }
  return err(`destination: ${namespace}/${name} has neither an address nor an endpoint`);
}
