// Which service accounts have a living pod on which node, with a network of its own: for these the node may have certificates.
import type { ObjectRef, PodObject } from "../sources/types.ts";
import { isOver } from "../translate/workload-record.ts";

export class Placement {
  /** "namespace/name" of a pod -> "node/namespace/account" */
  readonly #places = new Map<string, string>();
  readonly #counts = new Map<string, number>();

  put(pod: PodObject): void {
    this.remove(pod.metadata);
    const { nodeName, hostNetwork, serviceAccountName } = pod.spec;
    if (nodeName === "" || hostNetwork || isOver(pod)) return;
    const place = `${nodeName}/${pod.metadata.namespace}/${serviceAccountName || "default"}`;
    this.#places.set(keyOf(pod.metadata), place);
    this.#counts.set(place, (this.#counts.get(place) ?? 0) + 1);
  }
  remove(pod: Pick<ObjectRef, "namespace" | "name">): void {
    const place = this.#places.get(keyOf(pod));
    if (place === undefined) return;
    this.#places.delete(keyOf(pod));
    const left = (this.#counts.get(place) ?? 0) - 1;
    if (left > 0) this.#counts.set(place, left);
    else this.#counts.delete(place);
  }
  has(node: string, namespace: string, serviceAccount: string): boolean {
    return this.#counts.has(`${node}/${namespace}/${serviceAccount}`);
  }
}

const keyOf = ({ namespace, name }: Pick<ObjectRef, "namespace" | "name">): string => `${namespace}/${name}`;
