// Small meshes for tests: workloads, services, policies and local pods with everything but the interesting fields filled in.
import type { HttpRouting } from "../../agent/api/http-routing.ts";
import {
  type NodeName,
  podName,
  type ServiceName,
  serviceName,
  type TrustDomain,
  workloadId,
  workloadUid,
} from "../../agent/api/names.ts";
import { type Authorization, operationOf, type Rule, sourceOf, type TrafficPolicy } from "../../agent/api/policy.ts";
import { defaultLimit, type LimitRule, type RateLimit } from "../../agent/api/rate-limit.ts";
import type { MeshResource } from "../../agent/api/resources.ts";
import type { Service, ServicePort } from "../../agent/api/service.ts";
import { defaultSettings, type MeshSettings } from "../../agent/api/settings.ts";
import type { Workload } from "../../agent/api/workload.ts";
import type { LocalPod, LocalPods } from "../../agent/flow.ts";
import { MeshState } from "../../agent/state/mesh-state.ts";

export const domain = "cluster.local" as TrustDomain;

export function workload(namespace: string, name: string, address: string, more: Partial<Workload> = {}): Workload {
  return {
    uid: workloadUid(domain, namespace, name),
    name,
    namespace,
    serviceAccount: name,
    trustDomain: domain,
    node: "node1" as NodeName,
    addresses: [address],
    labels: { app: name },
    tunnel: "fairlead/1",
    ready: true,
    draining: false,
    weight: 1,
    region: "",
    zone: "",
    hostNetwork: false,
    services: [],
    hbonePort: 15008,
    untunnelledPorts: [],
    hostPorts: [],
    ...more,
  };
}

export const member = (namespace: string, service: string, servicePort: number, targetPort: number) => ({
  service: serviceName(namespace, service) as ServiceName,
  ports: [{ servicePort, targetPort }],
});

export function service(
  namespace: string,
  name: string,
  address: string,
  ports: readonly Partial<ServicePort>[],
): Service {
  return {
    name,
    namespace,
    hostname: `${name}.${namespace}.svc.cluster.local`,
    addresses: address === "" ? [] : [address],
    ports: ports.map((p) => ({ port: 80, name: "", protocol: "", nodePort: 0, serverFirst: false, ...p })),
    headless: address === "",
    externalName: "",
    loadBalancing: "",
    clientAffinityS: 0,
    nodeLocalAddresses: [],
    publishNotReady: false,
  };
}

type LooseRule = {
  readonly from?: readonly Parameters<typeof sourceOf>[0][];
  readonly to?: readonly Parameters<typeof operationOf>[0][];
  readonly when?: Rule["when"];
};
export function authorization(
  name: string,
  rules: readonly LooseRule[],
  more: Partial<Authorization> = {},
): Authorization {
  return {
    name,
    namespace: "shop",
    scope: "namespace",
    selector: {},
    action: "allow",
    dryRun: false,
    rules: rules.map((r) => ({
      from: (r.from ?? []).map(sourceOf),
      to: (r.to ?? []).map(operationOf),
      when: r.when ?? [],
    })),
    targetServices: [],
    ...more,
  };
}

export const trafficPolicy = (name: string, more: Partial<TrafficPolicy> = {}): TrafficPolicy => ({
  name,
  namespace: "shop",
  scope: "namespace",
  selector: {},
  mode: "strict",
  portModes: new Map(),
  createdMs: 0,
  dryRun: false,
  ...more,
});

/** A RateLimit over its namespace; what a limit leaves out is as in the default one. */
export const rateLimit = (
  name: string,
  limits: readonly Partial<LimitRule>[],
  more: Partial<RateLimit> = {},
): RateLimit => ({
  name,
  namespace: "shop",
  scope: "namespace",
  selector: {},
  targetServices: [],
  dryRun: false,
  responseHeaders: "limited",
  limits: limits.map((limit) => ({ ...defaultLimit, burst: limit.requests ?? defaultLimit.burst, ...limit })),
  concurrency: undefined,
  ...more,
});

export const localPod = (w: Workload): LocalPod => ({
  name: podName(w.namespace, w.name),
  identity: workloadId(w.trustDomain, w.namespace, w.serviceAccount),
  workload: w,
});

export function localPods(...workloads: readonly Workload[]): LocalPods {
  const pods = workloads.map(localPod);
  return {
    byName: (name) => pods.find((pod) => pod.name === name),
    byAddress: (address) => pods.find((pod) => pod.workload.addresses.includes(address)),
  };
}

export interface MeshParts {
  readonly workloads?: readonly Workload[];
  readonly services?: readonly Service[];
  readonly authorizations?: readonly Authorization[];
  readonly trafficPolicies?: readonly TrafficPolicy[];
  readonly routings?: readonly HttpRouting[];
  readonly rateLimits?: readonly RateLimit[];
  readonly settings?: Partial<MeshSettings>;
}
export function mesh(parts: MeshParts): MeshState {
  const state = new MeshState();
  const changed: MeshResource[] = [
    ...(parts.workloads ?? []).map((value) => ({ kind: "Workload" as const, value })),
    ...(parts.services ?? []).map((value) => ({ kind: "Service" as const, value })),
    ...(parts.authorizations ?? []).map((value) => ({ kind: "Authorization" as const, value })),
    ...(parts.trafficPolicies ?? []).map((value) => ({ kind: "TrafficPolicy" as const, value })),
    ...(parts.routings ?? []).map((value) => ({ kind: "HttpRouting" as const, value })),
    ...(parts.rateLimits ?? []).map((value) => ({ kind: "RateLimit" as const, value })),
    { kind: "MeshSettings", value: { ...defaultSettings, ...parts.settings } },
  ];
  state.apply({ changed, removed: [] });
  return state;
}
