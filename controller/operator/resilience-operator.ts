// ResiliencePolicies as what writes for them asks: which there are, and what the cluster is to have of each. Knows the mesh's view, and reads
// from the API server what must not be stale: the policy's own metadata, and whose the fields of its Services are.
import type { Service } from "../../agent/api/service.ts";
import { messageOf } from "../../agent/base/log.ts";
import type { ApiClient } from "../../agent/kubernetes/client.ts";
import { isMissing, showFault } from "../../agent/kubernetes/fault.ts";
import type { ClusterIndex } from "../index/cluster-index.ts";
import type { ObjectRef, Problem, ResiliencePolicyObject } from "../sources/types.ts";
import type { Condition, PolicyStatus } from "../translate/conditions.ts";
import { type Address, type Desired, type Present, pathOf, type Reconciler } from "../write/desired.ts";
import { marker, operatorManager } from "./annotations.ts";
import { finalizer, finalizersOf, policyAddress, serviceAddress, writesOf } from "./carry-out.ts";
import { type Facts, type PolicyFacts, planOf } from "./plan.ts";
import { statusChange, statusOf, type Translation } from "./policy-status.ts";
import { type Channel, ownerLabel, routeAddress, routeName } from "./rendered-routes.ts";

/** What the controller makes of all objects, after its latest translation. */
export interface MeshView {
  readonly index: ClusterIndex;
  conditionOf(ref: ObjectRef): Condition | undefined;
  readonly problems: readonly Problem[];
  serviceRecord(namespace: string, name: string): Service | undefined;
}
/** What one translation makes of a policy. */
interface Known {
  readonly object: ResiliencePolicyObject | undefined;
  readonly said: Condition | undefined;
  readonly problems: readonly Problem[];
}
const kind = "ResiliencePolicy";
const keyOf = (namespace: string, name: string): string => `${namespace}/${name}`;
const httpRouteCrd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/httproutes.gateway.networking.k8s.io";

export class ResilienceOperator implements Reconciler {
  readonly kind = kind;
  readonly spacingMs: number;
  readonly #api: ApiClient;
  readonly #view: MeshView;
  /** What each policy's reconcile depends on, as it was when it was asked for. */
  #seen = new Map<string, string>();
  readonly #ids = new WeakMap<object, number>();
  #lastId = 0;

  constructor(spacingMs: number, api: ApiClient, view: MeshView) {
    this.spacingMs = spacingMs;
    this.#api = api;
    this.#view = view;
  }

  /** Policies that there are, and those that are gone and have left something. */
  keys(): ReadonlySet<string> {
    const { index, problems } = this.#view;
    const keys = new Set<string>();
    for (const { object } of index.all(kind)) keys.add(keyOf(object.metadata.namespace, object.metadata.name));
    for (const { object } of problems) if (object?.kind === kind) keys.add(keyOf(object.namespace, object.name));
    for (const key of this.#marked().keys()) keys.add(key);
    return keys;
  }

  /** Asks for every policy of which something changed since the last call. */
  changed(add: (key: string) => void): void {
    const seen = new Map<string, string>();
    const marked = this.#marked();
    const wrong = new Map<string, Problem[]>();
    for (const problem of this.#view.problems) {
      const { object } = problem;
      if (object?.kind !== kind) continue;
      const key = keyOf(object.namespace, object.name);
      wrong.set(key, [...(wrong.get(key) ?? []), problem]);
    }
    for (const key of this.keys()) {
      const now = this.#dependsOn(key, marked.get(key) ?? [], wrong.get(key) ?? []);
      seen.set(key, now);
      if (this.#seen.get(key) !== now) add(key);
    }
    this.#seen = seen;
  }

  async desired(key: string): Promise<readonly Desired[]> {
    const [namespace = "", name = ""] = key.split("/");
    // Taken once, before anything is waited for: a status out of a later translation would tell of routes that this plan does not have.
    const known = this.#known(namespace, name);
    let facts: Facts;
    try {
      facts = await this.#facts(namespace, name, known);
    } catch (error) {
      return this.#unread(namespace, name, error);
    }
    const { policy } = facts;
    const { problems, said } = known;
    const object = ofPolicy(known, policy);
    return writesOf(facts, planOf(facts), {
      generation: (problems.length > 0 ? policy?.generation : object?.metadata.generation) ?? policy?.generation ?? 0,
      translation: object === undefined ? undefined : said && translationOf(said),
      problems,
    });
  }

  /** Without what could not be read nothing may be written; that is told, and tried again. */
  #unread(namespace: string, name: string, error: unknown): readonly Desired[] {
    const at = policyAddress(namespace, name);
    const trouble = { reason: "WriteFailed", message: messageOf(error) } as const;
    const said = this.#said(namespace, name);
    const problems = this.#problemsOf(namespace, name);
    return [
      {
        at,
        change(present, nowMs) {
          if (present === undefined || present.metadata.deletionTimestamp !== undefined) return undefined;
          const { generation } = factsOf(present, namespace, name);
          const change = statusChange(
            present,
            statusOf(generation, said && translationOf(said), problems, [trouble]),
            nowMs,
          );
          return change && { kind: "apply", isStatus: true, manager: operatorManager, ...change };
        },
      },
      {
        at,
        change() {
          throw error;
        },
      },
    ];
  }

  async #facts(namespace: string, name: string, known: Known): Promise<Facts> {
    const present = await this.#get(policyAddress(namespace, name));
    const policy = present && factsOf(present, namespace, name);
    const { index } = this.#view;
    const spec = ofPolicy(known, policy)?.spec;
    const holdsFor =
      spec === undefined ? [] : appliedTo(known.said).map((service) => service.slice(namespace.length + 1));
    const mayHaveLeft = policy?.hasFinalizer === true;
    const status = present?.status as { readonly appliedToServices?: unknown } | undefined;
    const lastApplied = Array.isArray(status?.appliedToServices) ? status.appliedToServices.map(String) : [];
    const names = new Set([
      ...(spec?.render.serviceAnnotations === true ? holdsFor : []),
      ...index
        .all("Service")
        .filter(({ object }) => object.metadata.namespace === namespace && object.metadata.annotations[marker] === name)
        .map(({ object }) => object.metadata.name),
      ...(mayHaveLeft
        ? [...(spec?.targetRefs.map((ref) => ref.name) ?? []), ...lastApplied.map((s) => s.slice(namespace.length + 1))]
        : []),
    ]);
    const services = new Map<string, Present>();
    for (const service of names) {
      const found = await this.#get(serviceAddress(namespace, service));
      if (found !== undefined) services.set(service, found);
    }
    const wantsRoutes = spec?.render.httpRoutes === true && policy?.isDeleting === false;
    return {
      namespace,
      name,
      policy,
      spec,
      holdsFor,
      services,
      views: new Map(
        holdsFor.flatMap((service) => {
          const record = this.#view.serviceRecord(namespace, service);
          return record === undefined ? [] : [[service, record] as const];
        }),
      ),
      routes: await this.#routes(namespace, name, policy, wantsRoutes || mayHaveLeft),
      rival: (service, port) => this.#rival(namespace, name, service, port),
      channel: wantsRoutes ? await this.#channel() : "absent",
    };
  }

  /** Those that carry the policy's uid; of a policy that is gone those that carry its name, as far as they are known. */
  async #routes(
    namespace: string,
    name: string,
    policy: PolicyFacts | undefined,
    isAsked: boolean,
  ): Promise<ReadonlyMap<string, Present>> {
    const routes = new Map<string, Present>();
    const known = this.#view.index
      .all("HTTPRoute")
      .filter(({ object }) => object.metadata.namespace === namespace && object.metadata.annotations[marker] === name);
    for (const { object } of known) {
      const found = await this.#get(routeAddress(namespace, object.metadata.name));
      if (found !== undefined) routes.set(object.metadata.name, found);
    }
    if (policy === undefined || !isAsked) return routes;
    const { name: _, ...collection } = routeAddress(namespace, "");
    const answer = await this.#api.send({
      path: pathOf({ ...collection, name: "" }).replace(/\/$/, ""),
      query: { labelSelector: `${ownerLabel}=${policy.uid}` },
      deadlineMs: 30_000,
    });
    if (!answer.ok && isMissing(answer.error)) return routes;
    if (!answer.ok) throw new Error(`the HTTPRoutes cannot be listed: ${showFault(answer.error)}`);
    for (const item of (answer.value as { readonly items?: readonly Present[] | null }).items ?? [])
      routes.set(item.metadata.name, item);
    return routes;
  }

  #rival(namespace: string, policy: string, service: string, port: number): string | undefined {
    const { index } = this.#view;
    const wanted = routeName(policy, service, port);
    for (const { object } of [...index.all("HTTPRoute"), ...index.all("GRPCRoute")]) {
      const { metadata, spec } = object;
      if (metadata.namespace !== namespace || metadata.annotations[marker] !== undefined) continue;
      const isFor = spec.parentRefs.some(
        (ref) =>
          ref.kind === "Service" &&
          ref.group === "" &&
          ref.name === service &&
          (ref.namespace === "" || ref.namespace === namespace) &&
          (ref.port === 0 || ref.port === port),
      );
      if (isFor || (object.kind === "HTTPRoute" && metadata.name === wanted))
        return `${object.kind} ${namespace}/${metadata.name}`;
    }
    return undefined;
  }
  /** Gateway API marks its definitions with the channel that they are of. */
  async #channel(): Promise<Channel> {
    const accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    const answer = await this.#api.send({ path: httpRouteCrd, accept, deadlineMs: 30_000 });
    if (!answer.ok && isMissing(answer.error)) return "absent";
    if (!answer.ok) throw new Error(`the definition of HTTPRoute cannot be read: ${showFault(answer.error)}`);
    const annotations = ((answer.value as Partial<Present>).metadata?.annotations ?? {}) as Readonly<
      Record<string, string>
    >;
    return annotations["gateway.networking.k8s.io/channel"] === "experimental" ? "experimental" : "standard";
  }
  async #get(at: Address): Promise<Present | undefined> {
    const answer = await this.#api.send({ path: pathOf(at), deadlineMs: 30_000 });
    if (answer.ok) return answer.value as Present;
    if (isMissing(answer.error)) return undefined;
    throw new Error(`${at.kind} ${at.namespace}/${at.name} cannot be read: ${showFault(answer.error)}`);
  }

  #known(namespace: string, name: string): Known {
    return {
      object: this.#view.index.get(kind, namespace, name)?.object,
      said: this.#said(namespace, name),
      problems: this.#problemsOf(namespace, name),
    };
  }
  #problemsOf(namespace: string, name: string): readonly Problem[] {
    return this.#view.problems.filter(
      ({ object }) => object?.kind === kind && object.namespace === namespace && object.name === name,
    );
  }
  #said(namespace: string, name: string): Condition | undefined {
    return this.#view.conditionOf({ kind, namespace, name });
  }
  /** What bears the mark of each policy. */
  #marked(): ReadonlyMap<string, readonly object[]> {
    const marked = new Map<string, object[]>();
    for (const written of ["Service", "HTTPRoute"] as const)
      for (const { object } of this.#view.index.all(written)) {
        const name = object.metadata.annotations[marker];
        if (name === undefined) continue;
        const key = keyOf(object.metadata.namespace, name);
        const list = marked.get(key);
        if (list === undefined) marked.set(key, [object]);
        else list.push(object);
      }
    return marked;
  }
  /** What is known of it keeps its identity as long as it stays the same. */
  #dependsOn(key: string, marked: readonly object[], problems: readonly Problem[]): string {
    const [namespace = "", name = ""] = key.split("/");
    const { index } = this.#view;
    const object = index.get(kind, namespace, name)?.object;
    const targets = object?.spec.targetRefs.map((ref) => index.get("Service", namespace, ref.name)?.object) ?? [];
    const routes =
      object?.spec.render.httpRoutes === true
        ? [...index.all("HTTPRoute"), ...index.all("GRPCRoute")]
            .map((entry) => entry.object)
            .filter(({ metadata }) => metadata.namespace === namespace)
        : [];
    const all = [object, this.#said(namespace, name), ...targets, ...problems, ...marked, ...routes];
    return all.map((part) => (part === undefined ? 0 : this.#idOf(part))).join();
  }
  #idOf(object: object): number {
    const known = this.#ids.get(object);
    if (known !== undefined) return known;
    this.#lastId += 1;
    this.#ids.set(object, this.#lastId);
    return this.#lastId;
  }
}

/** In force, if it is of the policy that is there and not of one that had its name before. */
const ofPolicy = ({ object }: Known, policy: PolicyFacts | undefined): ResiliencePolicyObject | undefined =>
  object?.metadata.uid === policy?.uid ? object : undefined;
const appliedTo = (condition: Condition | undefined): readonly string[] =>
  (condition?.status as PolicyStatus | undefined)?.appliedToServices ?? [];
const translationOf = (condition: Condition): Translation => ({
  ...condition,
  appliedToServices: appliedTo(condition),
  conditions: (condition.status as PolicyStatus | undefined)?.conditions ?? [],
});

function factsOf(present: Present, namespace: string, name: string): PolicyFacts {
  const { uid = "", generation, deletionTimestamp } = present.metadata;
  return {
    namespace,
    name,
    uid,
    generation: typeof generation === "number" ? generation : 0,
    isDeleting: deletionTimestamp !== undefined,
    hasFinalizer: finalizersOf(present).includes(finalizer),
    present,
  };
}
