// What each node's agent reported last: what it could not enforce, which pods it has enrolled.
import type { ReportRequest } from "../../agent/api/mesh.gen.ts";
import type { NodeName } from "../../agent/api/names.ts";
import type { NotEnrolled } from "./replicas.ts";

export interface AgentReport {
  readonly agentVersion: string;
  readonly interception: string;
  /** Reason by "type URL/resource name" of what is not enforced. */
  readonly notEnforced: ReadonlyMap<string, string>;
  /** Pods that should be enrolled and are not, with the reason. */
  readonly unenrolled: ReadonlyMap<string, string>;
  readonly enrolled: number;
  readonly atMs: number;
}

const most = 20_000;
const bounded = (text: string): string => text.slice(0, 300);

export class AgentReports {
  readonly #reports = new Map<NodeName, AgentReport>();

  put(node: NodeName, report: ReportRequest, nowMs: number): void {
    const failed = report.enforcements.slice(0, most).filter((e) => !e.enforced);
    const pods = report.pods.slice(0, most);
    this.#reports.set(node, {
      agentVersion: bounded(report.agentVersion),
      interception: bounded(report.interception),
      notEnforced: new Map(failed.map((e) => [`${e.typeUrl}/${e.resource}`, bounded(e.reason)])),
      // Without a reason the pod is not meant to be in the mesh.
      unenrolled: new Map(pods.filter((p) => !p.enrolled && p.reason !== "").map((p) => [p.pod, bounded(p.reason)])),
      enrolled: pods.filter((p) => p.enrolled).length,
      atMs: nowMs,
    });
  }
  /** Its agent is gone, or speaks to another controller: what it said here is said again where it comes back. */
  forget(node: NodeName): void {
    this.#reports.delete(node);
  }
  /**
   * Pods that the agent of their own node has not enrolled, with the reason. What a node says of another's pods is nobody's business.
   * `elsewhere`: what agents of other replicas told those.
   */
  unenrolled(
    nodeOf: (namespace: string, pod: string) => string | undefined,
    elsewhere: NotEnrolled = new Map(),
  ): ReadonlyMap<string, string> {
    const all = new Map<string, string>();
    for (const [node, pods] of [...elsewhere, ...this.byNode()])
      for (const [pod, reason] of pods) {
        const slash = pod.indexOf("/");
        if (nodeOf(pod.slice(0, slash), pod.slice(slash + 1)) === node) all.set(pod, reason);
      }
    return all;
  }
  /** Pods that each node's agent has not enrolled, as it told. */
  byNode(): NotEnrolled {
    return new Map([...this.#reports].map(([node, report]) => [node, report.unenrolled]));
  }
  get(node: NodeName): AgentReport | undefined {
    return this.#reports.get(node);
  }
  all(): ReadonlyMap<NodeName, AgentReport> {
    return this.#reports;
  }
}
