// ResiliencePolicies -> one HTTP policy per Service, and with its routes the HttpRouting that agents get. Pure.
import type { RouteFilter } from "../../agent/api/http-filters.ts";
import { defaultPolicy, type HttpPolicy, noTimeouts } from "../../agent/api/http-policy.ts";
import type { HttpRoute, HttpRouting, RouteRule } from "../../agent/api/http-routing.ts";
import { policyName, type ServiceName, serviceName, splitPair } from "../../agent/api/names.ts";
import type { Service } from "../../agent/api/service.ts";
import type { ClusterIndex, Indexed } from "../index/cluster-index.ts";
import type { ResilienceSpec } from "../sources/http-types.ts";
import type { ResiliencePolicyObject } from "../sources/types.ts";
import { type RefProblem, resolveBackend, type ServiceRecords } from "./backend-refs.ts";
import {
  type ApiCondition,
  accepted,
  type Condition,
  dryRunField,
  isDryRun,
  type PolicyStatus,
  refused,
} from "./conditions.ts";
import type { Namespaces } from "./namespaces.ts";
import { isHttpPort } from "./routes.ts";

export interface Resilience {
  readonly policy: HttpPolicy;
  /** Before those of every route of the service. */
  readonly filters: readonly RouteFilter[];
  readonly name: string;
}
export interface TranslatedResilience {
  readonly policies: ReadonlyMap<ServiceName, Resilience>;
  readonly conditions: readonly Condition[];
}
type Entry = Indexed<ResiliencePolicyObject>;

/**
 * Of several policies for one service the oldest holds, whole; by name where no ages are known (Gateway API, policy attachment). One in
 * dry run is checked, and holds for none.
 */
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
    const { filters, problem } = filtersOf(entry, services, index);
    const isTrial = isDryRun(metadata.annotations);
    const applied: ServiceName[] = [];
    const lost: number[] = [];
    if (!spec.isEnabled) {
      conditions.push(disabled(entry));
      continue;
    }
    const foreign = spec.targetRefs.findIndex((ref) => ref.namespace !== "" && ref.namespace !== metadata.namespace);
    if (foreign >= 0) {
      conditions.push(outOfReach(entry, foreign));
      continue;
    }
    let rival: { readonly at: number; readonly service: ServiceName; readonly holder: Entry } | undefined;
    for (const [at, ref] of spec.targetRefs.entries()) {
      const service = serviceName(metadata.namespace, ref.name);
      const holder = holders.get(service);
      if (!services.has(service)) lost.push(at);
      else if (isTrial) applied.push(service);
      else if (holder !== undefined) rival ??= { at, service, holder };
      else {
        holders.set(service, entry);
        applied.push(service);
        const sources = [policyName(metadata.namespace, metadata.name)];
        const inForce = faultsOn ? filters : [];
        policies.set(service, { policy: { ...spec.policy, sources }, filters: inForce, name: metadata.name });
      }
    }
    conditions.push(conditionOf(entry, applied, lost, rival, faultsOn, problem));
  }
  return { policies, conditions };
}

/** What the policy does to requests. A divert without a backend is left out, so that the rest goes on. */
function filtersOf(
  { object }: Entry,
  services: ServiceRecords,
  index: ClusterIndex,
): { readonly filters: readonly RouteFilter[]; readonly problem: RefProblem | undefined } {
  const { fault, tarpit, divert } = object.spec;
  const filters: RouteFilter[] = [];
  const problems: RefProblem[] = [];
  if (fault !== undefined) filters.push({ kind: "fault", value: fault });
  if (tarpit !== undefined) filters.push({ kind: "tarpit", value: tarpit });
  if (divert !== undefined) {
    const { backendRef, ...rest } = divert;
    const { namespace } = object.metadata;
    const from = { group: "mesh.fairlead.dev", kind: object.kind, namespace, isForOwnClients: false };
    const backend = resolveBackend(backendRef, "spec.divert.backendRef", from, services, index, problems);
    if (backend.invalid === "") filters.push({ kind: "divert", value: { ...rest, backend } });
  }
  return { filters, problem: problems[0] };
}
/** The field of the first action that the switch of faults switches off too. */
const actionField = ({ fault, tarpit, divert }: ResilienceSpec): string | undefined =>
  fault !== undefined
    ? "spec.faultInjection"
    : tarpit !== undefined
      ? "spec.tarpit"
      : divert !== undefined
        ? "spec.divert"
        : undefined;

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
  problem: RefProblem | undefined,
): Condition {
  const { metadata, spec } = entry.object;
  const isTrial = isDryRun(metadata.annotations);
  const resources = isTrial ? [] : applied.map((name) => ({ kind: "HttpRouting", name }));
  const lostNames = lost.map((at) => serviceName(metadata.namespace, spec.targetRefs[at]?.name ?? ""));
  const missing = lostNames.length > 0 ? `there is no Service ${lostNames.join(", ")}` : "";
  const overruled =
    rival === undefined
      ? ""
      : `ResiliencePolicy ${nameOf(rival.holder)} holds for Service ${rival.service}: it is ${
          ageOf(rival.holder) === ageOf(entry) ? "the first by name" : "older"
        }`;
  const message = missing || overruled;
  const status = statusOf(metadata.generation, applied, missing, message, isTrial, spec.divert && { problem });
  const fix = missing !== "" ? "add it or correct the name" : "keep one of the two";
  const field = `spec.targetRefs[${missing !== "" ? lost[0] : rival?.at}].name`;
  const reason = missing !== "" ? "TargetMissing" : "Overruled";
  if (applied.length === 0) return refused(entry, reason, { field, message, fix, status });
  if (message !== "") return accepted(entry, { resources, field, message, fix, status }, reason);
  if (problem !== undefined) {
    const { reason: why, ...detail } = problem;
    const left = isTrial ? problem.message : `${problem.message}: nothing is diverted, the rest of the policy holds`;
    return accepted(entry, { ...detail, message: left, resources, status }, why);
  }
  if (isTrial) {
    const detail = { field: dryRunField, message: dryRunMessage, fix: "remove the annotation to enforce it", status };
    return accepted(entry, detail, "DryRun");
  }
  const action = actionField(spec);
  if (!faultsOn && action !== undefined) {
    const off =
      "faults, tarpits and diverts are switched off for the whole mesh: nothing is injected, held or diverted";
    const how = "set faultInjection of the MeshSettings to true, or remove the field";
    return accepted(entry, { resources, field: action, message: off, fix: how, status }, "FaultsOff");
  }
  return accepted(entry, { resources, status });
}

const plainStatus = ({ object }: Entry, reason: string, message: string): PolicyStatus => {
  const { generation: observedGeneration } = object.metadata;
  const conditions = [
    { type: "Ready", status: "False", reason, message, observedGeneration },
    { type: "TargetServiceNotFound", status: "False", reason, message: "", observedGeneration },
  ] as const;
  return { observedGeneration, appliedToServices: [], conditions };
};
function disabled(entry: Entry): Condition {
  const message = "is switched off: it holds for none of its Services";
  const detail = { field: "spec.enabled", message, fix: "", status: plainStatus(entry, "Disabled", message) };
  return accepted(entry, detail, "Disabled");
}
function outOfReach(entry: Entry, at: number): Condition {
  const { metadata, spec } = entry.object;
  const { namespace = "", name = "" } = spec.targetRefs[at] ?? {};
  const message = `Service ${namespace}/${name} is in another namespace than the policy (${metadata.namespace}), which holds for none of its targets`;
  const status = plainStatus(entry, "RefNotPermitted", message);
  const fix = `write a policy in the namespace ${namespace}`;
  return refused(entry, "RefNotPermitted", { field: `spec.targetRefs[${at}].namespace`, message, fix, status });
}
const dryRunMessage = "is in dry run: it is checked, and holds for none of its Services";

function statusOf(
  observedGeneration: number,
  applied: readonly ServiceName[],
  missing: string,
  message: string,
  isTrial: boolean,
  divert: { readonly problem: RefProblem | undefined } | undefined,
): PolicyStatus {
  const condition = (type: string, isTrue: boolean, reason: string, text: string): ApiCondition => ({
    type,
    status: isTrue ? "True" : "False",
    reason,
    message: text,
    observedGeneration,
  });
  const isReady = applied.length > 0 && message === "" && !isTrial;
  const why = missing !== "" ? "TargetServiceNotFound" : isTrial ? "DryRun" : "Overruled";
  const reason = isReady ? "Applied" : why;
  const lost = divert?.problem;
  return {
    observedGeneration,
    appliedToServices: isTrial ? [] : applied,
    conditions: [
      condition("Ready", isReady, reason, why === "DryRun" ? dryRunMessage : message),
      condition("TargetServiceNotFound", missing !== "", missing !== "" ? reason : "Found", missing),
      // Said of policies that refer to a backend alone.
      ...(divert === undefined
        ? []
        : [condition("ResolvedRefs", lost === undefined, lost?.reason ?? "ResolvedRefs", lost?.message ?? "")]),
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
    const filters = resilience?.filters ?? [];
    return {
      name,
      namespace,
      routes:
        filters.length === 0 || record === undefined ? own : withFilters(own, record, resilience?.name ?? "", filters),
      policy: resilience?.policy ?? defaultPolicy,
    };
  });
}

/** Before every filter of every rule; ports without routes get one that changes nothing else. */
function withFilters(
  routes: readonly HttpRoute[],
  service: Service,
  policy: string,
  filters: readonly RouteFilter[],
): readonly HttpRoute[] {
  const filtered = routes.map((route) => ({
    ...route,
    rules: route.rules.map((rule) => ({ ...rule, filters: [...filters, ...rule.filters] })),
  }));
  const shared = routes.filter((r) => r.consumers === "");
  const bare = service.ports.filter(
    (p) => isHttpPort(p) && !shared.some((r) => r.ports.length === 0 || r.ports.includes(p.port)),
  );
  return [...filtered, ...bare.map(({ port }) => toItself(service, port, policy, filters))];
}

function toItself(service: Service, port: number, policy: string, filters: readonly RouteFilter[]): HttpRoute {
  const target = serviceName(service.namespace, service.name);
  const rule: RouteRule = {
    name: "",
    matches: [],
    filters,
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
