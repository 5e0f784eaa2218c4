// Routes and resilience policies of any shape: refused with a line, a field and a fix, or taken in a form that agents take too.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import fc from "fast-check";
import { parse } from "yaml";
import type { RouteFilter } from "../../agent/api/http-filters.ts";
import { defaultPolicy } from "../../agent/api/http-policy.ts";
import { httpRoutingFromWire, httpRoutingToWire } from "../../agent/api/http-routing.ts";
import { type RateLimit, rateLimitFromWire, rateLimitToWire } from "../../agent/api/rate-limit.ts";
import { defaultSettings, settingsFromWire, settingsToWire } from "../../agent/api/settings.ts";
import { backend, route, rule } from "../../test/kit/routes.ts";
import { ClusterIndex } from "../index/cluster-index.ts";
import { resolveRules } from "../translate/route-rules.ts";
import { duration } from "./http-schema.ts";
import { parseManifests } from "./parse.ts";
import type { MeshObject } from "./types.ts";

const fullPolicy = documentNamed("resilience.in.yaml", "full");
const fullRoute = documentNamed("routes.in.yaml", "canary");
const fullLimit = documentNamed("rate-limits.in.yaml", "full");
const fullSettings = documentNamed("rate-limits.in.yaml", "mesh");
function documentNamed(file: string, name: string): Record<string, unknown> {
  const text = readFileSync(new URL(`../translate/testdata/${file}`, import.meta.url), "utf8");
  const found = text
    .split("\n---\n")
    .map((part) => parse(part) as { readonly metadata?: { readonly name?: string }; readonly spec: object })
    .find((document) => document.metadata?.name === name);
  assert.ok(found !== undefined);
  return found.spec as Record<string, unknown>;
}

/** Values that fields are tried with: right for some, wrong for most. */
const values = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    true,
    false,
    "",
    "x",
    "/x",
    "5s",
    "0s",
    "1h",
    "99999h",
    "a\u0000b",
    "é€",
    "*",
    "GET",
    "(",
    [],
    {},
    -1,
    0,
    1,
    503,
    1e9,
  ),
  fc.constantFrom<unknown>(
    "Exact",
    "RegularExpression",
    "PathPrefix",
    "Header",
    "Source",
    "RingHash",
    "TCP",
    "GRPC",
    "ReplacePrefixMatch",
    "Host",
    "host",
  ),
  fc.double(),
  fc.string(),
  fc.array(fc.constantFrom<unknown>("x", 503, {}, null), { maxLength: 3 }),
  fc.dictionary(
    fc.constantFrom("type", "name", "value", "port", "kind", "percent"),
    fc.constantFrom<unknown>("x", 1, {}),
    { maxKeys: 3 },
  ),
);
/** Every place in a document, and a new value for it; undefined removes it. */
function placesIn(value: unknown, path: readonly (string | number)[] = []): (readonly (string | number)[])[] {
  if (typeof value !== "object" || value === null) return [path];
  return [
    path,
    ...Object.entries(value).flatMap(([key, part]) =>
      placesIn(part, [...path, Array.isArray(value) ? Number(key) : key]),
    ),
  ];
}
function withChange(value: unknown, path: readonly (string | number)[], change: unknown): unknown {
  const [head, ...rest] = path;
  if (head === undefined) return change;
  const copy = (Array.isArray(value) ? [...value] : { ...(value as object) }) as Record<string | number, unknown>;
  const next = rest.length === 0 ? change : withChange(copy[head], rest, change);
  if (next === undefined) delete copy[head];
  else copy[head] = next;
  return copy;
}
type Changes = readonly (readonly [readonly (string | number)[], unknown])[];
const changesOf = (spec: object): fc.Arbitrary<Changes> =>
  fc.array(
    fc.tuple(
      fc.constantFrom(...placesIn(spec).slice(1)),
      fc.oneof({ weight: 4, arbitrary: values }, fc.constant(undefined)),
    ),
    { minLength: 1, maxLength: 3 },
  );

function specWith(spec: object, changes: Changes): object {
  let made: unknown = spec;
  for (const [path, change] of changes) {
    try {
      made = withChange(made, path, change);
    } catch {
      // An earlier change took the place away.
    }
  }
  return made as object;
}
function read(kind: string, apiVersion: string, spec: object) {
  const metadata = kind === "MeshSettings" ? { name: "mesh" } : { name: "x", namespace: "shop" };
  const text = JSON.stringify({ apiVersion, kind, metadata, spec });
  const parsed = parseManifests(text, "x.json");
  assert.equal(
    parsed.objects.length + Math.min(1, parsed.problems.length),
    1,
    "taken or refused, not both and not neither",
  );
  for (const problem of parsed.problems)
    assert.ok(problem.line > 0 && problem.message !== "" && problem.fix !== "" && problem.message.length < 600);
  return parsed.objects[0]?.object;
}

/** Changes the full specification again and again: what is not refused is given to `check`, which says whether it looked at it. */
function everyTaken<K extends MeshObject["kind"]>(
  kind: K,
  apiVersion: string,
  full: object,
  check: (object: Extract<MeshObject, { readonly kind: K }>) => boolean,
  examples: readonly Changes[] = [],
): void {
  let taken = 0;
  fc.assert(
    fc.property(changesOf(full), (changes) => {
      const object = read(kind, apiVersion, specWith(full, changes));
      if (object?.kind === kind && check(object as Extract<MeshObject, { readonly kind: K }>)) taken++;
    }),
    { numRuns: 500, examples: examples.map((changes) => [changes]) },
  );
  assert.ok(taken > 10, `${taken} taken`);
}

test("[RES-1] a ResiliencePolicy is refused field by field, or agents take what it says", () => {
  everyTaken("ResiliencePolicy", "mesh.fairlead.dev/v1alpha1", fullPolicy, (object) => {
    const { policy, fault, tarpit, divert } = object.spec;
    const filters: RouteFilter[] = [];
    if (fault !== undefined) filters.push({ kind: "fault", value: fault });
    if (tarpit !== undefined) filters.push({ kind: "tarpit", value: tarpit });
    if (divert !== undefined) {
      const { backendRef, ...value } = divert;
      filters.push({ kind: "divert", value: { ...value, backend: backend("trap", { port: backendRef.port }) } });
    }
    const routes = [route("x", [rule({ filters, timeouts: policy.timeouts })])];
    const decoded = httpRoutingFromWire(httpRoutingToWire({ name: "x", namespace: "shop", routes, policy }));
    assert.ok(decoded.ok, decoded.ok ? "" : JSON.stringify(decoded.error));
    assert.deepEqual(decoded.value.policy, policy);
    return true;
  });
});

test("[LIM-1] a RateLimitPolicy is refused field by field, or agents take what it says", () => {
  everyTaken("RateLimitPolicy", "mesh.fairlead.dev/v1alpha1", fullLimit, (object) => {
    const { targetRefs: _, selector, ...said } = object.spec;
    const record: RateLimit = {
      ...said,
      selector,
      name: "x",
      namespace: "shop",
      scope: "namespace",
      targetServices: [],
    };
    const decoded = rateLimitFromWire(rateLimitToWire(record));
    assert.ok(decoded.ok, decoded.ok ? "" : JSON.stringify(decoded.error));
    assert.deepEqual(decoded.value, record);
    return true;
  });
});

test("[ENR-1] enricher settings are refused field by field, or agents take what they say", () => {
  everyTaken("MeshSettings", "mesh.fairlead.dev/v1alpha1", fullSettings, (object) => {
    if (object.spec.enricher === undefined) return false;
    const settings = { ...defaultSettings, enricher: object.spec.enricher };
    const decoded = settingsFromWire(settingsToWire(settings));
    assert.ok(decoded.ok, decoded.ok ? "" : JSON.stringify(decoded.error));
    assert.deepEqual(decoded.value.enricher, settings.enricher);
    return true;
  });
});

test("[TRF-1] an HTTPRoute is refused field by field, or agents take its rules", () => {
  const check = (object: Parameters<typeof resolveRules>[0]): boolean => {
    const { rules } = resolveRules(object, new Map(), new ClusterIndex());
    const routes = [route("x", rules)];
    const decoded = httpRoutingFromWire(
      httpRoutingToWire({ name: "x", namespace: "shop", routes, policy: defaultPolicy }),
    );
    assert.ok(decoded.ok, decoded.ok ? "" : JSON.stringify(decoded.error));
    return true;
  };
  const nameless: Changes = [[["rules", 0, "matches", 0, "queryParams", 0, "name"], ""]];
  everyTaken("HTTPRoute", "gateway.networking.k8s.io/v1", fullRoute, check, [nameless]);
});

test("durations are those of Gateway API (GEP-2257)", () => {
  const problems: string[] = [];
  const report = { problem: (_: unknown, message: string) => void problems.push(message) };
  const ms = (text: unknown): number => duration(0)(text, [], report);
  assert.deepEqual(
    ["1h", "1m30s", "250ms", "0s", "1h2m3s4ms", "10s500ms"].map(ms),
    [3_600_000, 90_000, 250, 0, 3_723_004, 10_500],
  );
  assert.deepEqual(problems, []);
  for (const wrong of ["1", "1.5s", "-1s", "1d", "s", "", " 1s", "100000s", "1s1s1s1s1s", 5, null]) ms(wrong);
  assert.equal(problems.length, 11);
});

test("[RES-1] [LIM-1] [ENR-1] every field of our own kinds is in its reference", () => {
  const missing = (file: string, ...specs: readonly unknown[]): readonly string[] => {
    const doc = readFileSync(`docs/${file}`, "utf8");
    return [...new Set(specs.flatMap(named))].filter((field) => !new RegExp(`[\`.]${field}(\`|\\[\\]|\\.)`).test(doc));
  };
  const named = (spec: unknown): string[] =>
    Array.isArray(spec)
      ? spec.flatMap(named)
      : typeof spec === "object" && spec !== null
        ? Object.entries(spec).flatMap(([key, part]) => [key, ...named(part)])
        : [];
  assert.deepEqual(missing("resilience-policy.md", fullPolicy), []);
  assert.deepEqual(missing("rate-limits.md", fullLimit), []);
  assert.deepEqual(missing("enricher.md", defaultSettings.enricher), []);
});
