// Parses regular expressions in RE2's syntax without what cannot be matched in linear time or is not needed for whole values
// (back references, look-around, word boundaries, Unicode classes). Characters are bytes 0 to 255.
import { err, ok, type Result } from "./result.ts";

/** 256 entries, 1 for a byte that belongs. */
export type ByteSet = Uint8Array;
export type RegexNode =
  | { readonly kind: "set"; readonly set: ByteSet }
  | { readonly kind: "cat"; readonly parts: readonly RegexNode[] }
  | { readonly kind: "alt"; readonly parts: readonly RegexNode[] }
  | { readonly kind: "repeat"; readonly part: RegexNode; readonly min: number; readonly max: number }
  | { readonly kind: "start" }
  | { readonly kind: "end" };

/** RE2 allows as many repetitions. */
const maxRepeat = 1000;
const maxLength = 1024;
const maxDepth = 50;

const range = (...pairs: readonly (readonly [number, number])[]): ByteSet => {
  const set = new Uint8Array(256);
  for (const [from, to] of pairs) set.fill(1, from, to + 1);
  return set;
};
const not = (set: ByteSet): ByteSet => set.map((bit) => 1 - bit);
const digit = range([48, 57]);
const word = range([48, 57], [65, 90], [95, 95], [97, 122]);
const space = range([9, 10], [12, 13], [32, 32]);
const perl: Readonly<Record<string, ByteSet>> = {
  d: digit,
  D: not(digit),
  w: word,
  W: not(word),
  s: space,
  S: not(space),
};
const posix: Readonly<Record<string, ByteSet>> = {
  alnum: range([48, 57], [65, 90], [97, 122]),
  alpha: range([65, 90], [97, 122]),
  ascii: range([0, 127]),
  blank: range([9, 9], [32, 32]),
  cntrl: range([0, 31], [127, 127]),
  digit,
  graph: range([33, 126]),
  lower: range([97, 122]),
  print: range([32, 126]),
  punct: range([33, 47], [58, 64], [91, 96], [123, 126]),
  space: range([9, 13], [32, 32]),
  upper: range([65, 90]),
  word,
  xdigit: range([48, 57], [65, 70], [97, 102]),
};
const controls: Readonly<Record<string, number>> = { a: 7, f: 12, t: 9, n: 10, r: 13, v: 11 };

class Refused extends Error {}

/** The tree of an expression, or why it is refused. */
export function parseRegex(text: string): Result<RegexNode, string> {
  if (text.length > maxLength) return err(`is longer than ${maxLength} characters`);
  try {
    return ok(new Parser(text).whole());
  } catch (error) {
    if (error instanceof Refused) return err(error.message);
    throw error;
  }
}

class Parser {
  readonly #text: string;
  #at = 0;
  #depth = 0;
  #ignoreCase = false;
  #dotAll = false;

  constructor(text: string) {
    this.#text = text;
  }

  whole(): RegexNode {
    const node = this.#alternatives();
    if (this.#at < this.#text.length) throw this.#refuse("unexpected )");
    return node;
  }

  #refuse(what: string): Refused {
    return new Refused(`is no regular expression: ${what} at ${this.#at}`);
  }
  #peek(): string {
    return this.#text.charAt(this.#at);
  }
  #take(prefix: string): boolean {
    if (!this.#text.startsWith(prefix, this.#at)) return false;
    this.#at += prefix.length;
    return true;
  }

  #alternatives(): RegexNode {
    if (++this.#depth > maxDepth) throw this.#refuse("nested too deep");
    const [ignoreCase, dotAll] = [this.#ignoreCase, this.#dotAll];
    const parts = [this.#sequence()];
    while (this.#take("|")) parts.push(this.#sequence());
    // Flags end with the group they stand in.
    this.#ignoreCase = ignoreCase;
    this.#dotAll = dotAll;
    this.#depth--;
    return parts.length === 1 ? (parts[0] as RegexNode) : { kind: "alt", parts };
  }

  #sequence(): RegexNode {
    const parts: RegexNode[] = [];
    for (let c = this.#peek(); c !== "" && c !== "|" && c !== ")"; c = this.#peek()) parts.push(this.#repeated());
    return { kind: "cat", parts };
  }

  #repeated(): RegexNode {
    const part = this.#atom();
    const counts = this.#counts();
    if (counts === undefined) return part;
    this.#take("?"); // lazy or not: the same whole values match
    if (/^[*+?]/.test(this.#peek()) || this.#isCount()) throw this.#refuse("a repetition of a repetition");
    return { kind: "repeat", part, min: counts[0], max: counts[1] };
  }

  #isCount(): boolean {
    return /^\{[0-9]+(,[0-9]*)?\}/.test(this.#text.slice(this.#at, this.#at + 20));
  }
  #counts(): readonly [number, number] | undefined {
    if (this.#take("*")) return [0, Number.POSITIVE_INFINITY];
    if (this.#take("+")) return [1, Number.POSITIVE_INFINITY];
    if (this.#take("?")) return [0, 1];
    if (!this.#isCount()) return undefined;
    const end = this.#text.indexOf("}", this.#at);
    const [low = "", high] = this.#text.slice(this.#at + 1, end).split(",");
    const min = Number(low);
    const max = high === undefined ? min : high === "" ? Number.POSITIVE_INFINITY : Number(high);
    if (min > maxRepeat || (max > maxRepeat && high !== "") || max < min) throw this.#refuse("a bad repetition");
    this.#at = end + 1;
    return [min, max];
  }

  #atom(): RegexNode {
    const c = this.#peek();
    if (c.charCodeAt(0) > 255) throw this.#refuse("a character beyond Latin-1 (write its bytes as \\x..)");
    if (c === "*" || c === "+" || c === "?") throw this.#refuse("nothing to repeat");
    this.#at++;
    switch (c) {
      case "(":
        return this.#group();
      case "[":
        return { kind: "set", set: this.#class() };
      case ".":
        return { kind: "set", set: this.#dotAll ? range([0, 255]) : not(range([10, 10])) };
      case "^":
        return { kind: "start" };
      case "$":
        return { kind: "end" };
      case "\\":
        return this.#escape();
      default:
        return { kind: "set", set: this.#fold(range([c.charCodeAt(0), c.charCodeAt(0)])) };
    }
  }

  #group(): RegexNode {
    if (this.#take("?")) {
      const flags = /^([is]*)([:)])/.exec(this.#text.slice(this.#at, this.#at + 4));
      const name = /^P?<[A-Za-z_][A-Za-z0-9_]*>/.exec(this.#text.slice(this.#at, this.#at + 64));
      if (flags === null && name === null) throw this.#refuse("this kind of group is not supported");
      this.#at += (flags ?? name)?.[0].length ?? 0;
      if (flags !== null) {
        const saved = [this.#ignoreCase, this.#dotAll] as const;
        if (flags[1]?.includes("i")) this.#ignoreCase = true;
        if (flags[1]?.includes("s")) this.#dotAll = true;
        if (flags[2] === ")") return { kind: "cat", parts: [] };
        const node = this.#closed();
        [this.#ignoreCase, this.#dotAll] = saved;
        return node;
      }
    }
    return this.#closed();
  }
  #closed(): RegexNode {
    const node = this.#alternatives();
    if (!this.#take(")")) throw this.#refuse("missing )");
    return node;
  }

  #escape(): RegexNode {
    if (this.#take("A")) return { kind: "start" };
    if (this.#take("z")) return { kind: "end" };
    const set = perl[this.#peek()];
    if (set !== undefined) {
      this.#at++;
      return { kind: "set", set };
    }
    const c = this.#escapedByte();
    return { kind: "set", set: this.#fold(range([c, c])) };
  }

  /** After the backslash: one byte. */
  #escapedByte(): number {
    const c = this.#peek();
    const hex = /^x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]{1,2})\})/.exec(this.#text.slice(this.#at, this.#at + 6));
    if (hex !== null) {
      this.#at += hex[0].length;
      return Number.parseInt(hex[1] ?? hex[2] ?? "", 16);
    }
    this.#at++;
    const control = controls[c];
    if (control !== undefined) return control;
    if (!/^[!-/:-@[-`{-~ ]$/.test(c)) throw this.#refuse(`\\${/^\w$/.test(c) ? c : ""} is not supported`);
    return c.charCodeAt(0);
  }

  /** After "[". */
  #class(): ByteSet {
    const negated = this.#take("^");
    const set = new Uint8Array(256);
    for (let first = true; ; first = false) {
      if (this.#peek() === "") throw this.#refuse("missing ]");
      if (!first && this.#take("]")) break;
      const member = this.#classMember();
      if (typeof member !== "number") {
        for (let i = 0; i < 256; i++) set[i] = (set[i] ?? 0) | (member[i] ?? 0);
        continue;
      }
      let to = member;
      if (this.#peek() === "-" && this.#text.charAt(this.#at + 1) !== "]") {
        this.#at++;
        const end = this.#classMember();
        if (typeof end !== "number" || end < member) throw this.#refuse("a bad range");
        to = end;
      }
      set.fill(1, member, to + 1);
    }
    const folded = this.#fold(set);
    return negated ? not(folded) : folded;
  }
  #classMember(): number | ByteSet {
    const named = /^\[:(\^?)([a-z]+):\]/.exec(this.#text.slice(this.#at, this.#at + 16));
    if (named !== null) {
      const set = posix[named[2] ?? ""];
      if (set === undefined) throw this.#refuse("an unknown class");
      this.#at += named[0].length;
      return named[1] === "^" ? not(set) : set;
    }
    const c = this.#peek();
    if (c === "" || c.charCodeAt(0) > 255) throw this.#refuse("a bad class");
    this.#at++;
    if (c !== "\\") return c.charCodeAt(0);
    const set = perl[this.#peek()];
    if (set === undefined) return this.#escapedByte();
    this.#at++;
    return set;
  }

  #fold(set: ByteSet): ByteSet {
    if (!this.#ignoreCase) return set;
    const folded = set.slice();
    for (let lower = 97; lower <= 122; lower++) {
      const both = (set[lower] ?? 0) | (set[lower - 32] ?? 0);
      folded[lower] = both;
      folded[lower - 32] = both;
    }
    return folded;
  }
}
