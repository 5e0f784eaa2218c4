// Rules of an HTTPRoute or GRPCRoute -> route rules with their references resolved. What cannot be resolved is answered with 500, the
// rest of the route goes on (Gateway API, ResolvedRefs). Pure.
import type { Backend, RouteFilter } from "../../agent/api/http-filters.ts";
import type { RouteRule } from "../../agent/api/http-routing.ts";
import type { ClusterIndex } from "../index/cluster-index.ts";
import type { BackendRef, FilterSpec, ObjectReference, RouteRuleSpec } from "../sources/http-types.ts";
import type { GrpcRouteObject, HttpRouteObject } from "../sources/types.ts";
import { type Referrer, type RefProblem, resolveBackend, type ServiceRecords } from "./backend-refs.ts";

export type RouteObject = HttpRouteObject | GrpcRouteObject;
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

/** A route whose parents are all Services of other namespaces holds only for clients in its own. */
function referrer({ kind, metadata: { namespace }, spec }: RouteObject): Referrer {
  const parents = spec.parentRefs.filter((p) => p.kind === "Service" && p.group === "");
  const isForOwnClients = parents.every((p) => p.namespace !== "" && p.namespace !== namespace);
  return { group: "gateway.networking.k8s.io", kind, namespace, isForOwnClients };
}

class Resolver {
  readonly #from: Referrer;
  readonly #services: ServiceRecords;
  readonly #index: ClusterIndex;
  readonly #problems: RefProblem[];

  constructor(route: RouteObject, services: ServiceRecords, index: ClusterIndex, problems: RefProblem[]) {
    this.#from = referrer(route);
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
    return resolveBackend(ref, at, this.#from, this.#services, this.#index, this.#problems);
  }
}
