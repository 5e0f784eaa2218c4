// A Pod and a Namespace of the API server -> what the agent needs of them. The server has checked them; whatever is not of its shape
// counts as not there.
import { canonicalIp } from "../base/ip.ts";
import type { RawObject } from "../kubernetes/wire.ts";

export interface NodePod {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  /** What the kubelet calls the pod in names of folders: static pods have no uid of the API there. */
  readonly groupUid: string;
  readonly serviceAccount: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly node: string;
  /** As the kubelet has reported them: late, and of the network before while a new one is made. */
  readonly ips: readonly string[];
  readonly hostNetwork: boolean;
  readonly probePorts: readonly number[];
  readonly runtimeClass: string;
  /** All containers have ended for good: a Job that is done. */
  readonly hasEnded: boolean;
}
export interface NodeNamespace {
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

type Fields = Readonly<Record<string, unknown>>;
const fieldsAt = (value: unknown): Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {};
const listAt = (value: unknown): readonly Fields[] => (Array.isArray(value) ? value.map(fieldsAt) : []);
const textAt = (value: unknown): string => (typeof value === "string" ? value : "");
/** Of annotations only those that mean something to us: others can be 256 KB. */
const ours = "fairlead.dev/";
function textsAt(value: unknown, prefix = ""): Readonly<Record<string, string>> {
  const texts: Record<string, string> = {};
  for (const [key, text] of Object.entries(fieldsAt(value)))
    if (typeof text === "string" && key.startsWith(prefix)) texts[key] = text;
  return texts;
}

export function readNodePod(raw: RawObject): NodePod {
  const { metadata } = raw;
  const spec = fieldsAt(raw.spec);
  const status = fieldsAt(raw.status);
  const phase = textAt(status.phase);
  const uid = textAt(metadata.uid);
  const ips = [textAt(status.podIP), ...listAt(status.podIPs).map((entry) => textAt(entry.ip))];
  return {
    namespace: metadata.namespace ?? "",
    name: metadata.name,
    uid,
    groupUid: textAt(fieldsAt(metadata.annotations)["kubernetes.io/config.hash"]) || uid,
    serviceAccount: textAt(spec.serviceAccountName) || "default",
    labels: textsAt(metadata.labels),
    annotations: textsAt(metadata.annotations, ours),
    node: textAt(spec.nodeName),
    ips: [...new Set(ips.flatMap((ip) => canonicalIp(ip) ?? []))],
    hostNetwork: spec.hostNetwork === true,
    probePorts: probePorts(spec),
    runtimeClass: textAt(spec.runtimeClassName),
    hasEnded: phase === "Succeeded" || phase === "Failed",
  };
}

export function readNodeNamespace(raw: RawObject): NodeNamespace {
  const { labels, annotations } = raw.metadata;
  return { labels: textsAt(labels), annotations: textsAt(annotations, ours) };
}

const probes = ["livenessProbe", "readinessProbe", "startupProbe"] as const;
const hooks = ["postStart", "preStop"] as const;

/**
 * Ports that the kubelet may connect to (DP-10): of httpGet, tcpSocket and grpc in probes and life-cycle hooks, names resolved by the
 * container's own ports. With a `host` the kubelet goes elsewhere.
 */
export function probePorts(spec: Fields): readonly number[] {
  const ports = new Set<number>();
  for (const container of [...listAt(spec.containers), ...listAt(spec.initContainers)]) {
    const named = new Map(listAt(container.ports).map((port) => [port.name, port.containerPort]));
    const lifecycle = fieldsAt(container.lifecycle);
    const actions = [...probes.map((key) => container[key]), ...hooks.map((key) => lifecycle[key])];
    for (const action of actions.map(fieldsAt))
      for (const kind of ["httpGet", "tcpSocket", "grpc"]) {
        const { port, host } = fieldsAt(action[kind]);
        if (typeof host === "string" && host !== "") continue;
        const number = Number(typeof port === "string" ? (named.get(port) ?? port) : port);
        if (Number.isInteger(number) && number >= 1 && number <= 65_535) ports.add(number);
      }
  }
  return [...ports].sort((a, b) => a - b);
}
