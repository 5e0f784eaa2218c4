// ResiliencePolicies -> one HTTP policy per Service, and with its routes the HttpRouting that agents get. Pure.
import type { Fault, RouteFilter } from "../../agent/api/http-filters.ts";
import { defaultPolicy, type HttpPolicy, noTimeouts } from "../../agent/api/http-policy.ts";
import type { HttpRoute, HttpRouting, RouteRule } from "../../agent/api/http-routing.ts";
import { policyName, type ServiceName, serviceName, splitPair } from "../../agent/api/names.ts";
import type { Service } from "../../agent/api/service.ts";
import type { ClusterIndex, Indexed } from "../index/cluster-index.ts";
import type { ResiliencePolicyObject } from "../sources/types.ts";
import { type ApiCondition, accepted, type Condition, type PolicyStatus, refused } from "./conditions.ts";
import type { Namespaces } from "./namespaces.ts";
import type { ServiceRecords } from "./route-rules.ts";
import { isHttpPort } from "./routes.ts";

export interface Resilience {
  readonly policy: HttpPolicy;
  readonly fault: Fault | undefined;
  readonly name: string;
}
export interface TranslatedResilience {
  readonly policies: ReadonlyMap<ServiceName, Resilience>;
  readonly conditions: readonly Condition[];
}
type Entry = Indexed<ResiliencePolicyObject>;

/** Of several policies for one service the oldest holds, whole; by name where no ages are known (Gateway API, policy attachment). */
export function translateResilience(
  index: ClusterIndex,
  namespaces: Namespaces,
  services: ServiceRecords,
  faultsOn: boolean,
): TranslatedResilience {
  const holders = new Map<ServiceName, Entry>();
  const policies = new Map<ServiceName, Resilience>();
  const conditions: Condition[] = [];
  const entries = [...index.all("ResiliencePolicy")].sort(byAge);
  for (const entry of entries) {
    const missing = namespaces.missing(entry);
    if (missing !== undefined) {
      conditions.push(missing);
      continue;
    }
    const { spec, metadata } = entry.object;
    const applied: ServiceName[] = [];
    const lost: number[] = [];
    let rival: { readonly at: number; readonly service: ServiceName; readonly holder: Entry } | undefined;
    for (const [at, ref] of spec.targetRefs.entries()) {
      const service = serviceName(metadata.namespace, ref.name);
      const holder = holders.get(service);
      if (!services.has(service)) lost.push(at);
      else if (holder !== undefined) rival ??= { at, service, holder };
      else {
        holders.set(service, entry);
        applied.push(service);
        const sources = [policyName(metadata.namespace, metadata.name)];
        const fault = faultsOn ? spec.fault : undefined;
        policies.set(service, { policy: { ...spec.policy, sources }, fault, name: metadata.name });
      }
    }
    conditions.push(conditionOf(entry, applied, lost, rival, faultsOn));
  }
  return { policies, conditions };
}

const ageOf = ({ object }: Entry): number => Date.parse(object.metadata.creationTimestamp) || Number.POSITIVE_INFINITY;
const nameOf = ({ object }: Entry): string => `${object.metadata.namespace}/${object.metadata.name}`;
function byAge(a: Entry, b: Entry): number {
  const [x, y] = [ageOf(a), ageOf(b)];
  if (x !== y) return x < y ? -1 : 1;
  return nameOf(a) < nameOf(b) ? -1 : 1;
}

function conditionOf(
  entry: Entry,
  applied: readonly ServiceName[],
  lost: readonly number[],
  rival: { readonly at: number; readonly service: ServiceName; readonly holder: Entry } | undefined,
  faultsOn: boolean,
): Condition {
  const { metadata, spec } = entry.object;
  const resources = applied.map((name) => ({ kind: "HttpRouting", name }));
  const lostNames = lost.map((at) => serviceName(metadata.namespace, spec.targetRefs[at]?.name ?? ""));
  const missing = lostNames.length > 0 ? `there is no Service ${lostNames.join(", ")}` : "";
  const overruled =
    rival === undefined
      ? ""
      : `ResiliencePolicy ${nameOf(rival.holder)} holds for Service ${rival.service}: it is ${
          ageOf(rival.holder) === ageOf(entry) ? "the first by name" : "older"
        }`;
  const message = missing || overruled;
  const status = statusOf(metadata.generation, applied, missing, message);
  const fix = missing !== "" ? "add it or correct the name" : "keep one of the two";
  const field = `spec.targetRefs[${missing !== "" ? lost[0] : rival?.at}].name`;
  const reason = missing !== "" ? "TargetMissing" : "Overruled";
  if (applied.length === 0) return refused(entry, reason, { field, message, fix, status });
  if (message !== "") return accepted(entry, { resources, field, message, fix, status }, reason);
  if (!faultsOn && spec.fault !== undefined) {
    const off = "faults are switched off for the whole mesh: nothing is injected";
    const how = "set faultInjection of the MeshSettings to true, or remove the field";
    return accepted(entry, { resources, field: "spec.faultInjection", message: off, fix: how, status }, "FaultsOff");
  }
  return accepted(entry, { resources, status });
}

function statusOf(
  observedGeneration: number,
  applied: readonly ServiceName[],
  missing: string,
  message: string,
): PolicyStatus {
  const condition = (type: string, isTrue: boolean, reason: string, text: string): ApiCondition => ({
    type,
    status: isTrue ? "True" : "False",
    reason,
    message: text,
    observedGeneration,
  });
  const isReady = applied.length > 0 && message === "";
  const reason = isReady ? "Applied" : missing !== "" ? "TargetServiceNotFound" : "Overruled";
  return {
    observedGeneration,
    appliedToServices: applied,
    conditions: [
      condition("Ready", isReady, reason, message),
      condition("TargetServiceNotFound", missing !== "", missing !== "" ? reason : "Found", missing),
    ],
  };
}

/** One record per service that has routes or a policy. */
export function joinRouting(
  routes: ReadonlyMap<ServiceName, readonly HttpRoute[]>,
  policies: ReadonlyMap<ServiceName, Resilience>,
  services: ServiceRecords,
): readonly HttpRouting[] {
  const names = [...new Set([...routes.keys(), ...policies.keys()])].sort();
  return names.map((service) => {
    const [namespace, name] = splitPair(service);
    const resilience = policies.get(service);
    const record = services.get(service)?.record;
    const own = routes.get(service) ?? [];
    const fault = resilience?.fault;
    return {
      name,
      namespace,
      routes: fault === undefined || record === undefined ? own : withFault(own, record, resilience?.name ?? "", fault),
      policy: resilience?.policy ?? defaultPolicy,
    };
  });
}

/** Before every filter of every rule; ports without routes get one that changes nothing else. */
function withFault(routes: readonly HttpRoute[], service: Service, policy: string, fault: Fault): readonly HttpRoute[] {
  const filter: RouteFilter = { kind: "fault", value: fault };
  const faulty = routes.map((route) => ({
    ...route,
    rules: route.rules.map((rule) => ({ ...rule, filters: [filter, ...rule.filters] })),
  }));
  const shared = routes.filter((r) => r.consumers === "");
  const bare = service.ports.filter(
    (p) => isHttpPort(p) && !shared.some((r) => r.ports.length === 0 || r.ports.includes(p.port)),
  );
  return [...faulty, ...bare.map(({ port }) => toItself(service, port, policy, filter))];
}

function toItself(service: Service, port: number, policy: string, filter: RouteFilter): HttpRoute {
  const target = serviceName(service.namespace, service.name);
  const rule: RouteRule = {
    name: "",
    matches: [],
    filters: [filter],
    backends: [{ service: target, port, weight: 1, filters: [], subset: {}, invalid: "" }],
    timeouts: noTimeouts,
    retry: undefined,
    affinity: undefined,
  };
  return {
    kind: "http",
    name: policy,
    namespace: service.namespace,
    createdMs: 0,
    ports: [port],
    consumers: "",
    hostnames: [],
    rules: [rule],
  };
}
