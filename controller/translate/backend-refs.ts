// References of routes and policies to the Services that requests go to: looked up, and across namespaces allowed by a ReferenceGrant. Pure.
import type { Backend } from "../../agent/api/http-filters.ts";
import { serviceName } from "../../agent/api/names.ts";
import type { Service } from "../../agent/api/service.ts";
import type { ClusterIndex } from "../index/cluster-index.ts";
import type { ObjectReference } from "../sources/http-types.ts";
import type { RouteReason } from "./conditions.ts";

export type ServiceRecords = ReadonlyMap<string, { readonly record: Service }>;
export interface RefProblem {
  readonly reason: RouteReason;
  readonly field: string;
  readonly message: string;
  readonly fix: string;
}
/** The object that refers, as a ReferenceGrant names it. */
export interface Referrer {
  readonly group: string;
  readonly kind: string;
  readonly namespace: string;
  /**
   * Only requests of this namespace's own clients follow it: they may ask any Service themselves, so no grant is needed (GEP-1294). Where
   * clients of others follow, they would be sent somewhere under their own identity: the other namespace must have agreed.
   */
  readonly isForOwnClients: boolean;
}

/** The Service that `ref` (at the field `at`) means; where it cannot be used, the backend's `invalid` says why and `problems` has it. */
export function resolveBackend(
  ref: ObjectReference,
  at: string,
  from: Referrer,
  services: ServiceRecords,
  index: ClusterIndex,
  problems: RefProblem[],
): Backend {
  const namespace = ref.namespace || from.namespace;
  const name = serviceName(namespace, ref.name);
  const made = { service: name, port: ref.port, weight: 1, filters: [], subset: {}, invalid: "" };
  const invalid = (reason: RouteReason, field: string, message: string, fix: string): Backend => {
    problems.push({ reason, field: `${at}.${field}`, message, fix });
    return { ...made, invalid: `${reason}: ${message}` };
  };
  if (ref.kind !== "Service" || ref.group !== "") {
    const kind = ref.group === "" ? ref.kind : `${ref.kind} (${ref.group})`;
    return invalid("InvalidKind", "kind", `${kind} is not a kind of backend that is known`, "use a Service");
  }
  if (namespace !== from.namespace && !from.isForOwnClients && !isGranted(index, from, namespace, ref.name)) {
    const message = `no ReferenceGrant in "${namespace}" lets ${plural(from.kind)} of "${from.namespace}" use the Service ${ref.name}`;
    return invalid("RefNotPermitted", "namespace", message, "add one there");
  }
  const service = services.get(name)?.record;
  if (service === undefined)
    return invalid("BackendNotFound", "name", `there is no Service ${name}`, "add it or correct the name");
  if (service.externalName !== "")
    return invalid("InvalidKind", "name", `Service ${name} is an ExternalName`, "use a Service with endpoints");
  if (!service.ports.some((p) => p.port === ref.port)) {
    const ports = service.ports.map((p) => p.port).join(", ") || "none";
    const message = `Service ${name} has no TCP port ${ref.port} (it has ${ports})`;
    return invalid("BackendNotFound", "port", message, "use a port of the Service");
  }
  return made;
}

const plural = (kind: string): string => (kind.endsWith("y") ? `${kind.slice(0, -1)}ies` : `${kind}s`);

function isGranted(index: ClusterIndex, by: Referrer, namespace: string, name: string): boolean {
  return index.all("ReferenceGrant").some(({ object }) => {
    if (object.metadata.namespace !== namespace) return false;
    const { from, to } = object.spec;
    return (
      from.some((f) => f.group === by.group && f.kind === by.kind && f.namespace === by.namespace) &&
      to.some((t) => t.group === "" && t.kind === "Service" && (t.name === "" || t.name === name))
    );
  });
}
