// A policy as HTTPRoutes of Gateway API: one for each HTTP port of a Service, that matches everything and leads to the Service itself. Pure.
import { createHash } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import type { HttpPolicy } from "../../agent/api/http-policy.ts";
import { type Address, covers, type Present } from "../write/desired.ts";
import { marker, plainDuration } from "./annotations.ts";

/** Which of Gateway API's definitions are installed: retries of routes are in the experimental ones only. */
export type Channel = "standard" | "experimental" | "absent";
export interface Owner {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
}
export interface RenderedRoute {
  readonly at: Address;
  readonly fields: Readonly<Record<string, unknown>>;
}
/** By this label the routes of a policy are found. */
export const ownerLabel = "mesh.fairlead.dev/resilience-policy-uid";

export const routeAddress = (namespace: string, name: string): Address => ({
  group: "gateway.networking.k8s.io",
  version: "v1",
  kind: "HTTPRoute",
  plural: "httproutes",
  namespace,
  name,
});
/** A Service's name has no dots, so no two policies come to the same. At most 253 characters; both names together may be longer. */
export function routeName(policy: string, service: string, port: number): string {
  const plain = `${policy}.${service}.${port}`;
  if (plain.length <= 253) return plain;
  const hash = createHash("sha256").update(`${policy}/${service}`).digest("hex").slice(0, 16);
  return `${policy.slice(0, 200).replace(/[-.]+$/, "")}.${hash}.${port}`;
}

/**
 * Whether a route is as it is rendered. Fields of others do not matter, but of what the policy says in a rule nothing may be left: who took a
 * timeout or retries away must not find them enforced still.
 */
export function isAsRendered(present: Present, fields: RenderedRoute["fields"]): boolean {
  const rule = (of: unknown): Readonly<Record<string, unknown>> => {
    const rules = (of as { readonly spec?: { readonly rules?: readonly unknown[] } }).spec?.rules;
    return (rules?.[0] ?? {}) as Readonly<Record<string, unknown>>;
  };
  const [there, wanted] = [rule(present), rule(fields)];
  return covers(present, fields) && ["timeouts", "retry"].every((key) => isDeepStrictEqual(there[key], wanted[key]));
}

export function renderRoute(
  owner: Owner,
  service: string,
  port: number,
  policy: HttpPolicy,
  channel: Channel,
): RenderedRoute {
  const { requestMs, tryMs } = policy.timeouts;
  const { retry } = policy;
  const timeouts = {
    ...(requestMs === undefined ? {} : { request: plainDuration(requestMs) }),
    ...(tryMs === undefined ? {} : { backendRequest: plainDuration(tryMs) }),
  };
  const rule = {
    matches: [{ path: { type: "PathPrefix", value: "/" } }],
    backendRefs: [{ group: "", kind: "Service", name: service, port, weight: 1 }],
    ...(Object.keys(timeouts).length === 0 ? {} : { timeouts }),
    // The API has no zero attempts.
    ...(channel === "experimental" && retry !== undefined && retry.attempts > 0
      ? {
          retry: {
            attempts: retry.attempts,
            backoff: plainDuration(retry.backoffMs),
            ...(retry.codes.length === 0 ? {} : { codes: [...retry.codes] }),
          },
        }
      : {}),
  };
  return {
    at: routeAddress(owner.namespace, routeName(owner.name, service, port)),
    fields: {
      metadata: {
        labels: { "app.kubernetes.io/managed-by": "fairlead", [ownerLabel]: owner.uid },
        annotations: { [marker]: owner.name },
        ownerReferences: [
          {
            apiVersion: "mesh.fairlead.dev/v1alpha1",
            kind: "ResiliencePolicy",
            name: owner.name,
            uid: owner.uid,
            controller: true,
          },
        ],
      },
      spec: { parentRefs: [{ group: "", kind: "Service", name: service, port }], rules: [rule] },
    },
  };
}
