// What HTTPRoute, GRPCRoute, ReferenceGrant, ResiliencePolicy and RateLimitPolicy say, in the words of agent/api wherever nothing is left to resolve.
import type { Fault, RouteFilter, Selection, Tarpit } from "../../agent/api/http-filters.ts";
import type { RouteMatch } from "../../agent/api/http-match.ts";
import type { HttpPolicy, HttpTimeouts, RetryPolicy, SessionAffinity } from "../../agent/api/http-policy.ts";
import type { RateLimit } from "../../agent/api/rate-limit.ts";

export interface ParentRef {
  readonly group: string;
  readonly kind: string;
  /** "" for the route's own. */
  readonly namespace: string;
  readonly name: string;
  readonly sectionName: string;
  /** 0 for all. */
  readonly port: number;
}
export interface ObjectReference {
  readonly group: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  /** 0 for none. */
  readonly port: number;
}
export interface BackendRef extends ObjectReference {
  readonly weight: number;
  readonly filters: readonly FilterSpec[];
}
export type FilterSpec =
  | { readonly kind: "plain"; readonly filter: RouteFilter }
  | {
      readonly kind: "mirror";
      readonly backendRef: ObjectReference;
      readonly numerator: number;
      readonly denominator: number;
    }
  | { readonly kind: "extension"; readonly group: string; readonly extension: string; readonly name: string };
export interface RouteRuleSpec {
  readonly name: string;
  readonly matches: readonly RouteMatch[];
  readonly filters: readonly FilterSpec[];
  readonly backendRefs: readonly BackendRef[];
  readonly timeouts: HttpTimeouts;
  readonly retry: RetryPolicy | undefined;
  readonly affinity: SessionAffinity | undefined;
}
export interface RouteSpec {
  readonly parentRefs: readonly ParentRef[];
  readonly hostnames: readonly string[];
  readonly rules: readonly RouteRuleSpec[];
}
export interface ReferenceGrantSpec {
  readonly from: readonly { readonly group: string; readonly kind: string; readonly namespace: string }[];
  /** A name of "" is every object of the kind. */
  readonly to: readonly { readonly group: string; readonly kind: string; readonly name: string }[];
}
export interface ResilienceSpec {
  /** False: holds for no service. */
  readonly isEnabled: boolean;
  readonly targetRefs: readonly {
    readonly group: string;
    readonly kind: string;
    /** "" for the policy's own; a policy holds in no other. */
    readonly namespace: string;
    readonly name: string;
  }[];
  /** Without its sources. */
  readonly policy: HttpPolicy;
  readonly fault: Fault | undefined;
  readonly tarpit: Tarpit | undefined;
  readonly divert: DivertSpec | undefined;
  /** What is written to the cluster for other programs. */
  readonly render: { readonly httpRoutes: boolean; readonly serviceAnnotations: boolean };
}
/** Divert of agent/api with its backend not yet looked up. */
export interface DivertSpec extends Selection {
  readonly backendRef: ObjectReference;
  readonly percent: number;
}
export interface RateLimitSpec extends Pick<RateLimit, "dryRun" | "responseHeaders" | "limits" | "concurrency"> {
  readonly targetRefs: readonly { readonly group: string; readonly kind: string; readonly name: string }[];
  readonly selector: Readonly<Record<string, string>>;
}
