// Environment text -> typed values. Every problem is collected and names its variable, so one start shows them all.
import { err, ok, type Result } from "./result.ts";

export interface HostPort {
  readonly host: string;
  readonly port: number;
}
export interface EnvReader {
  string(name: string, fallback: string): string;
  required(name: string, why: string): string;
  oneOf<T extends string>(name: string, choices: readonly T[], fallback: T): T;
  integer(name: string, fallback: number, min: number, max: number): number;
  number(name: string, fallback: number, min: number, max: number): number;
  port(name: string, fallback: number): number;
  /** Milliseconds; the unit is in the variable's name. */
  durationMs(name: string, fallback: number, min?: number, max?: number): number;
  boolean(name: string, fallback: boolean): boolean;
  /** "host:port" or "[v6]:port". */
  hostPort(name: string, fallback: string): HostPort;
  /** Separated by `separator`, empty parts dropped. */
  list(name: string, fallback: readonly string[], separator?: string): readonly string[];
  problem(name: string, message: string): void;
  finish<T>(value: T): Result<T, readonly string[]>;
}

/** Reads from `env`, usually process.env; an empty value counts as not set. */
export function readEnv(env: Readonly<Record<string, string | undefined>>): EnvReader {
  const problems: string[] = [];
  const problem = (name: string, message: string): void => {
    problems.push(`${name}: ${message}`);
  };
  const get = (name: string): string | undefined => {
    const value = env[name]?.trim();
    return value === "" ? undefined : value;
  };
  const reader: EnvReader = {
    string: (name, fallback) => get(name) ?? fallback,
    required(name, why) {
      const value = get(name);
      if (value === undefined) problem(name, `is not set: ${why}`);
      return value ?? "";
    },
    oneOf(name, choices, fallback) {
      const value = get(name) ?? fallback;
      const choice = choices.find((c) => c === value);
      if (choice === undefined) problem(name, `"${value}" is none of ${choices.join(", ")}`);
      return choice ?? fallback;
    },
    integer(name, fallback, min, max) {
      const value = reader.number(name, fallback, min, max);
      if (!Number.isInteger(value)) problem(name, `"${value}" is not a whole number`);
      return value;
    },
    number(name, fallback, min, max) {
      const text = get(name);
      if (text === undefined) return fallback;
      const value = /^-?[0-9]+(\.[0-9]+)?$/.test(text) ? Number(text) : Number.NaN;
      if (!(value >= min && value <= max)) {
        problem(name, `"${text}" is not a number from ${min} to ${max}`);
        return fallback;
      }
      return value;
    },
    port: (name, fallback) => reader.integer(name, fallback, 1, 65535),
    durationMs: (name, fallback, min = 0, max = Number.MAX_SAFE_INTEGER) => reader.integer(name, fallback, min, max),
    boolean(name, fallback) {
      const text = get(name)?.toLowerCase();
      if (text === undefined) return fallback;
      if (text === "true" || text === "1" || text === "yes") return true;
      if (text === "false" || text === "0" || text === "no") return false;
      problem(name, `"${text}" is neither true nor false`);
      return fallback;
    },
    hostPort(name, fallback) {
      const parsed = parseHostPort(get(name) ?? fallback);
      if (parsed !== undefined) return parsed;
      problem(name, `"${get(name)}" is not host:port`);
      return parseHostPort(fallback) ?? { host: "", port: 0 };
    },
    list(name, fallback, separator = ",") {
      const text = get(name);
      if (text === undefined) return fallback;
      return text
        .split(separator)
        .map((part) => part.trim())
        .filter((part) => part !== "");
    },
    problem,
    finish: (value) => (problems.length === 0 ? ok(value) : err(problems)),
  };
  return reader;
}

/** "0.0.0.0:80", "name:80", "[::1]:80"; port 0 means that the kernel chooses. */
export function parseHostPort(text: string): HostPort | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]\s]+)):([0-9]{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  const host = match?.[1] ?? match?.[2];
  return host === undefined || port > 65535 ? undefined : { host, port };
}
