// Copies into manifests/chart what stands elsewhere: Helm reads nothing outside of a chart, and links do not survive every way that a checkout is passed on.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const manifests = join(dirname(dirname(fileURLToPath(import.meta.url))), "manifests");

/** Text of each copy, by its path below manifests/chart. */
export function chartCopies(): ReadonlyMap<string, string> {
  const read = (path: string): string => readFileSync(join(manifests, path), "utf8");
  return new Map([
    ...readdirSync(join(manifests, "crds")).map((name) => [`definitions/${name}`, read(`crds/${name}`)] as const),
    ...["agent", "controller"].map((name) => [`rights/${name}.yaml`, read(`kubernetes/${name}-rbac.yaml`)] as const),
  ]);
}

if (import.meta.main)
  for (const [path, text] of chartCopies()) {
    const file = join(manifests, "chart", path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
  }
