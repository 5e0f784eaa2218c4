// Which requests somebody wants to see: conditions of the access log, filters of taps. Pure; chance is an argument.
import type { Random } from "../base/random.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { LogSettings, RequestRecord, StatusRange, Tap } from "./observed.ts";

/** "5xx", "404", "500-503", "0" (no answer); the error says what is meant. */
export function parseStatus(text: string): Result<StatusRange, string> {
  const words = /^(?:([1-5])xx|(\d{1,3})(?:-(\d{1,3}))?)$/.exec(text);
  if (words === null) return err(`"${text}" is no status (as 5xx, 404, 500-503; 0 for no answer)`);
  const [, group, from, to] = words;
  if (group !== undefined) return ok({ low: Number(group) * 100, high: Number(group) * 100 + 99 });
  const low = Number(from);
  const high = Number(to ?? from);
  return low > high ? err(`"${text}" is no range: ${low} is above ${high}`) : ok({ low, high });
}

/** Flags are short words in capitals, as UAEX. */
export const parseFlag = (text: string): Result<string, string> =>
  /^[A-Z]{2,8}$/.test(text) ? ok(text) : err(`"${text}" is no response flag (as UAEX, UF, NR)`);

const isIn = (status: number, ranges: readonly StatusRange[]): boolean => {
  for (const { low, high } of ranges) if (status >= low && status <= high) return true;
  return false;
};
const namespaceOf = (name: string): string => name.slice(0, Math.max(0, name.indexOf("/")));

/** Whether the log is sure to be asked about a request only by chance: then the chance is taken before anything is noted. */
export const isByChance = ({ codes, flags, slowerMs }: LogSettings): boolean =>
  codes.length === 0 && flags.length === 0 && slowerMs === 0;

/** Whether a request is written that the sample did not take, or (`sampled`) did. */
export function isLogged(r: RequestRecord, log: LogSettings, sampled: boolean): boolean {
  const { namespaces } = log;
  if (
    namespaces.length > 0 &&
    !namespaces.includes(namespaceOf(r.sourceWorkload)) &&
    !namespaces.includes(namespaceOf(r.destinationWorkload)) &&
    !namespaces.includes(namespaceOf(r.service))
  )
    return false;
  return sampled || isNamed(r.status, r.flags, r.durationMs, log);
}

/** Whether a condition names it. */
export function isNamed(status: number, flags: string, durationMs: number, log: LogSettings): boolean {
  if (isIn(status, log.codes)) return true;
  // Each flag is a word; several are joined by commas.
  if (log.flags.length > 0 && flags !== "-" && flags.split(",").some((flag) => log.flags.includes(flag))) return true;
  return log.slowerMs > 0 && durationMs > log.slowerMs;
}

export const isSampled = (share: number, random: Random): boolean => share >= 1 || (share > 0 && random.next() < share);

export function isTapped(r: RequestRecord, tap: Tap): boolean {
  if (tap.pod !== "" && !isOf(r.sourceWorkload, tap.pod) && !isOf(r.destinationWorkload, tap.pod) && r.pod !== tap.pod)
    return false;
  if (tap.method !== "" && tap.method !== r.method) return false;
  if (tap.path !== "" && !matchesPath(r.path, tap.path)) return false;
  return tap.statuses.length === 0 || isIn(r.status, tap.statuses);
}

const isOf = (workload: string, pod: string): boolean =>
  pod.includes("/") ? workload === pod : namespaceOf(workload) === pod;

/** `pattern` is compared with the path without its query, unless it names one itself. */
function matchesPath(path: string, pattern: string): boolean {
  const query = path.indexOf("?");
  const own = query < 0 || pattern.includes("?") ? path : path.slice(0, query);
  if (pattern.length > 1 && pattern.startsWith("*") && pattern.endsWith("*")) return own.includes(pattern.slice(1, -1));
  if (pattern.endsWith("*")) return own.startsWith(pattern.slice(0, -1));
  return pattern.startsWith("*") ? own.endsWith(pattern.slice(1)) : own === pattern;
}
