// Checks of decoded wire messages: every problem is collected with the path of its field, so that one answer names them all.
import { canonicalIp, parseCidr } from "../base/ip.ts";
import { err, ok, type Result } from "../base/result.ts";

export interface FieldProblem {
  /** As in "services[0].ports[1].target_port". */
  readonly path: string;
  readonly message: string;
}
export type Decoded<T> = Result<T, readonly FieldProblem[]>;

export interface Fields {
  problem(path: string, message: string): void;
  /** A DNS-1123 label or subdomain, as Kubernetes names are. */
  name(path: string, value: string): string;
  optionalName(path: string, value: string): string;
  port(path: string, value: number): number;
  optionalPort(path: string, value: number, fallback: number): number;
  address(path: string, value: string): string;
  cidr(path: string, value: string): string;
  oneOf<T extends string>(path: string, value: number, names: Readonly<Record<number, T>>, fallback: T): T;
  /** One of a few words written out on the wire. */
  word<T extends string>(path: string, value: string, words: readonly T[]): T;
  /** A finite number within bounds; `fallback`, if given, stands for 0 (which is "not set" on the wire). */
  number(path: string, value: number, bounds: Bounds): number;
  /** Text as it may stand in a head: Latin-1 without control characters but the tab (RFC 9110 §5.5). */
  text(path: string, value: string): string;
  /** Runs a name parser and records its message. */
  parsed<T>(path: string, result: Result<T, string>, fallback: T): T;
  finish<T>(value: T): Decoded<T>;
}

export interface Bounds {
  readonly min?: number;
  readonly max?: number;
  readonly fallback?: number;
}

const subdomain = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;
function isFieldText(value: string): boolean {
  for (let i = 0; i < value.length; i++) {
    const c = value.charCodeAt(i);
    if ((c < 0x20 && c !== 0x09) || c === 0x7f || c > 0xff) return false;
  }
  return true;
}
export const isObjectName = (value: string): boolean => subdomain.test(value) && !value.includes("..");

/** Starts collecting for one message. */
export function checkFields(): Fields {
  const problems: FieldProblem[] = [];
  const problem = (path: string, message: string): void => {
    problems.push({ path, message });
  };
  const isPort = (value: number): boolean => Number.isInteger(value) && value >= 1 && value <= 65535;
  const fields: Fields = {
    problem,
    name(path, value) {
      if (!isObjectName(value))
        problem(path, value === "" ? "is missing" : `"${shorten(value)}" is not a Kubernetes name`);
      return value;
    },
    optionalName(path, value) {
      return value === "" ? value : fields.name(path, value);
    },
    port(path, value) {
      if (!isPort(value)) problem(path, `${value} is not a port (1 to 65535)`);
      return value;
    },
    optionalPort(path, value, fallback) {
      return value === 0 ? fallback : fields.port(path, value);
    },
    address(path, value) {
      const canonical = canonicalIp(value);
      if (canonical === undefined) problem(path, `"${shorten(value)}" is not an IP address`);
      return canonical ?? value;
    },
    cidr(path, value) {
      if (parseCidr(value) === undefined) problem(path, `"${shorten(value)}" is not an address block`);
      return value;
    },
    oneOf(path, value, names, fallback) {
      const name = names[value];
      if (name === undefined) problem(path, `${value} is not a known value`);
      return name ?? fallback;
    },
    word<T extends string>(path: string, value: string, words: readonly T[]): T {
      if (!(words as readonly string[]).includes(value)) {
        problem(path, `"${shorten(value)}" is none of ${words.map((w) => `"${w}"`).join(", ")}`);
      }
      return value as T;
    },
    number(path, value, { min = 0, max = 0xffff_ffff, fallback }) {
      if (value === 0 && fallback !== undefined) return fallback;
      if (!(value >= min && value <= max)) problem(path, `${value} is not within ${min} to ${max}`);
      return value + 0; // never -0
    },
    text(path, value) {
      if (!isFieldText(value)) problem(path, "has control characters, or some beyond Latin-1");
      return value;
    },
    parsed(path, result, fallback) {
      if (result.ok) return result.value;
      problem(path, result.error);
      return fallback;
    },
    finish(value) {
      return problems.length === 0 ? ok(value) : err(problems);
    },
  };
  return fields;
}

/** Text from outside as it may appear in a message: bounded, without control characters. */
export function shorten(value: string): string {
  const clean = value.replace(/[^\x20-\x7e]/g, "?");
  return clean.length <= 80 ? clean : `${clean.slice(0, 77)}...`;
}

/** "a.b: is missing; c: ..." */
export function formatProblems(problems: readonly FieldProblem[]): string {
  return problems.map((p) => `${p.path}: ${p.message}`).join("; ");
}

/** Keys in byte order, so that equal records have equal bytes on the wire. */
export function sortedRecord<V>(record: Readonly<Record<string, V>>): Record<string, V> {
  const out: Record<string, V> = {};
  for (const key of Object.keys(record).sort()) {
    const value = record[key];
    if (value !== undefined) out[key] = value;
  }
  return out;
}

/** The other direction of an enum table. */
export function invert<T extends string>(names: Readonly<Record<number, T>>): Readonly<Record<T, number>> {
  return Object.fromEntries(Object.entries(names).map(([number, name]) => [name, Number(number)])) as Record<T, number>;
}
