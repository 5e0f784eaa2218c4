// The query of /v1/tap: which requests somebody wants to see. Errors name the parameter.
import { err, ok, type Result } from "../base/result.ts";
import type { StatusRange, Tap } from "../report/observed.ts";
import { parseStatus } from "../report/request-filter.ts";

const known: ReadonlySet<string> = new Set(["pod", "method", "path", "status", "rate"]);
const defaultRate = 100;
const mostRate = 10_000;

export function readTap(query: URLSearchParams): Result<Omit<Tap, "id">, string> {
  for (const name of query.keys()) if (!known.has(name)) return err(`${name}: known are ${[...known].join(", ")}`);
  const get = (name: string): string => query.get(name) ?? "";
  const pod = get("pod");
  if (!/^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\/[a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$/.test(pod))
    return err(`pod: "${pod}" is neither NAMESPACE/POD nor NAMESPACE`);
  const rate = Number(query.get("rate") ?? defaultRate);
  if (!Number.isInteger(rate) || rate < 1 || rate > mostRate)
    return err(`rate: give a whole number from 1 to ${mostRate}, requests a second`);
  const statuses: StatusRange[] = [];
  for (const text of get("status").split(",")) {
    if (text === "") continue;
    const status = parseStatus(text);
    if (!status.ok) return err(`status: ${status.error}`);
    statuses.push(status.value);
  }
  return ok({ pod, method: get("method"), path: get("path"), statuses, perSecond: rate });
}
