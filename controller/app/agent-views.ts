// What the agents that are connected here say about resources, node by node.
import { kindOfTypeUrl } from "../../agent/api/resources.ts";
import type { AgentRegistry } from "../serve/registry.ts";
import type { AgentReports } from "../status/agents.ts";
import type { NodeView } from "../status/reach.ts";

export const agentViews = (registry: AgentRegistry, reports: AgentReports): ReadonlyMap<string, NodeView> =>
  new Map(
    registry.current().map((stream) => [
      stream.node,
      {
        node: stream.node,
        stateOf: (typeUrl, name) => stream.stateOf(typeUrl, name),
        notEnforced: (typeUrl, name) => reports.get(stream.node)?.notEnforced.get(`${typeUrl}/${name}`),
      },
    ]),
  );

/** Resources that say who is where, and carry no object that has a status of ours. */
export const isOfEndpoints = (typeUrl: string): boolean => {
  const kind = kindOfTypeUrl(typeUrl);
  return kind === "Workload" || kind === "Service";
};
