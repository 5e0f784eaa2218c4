// What a command of `fairlead` is, and how its words are read: options are typed by a table, errors name the option and the fix.
import { type ParseArgsOptionsConfig, parseArgs } from "node:util";
import { didYouMean } from "./nearest.ts";

/** Where a command writes; standard output is for results only, progress and errors go to standard error. */
export interface Output {
  readonly out: (line: string) => void;
  readonly err: (line: string) => void;
  readonly colour: boolean;
}

export interface Option {
  readonly type: "string" | "boolean";
  readonly help: string;
  readonly short?: string;
  readonly value?: string;
  readonly multiple?: boolean;
}

export interface Call {
  readonly words: readonly string[];
  /** What followed `--`. */
  readonly rest: readonly string[];
  readonly text: (name: string) => string | undefined;
  readonly list: (name: string) => readonly string[];
  readonly flag: (name: string) => boolean;
  readonly output: Output;
}

/** A command: `run` returns the exit code (0 done, 1 failed, 2 wrong use). */
export interface Command {
  readonly name: string;
  readonly usage: string;
  readonly summary: string;
  readonly details?: string;
  readonly options: Readonly<Record<string, Option>>;
  readonly run: (call: Call) => Promise<number>;
}

/** Wrong use of a command: printed with the command's usage, exit code 2. */
export class UsageError extends Error {}
/** An expected failure: printed as one line, exit code 1. */
export class Failure extends Error {}

export function helpOf(command: Command): string {
  const options = Object.entries(command.options).map(([name, o]) => {
    const left = `  ${o.short === undefined ? "" : `-${o.short}, `}--${name}${o.type === "string" ? ` ${o.value ?? "VALUE"}` : ""}`;
    return `${left.padEnd(30)} ${o.help}`;
  });
  const parts = [`Usage: fairlead ${command.usage}`, command.summary];
  if (command.details !== undefined) parts.push(command.details);
  if (options.length > 0) parts.push(`Options:\n${options.join("\n")}`);
  return parts.join("\n\n");
}

/** Reads the words after the command's name. @throws UsageError naming the option */
export function readCall(command: Command, argv: readonly string[], output: Output): Call {
  const cut = argv.indexOf("--");
  const own = cut === -1 ? argv : argv.slice(0, cut);
  const config: ParseArgsOptionsConfig = {};
  for (const [name, o] of Object.entries(command.options)) {
    config[name] = {
      type: o.type,
      ...(o.short === undefined ? {} : { short: o.short }),
      ...(o.multiple === true ? { multiple: true } : {}),
    };
  }
  let parsed: ReturnType<typeof parseArgs>;
  try {
    parsed = parseArgs({
      args: own.map((word) => sameLab(word, config)),
      options: config,
      allowPositionals: true,
      strict: true,
    });
  } catch (error) {
    const text = (error as Error).message.split(". ")[0] ?? "";
    const unknown = /^Unknown option '(--?[^']+)'/.exec(text)?.[1];
    const names = Object.keys(command.options).map((name) => `--${name}`);
    throw new UsageError(unknown === undefined ? text : `${text}${didYouMean(unknown, names)}`);
  }
  const value = (name: string): unknown => parsed.values[name];
  return {
    words: parsed.positionals,
    rest: cut === -1 ? [] : argv.slice(cut + 1),
    text: (name) => {
      const v = value(name);
      return typeof v === "string" ? v : undefined;
    },
    list: (name) => {
      const v = value(name);
      return Array.isArray(v) ? v.map(String) : typeof v === "string" ? [v] : [];
    },
    flag: (name) => value(name) === true,
    output,
  };
}

/** `lab` commands call the lab `--name`, the others `--lab`: whoever remembers the wrong one means the same thing. */
function sameLab(word: string, config: ParseArgsOptionsConfig): string {
  const [option = "", ...value] = word.split("=");
  const other = option === "--name" ? "lab" : option === "--lab" ? "name" : undefined;
  if (other === undefined || config[other] === undefined || config[option.slice(2)] !== undefined) return word;
  return [`--${other}`, ...value].join("=");
}

/** A whole number in a range. @throws UsageError naming the option */
export function wholeNumber(call: Call, option: string, fallback: number, least: number, most: number): number {
  const text = call.text(option);
  if (text === undefined) return fallback;
  const number = Number(text);
  if (Number.isInteger(number) && number >= least && number <= most) return number;
  throw new UsageError(`--${option} ${text}: give a whole number from ${least} to ${most}`);
}

/** "KEY=VALUE" options as a record. */
export function pairs(call: Call, option: string): Record<string, string> {
  const out: Record<string, string> = {};
  for (const pair of call.list(option)) {
    const at = pair.indexOf("=");
    if (at < 1) throw new UsageError(`--${option} ${pair}: write NAME=VALUE`);
    out[pair.slice(0, at)] = pair.slice(at + 1);
  }
  return out;
}
