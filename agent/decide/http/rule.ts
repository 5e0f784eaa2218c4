// A rule of a route made ready for requests: its filters put together once per backend, its backends by weight. Pure.
import type { Backend } from "../../api/http-filters.ts";
import type { HttpRoute, RouteRule } from "../../api/http-routing.ts";
import type { Random } from "../../base/random.ts";
import { type FilterPlan, planFilters } from "./filter-plan.ts";

export interface CompiledBackend {
  readonly backend: Backend;
  /** Filters of the rule, then those of the backend. */
  readonly plan: FilterPlan;
}
export interface CompiledRule {
  readonly kind: HttpRoute["kind"];
  /** "<namespace>/<name>" of the route, for records and explain. */
  readonly route: string;
  /** Index of the rule in its route. */
  readonly index: number;
  readonly rule: RouteRule;
  /** Filters of the rule alone, for answers that need no backend. */
  readonly plan: FilterPlan;
  readonly backends: readonly CompiledBackend[];
  /** Upper bounds of the backends' shares in [0, total). */
  readonly bounds: readonly number[];
  readonly totalWeight: number;
  /** Where in [0, 1) the next choice falls; -1 before the first. The one thing of a rule that changes. */
  turn: number;
}

export function compileRule(route: HttpRoute, rule: RouteRule, index: number): CompiledRule {
  const plan = planFilters(rule.filters);
  let totalWeight = 0;
  const bounds = rule.backends.map((backend) => {
    totalWeight += backend.weight;
    return totalWeight;
  });
  const backends = rule.backends.map((backend) => ({
    backend,
    plan: backend.filters.length === 0 ? plan : planFilters([...rule.filters, ...backend.filters]),
  }));
  return {
    kind: route.kind,
    route: `${route.namespace}/${route.name}`,
    index,
    rule,
    plan,
    backends,
    bounds,
    totalWeight,
    turn: -1,
  };
}

// Steps of this size cover [0, 1) evenly at every length (the additive recurrence of lowest discrepancy), so shares hold within a
// few requests instead of within a random spread.
const goldenStep = 0.618_033_988_749_895;

/** One backend by weight; undefined if there is none, or all weigh 0 (Gateway API: 500). */
export function pickBackend(rule: CompiledRule, random: Random): CompiledBackend | undefined {
  if (rule.totalWeight === 0) return undefined;
  if (rule.backends.length === 1) return rule.backends[0];
  rule.turn = rule.turn < 0 ? random.next() : (rule.turn + goldenStep) % 1;
  const at = rule.turn * rule.totalWeight;
  for (let i = 0; i < rule.bounds.length; i++) if (at < (rule.bounds[i] as number)) return rule.backends[i];
  return undefined;
}
