// Readers of untyped manifest values: each checks one shape, reports every problem with its path, and returns a typed value.
import { canonicalIp, parseCidr } from "../../agent/base/ip.ts";

export type Path = readonly (string | number)[];
export interface Report {
  problem(path: Path, message: string, fix: string): void;
  /** Fields that no reader knows are passed over: whoever hands the value in vouches for it. */
  readonly ignoresUnknown?: boolean;
}
/** Returns something of the type even after a problem; the caller drops the object if any was reported. */
export type Reader<T> = (value: unknown, path: Path, report: Report) => T;
export interface Field<T> {
  readonly read: Reader<T>;
  readonly fallback: T;
  readonly isRequired: boolean;
}

export const required = <T>(read: Reader<T>, fallback: T): Field<T> => ({ read, fallback, isRequired: true });
export const optional = <T>(read: Reader<T>, fallback: T): Field<T> => ({ read, fallback, isRequired: false });

/** "spec.ports[0].port" */
export function showPath(path: Path): string {
  return path.reduce<string>((text, part) => {
    if (typeof part === "number") return `${text}[${part}]`;
    return text === "" ? part : `${text}.${part}`;
  }, "");
}

/** A value as it may be quoted in a message: one line, bounded. */
export function showValue(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

const typeName = (value: unknown): string =>
  value === null ? "null" : Array.isArray(value) ? "a list" : `a ${typeof value}`;
const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** An object with exactly these fields; `alsoKnown` names fields of the API that have no effect here. */
export function object<T>(
  fields: { readonly [K in keyof T]-?: Field<T[K]> },
  alsoKnown: readonly string[] = [],
): Reader<T> {
  const names = Object.keys(fields) as (keyof T & string)[];
  // As `{}`, but V8 learns how many fields there will be and keeps them in the object itself; of `{}` all after the fourth are an array of their own.
  function Blank(): void {}
  Blank.prototype = Object.prototype;
  return (value, path, report) => {
    const given = isRecord(value) ? value : {};
    if (!isRecord(value))
      report.problem(path, `is ${typeName(value)}, not an object`, "write it as a mapping of fields");
    else if (report.ignoresUnknown !== true) refuseUnknown(Object.keys(value), [...names, ...alsoKnown], path, report);
    const out = new (Blank as unknown as new () => Partial<T>)();
    for (const name of names) {
      const field = fields[name];
      const part = Object.hasOwn(given, name) ? given[name] : undefined;
      if (part === undefined || part === null) {
        if (field.isRequired && isRecord(value)) report.problem([...path, name], "is missing", `add the field ${name}`);
        out[name] = field.fallback;
      } else {
        out[name] = field.read(part, [...path, name], report);
      }
    }
    return out as T;
  };
}

function refuseUnknown(given: readonly string[], known: readonly string[], path: Path, report: Report): void {
  for (const name of given) {
    if (known.includes(name)) continue;
    const near = nearest(name, known);
    const fix = near === undefined ? "remove it" : `did you mean "${near}"?`;
    report.problem([...path, name.slice(0, 80)], "is not a field of this object", fix);
  }
}

export const text: Reader<string> = (value, path, report) => {
  if (typeof value === "string") return value;
  report.problem(path, `is ${typeName(value)}, not text`, `put it in quotes: "${String(value)}"`);
  return "";
};
/** A Kubernetes name: DNS-1123 subdomain. */
export const objectName: Reader<string> = (value, path, report) => {
  const isName =
    typeof value === "string" && /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/.test(value) && !value.includes("..");
  if (isName) return value;
  report.problem(path, `is ${showValue(value)}, not a name`, "use lower-case letters, digits, dashes and dots");
  return "x";
};
/** As objectName; an empty text means none. */
export const nameOrNone: Reader<string> = (value, path, report) =>
  value === "" ? "" : objectName(value, path, report);
export const flag: Reader<boolean> = (value, path, report) => {
  if (typeof value !== "boolean")
    report.problem(path, `is ${showValue(value)}, not true or false`, "write true or false without quotes");
  return value === true;
};
export function integer(min: number, max: number): Reader<number> {
  return (value, path, report) => {
    if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value;
    report.problem(
      path,
      `is ${showValue(value)}, not a whole number from ${min} to ${max}`,
      `use a number from ${min} to ${max}`,
    );
    return min;
  };
}
export function number(min: number, max: number): Reader<number> {
  return (value, path, report) => {
    if (typeof value === "number" && value >= min && value <= max) return value;
    report.problem(
      path,
      `is ${showValue(value)}, not a number from ${min} to ${max}`,
      `use a number from ${min} to ${max}`,
    );
    return min;
  };
}
export const port: Reader<number> = (value, path, report) => {
  if (typeof value === "number" && Number.isInteger(value) && value >= 1 && value <= 65535) return value;
  report.problem(path, `is ${showValue(value)}, not a port`, "use a number from 1 to 65535");
  return 1;
};
/** A port, or the name of one (at most 15 of a-z, 0-9 and dashes). */
export const portOrName: Reader<number | string> = (value, path, report) => {
  if (typeof value === "string" && /^(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$/.test(value)) return value;
  return port(value, path, report);
};
/** A port as Istio writes it in rules: text. */
export const portText: Reader<string> = (value, path, report) => {
  const digits = typeof value === "string" && /^[0-9]{1,5}$/.test(value) ? Number(value) : Number.NaN;
  if (digits >= 1 && digits <= 65535) return String(digits);
  const isNumber = typeof value === "number";
  report.problem(
    path,
    `is ${showValue(value)}, not a port in quotes`,
    isNumber ? `put it in quotes: "${value}"` : 'use "1" to "65535"',
  );
  return "1";
};
export const address: Reader<string> = (value, path, report) => {
  const canonical = typeof value === "string" ? canonicalIp(value) : undefined;
  if (canonical === undefined)
    report.problem(path, `is ${showValue(value)}, not an IP address`, "write an IPv4 or IPv6 address");
  return canonical ?? "::";
};
/** As address; an empty text means none. */
export const addressOrNone: Reader<string> = (value, path, report) =>
  value === "" ? "" : address(value, path, report);
export const block: Reader<string> = (value, path, report) => {
  if (typeof value === "string" && parseCidr(value) !== undefined) return value;
  report.problem(
    path,
    `is ${showValue(value)}, not an address block`,
    'write it as "10.0.0.0/8", "fd00::/8" or one address',
  );
  return "::/0";
};
export function oneOf<T extends string>(choices: readonly T[]): Reader<T> {
  return (value, path, report) => {
    const found = choices.find((choice) => choice === value);
    if (found !== undefined) return found;
    const near = typeof value === "string" ? nearest(value.toUpperCase(), choices) : undefined;
    report.problem(
      path,
      `is ${showValue(value)}, none of ${choices.join(", ")}`,
      `use ${near ?? `one of ${choices.join(", ")}`}`,
    );
    return choices[0] as T;
  };
}
export function list<T>(item: Reader<T>): Reader<readonly T[]> {
  return (value, path, report) => {
    if (Array.isArray(value)) return value.map((entry, i) => item(entry, [...path, i], report));
    report.problem(path, `is ${typeName(value)}, not a list`, "write it as a list (a dash before each entry)");
    return [];
  };
}
export const texts: Reader<readonly string[]> = list(text);

/** Different values that a reader remembers in order to share them, and how long each may be as text: this bounds what they hold in memory. */
const [keptValues, keptLength] = [4_096, 512];

/**
 * As `read`, but values that say the same are one object as long as it is remembered. What a Deployment's pods have in common is then there
 * once, and the garbage collector does not walk it a thousand times. Long values (a container's last words) are left alone. Nobody may write into a value.
 */
export function shared<T>(read: Reader<T>): Reader<T> {
  const kept = new Map<string, T>();
  return (value, path, report) => {
    const own = read(value, path, report);
    const key = JSON.stringify(own);
    const known = kept.get(key);
    if (known !== undefined) return known;
    if (key.length > keptLength) return own;
    if (kept.size >= keptValues) {
      const [oldest = ""] = kept.keys();
      kept.delete(oldest);
    }
    kept.set(key, own);
    return own;
  };
}

/** A mapping of names to text, as labels are. */
export const labels: Reader<Readonly<Record<string, string>>> = (value, path, report) => {
  if (!isRecord(value)) {
    report.problem(path, `is ${typeName(value)}, not a mapping`, "write it as name: value lines");
    return {};
  }
  return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, text(entry, [...path, key], report)]));
};
/** Anything: a field that we know but do not read. */
export const anything: Reader<unknown> = (value) => value;

/** The closest of `known` within two edits. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let least = 3;
  for (const candidate of known) {
    if (Math.abs(candidate.length - name.length) >= least) continue;
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (distance < least) [best, least] = [candidate, distance];
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + same));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
