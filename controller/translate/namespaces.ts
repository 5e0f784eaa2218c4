// Which namespaces exist and which pods are in the mesh. Pure.
import { isOptedIn } from "../../agent/api/labels.ts";
import type { MeshSettings } from "../../agent/api/settings.ts";
import type { ClusterIndex, Indexed } from "../index/cluster-index.ts";
import type { NamespaceObject, PodObject } from "../sources/types.ts";
import { type Condition, refused } from "./conditions.ts";

/** There without being declared, as in any cluster. */
export const implicitNamespaces: readonly string[] = ["default", "kube-system", "fairlead-system", "istio-system"];
export const protocolAnnotation = "fairlead.dev/protocol";

export class Namespaces {
  readonly #labels = new Map<string, Readonly<Record<string, string>>>();
  readonly #unmeshed: ReadonlySet<string>;

  constructor(index: ClusterIndex, settings: MeshSettings) {
    for (const name of implicitNamespaces) this.#labels.set(name, {});
    for (const { object } of index.all("Namespace") as readonly Indexed<NamespaceObject>[]) {
      this.#labels.set(object.metadata.name, object.metadata.labels);
    }
    this.#unmeshed = new Set(settings.unmeshedNamespaces);
  }

  has(name: string): boolean {
    return this.#labels.has(name);
  }

  /** A condition when the object's namespace is missing. */
  missing(entry: Indexed): Condition | undefined {
    const { namespace } = entry.object.metadata;
    if (namespace === "" || this.has(namespace)) return undefined;
    return refused(entry, "NamespaceMissing", {
      field: "metadata.namespace",
      message: `the namespace "${namespace}" is missing`,
      fix: `add a Namespace named "${namespace}" or correct the name`,
    });
  }

  /** Pod label over namespace label; never for pods on the host's network or in excluded namespaces. */
  isMeshed(pod: PodObject): boolean {
    const { namespace, labels } = pod.metadata;
    if (pod.spec.hostNetwork || this.#unmeshed.has(namespace)) return false;
    return isOptedIn(labels, this.#labels.get(namespace) ?? {});
  }
}
