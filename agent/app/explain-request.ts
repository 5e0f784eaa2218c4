// `explain` of one request: which route, backends and policies it would meet, from the code that decides about real ones.
import { parseServiceName } from "../api/names.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { Random } from "../base/random.ts";
import { decideRequest } from "../decide/http/decide-request.ts";
import { ServiceRoutes } from "../decide/http/route-table.ts";
import { subjectOf } from "../decide/inbound.ts";
import { judgeFor } from "../decide/request-authorize.ts";
import { effectiveTimeouts } from "../decide/resilience/timeouts.ts";
import { noTimeouts } from "../api/http-policy.ts";
import type { SpiffeId } from "../api/names.ts";
import type { LocalPod, Verdict } from "../flow.ts";
import type { RequestHead } from "../http.ts";
import type { MeshState } from "../state/mesh-state.ts";
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
}

/** Reads `method`, `path`, `host` and any number of `header=name:value`; undefined: no request is asked about. */
export function askedRequest(query: URLSearchParams): Result<AskedRequest | undefined, string> {
  const path = query.get("path");
  const method = query.get("method");
  const host = query.get("host");
  const headers = query.getAll("header");
  if (path === null && method === null && host === null && headers.length === 0) return ok(undefined);
  const asked = path ?? "/";
  if (!asked.startsWith("/")) return err(`path: "${asked}" does not begin with "/"`);
  const pairs: [string, string][] = [];
  for (const header of headers) {
    const at = header.indexOf(":");
    if (at < 1) return err(`header: "${header}" is not NAME:VALUE`);
    pairs.push([header.slice(0, at).trim().toLowerCase(), header.slice(at + 1).trim()]);
  }
  return ok({ method: method ?? "GET", path: asked, host: host ?? "", headers: pairs });
}

/** `parts.explain` for the connection, and what becomes of the request on it. */
export function explainRequest(
  parts: ExplainParts,
  sourceText: string,
  destinationText: string,
  asked: AskedRequest,
): Result<Readonly<Record<string, unknown>>, string> {
  const told = explain(parts, sourceText, destinationText, true);
  if (!told.ok) return told;
  const { source, connection } = told.value;
  const route = connection.route as { kind: string; service?: string; port?: number };
  const service = route.kind === "service" && route.service !== undefined ? parseServiceName(route.service) : undefined;
  if (!parts.readsHttp())
    return ok({ ...connection, request: { read: false, why: "this node carries HTTP as TCP (FAIRLEAD_DATA_THREADS=0)" } });
  if (service === undefined || !service.ok) return ok({ ...connection, request: { ...describe(asked), read: true } });
  const routing = parts.state.routings.get(service.value);
  const head = headOf(asked, (route.service as string).split("/").reverse().join("."));
  const pod = parts.pods.byName(source.name) as LocalPod;
  const table =
    routing === undefined || routing.routes.length === 0
      ? undefined
      : new ServiceRoutes(routing.routes).tableFor(route.port as number, pod.workload.namespace);
  const common = { ...describe(asked), read: true, policy: routing?.policy.sources ?? [] };
  if (table === undefined) {
    const { requestMs, tryMs } = effectiveTimeouts(noTimeouts, routing?.policy.timeouts ?? noTimeouts);
    const request = { ...common, route: null, timeouts: { requestMs, tryMs }, retry: routing?.policy.retry ?? null };
    return ok({ ...connection, endpoints: judged(parts, connection.endpoints, head, pod), request });
  }
  const decision = decideRequest(table, head, { random: first, nowMs: parts.wallMs(), faults: true });
  if (decision.kind === "answer") {
    const { status, reason, delayMs, hit } = decision;
    const answer = { status, reason, delayMs };
    return ok({ ...connection, endpoints: [], request: { ...common, ...describeHit(hit), answer } });
  }
  const { rule } = decision.hit;
  const { requestMs, tryMs } = effectiveTimeouts(rule.rule.timeouts, routing?.policy.timeouts ?? noTimeouts);
  const request = {
    ...common,
    ...describeHit(decision.hit),
    backends: rule.backends.map(({ backend }) => ({
      service: backend.service,
      port: backend.port,
      weight: backend.weight,
      ...(backend.invalid === "" ? {} : { invalid: backend.invalid }),
    })),
    path: decision.path ?? asked.path,
    host: decision.authority ?? head.authority,
    mirrors: decision.mirrors.map(({ backend }) => `${backend.service}:${backend.port}`),
    timeouts: { requestMs, tryMs },
    retry: rule.rule.retry ?? routing?.policy.retry ?? null,
  };
  const endpoints = rule.backends
    .filter(({ backend }) => backend.weight > 0 && backend.invalid === "")
    .flatMap(({ backend }) => {
      const there = explain(parts, sourceText, `${backend.service}:${backend.port}`, true);
      return there.ok ? (there.value.connection.endpoints as readonly object[]) : [];
    });
  return ok({ ...connection, endpoints: judged(parts, endpoints, head, pod), request });
}

/** What policies of a pod of this node say of the request. */
export function judgeRequest(
  state: MeshState,
  pod: LocalPod,
  at: { readonly ip: string; readonly port: number },
  from: { readonly ip: string; readonly identity: SpiffeId | null },
  asked: AskedRequest,
): Verdict {
  const connection = {
    destination: subjectOf(state, pod),
    identity: from.identity,
    sourceIp: from.ip,
    destinationIp: at.ip,
    port: at.port,
    sni: undefined,
  };
  return judgeFor(state, connection).judge(headOf(asked, ""));
}

function judged(parts: ExplainParts, endpoints: unknown, head: RequestHead, source: LocalPod): readonly object[] {
  return (endpoints as readonly { readonly address: { readonly ip: string; readonly port: number } }[]).map((e) => {
    const pod = parts.pods.byAddress(e.address.ip);
    if (pod === undefined) return e;
    const sourceIp = source.workload.addresses.find((a) => a.includes(":") === e.address.ip.includes(":")) ?? "";
    const connection = {
      destination: subjectOf(parts.state, pod),
      identity: source.identity,
      sourceIp,
      destinationIp: e.address.ip,
      port: e.address.port,
      sni: undefined,
    };
    return { ...e, verdict: judgeFor(parts.state, connection).judge(head) };
  });
}

const describe = ({ method, path, host }: AskedRequest) => ({ method, asked: path, host });
const describeHit = (hit: { readonly rule: { readonly route: string; readonly index: number }; readonly match: number } | undefined) =>
  hit === undefined ? { route: null } : { route: hit.rule.route, rule: hit.rule.index, match: hit.match };

/** Where chance decides, what falls to the first. */
const first: Random = { next: () => 0, below: () => 0 } as unknown as Random;

function headOf({ method, path, host, headers }: AskedRequest, serviceHost: string): RequestHead {
  const all = headers.flatMap(([name, value]) => [name, value]);
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
