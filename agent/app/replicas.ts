// Keeps the data threads' replicas of what the agent knows: everything when one starts, then every change (rule DP-25).
import type { MeshResource } from "../api/resources.ts";
import type { Knowledge, LocalPod } from "../flow.ts";
import type { MeshState, MeshUpdate } from "../state/mesh-state.ts";
import type { ReplicaMessage, ToThread } from "../threads.ts";

/** Resources in one message: cloning them must not hold the control thread for long. */
const sliceSize = 500;

export interface ReplicaSource {
  readonly state: MeshState;
  pods(): readonly LocalPod[];
  knowledge(): Knowledge;
}

export class Replicas {
  readonly #source: ReplicaSource;
  readonly #posts = new Set<(message: ToThread) => void>();

  constructor(source: ReplicaSource) {
    this.#source = source;
  }

  /**
   * Tells a thread all that is known, in slices, and every change from now on; the returned function ends it. Slices are read
   * when they are sent, so a change in between is never undone by an older slice.
   */
  attach(post: (message: ToThread) => void): () => void {
    this.#posts.add(post);
    const { state } = this.#source;
    post({ say: "pods", pods: this.#podsNow() });
    const all = state.snapshot()[Symbol.iterator]();
    const next = (): void => {
      if (!this.#posts.has(post)) return;
      const changed: MeshResource[] = [];
      while (changed.length < sliceSize) {
        const item = all.next();
        if (item.done === true) break;
        changed.push(item.value);
      }
      post({ say: "mesh", changed, removed: [] });
      if (changed.length === sliceSize) return void setImmediate(next);
      post({ say: "knowledge", knowledge: this.#source.knowledge() });
      post({ say: "replicated" });
    };
    next();
    return () => void this.#posts.delete(post);
  }

  mesh(update: MeshUpdate): void {
    this.#tell({ say: "mesh", changed: update.changed, removed: update.removed });
  }
  pods(): void {
    if (this.#posts.size > 0) this.#tell({ say: "pods", pods: this.#podsNow() });
  }
  knowledge(knowledge: Knowledge): void {
    this.#tell({ say: "knowledge", knowledge });
  }

  #tell(message: ReplicaMessage): void {
    for (const post of this.#posts) post(message);
  }
  /** Only what can be cloned and is asked for. */
  #podsNow(): readonly LocalPod[] {
    return this.#source.pods().map(({ name, identity, workload }) => ({ name, identity, workload }));
  }
}
