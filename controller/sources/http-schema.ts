// Readers of the small things that routes and resilience policies are made of: durations, headers, paths, bounded lists.
import { untouchableHeaders } from "../../agent/api/http-filters.ts";
import type { FieldMatch } from "../../agent/api/http-match.ts";
import { tokenPattern } from "../../agent/api/http-policy.ts";
import { compileRegex } from "../../agent/base/regex.ts";
import {
  integer,
  list,
  nameOrNone,
  object,
  oneOf,
  optional,
  type Path,
  type Reader,
  type Report,
  required,
  showValue,
  text,
} from "./schema.ts";

/** What `read` gave, turned into something else, with more checks. */
export const mapped =
  <A, B>(read: Reader<A>, turn: (value: A, path: Path, report: Report) => B): Reader<B> =>
  (value, path, report) =>
    turn(read(value, path, report), path, report);

/** `read`, and whatever more is wrong with its value. */
export const checked = <A>(read: Reader<A>, check: (value: A, path: Path, report: Report) => void): Reader<A> =>
  mapped(read, (value, path, report) => {
    check(value, path, report);
    return value;
  });

export const upTo = <T>(most: number, item: Reader<T>): Reader<readonly T[]> =>
  checked(list(item), (items, path, report) => {
    if (items.length > most)
      report.problem(path, `has ${items.length} entries, over ${most}`, `keep at most ${most}, or split the object`);
  });

export const hourMs = 3_600_000;
const units: Readonly<Record<string, number>> = { h: hourMs, m: 60_000, s: 1000, ms: 1 };
const dayMs = 86_400_000;
const showMs = (ms: number): string => (ms % 1000 === 0 ? `${ms / 1000}s` : `${ms}ms`);

/** A duration as Gateway API writes it (GEP-2257: "1h30m", "250ms"), in ms. */
export const duration =
  (minMs: number, maxMs = dayMs): Reader<number> =>
  (value, path, report) => {
    if (typeof value === "string" && /^([0-9]{1,5}(h|m|s|ms)){1,4}$/.test(value)) {
      let ms = 0;
      for (const [, count, unit] of value.matchAll(/([0-9]+)(ms|h|m|s)/g))
        ms += Number(count) * (units[unit ?? ""] ?? 0);
      if (ms >= minMs && ms <= maxMs) return ms;
      const bounds = `${showMs(minMs)} to ${showMs(maxMs)}`;
      report.problem(path, `is ${showValue(value)}, not within ${bounds}`, `use a duration from ${bounds}`);
      return minMs;
    }
    report.problem(path, `is ${showValue(value)}, not a duration`, 'write it as "250ms", "5s", "1m30s" or "2h"');
    return minMs;
  };

/** Text that may stand in a head: no control characters, nothing beyond Latin-1. */
export const fieldText: Reader<string> = checked(text, (value, path, report) => {
  for (const char of value) {
    const code = char.codePointAt(0) ?? 0;
    if ((code >= 0x20 && code !== 0x7f && code <= 0xff) || code === 0x09) continue;
    report.problem(path, `is ${showValue(value)}, with a character that no header may carry`, "remove it");
    return;
  }
});
/** As fieldText, of a bounded length: what is longer is no name or value that anybody means. */
export const shortText = (most: number): Reader<string> =>
  checked(fieldText, (value, path, report) => {
    if (value.length > most) report.problem(path, `is ${value.length} characters long, over ${most}`, "shorten it");
  });
/** A method's, header's or cookie's name. */
export const token: Reader<string> = checked(text, (value, path, report) => {
  if (!tokenPattern.test(value))
    report.problem(path, `is ${showValue(value)}, not a name that HTTP allows`, "use letters, digits and dashes");
});
/** In lower case, as records carry it. */
export const headerName: Reader<string> = mapped(token, (value) => value.toLowerCase());
export const headerToChange: Reader<string> = checked(headerName, (value, path, report) => {
  if (untouchableHeaders.has(value))
    report.problem(path, `is "${value}", which is not for routes to change`, "remove it; for the host use URLRewrite");
});

const patternChecked = (value: string, path: Path, report: Report): void => {
  const compiled = compileRegex(value);
  if (!compiled.ok)
    report.problem(path, `is ${showValue(value)}, not a regular expression: ${compiled.error}`, "use RE2's syntax");
};
/** A text that is an expression if `kind` says so. */
export function checkPattern(kind: "exact" | "regex", value: string, path: Path, report: Report): void {
  if (kind === "regex") patternChecked(value, path, report);
}

/** Of an API as Gateway API writes it: "" is the core group. */
export const groupName: Reader<string> = nameOrNone;
export const kindName: Reader<string> = checked(text, (value, path, report) => {
  if (!/^[A-Za-z][-A-Za-z0-9]{0,62}$/.test(value))
    report.problem(path, `is ${showValue(value)}, not a kind`, 'write it as "Service"');
});

/** Choices by the names that manifests use -> those of records. */
export const named = <T extends string>(names: Readonly<Record<string, T>>): Reader<T> =>
  mapped(oneOf(Object.keys(names)), (name) => names[name] as T);

export const matchKind = named({ Exact: "exact", RegularExpression: "regex" } as const);
interface NamedMatch {
  readonly type: "exact" | "regex";
  readonly name: string;
  readonly value: string;
}
/** Matches of headers or query parameters; of one name only the first counts (Gateway API). */
export const namedMatches = (name: Reader<string>): Reader<readonly FieldMatch[]> =>
  mapped(
    upTo(
      16,
      object<NamedMatch>({
        type: optional(matchKind, "exact"),
        name: required(name, "x"),
        // Gateway API's bound.
        value: required(shortText(4096), ""),
      }),
    ),
    (matches, path, report) =>
      matches.flatMap(({ type, name: key, value }, i) => {
        checkPattern(type, value, [...path, i, "value"], report);
        return matches.findIndex((m) => m.name === key) === i ? [{ name: key, kind: type, value }] : [];
      }),
  );

/** A path that a rule compares whole or by its segments (Gateway API HTTPPathMatch). */
export function checkPath(value: string, path: Path, report: Report): void {
  const wrong = !value.startsWith("/")
    ? 'does not begin with "/"'
    : /\/\/|\/\.\.?(\/|$)|%2f/i.test(value)
      ? 'has "//", a "." or ".." segment, or an encoded slash'
      : /[^!-~]|[?#]/.test(value)
        ? "has a space, a query, a fragment or a character that a path must escape"
        : "";
  if (wrong !== "") report.problem(path, `${showValue(value)} ${wrong}`, 'write it as "/a/b"');
}

/** gRPC status codes by name (grpc.github.io/grpc/core/md_doc_statuscodes.html); OK is no failure. */
const grpcCodes = (
  "CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED RESOURCE_EXHAUSTED " +
  "FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED"
).split(" ");
/** A code of a failure, by name or number. */
export const grpcCode: Reader<number> = (value, path, report) => {
  if (typeof value === "number") return integer(1, 16)(value, path, report);
  return grpcCodes.indexOf(oneOf(grpcCodes)(value, path, report)) + 1;
};
