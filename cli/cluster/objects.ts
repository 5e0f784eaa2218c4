// Manifests -> objects of a cluster: applied and deleted under the paths that its API server names for their kinds.
import { showFault } from "../../agent/kubernetes/fault.ts";
import { fieldsAt, listAt } from "../../test/lab/objects.ts";
import { Failure } from "../command.ts";
import type { Cluster } from "./connect.ts";

export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
}
/** By whom fields are owned that `fairlead install` sets. */
const fieldManager = "fairlead-install";

export const nameOf = ({ kind, metadata }: Manifest): string =>
  `${kind} ${metadata.namespace === undefined ? "" : `${metadata.namespace}/`}${metadata.name}`;

/** What others need comes first: namespaces, then definitions, then the rest as it is written. */
export function inOrder(manifests: readonly Manifest[]): readonly Manifest[] {
  const first = [
    "Namespace",
    "CustomResourceDefinition",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
  ];
  const rank = ({ kind }: Manifest): number => (first.includes(kind) ? first.indexOf(kind) : first.length);
  return manifests
    .map((m, i) => [m, i] as const)
    .sort(([a, i], [b, j]) => rank(a) - rank(b) || i - j)
    .map(([m]) => m);
}

export class Objects {
  readonly #cluster: Cluster;
  /** By group and version: what is served. */
  readonly #served = new Map<string, Promise<readonly Readonly<Record<string, unknown>>[]>>();

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
  }

  /** @throws Failure when the kind is not served */
  async path({ apiVersion, kind, metadata }: Manifest): Promise<string> {
    const root = apiVersion.includes("/") ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
    const resource = (await this.#resources(root)).find((r) => r.kind === kind && !String(r.name).includes("/"));
    if (resource === undefined) {
      this.#served.delete(root);
      throw new Failure(`${kind}: the cluster serves no such kind in ${apiVersion}`);
    }
    const space = resource.namespaced === true ? `/namespaces/${metadata.namespace ?? "default"}` : "";
    return `${root}${space}/${String(resource.name)}/${metadata.name}`;
  }

  /** Server-side apply. @throws Failure naming the object and what the API server says */
  async apply(manifest: Manifest, dryRun: boolean): Promise<"created" | "changed" | "unchanged"> {
    const path = await this.path(manifest);
    const before = await this.#cluster.find(path);
    const answer = await this.#cluster.api.send({
      method: "PATCH",
      path,
      query: { fieldManager, force: "true", ...(dryRun ? { dryRun: "All" } : {}) },
      contentType: "application/apply-patch+yaml",
      body: manifest,
    });
    if (!answer.ok) throw new Failure(`${nameOf(manifest)}: ${showFault(answer.error)}`);
    if (before === undefined) return "created";
    const after = fieldsAt(fieldsAt(answer.value).metadata);
    return after.resourceVersion === before.metadata.resourceVersion ? "unchanged" : "changed";
  }

  /** Dependents go with it. @returns false where it was not there. @throws Failure as above */
  async remove(manifest: Manifest): Promise<boolean> {
    const path = await this.path(manifest).catch(() => undefined);
    if (path === undefined) return false;
    const answer = await this.#cluster.api.send({ method: "DELETE", path, query: { propagationPolicy: "Foreground" } });
    if (answer.ok) return true;
    if (answer.error.kind === "status" && answer.error.code === 404) return false;
    throw new Failure(`${nameOf(manifest)}: ${showFault(answer.error)}`);
  }

  #resources(root: string): Promise<readonly Readonly<Record<string, unknown>>[]> {
    const known = this.#served.get(root);
    if (known !== undefined) return known;
    const asked = this.#cluster.find(root).then((list) => listAt(list?.resources).map(fieldsAt));
    this.#served.set(root, asked);
    return asked;
  }
}
