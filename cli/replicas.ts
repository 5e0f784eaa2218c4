// What several replicas of the controller say of one mesh, as one answer. Pure.
import { type Fields, fieldsAt, listAt } from "../test/lab/objects.ts";

export interface ReplicaAnswer {
  readonly name: string;
  /** Its /v1/status. */
  readonly status?: Fields;
  readonly error?: string;
}
export interface Joined {
  /** As one replica's; each agent with the `replica` that serves it. */
  readonly status: Fields;
  readonly replicas: readonly { readonly name: string; readonly agents?: number; readonly error?: string }[];
  /** A sentence for each replica that did not answer: its agents are missing. */
  readonly silent: readonly string[];
}

/** Objects and CA are the first one's that answers, agents those of all. @returns undefined when none answers */
export function joinReplicas(answers: readonly ReplicaAnswer[]): Joined | undefined {
  const first = answers.find(({ status }) => status !== undefined)?.status;
  if (first === undefined) return undefined;
  const byNode = new Map<string, Fields>();
  for (const { name, status } of answers)
    for (const agent of listAt(status?.agents).map(fieldsAt)) {
      const known = byNode.get(String(agent.node));
      // A connection that is lost is in its replica's list until that is noticed; times are ISO 8601.
      if (known === undefined || String(known.connectedAt) < String(agent.connectedAt))
        byNode.set(String(agent.node), { ...agent, replica: name });
    }
  const agents = [...byNode.values()].sort((a, b) => String(a.node).localeCompare(String(b.node)));
  return {
    status: { ...first, agents },
    replicas: answers.map(({ name, status, error }) => ({
      name,
      ...(status === undefined ? { error: error ?? "" } : { agents: agents.filter((a) => a.replica === name).length }),
    })),
    silent: answers.flatMap(({ name, error }) => (error === undefined ? [] : [`controller ${name}: ${error}`])),
  };
}
