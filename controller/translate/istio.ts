// Our records as Istio's ambient data plane takes them (istio.workload, istio.security). Pure. It knows layer 4 only: what a policy asks of
// requests cannot be decided there, so a rule that allows by it matches nothing, and one that denies by it matches without it (as rule DP-24).
import type {
  StringMatch,
  Authorization as WireAuthorization,
  Match as WireMatch,
  Rule as WireRule,
} from "../../agent/api/istio-security.gen.ts";
import type {
  Port as WirePort,
  Service as WireService,
  Workload as WireWorkload,
} from "../../agent/api/istio-workload.gen.ts";
import type { ServiceName } from "../../agent/api/names.ts";
import {
  type Authorization,
  type Condition,
  isL7Condition,
  isL7Operation,
  isL7Source,
  type Operation,
  outranks,
  type Rule,
  type Source,
  type TrafficPolicy,
} from "../../agent/api/policy.ts";
import type { Service } from "../../agent/api/service.ts";
import type { Workload } from "../../agent/api/workload.ts";
import { isV4, parseCidr, parseIp } from "../../agent/base/ip.ts";

/** One cluster, so its name only has to be the same everywhere. */
const clusterId = "Kubernetes";
/** The policy that stands for STRICT: who shows no certificate is refused. */
export const strictPolicy = { namespace: "istio-system", name: "istio_converted_static_strict" } as const;
const standardHbonePort = 15008;

/** Name of the resource, and the uid inside it. */
export const istioUid = ({ namespace, name }: Pick<Workload, "namespace" | "name">): string =>
  `${clusterId}//Pod/${namespace}/${name}`;
export const istioServiceName = ({ namespace, hostname }: Pick<Service, "namespace" | "hostname">): string =>
  `${namespace}/${hostname}`;
/** How an address is asked for: "<network>/<address>", with our only network unnamed. */
export const istioAddressName = (ip: string): string => `/${ip}`;

const addressBytes = (ip: string): Buffer | undefined => {
  const bytes = parseIp(ip);
  return bytes && Buffer.from(isV4(bytes) ? bytes.subarray(12) : bytes);
};

export interface IstioContext {
  readonly hostnameOf: (service: ServiceName) => string;
  readonly authorizations: Iterable<Authorization>;
  readonly trafficPolicies: Iterable<TrafficPolicy>;
}

export function istioWorkload(workload: Workload, context: IstioContext): WireWorkload {
  const { namespace, name, labels } = workload;
  const canonical = labels["service.istio.io/canonical-name"] ?? labels["app.kubernetes.io/name"] ?? labels.app ?? name;
  const revision =
    labels["service.istio.io/canonical-revision"] ?? labels["app.kubernetes.io/version"] ?? labels.version;
  // Of a port of its own ztunnel cannot be told.
  const takesHbone = workload.tunnel !== "none" && workload.hbonePort === standardHbonePort;
  const policies = [...context.authorizations]
    .filter((one) => one.scope === "workload" && one.namespace === namespace && matches(one.selector, labels))
    .map((one) => `${one.namespace}/${one.name}`);
  if (isStrict(workload, context.trafficPolicies)) policies.push(`${strictPolicy.namespace}/${strictPolicy.name}`);
  return {
    uid: istioUid(workload),
    name,
    namespace,
    addresses: workload.addresses.flatMap((ip) => addressBytes(ip) ?? []),
    tunnelProtocol: takesHbone ? 1 : 0,
    trustDomain: workload.trustDomain,
    serviceAccount: workload.serviceAccount,
    node: workload.node,
    canonicalName: canonical,
    canonicalRevision: revision ?? "latest",
    workloadType: 2,
    workloadName: name,
    services: Object.fromEntries(
      workload.services.map(({ service, ports }) => [
        `${service.slice(0, service.indexOf("/"))}/${context.hostnameOf(service)}`,
        { ports: ports.map(({ servicePort, targetPort }) => ({ servicePort, targetPort, appProtocol: 0 })) },
      ]),
    ),
    authorizationPolicies: policies.sort(),
    status: workload.ready && !workload.draining ? 0 : 1,
    clusterId,
    locality:
      workload.region === "" && workload.zone === ""
        ? undefined
        : { region: workload.region, zone: workload.zone, subzone: "" },
    networkMode: workload.hostNetwork ? 1 : 0,
    capacity: workload.weight === 1 ? undefined : { value: workload.weight },
  };
}

const appProtocols: Readonly<Record<string, WirePort["appProtocol"]>> = { http: 1, http2: 2, grpc: 3, tcp: 4, tls: 5 };

export function istioService(service: Service): WireService {
  return {
    name: service.name,
    namespace: service.namespace,
    hostname: service.hostname,
    addresses: service.addresses.flatMap((ip) => {
      const address = addressBytes(ip);
      return address === undefined ? [] : [{ network: "", address }];
    }),
    // The target is the workload's own: it names it with its membership.
    ports: service.ports.map(({ port, protocol }) => ({
      servicePort: port,
      targetPort: 0,
      appProtocol: appProtocols[protocol] ?? 0,
    })),
    ipFamilies: 0,
  };
}

const matches = (selector: Readonly<Record<string, string>>, labels: Readonly<Record<string, string>>): boolean =>
  Object.entries(selector).every(([key, value]) => labels[key] === value);

/** Mode of the whole workload: its own policies before its namespace's before the mesh's, of each level the one that outranks. */
function isStrict(workload: Workload, policies: Iterable<TrafficPolicy>): boolean {
  const held = new Map<TrafficPolicy["scope"], TrafficPolicy>();
  for (const policy of policies) {
    const { scope, namespace, selector, mode, dryRun } = policy;
    if (dryRun || mode === "unset" || (scope !== "mesh" && namespace !== workload.namespace)) continue;
    if (scope === "workload" && !matches(selector, workload.labels)) continue;
    const before = held.get(scope);
    if (before === undefined || outranks({ mode, policy }, { mode: before.mode, policy: before }))
      held.set(scope, policy);
  }
  return (held.get("workload") ?? held.get("namespace") ?? held.get("mesh"))?.mode === "strict";
}

/** undefined for what ztunnel has no part in: AUDIT and CUSTOM, and policies that are for single services. */
export function istioAuthorization(policy: Authorization): WireAuthorization | undefined {
  const { name, namespace, action, dryRun } = policy;
  if ((action !== "allow" && action !== "deny") || policy.targetServices.length > 0) return undefined;
  return {
    name,
    namespace,
    scope: policy.scope === "mesh" ? 0 : policy.scope === "namespace" ? 1 : 2,
    action: action === "deny" ? 1 : 0,
    dryRun,
    rules: policy.rules.flatMap((rule) => wireRule(rule, action) ?? []),
  };
}

export const strictAuthorization: WireAuthorization = {
  ...strictPolicy,
  scope: 2,
  action: 1,
  dryRun: false,
  rules: [
    { clauses: [{ matches: [emptyMatch({ notPrincipals: [{ matchType: { $case: "presence", value: {} } }] })] }] },
  ],
};

function wireRule(rule: Rule, action: "allow" | "deny"): WireRule | undefined {
  const usable = <T>(list: readonly T[], isL7: (one: T) => boolean): readonly T[] =>
    action === "deny" ? list : list.filter((one) => !isL7(one));
  const from = usable(rule.from, isL7Source);
  const to = usable(rule.to, isL7Operation);
  const when = usable(rule.when, isL7Condition).filter((one) => !isL7Condition(one));
  if (action === "allow") {
    // Nothing of a list is left that must match: the rule never does.
    if (from.length < rule.from.length && from.length === 0) return undefined;
    if (to.length < rule.to.length && to.length === 0) return undefined;
    if (rule.when.some(isL7Condition)) return undefined;
  }
  const clauses = [
    ...(from.length === 0 ? [] : [{ matches: from.map(sourceMatch) }]),
    ...(to.length === 0 ? [] : [{ matches: to.map(operationMatch) }]),
    // Each condition is a clause of its own: all of them must match.
    ...when.map((condition) => ({ matches: [conditionMatch(condition)] })),
  ];
  return { clauses };
}

function emptyMatch(fields: Partial<WireMatch>): WireMatch {
  return {
    namespaces: [],
    notNamespaces: [],
    serviceAccounts: [],
    notServiceAccounts: [],
    principals: [],
    notPrincipals: [],
    sourceIps: [],
    notSourceIps: [],
    destinationIps: [],
    notDestinationIps: [],
    destinationPorts: [],
    notDestinationPorts: [],
    ...fields,
  };
}

/** "*" is presence, "a*" a prefix, "*a" a suffix, as Istio reads them. */
function text(value: string): StringMatch {
  if (value === "*") return { matchType: { $case: "presence", value: {} } };
  if (value.endsWith("*")) return { matchType: { $case: "prefix", value: value.slice(0, -1) } };
  if (value.startsWith("*")) return { matchType: { $case: "suffix", value: value.slice(1) } };
  return { matchType: { $case: "exact", value } };
}
const texts = (values: readonly string[]): StringMatch[] => values.map(text);
/** Of a certificate ztunnel compares what follows "spiffe://". */
const block = (value: string): { address: Buffer; length: number }[] => {
  const cidr = parseCidr(value);
  if (cidr === undefined) return [];
  const bytes = addressBytes(value.split("/")[0] ?? "");
  if (bytes === undefined) return [];
  const [, length] = value.split("/");
  return [{ address: bytes, length: length === undefined ? bytes.length * 8 : Number(length) }];
};
const blocks = (values: readonly string[]): { address: Buffer; length: number }[] => values.flatMap(block);
const ports = (values: readonly string[]): number[] => values.map(Number).filter((port) => port > 0 && port < 65_536);
const accounts = (values: readonly string[]): { namespace: string; serviceAccount: string }[] =>
  values.map((value) => {
    const slash = value.indexOf("/");
    return { namespace: slash < 0 ? "" : value.slice(0, slash), serviceAccount: value.slice(slash + 1) };
  });

const sourceMatch = (source: Source): WireMatch =>
  emptyMatch({
    principals: texts(source.principals),
    notPrincipals: texts(source.notPrincipals),
    namespaces: texts(source.namespaces),
    notNamespaces: texts(source.notNamespaces),
    serviceAccounts: accounts(source.serviceAccounts),
    notServiceAccounts: accounts(source.notServiceAccounts),
    sourceIps: blocks(source.ipBlocks),
    notSourceIps: blocks(source.notIpBlocks),
  });
const operationMatch = (operation: Operation): WireMatch =>
  emptyMatch({ destinationPorts: ports(operation.ports), notDestinationPorts: ports(operation.notPorts) });

function conditionMatch({ key, values, notValues }: Condition): WireMatch {
  switch (key) {
    case "source.ip":
      return emptyMatch({ sourceIps: blocks(values), notSourceIps: blocks(notValues) });
    case "source.namespace":
      return emptyMatch({ namespaces: texts(values), notNamespaces: texts(notValues) });
    case "source.principal":
      return emptyMatch({ principals: texts(values), notPrincipals: texts(notValues) });
    case "source.serviceAccount":
      return emptyMatch({ serviceAccounts: accounts(values), notServiceAccounts: accounts(notValues) });
    case "destination.ip":
      return emptyMatch({ destinationIps: blocks(values), notDestinationIps: blocks(notValues) });
    default:
      return emptyMatch({ destinationPorts: ports(values), notDestinationPorts: ports(notValues) });
  }
}
