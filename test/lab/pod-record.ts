// What is written about a pod: the record for the node's agent, and the Pod with status that a kubelet would report (docs/lab.md). Pure.
import type { Container } from "./container.ts";
import { type Fields, fieldsAt } from "./objects.ts";
import type { PodSpec } from "./pod-spec.ts";

export interface NamespaceFacts {
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

export interface Placement {
  readonly node: string;
  readonly uid: string;
  readonly ips: readonly string[];
  readonly nodeIps: readonly string[];
  readonly netnsPath: string;
  readonly cgroup: string;
}

/** The pod record of docs/lab.md. */
export function podRecord(pod: PodSpec, at: Placement, namespace: NamespaceFacts): Fields {
  return {
    namespace: pod.namespace,
    name: pod.name,
    uid: at.uid,
    serviceAccount: pod.serviceAccount,
    labels: pod.labels,
    annotations: pod.annotations,
    namespaceLabels: namespace.labels,
    namespaceAnnotations: namespace.annotations,
    netns: at.netnsPath,
    ips: at.ips,
    hostNetwork: pod.hostNetwork,
    probePorts: pod.probePorts,
    cgroup: at.cgroup,
  };
}

export type Phase = "Pending" | "Running" | "Succeeded" | "Failed";
export interface PodCondition {
  readonly phase: Phase;
  readonly ready: boolean;
  readonly reason: string;
  readonly message: string;
}

/** Phase and readiness from the containers' states, as the kubelet derives them. */
export function conditionOf(
  waiting: { readonly reason: string; readonly message: string } | undefined,
  init: readonly Container[],
  containers: readonly Container[],
): PodCondition {
  if (waiting !== undefined) return { phase: "Pending", ready: false, ...waiting };
  for (const c of init) {
    if (c.state.kind === "terminated" && c.state.code === 0) continue;
    if (c.state.kind === "terminated")
      return {
        phase: "Failed",
        ready: false,
        reason: "Init:Error",
        message: `init container ${c.name}: ${c.state.message}`,
      };
    const message = c.state.kind === "waiting" ? c.state.message : "";
    return {
      phase: "Pending",
      ready: false,
      reason: `Init:${c.state.kind === "waiting" ? c.state.reason : c.name}`,
      message,
    };
  }
  const states = containers.map((c) => c.state);
  if (states.length > 0 && states.every((s) => s.kind === "terminated")) {
    const failed = containers.find((c) => c.state.kind === "terminated" && c.state.code !== 0);
    if (failed === undefined) return { phase: "Succeeded", ready: false, reason: "Completed", message: "" };
    return {
      phase: "Failed",
      ready: false,
      reason: "Error",
      message: failed.state.kind === "terminated" ? `container ${failed.name}: ${failed.state.message}` : "",
    };
  }
  const crashing = containers.find((c) => c.state.kind === "waiting" && c.state.reason !== "ContainerCreating");
  if (crashing?.state.kind === "waiting")
    return {
      phase: "Running",
      ready: false,
      reason: crashing.state.reason,
      message: `container ${crashing.name}: ${crashing.state.message}`,
    };
  if (states.every((s) => s.kind === "waiting"))
    return { phase: "Pending", ready: false, reason: "ContainerCreating", message: "" };
  const ready = containers.every((c) => c.ready);
  return { phase: "Running", ready, reason: ready ? "" : "ContainersNotReady", message: "" };
}

/** The Pod as the API server would show it: the manifest plus node, uid and status. */
export function livePod(
  pod: PodSpec,
  at: Placement,
  condition: PodCondition,
  init: readonly Container[],
  containers: readonly Container[],
  deletedMs: number | undefined,
): Fields {
  const metadata = fieldsAt(pod.source.fields.metadata);
  const flag = (type: string, value: boolean): Fields => ({ type, status: value ? "True" : "False" });
  return {
    ...pod.source.fields,
    metadata: {
      ...metadata,
      namespace: pod.namespace,
      uid: at.uid,
      ...(deletedMs === undefined ? {} : { deletionTimestamp: new Date(deletedMs).toISOString() }),
    },
    spec: { ...fieldsAt(pod.source.fields.spec), nodeName: at.node, serviceAccountName: pod.serviceAccount },
    status: {
      phase: condition.phase,
      ...(condition.reason === "" ? {} : { reason: condition.reason }),
      ...(condition.message === "" ? {} : { message: condition.message }),
      ...(at.ips[0] === undefined ? {} : { podIP: at.ips[0] }),
      podIPs: at.ips.map((ip) => ({ ip })),
      ...(at.nodeIps[0] === undefined ? {} : { hostIP: at.nodeIps[0] }),
      hostIPs: at.nodeIps.map((ip) => ({ ip })),
      conditions: [
        flag("PodScheduled", true),
        flag(
          "Initialized",
          init.every((c) => c.state.kind === "terminated"),
        ),
        flag("ContainersReady", condition.ready),
        flag("Ready", condition.ready),
      ],
      initContainerStatuses: init.map(containerStatus),
      containerStatuses: containers.map(containerStatus),
    },
  };
}

function containerStatus(c: Container): Fields {
  const { state } = c;
  const text =
    state.kind === "running"
      ? { running: { startedAt: new Date(state.startedMs).toISOString() } }
      : state.kind === "waiting"
        ? { waiting: { reason: state.reason, message: state.message } }
        : {
            terminated: {
              exitCode: state.code,
              reason: state.code === 0 ? "Completed" : "Error",
              // What the program said, as a kubelet reports it; the exit code stands beside it.
              message: c.lastEnd?.message ?? state.message,
            },
          };
  const lastState =
    c.lastEnd === undefined ? {} : { terminated: { exitCode: c.lastEnd.code, message: c.lastEnd.message } };
  return { name: c.name, ready: c.ready, started: c.started, restartCount: c.restarts, state: text, lastState };
}
