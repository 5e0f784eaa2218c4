import assert from "node:assert/strict";
import { test } from "node:test";
import { cookieValue, hostOf, portOf, queryValue } from "./request-target.ts";

test("hosts and ports of authorities", () => {
  const cases: readonly (readonly [string, string, string])[] = [
    ["A.Example:80", "a.example", "80"],
    ["a.example.", "a.example", ""],
    ["a.example.:80", "a.example", "80"],
    ["[::1]:443", "::1", "443"],
    ["[::1]", "::1", ""],
    ["[::1", "[::1", "1"],
    ["", "", ""],
  ];
  for (const [authority, host, port] of cases) assert.deepEqual([hostOf(authority), portOf(authority)], [host, port]);
});

test("query parameters: the first of a name, escapes undone", () => {
  const target = "/p?a=1&b=&c&a=2&d%20e=x%2By+z&=n&%zz=q";
  assert.equal(queryValue(target, "a"), "1");
  assert.equal(queryValue(target, "b"), "");
  assert.equal(queryValue(target, "c"), "");
  assert.equal(queryValue(target, "d e"), "x+y z");
  assert.equal(queryValue(target, "%zz"), "q");
  assert.equal(queryValue(target, "x"), undefined);
  assert.equal(queryValue("/p", "p"), undefined);
  assert.equal(queryValue("/p?", ""), undefined);
});

test("cookies by whole name", () => {
  const field = 'ab=1; a=2;b="3" ; c=; a=4';
  const read = ["ab", "a", "b", "c", "d"].map((name) => cookieValue(field, name));
  assert.deepEqual(read, ["1", "2", "3", "", undefined]);
  assert.equal(cookieValue(undefined, "a"), undefined);
});
