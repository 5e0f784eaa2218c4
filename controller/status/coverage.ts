// On which nodes workloads are that a policy is for. Workloads that a policy cannot tell apart are looked at once.
import type { Workload } from "../../agent/api/workload.ts";

interface Shape {
  readonly workload: Workload;
  readonly nodes: Set<string>;
}
/** What a policy looks at; a record that did not change is the same object in the next translation. */
const keys = new WeakMap<Workload, string>();
function shapeOf(workload: Workload): string {
  let key = keys.get(workload);
  if (key === undefined) {
    const { namespace, labels, services } = workload;
    key = JSON.stringify([namespace, labels, services.map((s) => s.service)]);
    keys.set(workload, key);
  }
  return key;
}

export class Coverage {
  readonly #shapes = new Map<string, Shape>();
  readonly #nodes = new Set<string>();

  constructor(workloads: Iterable<Workload>) {
    for (const workload of workloads) {
      if (workload.node === "" || workload.tunnel === "none") continue;
      this.#nodes.add(workload.node);
      const key = shapeOf(workload);
      const shape = this.#shapes.get(key);
      if (shape === undefined) this.#shapes.set(key, { workload, nodes: new Set([workload.node]) });
      else shape.nodes.add(workload.node);
    }
  }

  /** Nodes with workloads of the mesh. */
  get nodes(): ReadonlySet<string> {
    return this.#nodes;
  }
  /** Of these, those that `covers` means. */
  nodesOf(covers: (workload: Workload) => boolean): ReadonlySet<string> {
    const found = new Set<string>();
    for (const { workload, nodes } of this.#shapes.values()) {
      if (covers(workload)) for (const node of nodes) found.add(node);
      if (found.size === this.#nodes.size) break;
    }
    return found;
  }
}
