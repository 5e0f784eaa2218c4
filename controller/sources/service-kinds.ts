// Shapes of Service and EndpointSlice.
import {
  address,
  type Field,
  flag,
  integer,
  labels,
  list,
  nameOrNone,
  object,
  oneOf,
  optional,
  port,
  portOrName,
  type Reader,
  required,
  shared,
  text,
} from "./schema.ts";
import type { EndpointSliceObject, ServiceObject, ServicePortSpec, SliceEndpoint } from "./types.ts";

const protocols = oneOf(["TCP", "UDP", "SCTP"]);
const servicePort = object<ServicePortSpec>({
  name: optional(text, ""),
  protocol: optional(protocols, "TCP"),
  appProtocol: optional(text, ""),
  port: required(port, 1),
  targetPort: optional<number | string | undefined>(portOrName, undefined),
  nodePort: optional(integer(0, 65535), 0),
});
const clusterIp: Reader<string> = (value, path, report) =>
  value === "None" || value === "" ? value : address(value, path, report);

/** What Kubernetes takes where nothing is said: three hours. */
const affinityConfig = { clientIP: { timeoutSeconds: 10_800 } };
const spec = object<ServiceObject["spec"]>(
  {
    type: optional(oneOf(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]), "ClusterIP"),
    clusterIP: optional(clusterIp, ""),
    clusterIPs: optional(list(clusterIp), []),
    externalIPs: optional(list(address), []),
    externalName: optional(nameOrNone, ""),
    ipFamilies: optional(list(oneOf(["IPv4", "IPv6"])), []),
    ports: optional(list(servicePort), []),
    selector: optional(labels, {}),
    publishNotReadyAddresses: optional(flag, false),
    sessionAffinity: optional(oneOf(["None", "ClientIP"]), "None"),
    sessionAffinityConfig: optional(
      object({
        clientIP: optional(
          object({ timeoutSeconds: optional(integer(1, 86_400), affinityConfig.clientIP.timeoutSeconds) }),
          affinityConfig.clientIP,
        ),
      }),
      affinityConfig,
    ),
    internalTrafficPolicy: optional(oneOf(["Cluster", "Local"]), "Cluster"),
    trafficDistribution: optional(text, ""),
  },
  (
    "loadBalancerIP loadBalancerSourceRanges externalTrafficPolicy healthCheckNodePort ipFamilyPolicy " +
    "allocateLoadBalancerNodePorts loadBalancerClass"
  ).split(" "),
);
const noSpec: ServiceObject["spec"] = {
  type: "ClusterIP",
  clusterIP: "",
  clusterIPs: [],
  externalIPs: [],
  externalName: "",
  ipFamilies: [],
  ports: [],
  selector: {},
  publishNotReadyAddresses: false,
  sessionAffinity: "None",
  sessionAffinityConfig: affinityConfig,
  internalTrafficPolicy: "Cluster",
  trafficDistribution: "",
};
const ingress = list(object({ ip: optional(text, "") }, ["hostname", "ipMode", "ports"]));
const noStatus: ServiceObject["status"] = { loadBalancer: { ingress: [] } };
const status = object<ServiceObject["status"]>(
  { loadBalancer: optional(object({ ingress: optional(ingress, []) }), noStatus.loadBalancer) },
  ["conditions"],
);
export const services: {
  readonly spec: Field<ServiceObject["spec"]>;
  readonly status: Field<ServiceObject["status"]>;
} = { spec: required(spec, noSpec), status: optional(status, noStatus) };

const hinted = optional(list(object({ name: optional(text, "") })), []);
const endpoint = object<SliceEndpoint>(
  {
    addresses: required(list(address), []),
    conditions: optional(
      shared(object({ ready: optional(flag, true), terminating: optional(flag, false) }, ["serving"])),
      { ready: true, terminating: false },
    ),
    targetRef: optional<SliceEndpoint["targetRef"]>(
      object({ kind: optional(text, ""), name: optional(text, ""), namespace: optional(text, "") }, [
        "apiVersion",
        "uid",
        "fieldPath",
        "resourceVersion",
      ]),
      undefined,
    ),
    nodeName: optional(text, ""),
    zone: optional(text, ""),
    hints: optional<SliceEndpoint["hints"]>(object({ forZones: hinted, forNodes: hinted }), undefined),
  },
  ["hostname", "deprecatedTopology"],
);
const slicePort = object<EndpointSliceObject["ports"][number]>(
  { name: optional(text, ""), port: required(port, 1), protocol: optional(protocols, "TCP") },
  ["appProtocol"],
);
export const slices: {
  readonly addressType: Field<string>;
  readonly endpoints: Field<readonly SliceEndpoint[]>;
  readonly ports: Field<EndpointSliceObject["ports"]>;
} = {
  addressType: required(oneOf(["IPv4", "IPv6", "FQDN"]), "IPv4"),
  endpoints: optional(list(endpoint), []),
  ports: optional(list(slicePort), []),
};
