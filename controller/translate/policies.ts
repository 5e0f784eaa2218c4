// AuthorizationPolicy and PeerAuthentication -> Authorization and TrafficPolicy records. Pure.
import { type ServiceName, serviceName } from "../../agent/api/names.ts";
import {
  type Action,
  type Authorization,
  isL7Rule,
  isTokenRule,
  type MtlsMode,
  operationOf,
  outranks,
  policyNameOf,
  type Rule,
  type Scope,
  sourceOf,
  type TrafficPolicy,
} from "../../agent/api/policy.ts";
import type { Workload } from "../../agent/api/workload.ts";
import type { ClusterIndex, Indexed } from "../index/cluster-index.ts";
import type {
  AuthorizationPolicyObject,
  AuthorizationRule,
  MtlsModeName,
  PeerAuthenticationObject,
} from "../sources/types.ts";
import { accepted, acceptedTrial, type Condition, type Covered, dryRunField, isDryRun } from "./conditions.ts";
import type { WorkloadQuestions } from "./coverage.ts";
import { selects } from "./memberships.ts";
import type { Namespaces } from "./namespaces.ts";
import { showLabels } from "./services.ts";

export interface TranslatedPolicies {
  readonly authorizations: readonly Authorization[];
  readonly trafficPolicies: readonly TrafficPolicy[];
  readonly conditions: readonly Condition[];
}

export function translatePolicies(
  index: ClusterIndex,
  namespaces: Namespaces,
  rootNamespace: string,
  workloads: WorkloadQuestions,
  isEnriching: boolean,
): TranslatedPolicies {
  const authorizations: Authorization[] = [];
  const trafficPolicies: TrafficPolicy[] = [];
  const conditions: Condition[] = [];
  const traffic: [Indexed<PeerAuthenticationObject>, TrafficPolicy][] = [];
  for (const entry of index.all("AuthorizationPolicy")) {
    const missing = namespaces.missing(entry);
    if (missing !== undefined) {
      conditions.push(missing);
      continue;
    }
    const record = toAuthorization(entry.object, rootNamespace);
    authorizations.push(record);
    const said = authorizationCondition(entry, record, index, workloads, isEnriching);
    conditions.push({ ...said, covered: coveredOf(record, record.targetServices) });
  }
  for (const entry of index.all("PeerAuthentication")) {
    const missing = namespaces.missing(entry);
    if (missing !== undefined) {
      conditions.push(missing);
      continue;
    }
    const record = toTrafficPolicy(entry.object, rootNamespace);
    trafficPolicies.push(record);
    traffic.push([entry, record]);
  }
  for (const [entry, record] of traffic) {
    const said = trafficCondition(entry, record, trafficPolicies, workloads);
    conditions.push({ ...said, covered: coveredOf(record, []) });
  }
  return { authorizations, trafficPolicies, conditions };
}

/** In the root namespace a policy holds for the whole mesh, with a selector for what it selects anywhere. */
export function scopeOf(namespace: string, rootNamespace: string, selector: Readonly<Record<string, string>>): Scope {
  if (namespace === rootNamespace) return "mesh";
  return Object.keys(selector).length === 0 ? "namespace" : "workload";
}

function toAuthorization(policy: AuthorizationPolicyObject, rootNamespace: string): Authorization {
  const { name, namespace, annotations } = policy.metadata;
  const { selector, action, rules, targetRef, targetRefs } = policy.spec;
  const targets = [...(targetRef === undefined ? [] : [targetRef]), ...targetRefs];
  return {
    name,
    namespace,
    scope: targets.length > 0 ? "workload" : scopeOf(namespace, rootNamespace, selector.matchLabels),
    selector: selector.matchLabels,
    action: action.toLowerCase() as Action,
    dryRun: isDryRun(annotations),
    rules: rules.map(toRule),
    targetServices: targets.map((target) => serviceName(namespace, target.name)),
  };
}

function toRule(rule: AuthorizationRule): Rule {
  return {
    from: rule.from.map((f) => sourceOf(f.source)),
    to: rule.to.map((t) => operationOf(t.operation)),
    when: rule.when.map(({ key, values, notValues }) => ({ key, values, notValues })),
  };
}

export const coveredOf = (
  { namespace, scope, selector }: Omit<Covered, "targets">,
  targets: readonly ServiceName[],
): Covered => ({ namespace, scope, selector, targets });

/** Whether a policy of this scope has the workload under it. */
export function covers(
  policy: { readonly namespace: string; readonly scope: Scope; readonly selector: Readonly<Record<string, string>> },
  targets: readonly ServiceName[],
  workload: Workload,
): boolean {
  if (policy.scope !== "mesh" && workload.namespace !== policy.namespace) return false;
  if (targets.length > 0) return workload.services.some((m) => targets.includes(m.service));
  return Object.keys(policy.selector).length === 0 || selects(policy.selector, workload.labels);
}

/** Whether any workload is under such a policy. */
export const coversSome = (
  policy: Parameters<typeof covers>[0],
  targets: readonly ServiceName[],
  workloads: WorkloadQuestions,
): boolean => workloads.some(whereOf(policy), (workload) => covers(policy, targets, workload));
/** The namespace that a policy's workloads are in; undefined for one of the whole mesh. */
export const whereOf = ({ scope, namespace }: Pick<Parameters<typeof covers>[0], "scope" | "namespace">) =>
  scope === "mesh" ? undefined : namespace;

function authorizationCondition(
  entry: Indexed<AuthorizationPolicyObject>,
  record: Authorization,
  index: ClusterIndex,
  workloads: WorkloadQuestions,
  isEnriching: boolean,
): Condition {
  const resources = [{ kind: "Authorization", name: policyNameOf(record) }];
  const lost = record.targetServices.find(
    (name) => index.get("Service", record.namespace, name.split("/")[1] ?? "") === undefined,
  );
  if (lost !== undefined) {
    const message = `there is no Service ${lost}`;
    return accepted(
      entry,
      { resources, field: "spec.targetRefs", message, fix: "add it or correct the name" },
      "TargetMissing",
    );
  }
  if (record.action === "custom") {
    return accepted(
      entry,
      {
        resources,
        field: "spec.action",
        message: "CUSTOM needs an external authorizer, which this version does not call: what it selects is refused",
        fix: "use ALLOW or DENY",
      },
      "NotSupported",
    );
  }
  const enriched = record.rules.findIndex((rule) => rule.when.some(({ key }) => key.startsWith("features.mesh.")));
  if (enriched >= 0 && !isEnriching) {
    const message = "asks for what the enricher finds out, which is off: nothing is one of the values";
    const fix = "set spec.enricher.enable_mesh_enricher of the MeshSettings to true";
    return accepted(entry, { resources, field: `spec.rules[${enriched}].when`, message, fix }, "EnricherOff");
  }
  const token = record.rules.findIndex(isTokenRule);
  if (token >= 0) {
    return accepted(
      entry,
      {
        resources,
        field: `spec.rules[${token}]`,
        message: `asks for what only a token tells, which this version does not read: ${
          record.action === "deny" ? "the rule applies without those fields" : "the rule matches nothing"
        }`,
        fix: "leave out requestPrincipals, request.auth.* and experimental.*",
      },
      "NeedsToken",
    );
  }
  const l7 = record.rules.findIndex(isL7Rule);
  if (l7 >= 0) {
    return accepted(
      entry,
      {
        resources,
        field: `spec.rules[${l7}]`,
        message:
          "needs a parsed request: where connections are carried as TCP, ALLOW matches nothing and DENY applies without these fields",
        fix: "use L4 fields (principals, namespaces, ipBlocks, ports) for TCP",
      },
      "NeedsHttp",
    );
  }
  if (!coversSome(record, record.targetServices, workloads)) return selectsNothing(entry, resources, record);
  return acceptedTrial(entry, { resources }, record.dryRun ? dryRunField : undefined);
}

export function selectsNothing(
  entry: Indexed,
  resources: Condition["resources"],
  record: { readonly scope: Scope; readonly namespace: string; readonly selector: Readonly<Record<string, string>> },
): Condition {
  const where = record.scope === "mesh" ? "the mesh" : `the namespace "${record.namespace}"`;
  const labels = showLabels(record.selector);
  return accepted(
    entry,
    {
      resources,
      field: "spec.selector",
      message: labels === "" ? `no pod of ${where} is under it` : `no pod of ${where} has the labels ${labels}`,
      fix: "correct the selector or the namespace, or start such a pod",
    },
    "SelectsNothing",
  );
}

const modeNames: Readonly<Record<MtlsModeName, MtlsMode>> = {
  UNSET: "unset",
  PERMISSIVE: "permissive",
  STRICT: "strict",
  DISABLE: "disable",
};

function toTrafficPolicy(policy: PeerAuthenticationObject, rootNamespace: string): TrafficPolicy {
  const { name, namespace, creationTimestamp, annotations } = policy.metadata;
  const { selector, mtls, portLevelMtls } = policy.spec;
  const scope = scopeOf(namespace, rootNamespace, selector.matchLabels);
  // As in Istio, ports count only on a policy with a selector.
  const hasSelector = Object.keys(selector.matchLabels).length > 0;
  const ports = [...portLevelMtls].map(([port, mode]) => [port, modeNames[mode]] as const);
  return {
    name,
    namespace,
    scope,
    selector: selector.matchLabels,
    mode: modeNames[mtls.mode],
    portModes: new Map(hasSelector ? ports : []),
    createdMs: Math.max(0, Date.parse(creationTimestamp) || 0),
    dryRun: isDryRun(annotations),
  };
}

function trafficCondition(
  entry: Indexed<PeerAuthenticationObject>,
  record: TrafficPolicy,
  all: readonly TrafficPolicy[],
  workloads: WorkloadQuestions,
): Condition {
  const resources = [{ kind: "TrafficPolicy", name: policyNameOf(record) }];
  if (entry.object.spec.portLevelMtls.size > 0 && record.portModes.size === 0) {
    const message = "ports without a selector have no effect";
    return accepted(
      entry,
      { resources, field: "spec.portLevelMtls", message, fix: "add spec.selector.matchLabels" },
      "NotSupported",
    );
  }
  if (!coversSome(record, [], workloads)) return selectsNothing(entry, resources, record);
  const rival = all.find(
    (other) => other !== record && !other.dryRun && sameLevel(other, record) && holdsOver(other, record),
  );
  if (rival !== undefined) {
    const message = `PeerAuthentication ${policyNameOf(rival)} selects the same and holds instead: it is ${
      rival.createdMs === record.createdMs ? "as strict or stricter" : "older"
    }`;
    const fix = "keep one of the two";
    return accepted(entry, { resources, field: "spec.mtls.mode", message, fix }, "Overruled");
  }
  return acceptedTrial(entry, { resources }, record.dryRun ? dryRunField : undefined);
}

/** Both set the mode of exactly the same workloads. */
function sameLevel(a: TrafficPolicy, b: TrafficPolicy): boolean {
  if (a.scope !== b.scope || a.namespace !== b.namespace || a.mode === "unset" || b.mode === "unset") return false;
  return sameLabels(a.selector, b.selector);
}

const sameLabels = (a: Readonly<Record<string, string>>, b: Readonly<Record<string, string>>): boolean =>
  Object.keys(a).length === Object.keys(b).length && Object.keys(a).every((key) => a[key] === b[key]);

const holdsOver = (a: TrafficPolicy, b: TrafficPolicy): boolean => {
  const [first, second] = [
    { mode: a.mode, policy: a },
    { mode: b.mode, policy: b },
  ];
  // Neither outranks the other: agents take the first by name.
  return outranks(first, second) || (!outranks(second, first) && policyNameOf(a) < policyNameOf(b));
};
