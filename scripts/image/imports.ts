// What a program is made of: the source files and npm packages that can be reached from its entries. Types are stripped first, so that an
// import of types alone drags nothing in. Followed: import, export from, import(), and new URL("...", import.meta.url).
import { existsSync, readFileSync } from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import { dirname, join, normalize } from "node:path";

export interface Reached {
  /** Paths below the project's folder, sorted. */
  readonly files: readonly string[];
  /** Names of packages, sorted. */
  readonly packages: readonly string[];
}

const PATTERNS = [
  /^\s*(?:import|export)\b[^"';]*?\bfrom\s*"([^"]+)"/gm,
  /^\s*import\s*"([^"]+)"/gm,
  /\bimport\(\s*"([^"$]+)"/g,
  /\bnew URL\(\s*"([^"]+)",\s*import\.meta\.url\)/g,
] as const;

/** "@scope/name" or "name" of a specifier as "@scope/name/sub". */
const packageOf = (specifier: string): string => specifier.split("/", specifier.startsWith("@") ? 2 : 1).join("/");

/** Specifiers in the source of a TypeScript file, as written. */
export function specifiersOf(source: string): readonly string[] {
  const plain = stripTypeScriptTypes(source).replaceAll(/^\s*(\/\/|\/?\*).*$/gm, ""); // comments may speak of imports
  return [...new Set(PATTERNS.flatMap((pattern) => [...plain.matchAll(pattern)].map((found) => found[1] ?? "")))];
}

/** @throws Error for an import that leads nowhere */
export function reachedFrom(project: string, entries: readonly string[]): Reached {
  const files = new Set<string>();
  const packages = new Set<string>();
  const visit = (file: string, from: string): void => {
    if (files.has(file)) return;
    if (!existsSync(join(project, file))) throw new Error(`${from} imports ${file}, which is not there`);
    files.add(file);
    if (!file.endsWith(".ts")) return;
    for (const specifier of specifiersOf(readFileSync(join(project, file), "utf8"))) {
      // A URL without a leading dot is relative, too; packages are never named by one that ends in .ts.
      if (specifier.startsWith(".") || specifier.endsWith(".ts"))
        visit(normalize(join(dirname(file), specifier)), file);
      else if (!specifier.startsWith("node:")) packages.add(packageOf(specifier));
    }
  };
  for (const entry of entries) visit(entry, "the image");
  return { files: [...files].sort(), packages: [...packages].sort() };
}
