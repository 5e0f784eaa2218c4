// One copy of each text and list that many workloads have in common: decoding makes a new one for each. Pure.
import type { Workload } from "../api/workload.ts";

/** Beyond this the pool starts anew: what it holds may be of workloads long gone. Records stay right without it. */
const mostTexts = 20_000;
const nothing: readonly never[] = Object.freeze([]);

export class TextPool {
  #texts = new Map<string, string>();
  #labels = new Map<string, Workload["labels"]>();

  /** An equal record that shares what other records have, too. */
  shared(workload: Workload): Workload {
    return {
      ...workload,
      namespace: this.#text(workload.namespace),
      serviceAccount: this.#text(workload.serviceAccount),
      trustDomain: this.#text(workload.trustDomain),
      node: this.#text(workload.node),
      region: this.#text(workload.region),
      zone: this.#text(workload.zone),
      labels: this.#sharedLabels(workload.labels),
      services: orNothing(workload.services),
      untunnelledPorts: orNothing(workload.untunnelledPorts),
      hostPorts: orNothing(workload.hostPorts),
    };
  }

  #text<T extends string>(text: T): T {
    const known = this.#texts.get(text);
    if (known !== undefined) return known as T;
    if (this.#texts.size >= mostTexts) this.#texts = new Map();
    this.#texts.set(text, text);
    return text;
  }

  /** Pods of one set have the same labels. */
  #sharedLabels(labels: Workload["labels"]): Workload["labels"] {
    const key = JSON.stringify(labels);
    const known = this.#labels.get(key);
    if (known !== undefined) return known;
    if (this.#labels.size >= mostTexts) this.#labels = new Map();
    this.#labels.set(key, labels);
    return labels;
  }
}

const orNothing = <T>(list: readonly T[]): readonly T[] => (list.length === 0 ? nothing : list);
