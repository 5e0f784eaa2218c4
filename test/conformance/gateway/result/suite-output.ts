// Reads what the suite prints while it runs (`-test.v=test2json`: each line at once, those about tests marked with ^V): which test runs, how
// each ended, and how many requests of it were answered.

export type TestOutcome = "passed" | "failed" | "skipped";

export interface Part {
  readonly name: string;
  readonly outcome: TestOutcome;
}

export interface TestRun {
  readonly name: string;
  readonly outcome: TestOutcome;
  readonly seconds: number;
  /** Requests that the suite says it got an answer for. */
  readonly answers: number;
  /** Those among them that went to a pod's address and not to a Service: a mesh carries them as bytes. */
  readonly byAddress: number;
  /** Addresses that were asked -> what `Location` said, each place once. */
  readonly redirects: Readonly<Record<string, readonly string[]>>;
  /** Its subtests, in their order. */
  readonly parts: readonly Part[];
  /** What it said last, for a failure. */
  readonly last: string;
}

export interface Listener {
  /** A test of the suite begins. */
  readonly began?: (name: string) => void;
  /** The suite pauses after this test; everything that it made is gone. */
  readonly pausing?: (name: string) => void;
  readonly ended?: (run: TestRun) => void;
}

const outcomes = { PASS: "passed", FAIL: "failed", SKIP: "skipped" } as const satisfies Record<string, TestOutcome>;
const MARK = "\u0016";
/** What of a failure is kept. */
const LAST_LINES = 12;
const LAST_CHARACTERS = 300;

interface Test {
  readonly beganMs: number;
  answers: number;
  byAddress: number;
  readonly redirects: Record<string, string[]>;
  /** Subtest -> of the answer that is being told. What is said of one answer may be interrupted by another subtest. */
  readonly urls: Map<string, string>;
  parts: Part[];
  last: string[];
}

/** One reader per run. Bytes may come in any pieces; lines of any length are taken. */
export class SuiteOutput {
  readonly runs: TestRun[] = [];
  readonly #root: string;
  readonly #listener: Listener;
  readonly #now: () => number;
  readonly #tests = new Map<string, Test>();
  #rest = "";
  #current = "";
  #part = "";

  /**
   * @param root name of the Go test that all others are subtests of
   * @param now milliseconds: durations that the suite prints leave out what runs in parallel
   */
  constructor(root: string, now: () => number, listener: Listener = {}) {
    this.#root = root;
    this.#now = now;
    this.#listener = listener;
  }

  feed(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) this.#line(line.replaceAll(MARK, "").trimEnd());
  }

  #line(line: string): void {
    const moved = /^=== (RUN|CONT|NAME|PAUSE)\s+(\S+)$/.exec(line);
    if (moved !== null) {
      const [, verb, path = ""] = moved;
      const [root, name = "", part] = split(path);
      if (root !== this.#root) return;
      this.#current = name;
      this.#part = part ?? "";
      if (verb === "RUN" && name !== "" && part === undefined) this.#begin(name);
      return;
    }
    const ended = /^\s*--- (PASS|FAIL|SKIP): (\S+) \(\d+(?:\.\d+)?s\)$/.exec(line);
    if (ended !== null) {
      const [, verdict = "FAIL", path = ""] = ended;
      const [root, name = "", part] = split(path);
      const outcome = outcomes[verdict as keyof typeof outcomes];
      if (root === this.#root && name !== "") this.#end(name, part, outcome);
      return;
    }
    const test = this.#tests.get(this.#current);
    if (/: Sleeping \S+ for test isolation$/.test(line)) this.#listener.pausing?.(this.runs.at(-1)?.name ?? "");
    if (test === undefined || line === "") return;
    if (/: Got resp /.test(line)) test.answers += 1;
    const url = /: Got resp .*Url=(\S+)$/.exec(line)?.[1];
    if (url !== undefined) test.urls.set(this.#part, url);
    if (url !== undefined && /^\w+:\/\/(?:\d+\.\d+\.\d+\.\d+|\[)/.test(url)) test.byAddress += 1;
    const place = /\] ResponseHeader=Location:(\S+)$/.exec(line)?.[1];
    const asked = test.urls.get(this.#part) ?? "";
    if (place !== undefined) test.redirects[asked] = [...new Set([...(test.redirects[asked] ?? []), place])];
    test.answers += Number(/: Processed (\d+) requests$/.exec(line)?.[1] ?? 0);
    test.last.push(line.trim().slice(0, LAST_CHARACTERS));
    if (test.last.length > LAST_LINES) test.last.shift();
  }

  #begin(name: string): void {
    if (this.#tests.has(name)) return;
    this.#tests.set(name, {
      beganMs: this.#now(),
      answers: 0,
      byAddress: 0,
      redirects: {},
      urls: new Map(),
      parts: [],
      last: [],
    });
    this.#listener.began?.(name);
  }

  #end(name: string, part: string | undefined, outcome: TestOutcome): void {
    this.#begin(name);
    const test = this.#tests.get(name);
    if (test === undefined) return;
    if (part !== undefined) {
      test.parts.push({ name: part, outcome });
      return;
    }
    const { answers, byAddress, redirects, parts, beganMs } = test;
    const seconds = (this.#now() - beganMs) / 1000;
    const last = outcome === "failed" ? test.last.join("\n") : "";
    const run = { name, outcome, seconds, answers, byAddress, redirects, parts, last };
    this.runs.push(run);
    this.#listener.ended?.(run);
  }
}

/** Root, test, and the rest of a subtest's path. */
function split(path: string): readonly [string, string | undefined, string | undefined] {
  const [root = "", name, ...rest] = path.split("/");
  return [root, name, rest.length === 0 ? undefined : rest.join("/")];
}
