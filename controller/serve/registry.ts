// The agents that are connected now; the newest stream of a node speaks for it (an agent being replaced has two for a while).
import type { NodeName } from "../../agent/api/names.ts";
import type { AgentStream } from "./stream.ts";

export class AgentRegistry {
  readonly #streams = new Map<NodeName, AgentStream[]>();

  add(stream: AgentStream): void {
    this.#streams.set(stream.node, [...(this.#streams.get(stream.node) ?? []), stream]);
  }
  remove(stream: AgentStream): void {
    const left = (this.#streams.get(stream.node) ?? []).filter((s) => s !== stream);
    if (left.length === 0) this.#streams.delete(stream.node);
    else this.#streams.set(stream.node, left);
  }
  /** Whether any agent of the node has a stream. */
  has(node: NodeName): boolean {
    return this.#streams.has(node);
  }
  /** One stream per node. */
  current(): readonly AgentStream[] {
    return [...this.#streams.values()].flatMap((streams) => streams.at(-1) ?? []);
  }
  get size(): number {
    return this.#streams.size;
  }
  endAll(): void {
    for (const streams of [...this.#streams.values()]) for (const stream of [...streams]) stream.end();
  }
}
