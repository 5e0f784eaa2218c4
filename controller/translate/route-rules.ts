// Rules of an HTTPRoute or GRPCRoute -> route rules with their references resolved. What cannot be resolved is answered with 500, the
// rest of the route goes on (Gateway API, ResolvedRefs). Pure.
import type { Backend, RouteFilter } from "../../agent/api/http-filters.ts";
import type { RouteRule } from "../../agent/api/http-routing.ts";
import { serviceName } from "../../agent/api/names.ts";
import type { Service } from "../../agent/api/service.ts";
import type { ClusterIndex } from "../index/cluster-index.ts";
import type { BackendRef, FilterSpec, ObjectReference, RouteRuleSpec } from "../sources/http-types.ts";
import type { GrpcRouteObject, HttpRouteObject } from "../sources/types.ts";
import type { RouteReason } from "./conditions.ts";

export type RouteObject = HttpRouteObject | GrpcRouteObject;
export type ServiceRecords = ReadonlyMap<string, { readonly record: Service }>;
export interface RefProblem {
  readonly reason: RouteReason;
  readonly field: string;
  readonly message: string;
  readonly fix: string;
}
export interface ResolvedRules {
  readonly rules: readonly RouteRule[];
  readonly problems: readonly RefProblem[];
}

export function resolveRules(route: RouteObject, services: ServiceRecords, index: ClusterIndex): ResolvedRules {
  const problems: RefProblem[] = [];
  const resolver = new Resolver(route, services, index, problems);
  return { rules: route.spec.rules.map((rule, i) => resolver.rule(rule, `spec.rules[${i}]`)), problems };
}

/** What an unusable filter or backend is answered with. */
const failed: RouteFilter = {
  kind: "direct",
  value: { status: 500, body: "a filter of this route cannot be applied\n", contentType: "text/plain" },
};

class Resolver {
  readonly #route: RouteObject;
  readonly #services: ServiceRecords;
  readonly #index: ClusterIndex;
  readonly #problems: RefProblem[];

  constructor(route: RouteObject, services: ServiceRecords, index: ClusterIndex, problems: RefProblem[]) {
    this.#route = route;
    this.#services = services;
    this.#index = index;
    this.#problems = problems;
  }

  rule(rule: RouteRuleSpec, at: string): RouteRule {
    return {
      name: rule.name,
      matches: rule.matches,
      filters: this.#filters(rule.filters, `${at}.filters`),
      backends: rule.backendRefs.map((ref, i) => this.#weighted(ref, `${at}.backendRefs[${i}]`)),
      timeouts: rule.timeouts,
      retry: rule.retry,
      affinity: rule.affinity,
    };
  }

  #weighted(ref: BackendRef, at: string): Backend {
    const backend = this.#backend(ref, at);
    const { weight } = ref;
    return backend.invalid === ""
      ? { ...backend, weight, filters: this.#filters(ref.filters, `${at}.filters`) }
      : { ...backend, weight };
  }

  #filters(specs: readonly FilterSpec[], at: string): readonly RouteFilter[] {
    const filters: RouteFilter[] = [];
    for (const [i, spec] of specs.entries()) {
      if (spec.kind === "plain") {
        filters.push(spec.filter);
      } else if (spec.kind === "mirror") {
        const backend = this.#backend(spec.backendRef, `${at}[${i}].requestMirror.backendRef`);
        // A mirror without a backend is left out: the request itself can still be served.
        if (backend.invalid === "")
          filters.push({
            kind: "mirror",
            value: { backend, numerator: spec.numerator, denominator: spec.denominator },
          });
      } else {
        this.#problems.push({
          reason: "InvalidKind",
          field: `${at}[${i}].extensionRef`,
          message: `no filter of the kind ${spec.extension} (${spec.group}) is known: requests of this rule get 500`,
          fix: "remove it",
        });
        return [failed];
      }
    }
    return filters;
  }

  #backend(ref: ObjectReference, at: string): Backend {
    const namespace = ref.namespace || this.#route.metadata.namespace;
    const name = serviceName(namespace, ref.name);
    const made = { service: name, port: ref.port, weight: 1, filters: [], subset: {}, invalid: "" };
    const invalid = (reason: RouteReason, field: string, message: string, fix: string): Backend => {
      this.#problems.push({ reason, field: `${at}.${field}`, message, fix });
      return { ...made, invalid: `${reason}: ${message}` };
    };
    if (ref.kind !== "Service" || ref.group !== "") {
      const kind = ref.group === "" ? ref.kind : `${ref.kind} (${ref.group})`;
      return invalid("InvalidKind", "kind", `${kind} is not a kind of backend that is known`, "use a Service");
    }
    if (namespace !== this.#route.metadata.namespace && !this.#isGranted(namespace, ref.name)) {
      const message = `no ReferenceGrant in "${namespace}" lets ${this.#route.kind}s of "${this.#route.metadata.namespace}" use the Service ${ref.name}`;
      return invalid("RefNotPermitted", "namespace", message, "add one there");
    }
    const service = this.#services.get(name)?.record;
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

  #isGranted(namespace: string, name: string): boolean {
    const { kind, metadata } = this.#route;
    return this.#index.all("ReferenceGrant").some(({ object }) => {
      if (object.metadata.namespace !== namespace) return false;
      const { from, to } = object.spec;
      return (
        from.some(
          (f) => f.group === "gateway.networking.k8s.io" && f.kind === kind && f.namespace === metadata.namespace,
        ) && to.some((t) => t.group === "" && t.kind === "Service" && (t.name === "" || t.name === name))
      );
    });
  }
}
