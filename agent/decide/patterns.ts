// Compiled lists of Istio's text forms (exact, "prefix*", "*suffix", "*"), path templates and address blocks. Pure; no allocation to match.
import { isPathTemplate } from "../api/policy.ts";
import { type Cidr, cidrContains, type IpBytes, parseCidr } from "../base/ip.ts";
import { plainestReading } from "./request-path.ts";

/** A list of patterns as one thing to ask. */
export class TextList {
  readonly isEmpty: boolean;
  readonly #exact: Set<string>;
  readonly #prefixes: readonly string[];
  readonly #suffixes: readonly string[];
  readonly #any: boolean;

  constructor(patterns: readonly string[]) {
    this.isEmpty = patterns.length === 0;
    this.#any = patterns.includes("*");
    const forms = patterns.filter((p) => p !== "*");
    this.#exact = new Set(forms.filter((p) => !p.startsWith("*") && !p.endsWith("*")));
    this.#prefixes = forms.filter((p) => p.endsWith("*")).map((p) => p.slice(0, -1));
    this.#suffixes = forms.filter((p) => !p.endsWith("*") && p.startsWith("*")).map((p) => p.slice(1));
  }

  has(value: string): boolean {
    if (this.#any && value !== "") return true;
    if (this.#exact.has(value)) return true;
    for (let i = 0; i < this.#prefixes.length; i++) if (value.startsWith(this.#prefixes[i] as string)) return true;
    for (let i = 0; i < this.#suffixes.length; i++) if (value.endsWith(this.#suffixes[i] as string)) return true;
    return false;
  }

  /** "*" of a header asks for its presence: an empty value is one. */
  hasPresent(value: string): boolean {
    return this.#any || this.has(value);
  }
}

/** What a path list needs to know of a path. `deep` is its plainest reading, the same text for nearly all paths. */
export interface PathReadings {
  readonly path: string;
  readonly deep: string;
  /** The two readings have other segments: nobody knows which of them the backend serves. */
  readonly isAmbiguous: boolean;
}

/** Paths and templates, matched on what the settings make of a path, and with care where a backend may read it otherwise. */
export class PathList {
  readonly isEmpty: boolean;
  readonly #texts: TextList;
  readonly #deepTexts: TextList;
  readonly #templates: readonly RegExp[];

  constructor(patterns: readonly string[]) {
    this.isEmpty = patterns.length === 0;
    const texts = patterns.filter((p) => !isPathTemplate(p));
    this.#texts = new TextList(texts);
    this.#deepTexts = new TextList(texts.map(deepPattern));
    this.#templates = patterns.filter(isPathTemplate).map(templateExpression);
  }

  /**
   * `widely`: any reading counts, as for what a DENY names. Otherwise the path as the settings read it must match, and of an ambiguous
   * one its plainest reading too, so that no ALLOW lets through what it does not name.
   */
  has(readings: PathReadings, widely: boolean): boolean {
    if (this.#one(readings.path)) return widely || !readings.isAmbiguous || this.#deep(readings.deep);
    return widely && readings.deep !== readings.path && this.#deep(readings.deep);
  }

  #one(path: string): boolean {
    if (this.#texts.has(path)) return true;
    for (let i = 0; i < this.#templates.length; i++) if ((this.#templates[i] as RegExp).test(path)) return true;
    return false;
  }

  #deep(path: string): boolean {
    return this.#one(path) || this.#deepTexts.has(path);
  }
}

function deepPattern(pattern: string): string {
  if (pattern === "*") return pattern;
  if (pattern.endsWith("*")) return `${plainestReading(pattern.slice(0, -1))}*`;
  return pattern.startsWith("*") ? pattern : plainestReading(pattern);
}

/** "{*}" is one segment, "{**}" any number of them. Templates are checked where policies are decoded. */
function templateExpression(pattern: string): RegExp {
  const parts = pattern.split("/").map((segment) => {
    if (segment === "{*}") return "[^/]+";
    if (segment === "{**}") return "[^]*";
    return segment.replace(/[\\^$.*|?+()[\]{}]/g, "\\$&");
  });
  return new RegExp(`^${parts.join("/")}$`);
}

export class BlockList {
  readonly isEmpty: boolean;
  readonly #blocks: readonly Cidr[];

  constructor(blocks: readonly string[]) {
    this.isEmpty = blocks.length === 0;
    this.#blocks = blocks.flatMap((block) => parseCidr(block) ?? []);
  }

  has(address: IpBytes): boolean {
    for (let i = 0; i < this.#blocks.length; i++) if (cidrContains(this.#blocks[i] as Cidr, address)) return true;
    return false;
  }
}
