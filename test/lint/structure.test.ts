// Rules about the shape of the repository that no linter has: file sizes, ambient time and randomness, forbidden words.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { lstatSync, readFileSync } from "node:fs";
import { test } from "node:test";

const tracked = execFileSync("git", ["ls-files"], { encoding: "utf8" })
  .split("\n")
  .filter((f) => f !== "" && !lstatSync(f).isSymbolicLink()); // what a link leads to is in the list itself
const code = tracked.filter((f) => /\.(ts|mjs|cjs|rs|c|h)$/.test(f) && !/\.gen\.|prebuilt|vmlinux/.test(f));

test("no source file is longer than 400 lines", () => {
  const long = code
    .map((f) => ({ f, lines: readFileSync(f, "utf8").split("\n").length - 1 }))
    .filter((x) => x.lines > 400);
  assert.deepEqual(long, []);
});

test("time, randomness and the environment are arguments: only base, config and compositions touch the ambient ones", () => {
  const allowed =
    /^(agent|controller)\/(base\/(clock|random|env|log)|config|main|app|worker)\b|^(agent|controller)\/app\/|\.test\.ts$|^(test|cli|scripts|bpf)\//;
  const ambient = /\bDate\.now\(|\bnew Date\(\)|\bMath\.random\(|\bprocess\.env\b|(?<![.\w])set(Timeout|Interval)\(/;
  const found: string[] = [];
  for (const f of code.filter((x) => /^(agent|controller)\/.*\.ts$/.test(x) && !allowed.test(x))) {
    readFileSync(f, "utf8")
      .split("\n")
      .forEach((line, i) => {
        if (ambient.test(line) && !/^\s*(\/\/|\*)/.test(line)) found.push(`${f}:${i + 1}: ${line.trim()}`);
      });
  }
  assert.deepEqual(found, []);
});

test("unsafe Rust is in two files only", () => {
  const found = tracked
    .filter((f) => f.startsWith("native/src/") && f.endsWith(".rs") && !/^native\/src\/(lib|sys)\.rs$/.test(f))
    .filter((f) => /\bunsafe\s*(\{|fn|impl|extern)/.test(readFileSync(f, "utf8")));
  assert.deepEqual(found, []);
});

test("every source file starts by saying its job", () => {
  const silent = code
    .filter((f) => /^(agent|controller|cli|native\/src|bpf|test)\//.test(f) && !f.endsWith(".test.ts"))
    .filter((f) => !/^(#!.*\n)?\s*(\/\/|\/\*|\/\*\*|"use strict")/.test(readFileSync(f, "utf8")));
  assert.deepEqual(silent, []);
});

test("no path of a machine and no address of a package registry is in the project", () => {
  const bad =
    /\/work\/(main|shared|\.library)|registry\.npmjs\.org|static\.crates\.io|index\.crates\.io|proxy\.golang\.org|files\.pythonhosted|deb\.debian\.org/;
  const found = tracked
    .filter((f) => !/prebuilt|\.png$|structure\.test\.ts$/.test(f))
    .filter((f) => bad.test(readFileSync(f, "utf8")));
  assert.deepEqual(found, []);
});
