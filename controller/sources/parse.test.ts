import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { stringify } from "yaml";
import { parseManifests } from "./parse.ts";

const good = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: good}\n";

test("[DIS-9] no text makes the parser throw, and every problem names file, line and a fix", () => {
  const words = fc.constantFrom(
    "apiVersion: v1\n",
    "kind: Pod\n",
    "---\n",
    "metadata:\n",
    "  name: x\n",
    "spec: {",
    "}",
    "- ",
    "&a ",
    "*a",
    "[",
    "]",
    ": ",
    "? ",
    "!!binary x\n",
    "{",
    "\t",
    "%YAML 9\n",
    "'",
    '"',
    "\u0000",
    "<<: *a\n",
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string({ unit: "binary" }),
        fc.array(words, { maxLength: 40 }).map((w) => w.join("")),
      ),
      (text) => {
        for (const problem of parseManifests(text, "f.yaml").problems) {
          assert.equal(problem.file, "f.yaml");
          assert.ok(problem.line >= 1 && problem.fix !== "" && problem.message !== "");
        }
      },
    ),
    { numRuns: 3000 },
  );
});

test("[DIS-9] any value in any field of any kind is read or refused, never thrown at", () => {
  const kind = fc.constantFrom(
    ["v1", "Pod"],
    ["v1", "Service"],
    ["v1", "Namespace"],
    ["discovery.k8s.io/v1", "EndpointSlice"],
    ["security.istio.io/v1", "AuthorizationPolicy"],
    ["security.istio.io/v1", "PeerAuthentication"],
    ["mesh.fairlead.dev/v1alpha1", "MeshSettings"],
    ["v1", "List"],
    ["v1", "__proto__"],
    ["v1", "toString"],
  );
  const key = fc.constantFrom(
    "ports",
    "selector",
    "rules",
    "from",
    "source",
    "containers",
    "matchLabels",
    "portLevelMtls",
    "items",
    "endpoints",
    "__proto__",
    "constructor",
    "name",
    "mtls",
    "targetRef",
  );
  const { value } = fc.letrec((tie) => ({
    value: fc.oneof(
      { depthSize: "small" },
      fc.constantFrom(null, true, 0, -1, 1e9, "", "x", "80", 80),
      fc.array(tie("value"), { maxLength: 3 }),
      fc.dictionary(key, tie("value"), { maxKeys: 4 }),
    ),
  }));
  fc.assert(
    fc.property(kind, value, value, value, ([apiVersion, name], metadata, spec, items) => {
      const text = JSON.stringify({ apiVersion, kind: name, metadata, spec, items });
      const { objects, problems, ignored } = parseManifests(text, "f.json");
      assert.ok(objects.length + problems.length + ignored.length > 0 || Array.isArray(items));
      assert.equal(({} as Record<string, unknown>).ports, undefined, "no prototype was touched");
    }),
    { numRuns: 2000 },
  );
});

test("[DIS-9] one bad document leaves the others alone", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 3 }),
      fc.constantFrom("a: [", "kind: {", "}{", "a: b: c", "'"),
      (at, broken) => {
        const documents = [good, good.replace("good", "good-2"), good.replace("good", "good-3")];
        documents.splice(at, 0, `${broken}\n`);
        const { objects, problems, isTorn } = parseManifests(documents.join("---\n"), "f.yaml");
        assert.ok(problems.length >= 1 && isTorn);
        assert.equal(objects.length, 3);
      },
    ),
  );
});

test("lines are those of the field, also inside lists and after comments", () => {
  const text = `# first\n${good}---\n# second\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  ports:\n    - port: 80\n    - port: 99999\n`;
  const { problems } = parseManifests(text, "f.yaml");
  assert.deepEqual(
    problems.map((p) => [p.line, p.field]),
    [[14, "spec.ports[1].port"]],
  );
});

test("alias bombs, deep nesting and huge files are refused quickly", () => {
  const bomb = `a: &a [x,x,x,x,x,x,x,x,x]\n${"bcdefgh"
    .split("")
    .map((c, i) => `${c}: &${c} [${Array(9).fill(`*${"abcdefgh"[i]}`).join(",")}]`)
    .join("\n")}\n`;
  const began = performance.now();
  for (const text of [
    bomb,
    "[".repeat(5000) + "]".repeat(5000),
    `a: ${"{a: ".repeat(500)}1${"}".repeat(500)}`,
    "x".repeat(5_000_000),
  ]) {
    assert.equal(parseManifests(text, "f.yaml").problems.length, 1, text.slice(0, 20));
  }
  assert.ok(performance.now() - began < 60_000);
});

test("lists are taken apart and JSON is read like YAML", () => {
  const account = { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "a", namespace: "b" } };
  const list = {
    apiVersion: "v1",
    kind: "List",
    items: [
      account,
      { apiVersion: "v1", kind: "ServiceAccountList", items: [{ ...account, metadata: { name: "c" } }] },
    ],
  };
  for (const text of [JSON.stringify(list), stringify(list)]) {
    assert.deepEqual(
      parseManifests(text, "f").objects.map(({ object }) => `${object.metadata.namespace}/${object.metadata.name}`),
      ["b/a", "default/c"],
    );
  }
});
