// Writes manifests/install/*.yaml from the chart, for those who install without Helm. `--check` compares instead, exit code 1 if they differ.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { cacheFolder } from "../test/cluster/paths.ts";
import { helmProgram } from "../test/cluster/up.ts";
import { run } from "../test/lab/command.ts";

const project = dirname(dirname(fileURLToPath(import.meta.url)));
export const CHART = join(project, "manifests/chart");

/** File -> what `helm template` is told. Definitions stand apart: they are applied first, and may stay when the rest goes. */
const files = {
  "definitions.yaml": ["--show-only", "templates/crds.yaml"],
  "fairlead.yaml": ["--set", "crds.install=false", "--no-hooks"],
} as const;

/** The oldest Kubernetes that is supported: what is rendered for it works on all. */
const KUBERNETES = "1.30.0";

const header = (file: string): string =>
  `# Rendered from manifests/chart by npm run gen. ${file === "definitions.yaml" ? "kubectl apply --server-side -f this first, then fairlead.yaml." : "After definitions.yaml: kubectl apply --server-side -f this."}\n`;

/** What the chart renders to, by file. @throws Error with Helm's words */
export async function renderInstall(say: (line: string) => void): Promise<Readonly<Record<string, string>>> {
  const helm = await helmProgram(cacheFolder(process.env), say);
  const rendered: Record<string, string> = {};
  for (const [file, words] of Object.entries(files))
    rendered[file] =
      header(file) + (await run([helm, "template", "fairlead", CHART, "--kube-version", KUBERNETES, ...words]));
  return rendered;
}

if (import.meta.main) {
  const folder = join(project, "manifests/install");
  mkdirSync(folder, { recursive: true });
  for (const [file, text] of Object.entries(await renderInstall((line) => console.error(line)))) {
    if (!process.argv.includes("--check")) writeFileSync(join(folder, file), text);
    else if (readFileSync(join(folder, file), "utf8") !== text) {
      console.error(`manifests/install/${file} is not what the chart renders to: npm run gen`);
      process.exitCode = 1;
    }
  }
}
