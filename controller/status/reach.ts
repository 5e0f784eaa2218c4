// How far an object has come: of the nodes that it is for, how many have its resources, and how many enforce them. Pure.
import { codecs, type ResourceKind } from "../../agent/api/resources.ts";

/** What one node's agent says about a resource. */
export interface NodeView {
  readonly node: string;
  stateOf(typeUrl: string, name: string): { readonly isCurrent: boolean; readonly refusal: string | undefined };
  notEnforced(typeUrl: string, name: string): string | undefined;
}
export interface CarriedBy {
  readonly kind: string;
  readonly name: string;
}
export interface Reach {
  /** Nodes that it is for. */
  readonly of: number;
  /** Whose agent has accepted the current version. */
  readonly programmed: number;
  /** Whose agent enforces it, too. */
  readonly enforced: number;
  /** Whether an agent refused it. */
  readonly isRefused: boolean;
  /** "node: reason" of those that do not enforce it, the first few. */
  readonly why: readonly string[];
}

const shown = 5;

/** `nodes`: those that it is for; one without a view has no agent that is connected. */
export function reachOf(
  resources: readonly CarriedBy[],
  nodes: Iterable<string>,
  views: ReadonlyMap<string, NodeView>,
): Reach {
  const why: string[] = [];
  let [of, programmed, enforced, isRefused] = [0, 0, 0, false];
  for (const node of nodes) {
    of += 1;
    const state = stateOn(resources, views.get(node));
    if (state.kind === "enforced") enforced += 1;
    if (state.kind !== "waiting" && state.kind !== "refused") programmed += 1;
    if (state.kind === "refused") isRefused = true;
    if (state.kind !== "enforced" && why.length < shown) why.push(`${node}: ${state.why}`);
  }
  return { of, programmed, enforced, isRefused, why };
}

type State =
  | { readonly kind: "enforced" }
  | { readonly kind: "waiting" | "refused" | "not_enforced"; readonly why: string };
const order = { enforced: 0, not_enforced: 1, waiting: 2, refused: 3 } as const;

/** The worst of all resources counts. */
function stateOn(resources: readonly CarriedBy[], view: NodeView | undefined): State {
  if (view === undefined) return { kind: "waiting", why: "no agent is connected" };
  let worst: State = { kind: "enforced" };
  for (const resource of resources) {
    const state = stateOf(resource, view);
    if (order[state.kind] > order[worst.kind]) worst = state;
  }
  return worst;
}
function stateOf(resource: CarriedBy, view: NodeView): State {
  const { typeUrl } = codecs[resource.kind as ResourceKind];
  const { isCurrent, refusal } = view.stateOf(typeUrl, resource.name);
  if (refusal !== undefined) return { kind: "refused", why: `refused by the agent: ${refusal}` };
  if (!isCurrent) return { kind: "waiting", why: "the agent does not have this version yet" };
  const reason = view.notEnforced(typeUrl, resource.name);
  return reason === undefined ? { kind: "enforced" } : { kind: "not_enforced", why: reason };
}
