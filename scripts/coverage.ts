// Which lines of controller/ its tests execute, by V8's own coverage (NODE_V8_COVERAGE) in every process that they start. Ends with 1 below
// the goal. The runner's built-in report is not used: it misreads what several processes of one run executed of the same file.
import { spawn } from "node:child_process";
import { globSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

interface V8Range {
  readonly startOffset: number;
  readonly endOffset: number;
  readonly count: number;
}
export interface V8Script {
  readonly url: string;
  readonly functions: readonly { readonly ranges: readonly V8Range[] }[];
}

/** For each character of a source whether it was executed: the innermost range that holds it counts. */
export function executed(length: number, functions: V8Script["functions"]): Uint8Array {
  const out = new Uint8Array(length);
  // Outer ranges come before those that they hold.
  const ranges = functions
    .flatMap((f) => f.ranges)
    .sort((a, b) => a.startOffset - b.startOffset || b.endOffset - a.endOffset);
  for (const { startOffset, endOffset, count } of ranges)
    out.fill(count > 0 ? 1 : 0, startOffset, Math.min(length, endOffset));
  return out;
}
/** Lines that are not blank, and of these the ones of which every character was executed in one process or another. */
export function countLines(
  text: string,
  marks: readonly Uint8Array[],
): { readonly lines: number; readonly covered: number; readonly missed: readonly number[] } {
  const missed: number[] = [];
  let lines = 0;
  let at = 0;
  for (const [i, line] of text.split("\n").entries()) {
    const from = at + (line.length - line.trimStart().length);
    const to = at + line.trimEnd().length;
    at += line.length + 1;
    if (to <= from) continue;
    lines += 1;
    const isCovered = (offset: number): boolean => marks.some((mark) => mark[offset] === 1);
    for (let offset = from; offset < to; offset++)
      if (!isCovered(offset)) {
        missed.push(i + 1);
        break;
      }
  }
  return { lines, covered: lines - missed.length, missed };
}

/** What every process executed of the files of a folder, by path. */
function gathered(dir: string, root: string, folder: string): Map<string, Uint8Array> {
  const marks = new Map<string, Uint8Array>();
  for (const name of readdirSync(dir)) {
    let result: readonly V8Script[];
    try {
      result = (JSON.parse(readFileSync(join(dir, name), "utf8")) as { result: readonly V8Script[] }).result;
    } catch {
      // Of a process that was killed while it wrote.
      continue;
    }
    for (const { url, functions } of result) {
      if (!url.startsWith("file://")) continue;
      const path = relative(root, fileURLToPath(url));
      if (!path.startsWith(`${folder}/`) || path.endsWith(".test.ts")) continue;
      const length = readFileSync(join(root, path), "utf8").length;
      const now = executed(length, functions);
      const before = marks.get(path);
      if (before === undefined) marks.set(path, now);
      else for (let i = 0; i < length; i++) if (now[i] === 1) before[i] = 1;
    }
  }
  return marks;
}

const run = (patterns: readonly string[], dir: string): Promise<number> =>
  new Promise((resolve) => {
    const files = globSync(patterns as string[]).sort();
    const words = ["--test", "--test-reporter=dot", "--test-timeout=900000", "--test-concurrency=2", ...files];
    const child = spawn(process.execPath, words, { stdio: "inherit", env: { ...process.env, NODE_V8_COVERAGE: dir } });
    child.once("exit", (code) => resolve(code ?? 1));
  });

if (import.meta.main) {
  const root = process.cwd();
  const { values, positionals } = parseArgs({
    options: { goal: { type: "string", default: "85" }, missed: { type: "boolean", default: false } },
    allowPositionals: true,
  });
  const tests =
    positionals.length > 0
      ? positionals
      : ["controller/**/*.test.ts", "test/controller/*.test.ts", "test/apiserver/*.test.ts"];
  const dir = mkdtempSync(join(tmpdir(), "fairlead-coverage-"));
  try {
    const code = await run(tests, dir);
    const marks = gathered(dir, root, "controller");
    let [lines, covered] = [0, 0];
    for (const path of globSync("controller/**/*.ts").sort()) {
      if (path.endsWith(".test.ts")) continue;
      const text = readFileSync(path, "utf8");
      const mark = marks.get(path);
      // Types alone are nothing that could be executed.
      if (
        mark === undefined &&
        stripTypeScriptTypes(text)
          .replace(/\/\*[\s\S]*?\*\/|\/\/.*|export \{\};?/g, "")
          .trim() === ""
      )
        continue;
      const file = countLines(text, mark === undefined ? [] : [mark]);
      lines += file.lines;
      covered += file.covered;
      const share = ((100 * file.covered) / Math.max(1, file.lines)).toFixed(1).padStart(5);
      console.log(`${share} %  ${path}${values.missed && file.missed.length > 0 ? `  ${file.missed.join(" ")}` : ""}`);
    }
    const share = (100 * covered) / Math.max(1, lines);
    console.log(`${share.toFixed(1).padStart(5)} %  of ${lines} lines of controller/; goal ${values.goal} %`);
    if (code !== 0) console.log(`tests failed (exit code ${code})`);
    process.exitCode = code !== 0 || share < Number(values.goal) ? 1 : 0;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
