// What a data thread knows of the mesh and of this node: the control thread's state, kept up by its messages. Pure.
import type { PodName } from "./api/names.ts";
import type { MeshSettings } from "./api/settings.ts";
import type { Knowledge, LocalPod, LocalPods } from "./flow.ts";
import { type Changes, MeshState } from "./state/mesh-state.ts";
import type { ReplicaMessage } from "./threads.ts";

export class Replica implements LocalPods {
  readonly state: MeshState;
  #knowledge: Knowledge = "none";
  #byName = new Map<PodName, LocalPod>();
  #byAddress = new Map<string, LocalPod>();

  constructor(defaults?: MeshSettings) {
    this.state = new MeshState(defaults);
  }

  get knowledge(): Knowledge {
    return this.#knowledge;
  }
  byName(name: PodName): LocalPod | undefined {
    return this.#byName.get(name);
  }
  byAddress(address: string): LocalPod | undefined {
    return this.#byAddress.get(address);
  }

  /** Some pod of this node in that namespace. */
  inNamespace(namespace: string): LocalPod | undefined {
    for (const pod of this.#byName.values()) if (pod.workload.namespace === namespace) return pod;
    return undefined;
  }

  /** Takes one message; what was derived from the state before is void where its generation has grown. */
  take(message: ReplicaMessage): Changes | undefined {
    switch (message.say) {
      case "mesh":
        return this.state.apply(message);
      case "pods": {
        this.#byName = new Map(message.pods.map((pod) => [pod.name, pod]));
        this.#byAddress = new Map(message.pods.flatMap((pod) => pod.workload.addresses.map((a) => [a, pod] as const)));
        this.state.bump();
        return undefined;
      }
      case "knowledge":
        this.#knowledge = message.knowledge;
        this.state.bump();
        return undefined;
    }
  }
}
