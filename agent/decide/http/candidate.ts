// One match of one rule made ready: what it asks of a request besides its place in a table, and who is asked next. Pure.
import type { FieldMatch, RouteMatch } from "../../api/http-match.ts";
import { compileRegex, type Regex } from "../../base/regex.ts";
import type { RequestHead } from "../../http.ts";
import { type Forward, fixedForward, type RouteHit } from "./decision.ts";
import { queryValue } from "./request-target.ts";
import type { CompiledRule } from "./rule.ts";

export class Candidate implements RouteHit {
  readonly kind = "candidate";
  // What most requests look at stands first, so that it is one line of cache.
  readonly fixed: Forward | undefined;
  /** Nothing but the path is asked for. */
  readonly isBare: boolean;
  /** The one that is tried after this, of those with the same path. */
  next: Candidate | undefined;
  readonly rule: CompiledRule;
  readonly match: number;
  readonly prefix: string;
  readonly method: string;
  readonly headers: readonly FieldTest[];
  readonly query: readonly FieldTest[];
  /** Of the path, or of service and method. */
  readonly regexes: readonly (Regex | undefined)[];
  /** No path was asked for, so "*" and CONNECT match as well. */
  readonly anyPath: boolean;

  constructor(rule: CompiledRule, match: number, spec: RouteMatch) {
    this.rule = rule;
    this.match = match;
    this.prefix = spec.path?.kind === "prefix" ? withoutSlash(spec.path.value) : "";
    this.method = spec.method;
    this.headers = firstOfEach(spec.headers).map((field) => new FieldTest(field));
    this.query = firstOfEach(spec.query).map((field) => new FieldTest(field));
    this.anyPath = spec.path === undefined;
    this.regexes = regexesOf(spec);
    this.isBare = this.method === "" && this.headers.length === 0 && this.query.length === 0;
    this.next = undefined;
    this.fixed = fixedForward(this);
  }

  /** Whether everything but the path holds. */
  holds(head: RequestHead): boolean {
    if (this.isBare) return true;
    if (this.method !== "" && this.method !== head.method) return false;
    for (let i = 0; i < this.headers.length; i++) {
      const test = this.headers[i] as FieldTest;
      if (!test.holds(head.header(test.name))) return false;
    }
    for (let i = 0; i < this.query.length; i++) {
      const test = this.query[i] as FieldTest;
      if (!test.holds(queryValue(head.path, test.name))) return false;
    }
    return true;
  }
}

class FieldTest {
  readonly name: string;
  readonly #value: string;
  readonly #regex: Regex | undefined;
  constructor({ name, kind, value }: FieldMatch) {
    this.name = name;
    this.#value = value;
    this.#regex = kind === "regex" ? compiled(value) : undefined;
  }
  holds(value: string | undefined): boolean {
    if (value === undefined) return false;
    return this.#regex === undefined ? value === this.#value : this.#regex.test(value);
  }
}

/** Of several entries of one name only the first counts (Gateway API HTTPHeaderMatch, HTTPQueryParamMatch). */
export const firstOfEach = (fields: readonly FieldMatch[]): readonly FieldMatch[] =>
  fields.filter((field, i) => fields.findIndex((other) => other.name === field.name) === i);
const withoutSlash = (prefix: string): string => prefix.replace(/\/+$/, "");
const never: Regex = { source: "", test: () => false };
/** Records were checked when they were decoded; what slipped through matches nothing. */
function compiled(source: string): Regex {
  const result = compileRegex(source);
  return result.ok ? result.value : never;
}
function regexesOf({ path, grpc }: RouteMatch): readonly (Regex | undefined)[] {
  if (path?.kind === "regex") return [compiled(path.value)];
  if (grpc?.kind !== "regex") return [];
  return [grpc.service, grpc.method].map((part) => (part === "" ? undefined : compiled(part)));
}

/** Candidates of one path in the order of precedence: the first, and the last to append to. */
class Chain {
  readonly first: Candidate;
  last: Candidate;
  constructor(first: Candidate) {
    this.first = first;
    this.last = first;
  }
}
/** While it is built. Requests meet the map of first candidates alone: each object less is a line of cache less. */
export class Chains {
  readonly firsts = new Map<string, Candidate>();
  readonly #chains = new Map<string, Chain>();
  entries(): ReadonlyMap<string, Entry> {
    return new Map([...this.firsts].map(([key, first]) => [key, entryOf(first)]));
  }
  add(key: string, candidate: Candidate): void {
    const chain = this.#chains.get(key);
    if (chain === undefined) {
      this.#chains.set(key, new Chain(candidate));
      this.firsts.set(key, candidate);
    } else {
      chain.last.next = candidate;
      chain.last = candidate;
    }
  }
}

/** What a table leads to: a chain of candidates, or where every request falls under its first, that one's decision, to spare an object. */
export type Entry = Candidate | Forward;
const entryOf = (first: Candidate): Entry => (first.isBare && first.fixed !== undefined ? first.fixed : first);

/** The first of a chain under which the request falls. */
export function first(chain: Entry | undefined, head: RequestHead): Entry | undefined {
  if (chain === undefined || chain.kind === "forward") return chain;
  let candidate: Candidate | undefined = chain;
  while (candidate !== undefined && !candidate.holds(head)) candidate = candidate.next;
  return candidate;
}
