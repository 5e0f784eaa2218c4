// The whole index -> every resource for agents and a condition for every object. Pure: same input, same output.
import { parseTrustDomain } from "../../agent/api/names.ts";
import type { MeshResource } from "../../agent/api/resources.ts";
import { type MeshSettings, type PathNormalization, settingsName } from "../../agent/api/settings.ts";
import { canonicalIp } from "../../agent/base/ip.ts";
import type { ClusterIndex, Indexed } from "../index/cluster-index.ts";
import type { MeshSettingsObject } from "../sources/types.ts";
import { defaultPools, type Pools } from "./cluster-ips.ts";
import { accepted, type Condition, refused } from "./conditions.ts";
import { resolveMemberships } from "./memberships.ts";
import { Namespaces } from "./namespaces.ts";
import { translatePolicies } from "./policies.ts";
import { translateRateLimits } from "./rate-limits.ts";
import { joinRouting, translateResilience } from "./resilience.ts";
import { translateRoutes } from "./routes.ts";
import { serviceCondition, translateServices } from "./services.ts";
import { translateWorkloads, type Unenrolled, WorkloadMemo } from "./workloads.ts";

export interface TranslateOptions {
  /** Settings before any MeshSettings object; the trust domain and lifetimes come from the controller's own configuration. */
  readonly settings: MeshSettings;
  readonly rootNamespace: string;
  readonly pools?: Pools;
  readonly allocations: ReadonlyMap<string, readonly string[]>;
  readonly unenrolled: Unenrolled;
  /** Makes repeated translations cheap; changes no result. */
  readonly memo?: WorkloadMemo;
}
export interface Translated {
  readonly resources: readonly MeshResource[];
  readonly conditions: readonly Condition[];
  readonly settings: MeshSettings;
  readonly allocations: ReadonlyMap<string, readonly string[]>;
}

export function translate(index: ClusterIndex, options: TranslateOptions): Translated {
  const conditions: Condition[] = [];
  const settings = readSettings(index, options.settings, conditions);
  const namespaces = new Namespaces(index, settings);
  for (const entry of index.all("Namespace")) conditions.push(accepted(entry));
  for (const entry of index.all("Node")) conditions.push(accepted(entry));
  for (const entry of index.all("ServiceAccount")) conditions.push(namespaces.missing(entry) ?? accepted(entry));

  const { services, refusals, allocations } = translateServices(
    index,
    namespaces,
    settings,
    options.pools ?? defaultPools,
    options.allocations,
  );
  const memberships = resolveMemberships(index, services);
  const { workloads, conditions: podConditions } = translateWorkloads(
    index,
    namespaces,
    settings,
    memberships,
    options.unenrolled,
    options.memo ?? new WorkloadMemo(),
  );
  const policies = translatePolicies(
    index,
    namespaces,
    options.rootNamespace,
    workloads,
    settings.enricher.enable_mesh_enricher,
  );
  const routes = translateRoutes(index, namespaces, services);
  const faultsOn = !index.all("MeshSettings").some(isFaultSwitch);
  const resilience = translateResilience(index, namespaces, services, faultsOn);
  const limits = translateRateLimits(index, namespaces, options.rootNamespace, services, workloads);
  conditions.push(
    ...refusals,
    ...podConditions,
    ...policies.conditions,
    ...routes.conditions,
    ...resilience.conditions,
    ...limits.conditions,
  );
  for (const [name, { record, entry }] of services)
    conditions.push(serviceCondition(entry, record, memberships.countOf(name)));
  for (const entry of index.all("EndpointSlice")) {
    const service = entry.object.metadata.labels["kubernetes.io/service-name"] ?? "";
    const isOrphan = !services.has(`${entry.object.metadata.namespace}/${service}`);
    const detail = {
      field: 'metadata.labels["kubernetes.io/service-name"]',
      message: service === "" ? "names no service" : `names the service "${service}", which is missing`,
      fix: "set the label to the name of a Service in this namespace",
    };
    conditions.push(
      namespaces.missing(entry) ?? (isOrphan ? accepted(entry, detail, "TargetMissing") : accepted(entry)),
    );
  }
  return {
    settings,
    allocations,
    conditions,
    resources: [
      { kind: "MeshSettings", value: settings },
      ...workloads.map((value) => ({ kind: "Workload", value }) as const),
      ...[...services.values()].map(({ record }) => ({ kind: "Service", value: record }) as const),
      ...policies.authorizations.map((value) => ({ kind: "Authorization", value }) as const),
      ...policies.trafficPolicies.map((value) => ({ kind: "TrafficPolicy", value }) as const),
      ...limits.rateLimits.map((value) => ({ kind: "RateLimit", value }) as const),
      ...joinRouting(routes.routes, resilience.policies, services).map(
        (value) => ({ kind: "HttpRouting", value }) as const,
      ),
    ],
  };
}

/** The switch that turns every fault injection off. */
const isFaultSwitch = ({ object }: Indexed<MeshSettingsObject>): boolean =>
  object.metadata.name === settingsName && object.spec.faultInjection === false;

/** Only the object named "mesh" counts; node addresses are those that pods report of their hosts, and the nodes of themselves. */
function readSettings(index: ClusterIndex, base: MeshSettings, conditions: Condition[]): MeshSettings {
  let settings = base;
  for (const entry of index.all("MeshSettings")) {
    if (entry.object.metadata.name !== settingsName) {
      const message = `only the object named "${settingsName}" has an effect`;
      conditions.push(
        refused(entry, "NameNotUsed", { field: "metadata.name", message, fix: `rename it to "${settingsName}"` }),
      );
      continue;
    }
    const aliases = (entry.object.spec.trustDomainAliases ?? []).map(
      (alias) => [alias, parseTrustDomain(alias)] as const,
    );
    const bad = aliases.find(([, parsed]) => !parsed.ok);
    if (bad !== undefined) {
      const message = `"${bad[0].slice(0, 60)}" is not a trust domain`;
      const fix = "use lower-case letters, digits, dots, dashes and underscores";
      conditions.push(refused(entry, "NotSupported", { field: "spec.trustDomainAliases", message, fix }));
      continue;
    }
    settings = {
      ...settings,
      ...given(entry.object.spec),
      pathNormalization: normalizationOf(entry.object.spec) ?? settings.pathNormalization,
      trustDomainAliases: aliases.flatMap(([, p]) => (p.ok ? [p.value] : [])),
    };
    conditions.push(accepted(entry, { resources: [{ kind: "MeshSettings", name: settingsName }] }));
  }
  const hosts = index
    .all("Pod")
    .flatMap(({ object }) => [object.status.hostIP, ...object.status.hostIPs.map((h) => h.ip)]);
  for (const { object } of index.all("Node"))
    for (const { type, address } of object.status.addresses) if (type.endsWith("IP")) hosts.push(address);
  const nodeAddresses = [...new Set([...new Set(hosts)].flatMap((ip) => canonicalIp(ip) ?? []))].sort();
  return { ...settings, nodeAddresses };
}

const normalizationOf = (spec: MeshSettingsObject["spec"]): PathNormalization | undefined =>
  spec.pathNormalization?.toLowerCase() as PathNormalization | undefined;

type Given = Partial<Omit<MeshSettings, "trustDomainAliases" | "pathNormalization">>;
function given(spec: MeshSettingsObject["spec"]): Given {
  const { trustDomainAliases: _, pathNormalization: __, faultInjection: ___, ...rest } = spec;
  return Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined)) as Given;
}
