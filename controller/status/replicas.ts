// What one replica knows of the agents that are connected to it, for the replica that writes: which resources it offers in which versions,
// and of each node what its agent has not taken, has refused, or cannot enforce, and for all replicas which pods it has not enrolled. Pure;
// read from an object that anybody may have written.
import { codecs, type ResourceKind, resourceKinds } from "../../agent/api/resources.ts";
import type { NodeView } from "./reach.ts";

/** Kinds that carry objects with a status. */
const told: readonly ResourceKind[] = resourceKinds.filter(
  (kind) => kind !== "Workload" && kind !== "Service" && kind !== "TrustBundle",
);

export interface NodeSummary {
  readonly node: string;
  readonly connectedAtMs: number;
  /** Places in `resources`. */
  readonly behind: readonly number[];
  readonly refused: readonly (readonly [place: number, reason: string])[];
  readonly notEnforced: readonly (readonly [place: number, reason: string])[];
  /** Pods ("namespace/name"); absent: none, or a replica of before told it. */
  readonly notEnrolled?: readonly (readonly [pod: string, reason: string])[];
}
/** Pods by node, with the reason. */
export type NotEnrolled = ReadonlyMap<string, ReadonlyMap<string, string>>;
export interface ReplicaSummary {
  /** "Kind/name" and version. */
  readonly resources: readonly (readonly [key: string, version: string])[];
  readonly nodes: readonly NodeSummary[];
}
/** What is offered: names and versions by kind. */
export interface Offered {
  names(typeUrl: string): Iterable<string>;
  versionOf(typeUrl: string, name: string): string | undefined;
}

export function summarize(
  offered: Offered,
  views: ReadonlyMap<string, NodeView>,
  connectedAtMs: (node: string) => number,
  byNode: NotEnrolled,
): ReplicaSummary {
  const resources: [string, string][] = [];
  const places: (readonly [typeUrl: string, name: string])[] = [];
  for (const kind of told) {
    const { typeUrl } = codecs[kind];
    for (const name of [...offered.names(typeUrl)].sort()) {
      resources.push([`${kind}/${name}`, offered.versionOf(typeUrl, name) ?? ""]);
      places.push([typeUrl, name]);
    }
  }
  const nodes = [...views.values()].map((view) => {
    const behind: number[] = [];
    const refused: [number, string][] = [];
    const notEnforced: [number, string][] = [];
    for (const [place, [typeUrl, name]] of places.entries()) {
      const { isCurrent, refusal } = view.stateOf(typeUrl, name);
      if (refusal !== undefined) refused.push([place, refusal.slice(0, 300)]);
      else if (!isCurrent) behind.push(place);
      const reason = view.notEnforced(typeUrl, name);
      if (reason !== undefined) notEnforced.push([place, reason.slice(0, 300)]);
    }
    const notEnrolled = [...(byNode.get(view.node) ?? [])];
    return {
      ...{ node: view.node, connectedAtMs: connectedAtMs(view.node), behind, refused, notEnforced },
      ...(notEnrolled.length > 0 && { notEnrolled }),
    };
  });
  return { resources, nodes };
}

/** undefined when it is none. */
export function readSummary(value: unknown): ReplicaSummary | undefined {
  const { resources, nodes } = (value ?? {}) as Partial<Record<keyof ReplicaSummary, unknown>>;
  const isPair = (pair: unknown, first: string): boolean =>
    Array.isArray(pair) && typeof pair[0] === first && typeof pair[1] === "string";
  const areNoted = (list: unknown): boolean => Array.isArray(list) && list.every((pair) => isPair(pair, "number"));
  const isNode = (node: unknown): boolean => {
    const {
      node: name,
      connectedAtMs,
      behind,
      refused,
      notEnforced,
      notEnrolled,
    } = (node ?? {}) as Record<string, unknown>;
    return (
      typeof name === "string" &&
      typeof connectedAtMs === "number" &&
      Array.isArray(behind) &&
      behind.every((place) => typeof place === "number") &&
      areNoted(refused) &&
      areNoted(notEnforced) &&
      (notEnrolled === undefined || (Array.isArray(notEnrolled) && notEnrolled.every((pair) => isPair(pair, "string"))))
    );
  };
  const isFine =
    Array.isArray(resources) &&
    resources.every((pair) => isPair(pair, "string")) &&
    Array.isArray(nodes) &&
    nodes.every(isNode);
  return isFine ? (value as ReplicaSummary) : undefined;
}

/** The agents of others beside our own, by node. Of two that name a node the one with the later connection speaks; we speak first. */
export function joinViews(
  own: ReadonlyMap<string, NodeView>,
  others: Iterable<ReplicaSummary>,
  offered: Pick<Offered, "versionOf">,
): ReadonlyMap<string, NodeView> {
  const joined = new Map(own);
  for (const [name, { node, summary }] of spokenFor(own, others)) {
    const places = new Map(summary.resources.map(([key, version], place) => [key, { place, version }]));
    joined.set(name, viewOf(node, places, offered));
  }
  return joined;
}

/** Pods that the agents of others have not enrolled. Who speaks for a node is as in `joinViews`; `own` are the nodes that are connected here. */
export function notEnrolledElsewhere(
  own: { has(node: string): boolean },
  others: Iterable<ReplicaSummary>,
): NotEnrolled {
  return new Map([...spokenFor(own, others)].map(([name, { node }]) => [name, new Map(node.notEnrolled)]));
}

function spokenFor(
  own: { has(node: string): boolean },
  others: Iterable<ReplicaSummary>,
): ReadonlyMap<string, { readonly node: NodeSummary; readonly summary: ReplicaSummary }> {
  const found = new Map<string, { readonly node: NodeSummary; readonly summary: ReplicaSummary }>();
  for (const summary of others)
    for (const node of summary.nodes) {
      const since = found.get(node.node)?.node.connectedAtMs ?? Number.NEGATIVE_INFINITY;
      if (!own.has(node.node) && node.connectedAtMs > since) found.set(node.node, { node, summary });
    }
  return found;
}

function viewOf(
  summary: NodeSummary,
  places: ReadonlyMap<string, { readonly place: number; readonly version: string }>,
  offered: Pick<Offered, "versionOf">,
): NodeView {
  const behind = new Set(summary.behind);
  const refused = new Map(summary.refused);
  const notEnforced = new Map(summary.notEnforced);
  const kindOf = new Map<string, ResourceKind>(told.map((kind) => [codecs[kind].typeUrl, kind]));
  /** Only of the version that we offer, too: the other replica may be ahead or behind. */
  const find = (typeUrl: string, name: string): number | undefined => {
    const found = places.get(`${kindOf.get(typeUrl)}/${name}`);
    return found !== undefined && found.version === offered.versionOf(typeUrl, name) ? found.place : undefined;
  };
  return {
    node: summary.node,
    stateOf(typeUrl, name) {
      const place = find(typeUrl, name);
      if (place === undefined) return { isCurrent: false, refusal: undefined };
      const refusal = refused.get(place);
      return { isCurrent: refusal === undefined && !behind.has(place), refusal };
    },
    notEnforced(typeUrl, name) {
      const place = find(typeUrl, name);
      return place === undefined ? undefined : notEnforced.get(place);
    },
  };
}
