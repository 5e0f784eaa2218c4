// What the cluster is to have of one policy, from what is known of it: which annotations and routes, whether the policy must be kept until
// they are gone, and what could not be done. The same facts give the same plan, and a plan that was carried out gives nothing to do. Pure.
import type { ServicePort } from "../../agent/api/service.ts";
import type { ResilienceSpec } from "../sources/http-types.ts";
import type { Present } from "../write/desired.ts";
import { type Annotations, annotationsIn, annotationsOf, divided, marker } from "./annotations.ts";
import { type Channel, type Owner, type RenderedRoute, renderRoute, routeName } from "./rendered-routes.ts";

/** The policy as the API server has it. */
export interface PolicyFacts extends Owner {
  readonly generation: number;
  readonly isDeleting: boolean;
  readonly hasFinalizer: boolean;
  readonly present: Present;
}
/** What agents know of a Service. */
export interface ServiceView {
  readonly ports: readonly Pick<ServicePort, "port" | "protocol">[];
  readonly headless: boolean;
  readonly externalName: string;
}
export interface Facts {
  readonly namespace: string;
  readonly name: string;
  /** undefined: there is none any more. */
  readonly policy: PolicyFacts | undefined;
  /** In force; undefined when no version was ever good. */
  readonly spec: ResilienceSpec | undefined;
  /** Names of the Services that it holds for. */
  readonly holdsFor: readonly string[];
  /** Services that it holds for or may have left something on, by name. */
  readonly services: ReadonlyMap<string, Present>;
  readonly views: ReadonlyMap<string, ServiceView>;
  /** HTTPRoutes by name: those that it had rendered, and whatever stands where it will render one. */
  readonly routes: ReadonlyMap<string, Present>;
  /** Whose route there is for a port of a Service: "HTTPRoute shop/web"; undefined for nobody's but policies'. */
  readonly rival: (service: string, port: number) => string | undefined;
  readonly channel: Channel;
}
/** What was asked for and is not done. */
export interface Trouble {
  readonly reason: "RouteConflict" | "AnnotationConflict" | "RoutesNotInstalled" | "TargetUnsupported" | "WriteFailed";
  readonly message: string;
}
export interface Plan {
  /** The policy is kept until what it has written is gone. */
  readonly isHeld: boolean;
  /** By name of the Service: all that the operator holds there, {} for nothing. */
  readonly annotations: ReadonlyMap<string, Annotations>;
  readonly routes: readonly RenderedRoute[];
  /** Names of HTTPRoutes. */
  readonly obsolete: readonly string[];
  readonly troubles: readonly Trouble[];
}

export function planOf(facts: Facts): Plan {
  const { policy, spec, name } = facts;
  const isOn = policy !== undefined && !policy.isDeleting && spec?.isEnabled === true;
  const render = isOn ? spec.render : { httpRoutes: false, serviceAnnotations: false };
  const troubles: Trouble[] = [];
  const annotations = new Map<string, Annotations>();
  for (const [service, present] of facts.services) {
    const isOurs = annotationsIn(present)[marker] === name;
    const wanted = render.serviceAnnotations && spec !== undefined ? annotationsOf(spec.policy) : {};
    if (facts.holdsFor.includes(service) && Object.keys(wanted).length > 0) {
      const { ours, others } = divided(wanted, present);
      if (others.length > 0) troubles.push(foreignAnnotations(facts, service, others));
      annotations.set(service, { ...ours, [marker]: name });
    } else if (isOurs) annotations.set(service, {});
  }
  const routes =
    render.httpRoutes && policy !== undefined && spec !== undefined ? routesOf(facts, policy, spec, troubles) : [];
  const kept = new Set(routes.map((route) => route.at.name));
  const obsolete = [...facts.routes]
    .filter(([route, present]) => !kept.has(route) && isRenderedBy(present, facts))
    .map(([route]) => route);
  const leaves = [...annotations.values()].some((wanted) => Object.keys(wanted).length > 0) || routes.length > 0;
  return { isHeld: leaves, annotations, routes, obsolete, troubles };
}

/** By its mark and, while the policy is there, by its owner: another policy may have had the name before. */
export function isRenderedBy(route: Present, { policy, name }: Pick<Facts, "policy" | "name">): boolean {
  if (annotationsIn(route)[marker] !== name) return false;
  const owners = (route.metadata.ownerReferences ?? []) as readonly { readonly kind?: string; readonly uid?: string }[];
  return policy === undefined
    ? owners.some((owner) => owner.kind === "ResiliencePolicy")
    : owners.some((owner) => owner.uid === policy.uid);
}

/** Protocols on which requests are understood; "" is found out by looking. */
const httpProtocols: ReadonlySet<string> = new Set(["", "http", "http2", "grpc"]);

function routesOf(
  facts: Facts,
  policy: PolicyFacts,
  spec: ResilienceSpec,
  troubles: Trouble[],
): readonly RenderedRoute[] {
  const { namespace, holdsFor, views, channel } = facts;
  if (channel === "absent") {
    const message =
      "render.httpRoutes is asked for, but HTTPRoute is not installed: install Gateway API, or remove the field";
    if (holdsFor.length > 0) troubles.push({ reason: "RoutesNotInstalled", message });
    return [];
  }
  const routes: RenderedRoute[] = [];
  for (const service of holdsFor) {
    const view = views.get(service);
    const ports = view?.ports.filter((p) => httpProtocols.has(p.protocol)) ?? [];
    if (view === undefined || view.headless || view.externalName !== "" || ports.length === 0) {
      const why = view?.externalName
        ? "has another name's address"
        : view?.headless
          ? "is headless"
          : "has no HTTP port";
      const message = `Service ${namespace}/${service} ${why}, so no HTTPRoute is for it: use a Service with a cluster IP and an HTTP port, or remove render.httpRoutes`;
      troubles.push({ reason: "TargetUnsupported", message });
      continue;
    }
    for (const { port } of ports) {
      const rendered = renderRoute(policy, service, port, spec.policy, channel);
      const there = facts.routes.get(routeName(policy.name, service, port));
      const rival =
        facts.rival(service, port) ??
        (there !== undefined && !isRenderedBy(there, facts) ? `HTTPRoute ${namespace}/${rendered.at.name}` : undefined);
      if (rival === undefined) routes.push(rendered);
      else
        troubles.push({
          reason: "RouteConflict",
          message: `${rival} is for Service ${namespace}/${service} port ${port}, so none is rendered there; agents hold to the policy all the same. Put its timeouts and retries there, or remove render.httpRoutes`,
        });
    }
  }
  return routes;
}

const foreignAnnotations = ({ namespace }: Facts, service: string, others: readonly string[]): Trouble => ({
  reason: "AnnotationConflict",
  message: `Service ${namespace}/${service} has ${others.join(", ")} from somebody else, which stay as they are: remove them there, or remove render.serviceAnnotations`,
});
