// `explain` of one request: which route, backends and policies it would meet, from the code that decides about real ones.
import { defaultPolicy, type HttpPolicy, type HttpTimeouts, noTimeouts } from "../api/http-policy.ts";
import { type PodName, parseServiceName, type SpiffeId, splitPair } from "../api/names.ts";
import type { Random } from "../base/random.ts";
import { err, ok, type Result } from "../base/result.ts";
import { decideRequest } from "../decide/http/decide-request.ts";
import type { LocalAnswer } from "../decide/http/decision.ts";
import { ServiceRoutes } from "../decide/http/route-table.ts";
import { subjectOf } from "../decide/inbound.ts";
import { judgeFor } from "../decide/request-authorize.ts";
import { effectiveTimeouts } from "../decide/resilience/timeouts.ts";
import type { Endpoint, LocalPod, Verdict } from "../flow.ts";
import type { RequestHead } from "../http.ts";
import type { MeshState } from "../state/mesh-state.ts";
import { type AskedFeatures, askedFeatures, featuresOf, neededFeatures } from "./asked-features.ts";
import { type ExplainParts, explain } from "./explain.ts";

/** A request as somebody asks about it. */
export interface AskedRequest {
  readonly method: string;
  /** With the query. */
  readonly path: string;
  /** "": the service's name. */
  readonly host: string;
  /** Name in lower case, and value. */
  readonly headers: readonly (readonly [name: string, value: string])[];
  /** What the enricher would find out. */
  readonly features: AskedFeatures;
}

/** Reads `method`, `path`, `host` and any number of `header=name:value` and `feature=mesh.key=value`; undefined: no request is asked about. */
export function askedRequest(query: URLSearchParams): Result<AskedRequest | undefined, string> {
  const path = query.get("path");
  const method = query.get("method");
  const host = query.get("host");
  const headers = query.getAll("header");
  const features = askedFeatures(query.getAll("feature"));
  if (!features.ok) return features;
  if (path === null && method === null && host === null && headers.length + features.value.size === 0)
    return ok(undefined);
  const asked = path ?? "/";
  if (!asked.startsWith("/")) return err(`path: "${asked}" does not begin with "/"`);
  const pairs: [string, string][] = [];
  for (const header of headers) {
    const at = header.indexOf(":");
    if (at < 1) return err(`header: "${header}" is not NAME:VALUE`);
    pairs.push([header.slice(0, at).trim().toLowerCase(), header.slice(at + 1).trim()]);
  }
  return ok({ method: method ?? "GET", path: asked, host: host ?? "", headers: pairs, features: features.value });
}

/** What `explain` says of the connection, and what becomes of the request on it. */
export function explainRequest(
  parts: ExplainParts,
  source: string,
  destination: string,
  asked: AskedRequest,
): Result<Readonly<Record<string, unknown>>, string> {
  const perRequest = parts.readsHttp();
  const told = explain(parts, source, destination, perRequest);
  if (!told.ok) return told;
  if (!perRequest) {
    const why = "this node carries HTTP as TCP: FAIRLEAD_DATA_THREADS is 0";
    return ok({ ...told.value, request: { ...describe(asked), read: false, why } });
  }
  const pod = parts.pods.byName(source as PodName) as LocalPod;
  const to = told.value.route as { readonly service?: string; readonly port?: number };
  const name = to.service === undefined ? undefined : parseServiceName(to.service);
  const service = name?.ok === true ? name.value : undefined;
  const head = headOf(asked, service === undefined ? "" : splitPair(service).toReversed().join("."));
  const routing = service && parts.state.routings.get(service);
  const policy = routing?.policy ?? defaultPolicy;
  const common = {
    ...describe(asked),
    read: true,
    policies: policy.sources,
    panicPercent: policy.balancer.panicPercent,
    path: asked.path,
    sentHost: head.authority,
  };
  const table =
    routing === undefined || routing.routes.length === 0
      ? undefined
      : new ServiceRoutes(routing.routes).tableFor(to.port as number, pod.workload.namespace);
  if (table === undefined) {
    const request = { ...common, route: null, ...times(noTimeouts, policy), retry: policy.retry ?? null };
    return ok({ ...told.value, endpoints: judged(parts, told.value.endpoints, head, pod, asked.features), request });
  }
  const decision = decideRequest(table, head, { random: first, nowMs: parts.wallMs(), faults: true });
  if (decision.kind === "answer") {
    const { status, reason, delayMs, hit } = decision;
    const request = { ...common, ...describeHit(hit), answer: { status, reason, delayMs, percent: shareOf(decision) } };
    return ok({ ...told.value, endpoints: [], request });
  }
  const { rule } = decision.hit;
  const { divert } = rule.plan;
  const diverted =
    decision.isDiverted && divert !== undefined
      ? { service: divert.value.backend.service, port: divert.value.backend.port, percent: divert.value.percent }
      : undefined;
  const request = {
    ...common,
    ...describeHit(decision.hit),
    backends: rule.backends.map(({ backend: { service, port, weight, invalid } }) => ({
      service,
      port,
      weight,
      ...(invalid === "" ? {} : { invalid }),
    })),
    divert: diverted ?? null,
    path: decision.path ?? asked.path,
    sentHost: decision.authority ?? head.authority,
    mirrors: decision.mirrors.map(({ backend }) => `${backend.service}:${backend.port}`),
    ...times(rule.rule.timeouts, policy),
    retry: rule.rule.retry ?? policy.retry ?? null,
  };
  const own = rule.backends.flatMap(({ backend }) => (backend.weight > 0 && backend.invalid === "" ? [backend] : []));
  const targets = diverted === undefined ? own : diverted.percent >= 100 ? [diverted] : [diverted, ...own];
  const endpoints = targets.flatMap(({ service, port }) => {
    const there = explain(parts, source, `${service}:${port}`, true);
    return there.ok ? (there.value.endpoints as readonly object[]) : [];
  });
  return ok({ ...told.value, endpoints: judged(parts, endpoints, head, pod, asked.features), request });
}

/** What policies of a pod of this node say of a request that arrives for it. */
export function judgeRequest(
  state: MeshState,
  pod: LocalPod,
  at: Endpoint,
  from: { readonly ip: string; readonly identity: SpiffeId | null },
  head: RequestHead,
  features: AskedFeatures,
): Verdict {
  const facts = { identity: from.identity, sourceIp: from.ip, destinationIp: at.ip, port: at.port, sni: undefined };
  return judgeFor(state, { destination: subjectOf(state, pod), ...facts }).judge(head, featuresOf(features));
}

/** Endpoints on this node with the verdict about the request; those elsewhere as they are. */
function judged(
  parts: ExplainParts,
  endpoints: unknown,
  head: RequestHead,
  source: LocalPod,
  features: AskedFeatures,
): readonly object[] {
  return (endpoints as readonly { readonly address: Endpoint }[]).map((endpoint) => {
    const { address } = endpoint;
    const pod = parts.pods.byAddress(address.ip);
    if (pod === undefined) return endpoint;
    const ip = source.workload.addresses.find((a) => a.includes(":") === address.ip.includes(":")) ?? "";
    const from = { ip, identity: source.identity };
    return {
      ...endpoint,
      verdict: judgeRequest(parts.state, pod, address, from, head, features),
      needs: neededFeatures(parts.state, subjectOf(parts.state, pod), features),
    };
  });
}

/** Of requests like this one, how many in a hundred the action that answered takes. */
function shareOf({ reason, hit }: LocalAnswer): number {
  const plan = hit?.rule.plan;
  if (reason === "tarpit") return plan?.tarpit?.value.percent ?? 100;
  return reason === "fault_abort" ? (plan?.faults[0]?.value.abortPercent ?? 100) : 100;
}

function times(rule: HttpTimeouts, policy: HttpPolicy) {
  const { requestMs, tryMs, responseMs } = effectiveTimeouts(rule, policy.timeouts);
  return { timeouts: { requestMs, tryMs, responseMs } };
}
const describe = ({ method, path, host, headers, features }: AskedRequest) => ({
  method,
  asked: path,
  host,
  headers: headers.map(([name, value]) => `${name}:${value}`),
  features: [...features].map(([name, value]) => `mesh.${name}=${value}`),
});
const describeHit = (
  hit: { readonly rule: { readonly route: string; readonly index: number }; readonly match: number } | undefined,
) => (hit === undefined ? { route: null } : { route: hit.rule.route, rule: hit.rule.index, match: hit.match });

/** Where chance decides, what falls to the first. */
const first: Random = { next: () => 0, below: () => 0 };

/** `serviceHost`: the host where none is given. */
export function headOf({ method, path, host, headers }: AskedRequest, serviceHost: string): RequestHead {
  const all = headers.flat();
  return {
    method,
    scheme: "http",
    authority: host === "" ? serviceHost : host,
    path,
    header(name) {
      const values = headers.filter(([n]) => n === name).map(([, value]) => value);
      if (name === "host" && values.length === 0) return host === "" ? serviceHost : host;
      return values.length === 0 ? undefined : values.join(name === "cookie" ? "; " : ", ");
    },
    headers: () => all,
  };
}
