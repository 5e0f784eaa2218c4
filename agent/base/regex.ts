// Regular expressions matched against whole values in linear time, whatever the expression: a Thompson automaton run as a DFA that is
// built as far as values need it (as RE2 does). Bounded in size; a table of states that grows too large is begun anew.

import { parseRegex, type RegexNode } from "./regex-syntax.ts";
import { err, ok, type Result } from "./result.ts";

export interface Regex {
  readonly source: string;
  /** Whether the whole of `value` matches. Characters beyond Latin-1 match nothing. */
  test(value: string): boolean;
}

const maxInstructions = 4000;
const maxStates = 200;

// Instructions: a byte set (op is its index), or one of these.
const opSplit = -1;
const opStart = -2;
const opEnd = -3;
const opMatch = -4;

/** Compiles an expression (RE2's syntax, see regex-syntax.ts), or says why not. */
export function compileRegex(source: string): Result<Regex, string> {
  const parsed = parseRegex(source);
  if (!parsed.ok) return parsed;
  const program = new Program();
  return program.emit(parsed.value) && program.push(opMatch, 0, 0)
    ? ok(new LazyDfa(source, program))
    : err("is too large a regular expression");
}

class Program {
  readonly ops: number[] = [];
  readonly next: number[] = [];
  readonly other: number[] = [];
  readonly sets: Uint8Array[] = [];
  #visits = 0;

  push(op: number, next: number, other: number): boolean {
    this.ops.push(op);
    this.next.push(next);
    this.other.push(other);
    return this.ops.length <= maxInstructions;
  }

  /** Appends code that goes on at its own end. False when it grew too large. */
  emit(node: RegexNode): boolean {
    const at = this.ops.length;
    // Repetitions of nothing add no instruction, but take their time.
    if (++this.#visits > 10 * maxInstructions) return false;
    switch (node.kind) {
      case "set":
        this.sets.push(node.set);
        return this.push(this.sets.length - 1, at + 1, 0);
      case "start":
        return this.push(opStart, at + 1, 0);
      case "end":
        return this.push(opEnd, at + 1, 0);
      case "cat":
        return node.parts.every((part) => this.emit(part));
      case "alt":
        return this.#alternatives(node.parts);
      case "repeat":
        return this.#repeat(node.part, node.min, node.max);
    }
  }

  #alternatives(parts: readonly RegexNode[]): boolean {
    const ends: number[] = [];
    for (const [i, part] of parts.entries()) {
      const split = this.ops.length;
      const isLast = i === parts.length - 1;
      if (!isLast && !this.push(opSplit, split + 1, 0)) return false;
      if (!this.emit(part)) return false;
      if (isLast) break;
      ends.push(this.ops.length);
      if (!this.push(opSplit, 0, -1)) return false;
      this.other[split] = this.ops.length;
    }
    for (const end of ends) this.next[end] = this.ops.length;
    return true;
  }

  #repeat(part: RegexNode, min: number, max: number): boolean {
    for (let i = 0; i < min; i++) if (!this.emit(part)) return false;
    if (max === Number.POSITIVE_INFINITY) {
      const split = this.ops.length;
      if (!this.push(opSplit, split + 1, 0) || !this.emit(part) || !this.push(opSplit, split, -1)) return false;
      this.other[split] = this.ops.length;
      return true;
    }
    const splits: number[] = [];
    for (let i = min; i < max; i++) {
      splits.push(this.ops.length);
      if (!this.push(opSplit, this.ops.length + 1, 0) || !this.emit(part)) return false;
    }
    for (const split of splits) this.other[split] = this.ops.length;
    return true;
  }
}

const dead = 0;
const unknown = -1;

class LazyDfa implements Regex {
  readonly source: string;
  readonly #program: Program;
  /** Bytes that no set tells apart share a class. */
  readonly #classes = new Uint8Array(256);
  readonly #classCount: number;
  readonly #sampleOf: number[] = [];
  /** State 0 is dead, state 1 is the start; transitions row by row. */
  #rows = new Int32Array(0);
  #threads: Int32Array[] = [];
  #accepts: boolean[] = [];
  #ids = new Map<string, number>();
  readonly #mark: Int32Array;
  #turn = 0;

  constructor(source: string, program: Program) {
    this.source = source;
    this.#program = program;
    this.#mark = new Int32Array(program.ops.length);
    const seen = new Map<string, number>();
    for (let byte = 0; byte < 256; byte++) {
      let key = "";
      for (const set of program.sets) key += set[byte];
      let id = seen.get(key);
      if (id === undefined) {
        id = seen.size;
        seen.set(key, id);
        this.#sampleOf.push(byte);
      }
      this.#classes[byte] = id;
    }
    this.#classCount = seen.size;
    this.#reset();
  }

  test(value: string): boolean {
    let state = 1;
    for (let i = 0; i < value.length; i++) {
      const c = value.charCodeAt(i);
      if (c > 255) return false;
      const slot = state * this.#classCount + (this.#classes[c] as number);
      let next = this.#rows[slot] as number;
      if (next === unknown) next = this.#build(state, this.#classes[c] as number);
      if (next === dead) return false;
      state = next;
    }
    return this.#accepts[state] as boolean;
  }

  #reset(): void {
    this.#rows = new Int32Array(this.#classCount * 8).fill(unknown);
    this.#threads = [];
    this.#accepts = [];
    this.#ids = new Map();
    this.#add(new Int32Array(0));
    this.#rows.fill(dead, 0, this.#classCount);
    const start: number[] = [];
    this.#turn++;
    this.#close(0, start, true, false);
    this.#add(Int32Array.from(start.sort((a, b) => a - b)));
  }

  #build(from: number, byteClass: number): number {
    const { ops, next, sets } = this.#program;
    const byte = this.#sampleOf[byteClass] as number;
    const reached: number[] = [];
    this.#turn++;
    for (const at of this.#threads[from] as Int32Array) {
      const op = ops[at] as number;
      if (op >= 0 && sets[op]?.[byte] === 1) this.#close(next[at] as number, reached, false, false);
    }
    const threads = Int32Array.from(reached.sort((a, b) => a - b));
    const known = this.#ids.get(threads.join());
    if (known === undefined && this.#accepts.length >= maxStates) {
      // Begun anew: only the start and the state just reached are kept.
      this.#reset();
      return threads.length === 0 ? dead : (this.#ids.get(threads.join()) ?? this.#add(threads));
    }
    const state = known ?? this.#add(threads);
    this.#rows[from * this.#classCount + byteClass] = state;
    return state;
  }

  #add(threads: Int32Array): number {
    const id = this.#accepts.length;
    if ((id + 1) * this.#classCount > this.#rows.length) {
      const grown = new Int32Array(this.#rows.length * 2).fill(unknown);
      grown.set(this.#rows);
      this.#rows = grown;
    }
    this.#threads.push(threads);
    // Never found again as the start: "^" holds only there.
    if (id !== 1) this.#ids.set(threads.join(), id);
    const final: number[] = [];
    this.#turn++;
    for (const at of threads) this.#close(at, final, id === 1, true);
    this.#accepts.push(final.some((at) => this.#program.ops[at] === opMatch));
    return id;
  }

  /** Adds what is reached without a byte from `first`; assertions that do not hold stay as threads of their own. */
  #close(first: number, out: number[], isStart: boolean, isEnd: boolean): void {
    const { ops, next, other } = this.#program;
    const stack = [first];
    for (let at = stack.pop(); at !== undefined; at = stack.pop()) {
      if (this.#mark[at] === this.#turn) continue;
      this.#mark[at] = this.#turn;
      const op = ops[at] as number;
      if (op === opSplit) {
        if ((other[at] as number) >= 0) stack.push(other[at] as number);
        stack.push(next[at] as number);
      } else if (op === opStart) {
        if (isStart) stack.push(next[at] as number);
      } else if (op === opEnd) {
        if (isEnd) stack.push(next[at] as number);
        else out.push(at);
      } else {
        out.push(at);
      }
    }
  }
}
