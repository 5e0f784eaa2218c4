// RateLimitPolicy -> RateLimit records, with what is to be said of each policy. Pure.
import { type ServiceName, serviceName } from "../../agent/api/names.ts";
import { policyNameOf, type Scope } from "../../agent/api/policy.ts";
import type { RateLimit } from "../../agent/api/rate-limit.ts";
import type { ClusterIndex, Indexed } from "../index/cluster-index.ts";
import type { RateLimitPolicyObject } from "../sources/types.ts";
import type { ServiceRecords } from "./backend-refs.ts";
import { accepted, acceptedTrial, type Condition, refused } from "./conditions.ts";
import type { WorkloadQuestions } from "./coverage.ts";
import type { Namespaces } from "./namespaces.ts";
import { coveredOf, covers, coversSome, scopeOf, selectsNothing, whereOf } from "./policies.ts";
import { isHttpPort } from "./routes.ts";

export interface TranslatedRateLimits {
  readonly rateLimits: readonly RateLimit[];
  readonly conditions: readonly Condition[];
}

export function translateRateLimits(
  index: ClusterIndex,
  namespaces: Namespaces,
  rootNamespace: string,
  services: ServiceRecords,
  workloads: WorkloadQuestions,
): TranslatedRateLimits {
  const rateLimits: RateLimit[] = [];
  const conditions: Condition[] = [];
  for (const entry of index.all("RateLimitPolicy")) {
    const missing = namespaces.missing(entry);
    if (missing !== undefined) {
      conditions.push(missing);
      continue;
    }
    const record = toRecord(entry.object, rootNamespace);
    const lost = record.targetServices.filter((name) => !services.has(name));
    if (lost.length > 0 && lost.length === record.targetServices.length) {
      conditions.push(refused(entry, "TargetMissing", missingTargets(record, lost)));
      continue;
    }
    rateLimits.push(record);
    const said = conditionOf(entry, record, lost, services, workloads);
    conditions.push({ ...said, covered: coveredOf(record, record.targetServices) });
  }
  return { rateLimits, conditions };
}

function toRecord(policy: RateLimitPolicyObject, rootNamespace: string): RateLimit {
  const { name, namespace } = policy.metadata;
  const { selector, targetRefs, ...rest } = policy.spec;
  const scope: Scope = targetRefs.length > 0 ? "workload" : scopeOf(namespace, rootNamespace, selector);
  const targetServices = targetRefs.map((target) => serviceName(namespace, target.name));
  return { ...rest, name, namespace, scope, selector, targetServices };
}

function conditionOf(
  entry: Indexed<RateLimitPolicyObject>,
  record: RateLimit,
  lost: readonly ServiceName[],
  services: ServiceRecords,
  workloads: WorkloadQuestions,
): Condition {
  const resources = [{ kind: "RateLimit", name: policyNameOf(record) }];
  if (lost.length > 0) return accepted(entry, { resources, ...missingTargets(record, lost) }, "TargetMissing");
  if (!coversSome(record, record.targetServices, workloads)) return selectsNothing(entry, resources, record);
  const isRead = workloads.some(
    whereOf(record),
    (workload) =>
      covers(record, record.targetServices, workload) &&
      workload.services.some(({ service, ports }) => {
        const declared =
          services.get(service)?.record.ports.filter((port) => port.protocol !== "" && isHttpPort(port)) ?? [];
        return ports.some((mapping) => declared.some((port) => port.port === mapping.servicePort));
      }),
  );
  if (isRead) return acceptedTrial(entry, { resources }, record.dryRun ? "spec.dryRun" : undefined);
  const message = "no Service of what it covers declares a port to be HTTP: requests are not read, so none is limited";
  const fix = 'set appProtocol: http on the Service\'s port, or name the port "http"';
  return accepted(entry, { resources, field: "spec", message, fix }, "NeedsHttp");
}

function missingTargets(record: RateLimit, lost: readonly ServiceName[]) {
  const at = record.targetServices.findIndex((name) => lost.includes(name));
  return {
    field: `spec.targetRefs[${at}].name`,
    message: `there is no Service ${lost.join(", ")}`,
    fix: "add it or correct the name",
  };
}
