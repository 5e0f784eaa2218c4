// Small routes for tests: rules, backends and routes with everything but the interesting fields filled in.
import type { Backend } from "../../agent/api/http-filters.ts";
import { noTimeouts } from "../../agent/api/http-policy.ts";
import type { HttpRoute, RouteRule } from "../../agent/api/http-routing.ts";
import { serviceName } from "../../agent/api/names.ts";

/** Port 80 of a service in the namespace shop. */
export const backend = (name: string, more: Partial<Backend> = {}): Backend => ({
  service: serviceName("shop", name),
  port: 80,
  weight: 1,
  filters: [],
  subset: {},
  invalid: "",
  ...more,
});

/** Every request, and no backend. */
export const rule = (more: Partial<RouteRule> = {}): RouteRule => ({
  name: "",
  matches: [],
  filters: [],
  backends: [],
  timeouts: noTimeouts,
  retry: undefined,
  affinity: undefined,
  ...more,
});

/** For every port, client and host. */
export const route = (name: string, rules: readonly RouteRule[], more: Partial<HttpRoute> = {}): HttpRoute => ({
  kind: "http",
  name,
  namespace: "shop",
  createdMs: 0,
  ports: [],
  consumers: "",
  hostnames: [],
  rules,
  ...more,
});
