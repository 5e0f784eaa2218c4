// Shapes of the filters of HTTPRoute and GRPCRoute rules.
import type { Cors, HeaderChanges, PathEdit, Redirect, Rewrite, RouteFilter } from "../../agent/api/http-filters.ts";
import { fieldText, groupName, headerToChange, kindName, mapped, named, token, upTo } from "./http-schema.ts";
import type { FilterSpec, ObjectReference } from "./http-types.ts";
import {
  flag,
  integer,
  list,
  nearest,
  object,
  objectName,
  oneOf,
  optional,
  port,
  type Reader,
  required,
  showValue,
  text,
} from "./schema.ts";

export const reference = object<ObjectReference>({
  group: optional(groupName, ""),
  kind: optional(kindName, "Service"),
  namespace: optional(objectName, ""),
  name: required(objectName, "x"),
  port: optional(port, 0),
});

const headerPair = object({ name: required(headerToChange, "x"), value: required(fieldText, "") });
const pairs = mapped(upTo(16, headerPair), (list) => list.flatMap(({ name, value }) => [name, value]));
const headerChanges = object<HeaderChanges>({
  remove: optional(upTo(16, headerToChange), []),
  set: optional(pairs, []),
  add: optional(pairs, []),
});

const pathValue: Reader<string> = (value, path, report) => {
  const given = text(value, path, report);
  if (!/^(\/[!-~]*)?$/.test(given) || /[?#]/.test(given))
    report.problem(path, `is ${showValue(given)}, not a path`, 'begin with "/", escape spaces, leave the query out');
  return given;
};
const pathEdit: Reader<PathEdit> = mapped(
  object({
    type: required<PathEdit["kind"]>(named({ ReplaceFullPath: "full", ReplacePrefixMatch: "prefix" }), "full"),
    replaceFullPath: optional<string | undefined>(pathValue, undefined),
    replacePrefixMatch: optional<string | undefined>(pathValue, undefined),
  }),
  ({ type, replaceFullPath: full, replacePrefixMatch: prefix }, path, report) => {
    const [field, value] = type === "full" ? ["replaceFullPath", full] : ["replacePrefixMatch", prefix];
    const [extra, unused] = type === "full" ? ["replacePrefixMatch", prefix] : ["replaceFullPath", full];
    if (value === undefined) report.problem([...path, field as string], "is missing", `add the field ${field}`);
    if (unused !== undefined) report.problem([...path, extra as string], "does not go with this type", "remove it");
    return { kind: type, value: value ?? "/" };
  },
);
const optionalPath = optional<PathEdit | undefined>(pathEdit, undefined);

const statusCode: Reader<number> = (value, path, report) => {
  if (typeof value === "number" && [301, 302, 303, 307, 308].includes(value)) return value;
  report.problem(path, `is ${showValue(value)}, not a redirect`, "use 301, 302, 303, 307 or 308");
  return 302;
};
const redirect: Reader<Redirect> = mapped(
  object({
    scheme: optional<Redirect["scheme"]>(oneOf(["http", "https"]), ""),
    hostname: optional(objectName, ""),
    path: optionalPath,
    port: optional(port, 0),
    statusCode: optional(statusCode, 302),
  }),
  ({ statusCode: status, ...rest }) => ({ ...rest, status }),
);
const rewrite = object<Rewrite>({ hostname: optional(objectName, ""), path: optionalPath });

const origin: Reader<string> = (value, path, report) => {
  const given = text(value, path, report);
  if (!/^(\*|[a-z][a-z0-9+.-]*:\/\/(\*|\*\.|)[A-Za-z0-9.:[\]-]*)$/.test(given))
    report.problem(path, `is ${showValue(given)}, not an origin`, 'write it as "https://a.example" or "*"');
  return given;
};
const cors: Reader<Cors> = mapped(
  object({
    allowOrigins: optional(upTo(64, origin), []),
    allowCredentials: optional(flag, false),
    allowMethods: optional(upTo(64, token), []),
    allowHeaders: optional(upTo(64, token), []),
    exposeHeaders: optional(upTo(64, token), []),
    maxAge: optional(integer(1, 2_147_483_647), 5),
  }),
  ({ maxAge, ...rest }) => ({ ...rest, maxAgeS: maxAge }),
);
const mirror = mapped(
  object({
    backendRef: required(reference, { group: "", kind: "Service", namespace: "", name: "x", port: 0 }),
    percent: optional<number | undefined>(integer(0, 100), undefined),
    fraction: optional<{ readonly numerator: number; readonly denominator: number } | undefined>(
      object({ numerator: required(integer(0, 1_000_000), 0), denominator: optional(integer(1, 1_000_000), 100) }),
      undefined,
    ),
  }),
  ({ backendRef, percent, fraction }, path, report) => {
    if (percent !== undefined && fraction !== undefined)
      report.problem([...path, "fraction"], "does not go with percent", "keep one of the two");
    if (fraction !== undefined && fraction.numerator > fraction.denominator)
      report.problem([...path, "fraction"], "is more than the whole", "let the numerator be the smaller");
    return { backendRef, ...(fraction ?? { numerator: percent ?? 100, denominator: 100 }) };
  },
);
const extension = object({
  group: required(groupName, ""),
  kind: required(kindName, "X"),
  name: required(objectName, "x"),
});

const plain = <K extends RouteFilter["kind"]>(
  kind: K,
  read: Reader<Extract<RouteFilter, { kind: K }>["value"]>,
): Reader<FilterSpec> =>
  mapped(read, (value) => ({ kind: "plain", filter: { kind, value } as unknown as RouteFilter }));
interface FilterKind {
  readonly field: string;
  readonly read: Reader<FilterSpec>;
}
const shared: Readonly<Record<string, FilterKind>> = {
  RequestHeaderModifier: { field: "requestHeaderModifier", read: plain("requestHeaders", headerChanges) },
  ResponseHeaderModifier: { field: "responseHeaderModifier", read: plain("responseHeaders", headerChanges) },
  RequestMirror: { field: "requestMirror", read: mapped(mirror, (value) => ({ kind: "mirror", ...value })) },
  ExtensionRef: {
    field: "extensionRef",
    read: mapped(extension, ({ group, kind, name }) => ({ kind: "extension", group, extension: kind, name })),
  },
};
const ofHttp: Readonly<Record<string, FilterKind>> = {
  ...shared,
  RequestRedirect: { field: "requestRedirect", read: plain("redirect", redirect) },
  URLRewrite: { field: "urlRewrite", read: plain("rewrite", rewrite) },
  CORS: { field: "cors", read: plain("cors", cors) },
};
/** Mirrors and extensions may stand several times. */
const repeatable = new Set(["RequestMirror", "ExtensionRef"]);

function filtersOf(kinds: Readonly<Record<string, FilterKind>>): Reader<readonly FilterSpec[]> {
  const names = Object.keys(kinds);
  return (value, path, report) => {
    const seen = new Set<string>();
    const entries = list((entry) => entry)(value, path, report);
    if (entries.length > 16) report.problem(path, `has ${entries.length} entries, over 16`, "keep at most 16");
    return entries.flatMap((entry, i): readonly FilterSpec[] => {
      const at = [...path, i];
      if (typeof entry !== "object" || entry === null || Array.isArray(entry)) {
        report.problem(at, "is not an object", "write it as a mapping of fields");
        return [];
      }
      const fields = entry as Readonly<Record<string, unknown>>;
      const type = typeof fields.type === "string" ? fields.type : "";
      const kind = Object.hasOwn(kinds, type) ? kinds[type] : undefined;
      if (kind === undefined) {
        const near = nearest(type, names);
        const fix = near === undefined ? `use one of ${names.join(", ")}` : `did you mean "${near}"?`;
        report.problem([...at, "type"], `is ${showValue(fields.type)}, not a filter of this kind of route`, fix);
        return [];
      }
      for (const field of Object.keys(fields))
        if (field !== "type" && field !== kind.field)
          report.problem([...at, field.slice(0, 80)], `does not go with ${type}`, "remove it");
      if (seen.has(type) && !repeatable.has(type))
        report.problem(at, `is the second ${type} here`, "join the two into one");
      seen.add(type);
      if (fields[kind.field] === undefined || fields[kind.field] === null) {
        report.problem([...at, kind.field], "is missing", `add the field ${kind.field}`);
        return [];
      }
      return [kind.read(fields[kind.field], [...at, kind.field], report)];
    });
  };
}
export const httpFilters = filtersOf(ofHttp);
export const grpcFilters = filtersOf(shared);
