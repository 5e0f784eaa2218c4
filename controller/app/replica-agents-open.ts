// The agents of other replicas, made of the controller's parts.
import type { Clock } from "../../agent/base/clock.ts";
import type { Logger } from "../../agent/base/log.ts";
import { systemRandom } from "../../agent/base/random.ts";
import type { Config } from "../config.ts";
import type { Election } from "../lease/election.ts";
import type { KubernetesMetrics } from "../report/kubernetes-metrics.ts";
import type { AgentRegistry } from "../serve/registry.ts";
import type { AgentReports } from "../status/agents.ts";
import type { NodeView } from "../status/reach.ts";
import { type Offered, summarize } from "../status/replicas.ts";
import type { Mesh } from "./mesh.ts";
import { type OpenedApi, ownNamespace } from "./open-source.ts";
import { ReplicaAgents } from "./replica-agents.ts";

export interface ReplicaAgentsParts {
  readonly config: Config;
  readonly opened: OpenedApi;
  readonly election: Election;
  readonly mesh: Mesh;
  readonly registry: AgentRegistry;
  readonly ownViews: () => ReadonlyMap<string, NodeView>;
  readonly reports: AgentReports;
  readonly clock: Clock;
  readonly log: Logger;
  readonly meter: KubernetesMetrics;
}

/** Not started. `changed` is called when agents of others said something. */
export function replicaAgents(parts: ReplicaAgentsParts, changed: () => void): ReplicaAgents {
  const { config, opened, election, mesh, registry, reports, clock, log, meter } = parts;
  const offered: Offered = {
    names: (typeUrl) => mesh.snapshot.type(typeUrl)?.names() ?? [],
    versionOf: (typeUrl, name) => mesh.snapshot.type(typeUrl)?.get(name)?.version,
  };
  return new ReplicaAgents({
    api: opened.api,
    namespace: ownNamespace(config, opened),
    clock,
    random: systemRandom,
    log,
    meter: meter.of("ReplicaAgents"),
    lead: election,
    offered,
    summary() {
      const connected = new Map(registry.current().map((stream) => [stream.node as string, stream.connectedAtMs]));
      const notEnrolled = reports.byNode();
      return summarize(offered, parts.ownViews(), (node) => connected.get(node) ?? 0, notEnrolled);
    },
    isLacking: () => [...reports.byNode().values()].some((pods) => pods.size > 0),
    changed,
  });
}
