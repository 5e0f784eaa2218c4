// What a route asks of a request, in internal form (Gateway API HTTPRouteMatch, GRPCRouteMatch). Wire form in mesh.proto.
import { compileRegex } from "../base/regex.ts";
import type { Fields } from "./fields.ts";
import { headerName, tokenPattern } from "./http-policy.ts";
import type * as wire from "./mesh.gen.ts";

const pathKinds = ["exact", "prefix", "regex"] as const;
const fieldKinds = ["exact", "regex"] as const;

export interface PathMatch {
  /** prefix: of whole segments, "/a" matches "/a" and "/a/b", not "/ab"; regex: of the whole path, in RE2's syntax. */
  readonly kind: (typeof pathKinds)[number];
  readonly value: string;
}
/** Of a header (name in lower case) or query parameter. */
export interface FieldMatch {
  readonly name: string;
  /** regex: of the whole value. */
  readonly kind: (typeof fieldKinds)[number];
  readonly value: string;
}
export interface GrpcMatch {
  readonly kind: (typeof fieldKinds)[number];
  /** "": any. */
  readonly service: string;
  readonly method: string;
}
/** All that is given must match. */
export interface RouteMatch {
  readonly path: PathMatch | undefined;
  readonly headers: readonly FieldMatch[];
  readonly query: readonly FieldMatch[];
  /** "": any. */
  readonly method: string;
  readonly grpc: GrpcMatch | undefined;
}
export const anyRequest: RouteMatch = { path: undefined, headers: [], query: [], method: "", grpc: undefined };

function regex(fields: Fields, at: string, value: string): void {
  const compiled = compileRegex(value);
  if (!compiled.ok) fields.problem(at, compiled.error);
}

function pathFromWire(fields: Fields, at: string, m: wire.PathMatch): PathMatch {
  const kind = fields.word(`${at}.kind`, m.kind, pathKinds);
  if (kind === "regex") regex(fields, `${at}.value`, m.value);
  else if (!m.value.startsWith("/")) fields.problem(`${at}.value`, 'does not begin with "/"');
  else if (/[?#\s]/.test(m.value)) fields.problem(`${at}.value`, "has a query, fragment or space");
  return { kind, value: m.value };
}

function fieldFromWire(fields: Fields, at: string, m: wire.FieldMatch): FieldMatch {
  const kind = fields.word(`${at}.kind`, m.kind, fieldKinds);
  if (kind === "regex") regex(fields, `${at}.value`, m.value);
  else fields.text(`${at}.value`, m.value);
  return { name: m.name, kind, value: m.value };
}
export function headersFromWire(fields: Fields, at: string, list: readonly wire.FieldMatch[]): readonly FieldMatch[] {
  return list.map((match, i) => {
    headerName(fields, `${at}[${i}].name`, match.name);
    return fieldFromWire(fields, `${at}[${i}]`, match);
  });
}

function grpcFromWire(fields: Fields, at: string, m: wire.GrpcMatch): GrpcMatch {
  const kind = fields.word(`${at}.kind`, m.kind, fieldKinds);
  for (const key of ["service", "method"] as const) {
    if (kind === "regex") regex(fields, `${at}.${key}`, m[key]);
    else if (!/^[A-Za-z0-9_.]*$/.test(m[key])) fields.problem(`${at}.${key}`, "is not a gRPC name");
  }
  return { kind, service: m.service, method: m.method };
}

export function matchFromWire(fields: Fields, at: string, m: wire.RouteMatch): RouteMatch {
  if (m.method !== "" && !tokenPattern.test(m.method)) fields.problem(`${at}.method`, "is not a method");
  if (m.grpc !== undefined && (m.path !== undefined || m.method !== "" || m.query.length > 0)) {
    fields.problem(`${at}.grpc`, "stands beside a path, method or query");
  }
  return {
    path: m.path && pathFromWire(fields, `${at}.path`, m.path),
    headers: headersFromWire(fields, `${at}.headers`, m.headers),
    query: m.query.map((match, i) => {
      if (match.name === "") fields.problem(`${at}.query[${i}].name`, "is missing");
      return fieldFromWire(fields, `${at}.query[${i}]`, match);
    }),
    method: m.method,
    grpc: m.grpc && grpcFromWire(fields, `${at}.grpc`, m.grpc),
  };
}

export const fieldsToWire = (list: readonly FieldMatch[]): wire.FieldMatch[] => list.map((match) => ({ ...match }));

export function matchToWire(match: RouteMatch): wire.RouteMatch {
  return {
    path: match.path && { ...match.path },
    headers: fieldsToWire(match.headers),
    query: fieldsToWire(match.query),
    method: match.method,
    grpc: match.grpc && { ...match.grpc },
  };
}
