// Runs native/tests/kernel (real namespaces, cgroups and programs; needs root) and reports each of its cases as a test here.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import test from "node:test";

const native = join(import.meta.dirname, "../../native");

interface Result {
  readonly ok: boolean;
  readonly text: string;
}

/** Builds the test program and returns its path. */
function build(): string {
  const args = ["test", "--locked", "--test", "kernel", "--no-run", "--message-format=json"];
  const out = execFileSync("cargo", args, {
    cwd: native,
    encoding: "utf8",
    maxBuffer: 1 << 28,
    stdio: ["ignore", "pipe", "pipe"],
  });
  for (const line of out.split("\n").filter((text) => text.startsWith("{"))) {
    const message = JSON.parse(line) as { executable?: string | null; target?: { name: string } };
    if (message.target?.name === "kernel" && message.executable) return message.executable;
  }
  throw new Error("cargo built no test program named kernel; see [[test]] in native/Cargo.toml");
}

/** Runs all cases; each result is told as soon as it is there. */
function run(
  program: string,
  settle: (number: number, result: Result) => void,
  end: (code: number | null) => void,
): void {
  const child = spawn(program, { stdio: ["ignore", "pipe", "inherit"] });
  let current: { number: number; ok: boolean; lines: string[] } | undefined;
  const flush = (): void => {
    if (current) settle(current.number, { ok: current.ok, text: current.lines.join("\n") });
    current = undefined;
  };
  createInterface({ input: child.stdout }).on("line", (line) => {
    const head = /^(not )?ok (\d+) /.exec(line);
    if (head?.[2]) {
      flush();
      current = { number: Number(head[2]), ok: !head[1], lines: [line] };
      // The reason of a failure follows its line; a success is complete.
      if (current.ok) flush();
    } else current?.lines.push(line);
  });
  child.on("close", (code) => {
    flush();
    end(code);
  });
}

if (process.getuid?.() !== 0) {
  test("kernel tests need root: run them as root, e.g. sudo npm test", () => {
    assert.fail("not root");
  });
} else {
  const program = build();
  const titles = execFileSync(program, ["--list"], { encoding: "utf8" }).trim().split("\n");
  const pending = titles.map(() => Promise.withResolvers<Result>());
  run(
    program,
    (number, result) => pending[number - 1]?.resolve(result),
    (code) => {
      for (const each of pending) each.resolve({ ok: false, text: `the test program ended early (${code})` });
    },
  );
  for (const [index, title] of titles.entries()) {
    test(title, async () => {
      const result = await pending[index]?.promise;
      assert.ok(result?.ok, result?.text ?? "no result");
    });
  }
}
