// What a route does with a request (Gateway API HTTPRouteFilter and more), and where it may send it, in internal form. Wire form in mesh.proto.
import { type Fields, sortedRecord } from "./fields.ts";
import { type FieldMatch, fieldsToWire, headersFromWire } from "./http-match.ts";
import { headerName, tokenPattern } from "./http-policy.ts";
import type * as wire from "./mesh.gen.ts";
import { parseServiceName, type ServiceName } from "./names.ts";

export interface PathEdit {
  /** full: the whole path; prefix: what the rule's prefix matched (only where every match is a prefix). The query stays. */
  readonly kind: "full" | "prefix";
  readonly value: string;
}
/** In the order remove, set, add; name (lower case) and value in turn. */
export interface HeaderChanges {
  readonly remove: readonly string[];
  readonly set: readonly string[];
  readonly add: readonly string[];
}
export interface Redirect {
  /** "": as requested. */
  readonly scheme: "" | "http" | "https";
  readonly hostname: string;
  /** 0: that of the scheme if one is given, else as requested. */
  readonly port: number;
  readonly path: PathEdit | undefined;
  readonly status: number;
}
export interface Rewrite {
  readonly hostname: string;
  readonly path: PathEdit | undefined;
}
/** A copy of numerator/denominator of the requests; its answers are thrown away. */
export interface Mirror {
  readonly backend: Backend;
  readonly numerator: number;
  readonly denominator: number;
}
export interface Cors {
  /** "https://a.example", "https://*.example" or "*". */
  readonly allowOrigins: readonly string[];
  readonly allowCredentials: boolean;
  readonly allowMethods: readonly string[];
  readonly allowHeaders: readonly string[];
  readonly exposeHeaders: readonly string[];
  readonly maxAgeS: number;
}
export interface Direct {
  readonly status: number;
  readonly body: string;
  readonly contentType: string;
}
/** Which requests an action is meant for, and until when. */
export interface Selection {
  /** All of them; none: every request. */
  readonly headers: readonly FieldMatch[];
  /** Unix ms from which it happens no more; 0: never. */
  readonly expiresMs: number;
}
export interface Fault extends Selection {
  readonly delayMs: number;
  readonly delayPercent: number;
  /** 0: none. */
  readonly abortStatus: number;
  readonly abortGrpc: number | undefined;
  readonly abortPercent: number;
}
/** Sends a share of the requests elsewhere. */
export interface Divert extends Selection {
  readonly backend: Backend;
  readonly percent: number;
}
/** Keeps a share of the requests waiting, then answers. */
export interface Tarpit extends Selection {
  readonly holdMs: number;
  readonly status: number;
  readonly percent: number;
}
export type RouteFilter =
  | { readonly kind: "requestHeaders"; readonly value: HeaderChanges }
  | { readonly kind: "responseHeaders"; readonly value: HeaderChanges }
  | { readonly kind: "redirect"; readonly value: Redirect }
  | { readonly kind: "rewrite"; readonly value: Rewrite }
  | { readonly kind: "mirror"; readonly value: Mirror }
  | { readonly kind: "cors"; readonly value: Cors }
  | { readonly kind: "direct"; readonly value: Direct }
  | { readonly kind: "fault"; readonly value: Fault }
  | { readonly kind: "divert"; readonly value: Divert }
  | { readonly kind: "tarpit"; readonly value: Tarpit };

export interface Backend {
  /** Meaningless where `invalid` is set. */
  readonly service: ServiceName;
  readonly port: number;
  /** 0: never. */
  readonly weight: number;
  /** Applied after the rule's, only if this backend is chosen. */
  readonly filters: readonly RouteFilter[];
  /** Only endpoints with these labels. */
  readonly subset: Readonly<Record<string, string>>;
  /** Why it cannot be used (not found, not allowed): its share is answered with 500. "": it can. */
  readonly invalid: string;
}

const redirectStatuses = [301, 302, 303, 307, 308];
// Framing and addressing are the codec's; a route that changed them could smuggle.
export const untouchableHeaders = new Set([
  "connection",
  "content-length",
  "host",
  "keep-alive",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);

function pathEdit(fields: Fields, at: string, m: wire.PathEdit): PathEdit {
  const kind = fields.word(`${at}.kind`, m.kind, ["full", "prefix"] as const);
  if (!/^[!-~]*$/.test(m.value)) fields.problem(`${at}.value`, "has spaces or characters that a path must escape");
  else if (/[?#]/.test(m.value)) fields.problem(`${at}.value`, "has a query or fragment");
  else if (m.value !== "" && !m.value.startsWith("/")) fields.problem(`${at}.value`, 'does not begin with "/"');
  return { kind, value: m.value };
}
function hostname(fields: Fields, at: string, value: string): string {
  return fields.optionalName(at, value);
}
const status = (fields: Fields, at: string, value: number, min = 200): number =>
  fields.number(at, value, { min, max: 599 });
const percent = (fields: Fields, at: string, value: number): number => fields.number(at, value, { max: 100 });

function headerChanges(fields: Fields, at: string, m: wire.HeaderFilter): HeaderChanges {
  const name = (path: string, value: string): void => {
    headerName(fields, path, value);
    if (untouchableHeaders.has(value)) fields.problem(path, `"${value}" is not for routes to change`);
  };
  for (const [i, value] of m.remove.entries()) name(`${at}.remove[${i}]`, value);
  for (const key of ["set", "add"] as const) {
    if (m[key].length % 2 === 1) fields.problem(`${at}.${key}`, "has a name without a value");
    for (const [i, value] of m[key].entries()) (i % 2 === 0 ? name : fields.text)(`${at}.${key}[${i}]`, value);
  }
  return { remove: m.remove, set: m.set, add: m.add };
}

function redirect(fields: Fields, at: string, m: wire.RedirectFilter): Redirect {
  const code = m.status === 0 ? 302 : m.status;
  if (!redirectStatuses.includes(code)) fields.problem(`${at}.status`, `${code} is none of ${redirectStatuses.join()}`);
  return {
    scheme: fields.word(`${at}.scheme`, m.scheme, ["", "http", "https"] as const),
    hostname: hostname(fields, `${at}.hostname`, m.hostname),
    port: fields.optionalPort(`${at}.port`, m.port, 0),
    path: m.path && pathEdit(fields, `${at}.path`, m.path),
    status: code,
  };
}

function target(fields: Fields, at: string, m: wire.RouteBackend | undefined): Backend {
  if (m !== undefined) return backendFromWire(fields, at, m);
  fields.problem(at, "is missing");
  return { service: "" as ServiceName, port: 0, weight: 0, filters: [], subset: {}, invalid: "" };
}

function mirror(fields: Fields, at: string, m: wire.MirrorFilter): Mirror {
  const denominator = m.denominator === 0 ? 100 : m.denominator;
  if (m.numerator > denominator) fields.problem(`${at}.numerator`, `${m.numerator} is more than ${denominator}`);
  return { backend: target(fields, `${at}.backend`, m.backend), numerator: m.numerator, denominator };
}

function cors(fields: Fields, at: string, m: wire.CorsFilter): Cors {
  m.allowOrigins.forEach((origin, i) => {
    if (!/^(\*|[a-z][a-z0-9+.-]*:\/\/(\*|\*\.|)[A-Za-z0-9.:[\]-]*)$/.test(origin)) {
      fields.problem(`${at}.allow_origins[${i}]`, "is not an origin (scheme://host[:port])");
    }
  });
  for (const key of ["allowMethods", "allowHeaders", "exposeHeaders"] as const) {
    m[key].forEach((value, i) => {
      if (!tokenPattern.test(value)) fields.problem(`${at}.${key}[${i}]`, "is not a method's or header's name");
    });
  }
  return { ...m, maxAgeS: m.maxAgeS === 0 ? 5 : m.maxAgeS };
}

function fault(fields: Fields, at: string, m: wire.FaultFilter): Fault {
  const { delayMs, abortGrpc, expiresMs } = m;
  if (abortGrpc !== undefined) fields.number(`${at}.abort_grpc`, abortGrpc, { max: 16 });
  return {
    headers: headersFromWire(fields, `${at}.headers`, m.headers),
    delayMs,
    delayPercent: percent(fields, `${at}.delay_percent`, m.delayPercent),
    abortStatus: m.abortStatus === 0 ? 0 : status(fields, `${at}.abort_status`, m.abortStatus),
    abortGrpc,
    abortPercent: percent(fields, `${at}.abort_percent`, m.abortPercent),
    expiresMs,
  };
}

export function filterFromWire(fields: Fields, at: string, message: wire.RouteFilter): RouteFilter | undefined {
  const filter = message.filter;
  switch (filter?.$case) {
    case undefined:
      // One that this agent does not know: applied without it, the route would do something else than was asked for.
      fields.problem(at, "is no filter that this agent knows");
      return undefined;
    case "requestHeaders":
    case "responseHeaders":
      return { kind: filter.$case, value: headerChanges(fields, at, filter.value) };
    case "redirect":
      return { kind: "redirect", value: redirect(fields, `${at}.redirect`, filter.value) };
    case "rewrite": {
      const { hostname: host, path } = filter.value;
      return {
        kind: "rewrite",
        value: {
          hostname: hostname(fields, `${at}.rewrite.hostname`, host),
          path: path && pathEdit(fields, `${at}.rewrite.path`, path),
        },
      };
    }
    case "mirror":
      return { kind: "mirror", value: mirror(fields, `${at}.mirror`, filter.value) };
    case "cors":
      return { kind: "cors", value: cors(fields, `${at}.cors`, filter.value) };
    case "direct": {
      const m = filter.value;
      const contentType = m.contentType === "" ? "text/plain" : fields.text(`${at}.direct.content_type`, m.contentType);
      if (m.body.length > 65_536) fields.problem(`${at}.direct.body`, "is longer than 65536 characters");
      return {
        kind: "direct",
        value: { status: status(fields, `${at}.direct.status`, m.status), body: m.body, contentType },
      };
    }
    case "fault":
      return { kind: "fault", value: fault(fields, `${at}.fault`, filter.value) };
    case "divert":
      return {
        kind: "divert",
        value: {
          backend: target(fields, `${at}.divert.backend`, filter.value.backend),
          percent: percent(fields, `${at}.divert.percent`, filter.value.percent),
          headers: headersFromWire(fields, `${at}.divert.headers`, filter.value.headers),
          expiresMs: filter.value.expiresMs,
        },
      };
    case "tarpit":
      return {
        kind: "tarpit",
        value: {
          holdMs: fields.number(`${at}.tarpit.hold_ms`, filter.value.holdMs, { max: 600_000 }),
          status: status(fields, `${at}.tarpit.status`, filter.value.status, 400),
          percent: percent(fields, `${at}.tarpit.percent`, filter.value.percent),
          headers: headersFromWire(fields, `${at}.tarpit.headers`, filter.value.headers),
          expiresMs: filter.value.expiresMs,
        },
      };
  }
}

export function filtersFromWire(fields: Fields, at: string, list: readonly wire.RouteFilter[]): readonly RouteFilter[] {
  return list.flatMap((filter, i) => filterFromWire(fields, `${at}[${i}]`, filter) ?? []);
}

export function backendFromWire(fields: Fields, at: string, m: wire.RouteBackend): Backend {
  const invalid = fields.text(`${at}.invalid`, m.invalid);
  if (invalid !== "")
    return { service: m.service as ServiceName, port: m.port, weight: m.weight, filters: [], subset: {}, invalid };
  return {
    service: fields.parsed(`${at}.service`, parseServiceName(m.service), "" as ServiceName),
    port: fields.port(`${at}.port`, m.port),
    weight: fields.number(`${at}.weight`, m.weight, { max: 1_000_000 }),
    filters: filtersFromWire(fields, `${at}.filters`, m.filters),
    subset: m.subset,
    invalid,
  };
}

export function backendToWire(backend: Backend): wire.RouteBackend {
  return { ...backend, filters: backend.filters.map(filterToWire), subset: sortedRecord(backend.subset) };
}

export function filterToWire(filter: RouteFilter): wire.RouteFilter {
  const { kind, value } = filter;
  switch (kind) {
    case "requestHeaders":
    case "responseHeaders":
      return {
        filter: { $case: kind, value: { remove: [...value.remove], set: [...value.set], add: [...value.add] } },
      };
    case "redirect":
      return { filter: { $case: kind, value: { ...value, path: value.path && { ...value.path } } } };
    case "rewrite":
      return { filter: { $case: kind, value: { ...value, path: value.path && { ...value.path } } } };
    case "mirror":
      return { filter: { $case: kind, value: { ...value, backend: backendToWire(value.backend) } } };
    case "cors":
      return {
        filter: {
          $case: kind,
          value: {
            ...value,
            allowOrigins: [...value.allowOrigins],
            allowMethods: [...value.allowMethods],
            allowHeaders: [...value.allowHeaders],
            exposeHeaders: [...value.exposeHeaders],
          },
        },
      };
    case "direct":
      return { filter: { $case: kind, value: { ...value } } };
    case "fault":
      return { filter: { $case: kind, value: { ...value, headers: fieldsToWire(value.headers) } } };
    case "divert":
      return {
        filter: {
          $case: kind,
          value: { ...value, backend: backendToWire(value.backend), headers: fieldsToWire(value.headers) },
        },
      };
    case "tarpit":
      return { filter: { $case: kind, value: { ...value, headers: fieldsToWire(value.headers) } } };
  }
}
