// What a ResiliencePolicy does to requests of its Services before any route: faults, tarpits and diverts, each for some of them and a time.
import type { Fault, Tarpit } from "../../agent/api/http-filters.ts";
import type { FieldMatch } from "../../agent/api/http-match.ts";
import { reference } from "./filter-kinds.ts";
import { duration, grpcCode, headerName, hourMs, mapped, namedMatches } from "./http-schema.ts";
import type { DivertSpec } from "./http-types.ts";
import { integer, object, optional, type Reader, required, showValue } from "./schema.ts";

const percent = integer(1, 100);
const timePattern = /^(\d{4})-(\d\d)-(\d\d)T([01]\d|2[0-3])(:[0-5]\d){2}(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$/;
const maxTimeLength = 40;
/** A time of RFC 3339, in Unix ms. Days that no calendar has are no times, though Date takes some of them. */
const instant: Reader<number> = (value, path, report) => {
  const [, year, month, day] = (typeof value === "string" && timePattern.exec(value)) || [];
  const isDay = new Date(Date.UTC(Number(year), Number(month) - 1, Number(day))).getUTCDate() === Number(day);
  const ms = isDay && String(value).length <= maxTimeLength ? Date.parse(String(value)) : Number.NaN;
  if (ms >= 1000) return ms;
  report.problem(path, `is ${showValue(value)}, not a time`, 'write it as "2030-01-31T18:00:00Z"');
  return 1;
};
/** Which requests: all that have these headers. */
const headers = optional<readonly FieldMatch[]>(namedMatches(headerName), []);
/** Faults must end; what is done to clients on purpose may last (0: for ever). */
const expires = optional(instant, 0);

export const faultInjection: Reader<Fault> = mapped(
  object({
    headers,
    delay: optional<{ readonly duration: number; readonly percent: number } | undefined>(
      object({ duration: required(duration(1, hourMs), 1), percent: optional(percent, 100) }),
      undefined,
    ),
    abort: optional<Abort | undefined>(
      object<Abort>({
        status: optional(integer(200, 599), 0),
        grpcCode: optional<number | undefined>(grpcCode, undefined),
        percent: optional(percent, 100),
      }),
      undefined,
    ),
    expires: required(instant, 1),
  }),
  ({ headers: matches, delay, abort, expires: end }, path, report) => {
    if (delay === undefined && abort === undefined)
      report.problem(path, "has neither delay nor abort", "add one of them");
    if (abort !== undefined && (abort.status === 0) === (abort.grpcCode === undefined))
      report.problem([...path, "abort"], "needs either status or grpcCode", "keep one of the two");
    return {
      headers: matches,
      delayMs: delay?.duration ?? 0,
      delayPercent: delay?.percent ?? 0,
      abortStatus: abort?.status ?? 0,
      abortGrpc: abort?.grpcCode,
      abortPercent: abort?.percent ?? 0,
      expiresMs: end,
    };
  },
);
interface Abort {
  readonly status: number;
  readonly grpcCode: number | undefined;
  readonly percent: number;
}

export const tarpit: Reader<Tarpit> = mapped(
  object({
    headers,
    percent: optional(percent, 100),
    hold: required(duration(1, 600_000), 1),
    status: optional(integer(400, 599), 429),
    expires,
  }),
  ({ hold, expires: end, ...rest }) => ({ ...rest, holdMs: hold, expiresMs: end }),
);

const noBackend = { group: "", kind: "Service", namespace: "", name: "x", port: 0 };
export const divert: Reader<DivertSpec> = mapped(
  object({ headers, percent: optional(percent, 100), backendRef: required(reference, noBackend), expires }),
  ({ expires: end, ...rest }, path, report) => {
    if (rest.backendRef.port === 0)
      report.problem([...path, "backendRef", "port"], "is missing", "add a port of the Service");
    return { ...rest, expiresMs: end };
  },
);
