// testdata/NAME.in.yaml -> NAME.out.yaml: resources and conditions. UPDATE_GOLDEN=1 rewrites them.
import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { stringify } from "yaml";
import { formatProblems } from "../../agent/api/fields.ts";
import { decodeResource, encodeResource, resourceName } from "../../agent/api/resources.ts";
import { defaultSettings } from "../../agent/api/settings.ts";
import { ClusterIndex } from "../index/cluster-index.ts";
import { parseManifests } from "../sources/parse.ts";
import { showRef } from "../sources/types.ts";
import { translate } from "./translate.ts";

const folder = new URL("./testdata/", import.meta.url);
const names = readdirSync(folder)
  .filter((name) => name.endsWith(".in.yaml"))
  .map((name) => name.slice(0, -".in.yaml".length));

for (const name of names) {
  test(`[DIS-2] ${name === "service-ways" ? "[DIS-10] " : ""}golden translation: ${name}`, () => {
    const output = render(readFileSync(new URL(`${name}.in.yaml`, folder), "utf8"));
    const at = new URL(`${name}.out.yaml`, folder);
    if (process.env.UPDATE_GOLDEN === "1") writeFileSync(at, output);
    assert.equal(output, readFileSync(at, "utf8"));
  });
}

function render(text: string): string {
  const parsed = parseManifests(text, "in.yaml");
  const index = new ClusterIndex();
  for (const { object, origin } of parsed.objects) index.apply(object, origin);
  const options = {
    settings: defaultSettings,
    rootNamespace: "istio-system",
    allocations: new Map(),
    unenrolled: new Map(),
  };
  const { resources, conditions } = translate(index, options);
  // What translation makes, agents take.
  for (const resource of resources) {
    const decoded = decodeResource(resource.kind, encodeResource(resource));
    assert.ok(decoded.ok, `${resourceName(resource)}: ${decoded.ok ? "" : formatProblems(decoded.error)}`);
  }
  const plain = (value: object): object =>
    Object.fromEntries(
      Object.entries(value)
        .map(([key, v]) => [
          key,
          v instanceof Map
            ? Object.fromEntries(v)
            : Array.isArray(v)
              ? v.map((e) => (typeof e === "object" ? plain(e) : e))
              : v,
        ])
        // Empty fields say nothing, and defaults are tested elsewhere.
        .filter(([, v]) => v !== "" && v !== false && !(Array.isArray(v) && v.length === 0)),
    );
  const shown = resources
    .filter((r) => r.kind !== "MeshSettings" || text.includes("kind: MeshSettings"))
    .map((r) => ({ [`${r.kind} ${resourceName(r)}`]: plain(r.value) }));
  const said = conditions
    .filter((c) => c.reason !== "Accepted" || c.message !== "")
    .map(
      (c) =>
        `${showRef(c.object)} (line ${c.origin.line}): ${c.accepted ? "accepted" : "refused"}, ${c.reason}: ${c.field}: ${c.message}; ${c.fix}`,
    );
  const problems = parsed.problems.map((p) => `line ${p.line}: ${p.field}: ${p.message}; ${p.fix}`);
  const statuses = conditions.flatMap((c) => (c.status === undefined ? [] : [{ [showRef(c.object)]: c.status }]));
  const all = { resources: shown, conditions: said, problems, ...(statuses.length > 0 && { statuses }) };
  return stringify(all, { lineWidth: 0, aliasDuplicateObjects: false });
}
