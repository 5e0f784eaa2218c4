// The mesh of a cluster as commands see it: agents and controller are pods that are asked through the API server.

import { isOptedIn } from "../../agent/api/labels.ts";
import type { RawObject } from "../../agent/kubernetes/wire.ts";
import type { ServiceStatus } from "../../test/lab/lab-options.ts";
import { fieldsAt, listAt } from "../../test/lab/objects.ts";
import { callJson } from "../../test/lab/unix-http.ts";
import { Failure } from "../command.ts";
import type { ControllerView, MeshView, NodeView, PodView } from "../view.ts";
import { AdminAgent } from "./admin.ts";
import { Cluster } from "./connect.ts";
import { type ClusterPlace, componentLabel } from "./options.ts";

const leaseName = "fairlead-controller";

/** @throws Failure when the cluster does not answer, or Fairlead does not run there */
export async function clusterMesh(place: ClusterPlace): Promise<MeshView> {
  const cluster = new Cluster(place);
  try {
    const mesh = await meshIn(cluster);
    return {
      ...mesh,
      close() {
        mesh.close();
        cluster.close();
      },
    };
  } catch (error) {
    cluster.close();
    throw error;
  }
}

export const text = (value: unknown): string => (typeof value === "string" ? value : "");
const specOf = (object: RawObject) => fieldsAt(object.spec);
const statusOf = (object: RawObject) => fieldsAt(object.status);
export const labelsOf = (object: RawObject): Readonly<Record<string, unknown>> => fieldsAt(object.metadata.labels);

/** Pods of one of our programs that are there to be asked, those that are ready first. */
export async function podsOf(cluster: Cluster, component: string): Promise<readonly RawObject[]> {
  const path = `/api/v1/namespaces/${cluster.namespace}/pods`;
  const pods = await cluster.list(path, { labelSelector: `${componentLabel}=${component}` });
  const usable = pods.filter((pod) => statusOf(pod).phase === "Running");
  const rank = (pod: RawObject): number =>
    (isReady(pod) ? 0 : 2) + (pod.metadata.deletionTimestamp === undefined ? 0 : 1);
  return usable.sort((a, b) => rank(a) - rank(b));
}

export const isReady = (pod: RawObject): boolean =>
  listAt(statusOf(pod).conditions)
    .map(fieldsAt)
    .some((c) => c.type === "Ready" && c.status === "True");

/** The mesh of a cluster that is connected to already; `close` leaves that alone. @throws Failure as above */
export async function meshIn(cluster: Cluster): Promise<MeshView> {
  const [agents, controllers] = await Promise.all([podsOf(cluster, "agent"), leadersFirst(cluster)]);
  if (controllers.length === 0)
    throw new Failure(
      `Fairlead does not run in namespace ${cluster.namespace} of ${cluster.context}: install it (fairlead install), or name the namespace with --mesh-namespace`,
    );
  const connections: AdminAgent[] = [];
  const place = (pod: RawObject, container: string): AdminAgent => {
    const made = new AdminAgent(cluster, { namespace: cluster.namespace, name: pod.metadata.name, container });
    connections.push(made);
    return made;
  };
  const replicas = controllers.map((pod) => ({ name: pod.metadata.name, admin: place(pod, "controller") }));
  const byNode = new Map<string, NodeView>();
  // While one agent replaces another there are two on a node; the one that is ready comes first.
  for (const pod of agents) {
    const name = text(specOf(pod).nodeName);
    if (!byNode.has(name)) byNode.set(name, { name, admin: place(pod, "agent") });
  }
  const nodes = [...byNode.values()].sort((a, b) => a.name.localeCompare(b.name));
  return {
    title: `cluster ${cluster.context}`,
    named: { cluster: cluster.context },
    controller: (replicas[0] as ControllerView).admin,
    controllers: replicas,
    controllerHint: `kubectl -n ${cluster.namespace} get pods shows its state`,
    nodes,
    pods: () => podViews(cluster, nodes),
    services: () => serviceViews(cluster),
    problems: [],
    close: () => {
      for (const connection of connections) connection.destroy();
    },
  };
}

/** The replica that leads knows most: it is the one that writes statuses. */
async function leadersFirst(cluster: Cluster): Promise<readonly RawObject[]> {
  const [pods, lease] = await Promise.all([
    podsOf(cluster, "controller"),
    cluster.find(`/apis/coordination.k8s.io/v1/namespaces/${cluster.namespace}/leases/${leaseName}`),
  ]);
  const holder = lease === undefined ? "" : text(specOf(lease).holderIdentity);
  const leads = (pod: RawObject): boolean => holder.startsWith(`${pod.metadata.name}_`);
  return [...pods.filter(leads), ...pods.filter((pod) => !leads(pod))];
}

async function podViews(cluster: Cluster, nodes: readonly NodeView[]): Promise<readonly PodView[]> {
  const [pods, namespaces, known] = await Promise.all([
    cluster.list("/api/v1/pods"),
    cluster.list("/api/v1/namespaces"),
    Promise.all(nodes.map(async (node) => callJson(node.admin, "/v1/pods", { timeoutMs: 15_000 }))),
  ]);
  const labelsByNamespace = new Map(namespaces.map((one) => [one.metadata.name, labelsOf(one)]));
  const records = new Map<string, Readonly<Record<string, unknown>>>();
  for (const answer of known) {
    if (!answer.ok) continue;
    for (const record of listAt(fieldsAt(answer.value).pods).map(fieldsAt)) records.set(text(record.pod), record);
  }
  return pods
    .filter((pod) => !["Succeeded", "Failed"].includes(text(statusOf(pod).phase)))
    .map((pod) => podView(pod, labelsByNamespace.get(pod.metadata.namespace ?? "") ?? {}, records));
}

function podView(
  pod: RawObject,
  namespaceLabels: Readonly<Record<string, unknown>>,
  records: ReadonlyMap<string, Readonly<Record<string, unknown>>>,
): PodView {
  const { name, namespace = "" } = pod.metadata;
  const record = records.get(`${namespace}/${name}`);
  return {
    namespace,
    name,
    node: text(specOf(pod).nodeName),
    ips: listAt(statusOf(pod).podIPs).map((ip) => text(fieldsAt(ip).ip)),
    meshed: isOptedIn(labelsOf(pod), namespaceLabels) && specOf(pod).hostNetwork !== true,
    enrolled: record?.enrolled === true ? "yes" : "no",
    reason: record === undefined ? "no agent of its node knows it" : text(record.reason),
    message: "",
  };
}

async function serviceViews(cluster: Cluster): Promise<readonly ServiceStatus[]> {
  const [services, slices] = await Promise.all([
    cluster.list("/api/v1/services"),
    cluster.list("/apis/discovery.k8s.io/v1/endpointslices"),
  ]);
  const join = (ip: string, port: unknown): string => (ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`);
  return services.map((service) => {
    const { name, namespace = "" } = service.metadata;
    const own = slices.filter(
      (s) => s.metadata.namespace === namespace && labelsOf(s)["kubernetes.io/service-name"] === name,
    );
    const ports = listAt(specOf(service).ports).map((entry) => {
      const port = fieldsAt(entry);
      const endpoints = own.flatMap((slice) => {
        const target = listAt(slice.ports)
          .map(fieldsAt)
          .find((p) => text(p.name) === text(port.name))?.port;
        return listAt(slice.endpoints)
          .map(fieldsAt)
          .filter((e) => fieldsAt(e.conditions).ready !== false)
          .flatMap((e) => listAt(e.addresses).map((ip) => join(text(ip), target)));
      });
      return { port: Number(port.port), endpoints };
    });
    const addresses = listAt(specOf(service).clusterIPs)
      .map(text)
      .filter((ip) => ip !== "" && ip !== "None");
    return { namespace, name, addresses, ports, endpoints: [...new Set(ports.flatMap((p) => p.endpoints))] };
  });
}
