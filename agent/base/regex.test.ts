import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { compileRegex } from "./regex.ts";

const compiled = (source: string) => {
  const result = compileRegex(source);
  assert.ok(result.ok, `${source}: ${JSON.stringify(result)}`);
  return result.value;
};

const atoms = fc.constantFrom("a", "b", ".", "[ab]", "[^a]", "\\d", "\\w", "[a-c0-2]", "^", "$", "\\.", "");
const suffixes = fc.constantFrom("", "", "*", "+", "?", "{2}", "{1,3}", "{0,}", "*?");
const sequence = (of: fc.Arbitrary<string>, most: number): fc.Arbitrary<string> =>
  fc
    .array(
      fc.array(of, { maxLength: most }).map((parts) => parts.join("")),
      { minLength: 1, maxLength: 2 },
    )
    .map((all) => all.join("|"));
const piece = fc.tuple(atoms, suffixes).map(([atom, suffix]) => (/^[\^$]?$/.test(atom) ? atom : atom + suffix));
// Not deeper: JavaScript's own engine goes back exponentially.
const inner = fc.tuple(sequence(piece, 3), suffixes).map(([body, suffix]) => `(${body})${suffix}`);
const expression = sequence(fc.oneof(piece, inner), 4);
const inputs = fc.string({ unit: fc.constantFrom("a", "b", "c", "0", ".", "\n"), maxLength: 8 });

test("whole values match as JavaScript's own expressions say", () => {
  fc.assert(
    fc.property(expression, fc.array(inputs, { maxLength: 12 }), (source, values) => {
      const ours = compileRegex(source);
      assert.ok(ours.ok, source);
      const theirs = new RegExp(`^(?:${source})$(?![^])`);
      for (const value of values) assert.equal(ours.value.test(value), theirs.test(value), `${source} on "${value}"`);
    }),
    { numRuns: 2000 },
  );
});

test("RE2's ways to write things", () => {
  const cases: readonly (readonly [string, string, boolean])[] = [
    ["(?i)Bearer [a-z]+", "bEARER Tok", true],
    ["a(?i)b(c)", "aBC", true],
    ["a(?i)b(c)", "ABC", false],
    ["(?i:a)b", "AB", false],
    ["(?P<name>x)y", "xy", true],
    ["[[:alpha:]]+[^[:digit:]]", "ab-", true],
    ["\\x41\\x{42}", "AB", true],
    ["a.b", "a\nb", false],
    ["(?s)a.b", "a\nb", true],
    ["[]a]+", "]a", true],
    ["[a\\]-]+", "]-a", true],
    ["{", "{", true],
    ["a{,2}", "a{,2}", true],
    ["caf\\xe9", "café", true],
    ["\\Aab\\z", "ab", true],
    ["", "", true],
    ["", "a", false],
    ["(a|$)b", "b", false],
  ];
  for (const [source, value, expected] of cases)
    assert.equal(compiled(source).test(value), expected, `${source} on ${value}`);
});

test("what cannot be matched in linear time, or is broken, is refused with a reason", () => {
  for (const source of [
    "(",
    ")",
    "a**",
    "*a",
    "[a",
    "[b-a]",
    "(?=a)",
    "(?<!a)",
    "(a)\\1",
    "\\b",
    "a{2,1}",
    "a{1001}",
    "\\",
    "€",
  ]) {
    const result = compileRegex(source);
    assert.ok(!result.ok, source);
    assert.match(result.error, /^is /);
  }
  for (const source of ["(a{1000}){1000}", "((((){1000}){1000}){1000}){1000}", `${"(".repeat(60)}a${")".repeat(60)}`]) {
    assert.ok(!compileRegex(source).ok, source);
  }
  assert.ok(!compileRegex("a".repeat(1025)).ok);
});

test("expressions that explode elsewhere stay linear, and the table of states stays small", () => {
  const value = `${"a".repeat(50_000)}!`;
  for (const source of ["(a+)+", "(a|a)*", "(a*)*b", "(.*a){20}", "(a?){50}a{50}"]) compiled(source).test(value);
  const wide = compiled("(a|b)*a(a|b){12}");
  let text = "";
  for (let i = 0; i < 20_000; i++) text += (i * i + (i >> 3)) % 3 === 0 ? "a" : "b";
  assert.equal(wide.test(text), /^(a|b)*a(a|b){12}$/.test(text));
});

test("any text is an expression or refused, and never more than that", () => {
  const text = fc.string({ unit: fc.constantFrom(..."ab(){}[]|*+?^$.\\-,:19iPQ<>=!dx"), maxLength: 40 });
  fc.assert(
    fc.property(fc.oneof(text, fc.string({ unit: "binary" })), fc.string({ unit: "binary" }), (source, value) => {
      const result = compileRegex(source);
      if (result.ok) assert.equal(typeof result.value.test(value), "boolean");
      else assert.match(result.error, /^is /);
    }),
    { numRuns: 3000 },
  );
});
