// Builds an image and keeps its layers under what they are made of: what has not changed is neither packed nor written again.
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { debianArchitecture, type Fetched, fetchPackages, parsePins, type Strictness } from "./debian.ts";
import { type ImageDefinition, nodePackages } from "./definition.ts";
import { type ImageOptions, type Layer, writeLayer, writeLayers } from "./oci.ts";
import type { TreeEntry } from "./tar.ts";
import { imageTree, sha256Of, type Tree } from "./tree.ts";

/** Smaller by a tenth than level 1, and each layer is packed once. */
const GZIP_LEVEL = 6;
/** Layers that no build has asked for in so long are removed. */
const KEEP_MS = 14 * 86_400_000;

export interface BuildParts {
  readonly project: string;
  readonly cache: string;
  readonly strictness: Strictness;
  readonly say: (line: string) => void;
}

export interface BuiltImage {
  readonly name: string;
  readonly image: string;
  readonly file: string;
  readonly digest: string;
  /** Of all files inside, and of the image as it is stored. */
  readonly plainBytes: number;
  readonly packedBytes: number;
  readonly files: number;
  readonly user: string;
  readonly debian: readonly string[];
  readonly npm: number;
  /** Whether nothing had to be done. */
  readonly cached: boolean;
  readonly seconds: number;
}

export const imageCache = (env: Readonly<Record<string, string | undefined>>): string =>
  env.FAIRLEAD_IMAGE_CACHE ?? join(env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "fairlead/images");

/** Pinned packages of an image, all there. */
export async function fetchAll(definition: ImageDefinition, parts: BuildParts): Promise<readonly Fetched[]> {
  const pins = parsePins(readFileSync(join(parts.project, "scripts/image/debian.lock"), "utf8"));
  const architecture = await debianArchitecture();
  if (architecture !== "amd64")
    throw new Error(`debian.lock has pins for amd64 alone, and this machine is ${architecture}`);
  const wanted = [...nodePackages, ...definition.debian].map((name) => {
    const pin = pins.find((p) => p.name === name);
    if (pin === undefined) throw new Error(`debian.lock has no line for ${name}: npm run image -- --update-pins`);
    return pin;
  });
  return fetchPackages(join(parts.cache, "debian"), wanted, architecture, parts.strictness, parts.say);
}

/** Runs `body` with the image's tree, whose unpacked packages are there for so long. */
export async function withTree<T>(
  definition: ImageDefinition,
  parts: BuildParts,
  body: (tree: Tree, debian: readonly Fetched[]) => Promise<T>,
): Promise<T> {
  mkdirSync(parts.cache, { recursive: true });
  const debian = await fetchAll(definition, parts);
  const scratch = mkdtempSync(join(parts.cache, ".tree-"));
  try {
    const platform = { os: "linux", cpu: process.arch, libc: "glibc" };
    const { project, cache } = parts;
    return await body(await imageTree(definition, { project, cache, scratch, platform, debian }), debian);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** What a tree is made of, in one word: the same for the same names, modes and contents. */
async function treeKey(tree: readonly TreeEntry[]): Promise<string> {
  const hash = createHash("sha256").update(`gzip ${GZIP_LEVEL}\n`);
  for (const { path, type, mode, target = "", content } of tree) {
    const bytes =
      content === undefined
        ? ""
        : "bytes" in content
          ? createHash("sha256").update(content.bytes).digest("hex")
          : await sha256Of(content.file);
    hash.update(`${JSON.stringify([path, type, mode, target, bytes])}\n`);
  }
  return hash.digest("hex").slice(0, 32);
}

/** A packed layer out of the cache, or packed now. */
async function keptLayer(cache: string, tree: readonly TreeEntry[], say: () => void): Promise<Layer> {
  const folder = join(cache, "layers");
  mkdirSync(folder, { recursive: true });
  const key = await treeKey(tree);
  const [file, facts] = [join(folder, `${key}.tar.gz`), join(folder, `${key}.json`)];
  const now = new Date();
  if (existsSync(facts)) {
    for (const used of [file, facts]) utimesSync(used, now, now);
    return { ...(JSON.parse(readFileSync(facts, "utf8")) as Layer), file };
  }
  say();
  const scratch = mkdtempSync(join(folder, ".layer-"));
  try {
    const layer = await writeLayer(tree, join(scratch, "layer"), GZIP_LEVEL);
    writeFileSync(join(scratch, "facts"), JSON.stringify(layer));
    renameSync(join(scratch, "layer"), file);
    renameSync(join(scratch, "facts"), facts); // last: who finds it finds the layer too
    return { ...layer, file };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function forgetOld(cache: string): void {
  const folder = join(cache, "layers");
  for (const name of existsSync(folder) ? readdirSync(folder) : []) {
    const at = join(folder, name);
    const modified = statSync(at, { throwIfNoEntry: false })?.mtimeMs ?? Number.POSITIVE_INFINITY;
    if (Date.now() - modified > KEEP_MS) rmSync(at, { recursive: true, force: true });
  }
}

const optionsOf = (
  definition: ImageDefinition,
  image: string,
  version: string,
  debian: readonly Fetched[],
): ImageOptions => ({
  name: image,
  entrypoint: definition.entrypoint,
  env: Object.entries(definition.env).map(([name, value]) => `${name}=${value}`),
  user: definition.user,
  workingDir: "/",
  labels: labelsOf(definition, version, debian),
});

/** As the OCI image specification names them, and what of the distribution is inside. */
export const labelsOf = (
  definition: ImageDefinition,
  version: string,
  debian: readonly Fetched[],
): Readonly<Record<string, string>> => ({
  "org.opencontainers.image.title": definition.title,
  "org.opencontainers.image.version": version,
  "org.opencontainers.image.licenses": "Apache-2.0",
  "dev.fairlead.image.debian": debian.map((p) => `${p.name}=${p.version}`).join(" "),
});

/**
 * Builds an image into `file`; what is there already and the same stays.
 * @param image full name with tag
 * @throws Error naming what is missing and the command that makes it
 */
export async function buildImage(
  definition: ImageDefinition,
  image: string,
  file: string,
  parts: BuildParts,
): Promise<BuiltImage> {
  const began = performance.now();
  const { version } = JSON.parse(readFileSync(join(parts.project, "package.json"), "utf8")) as { version: string };
  return withTree(definition, parts, async (tree, debian) => {
    const layers: Layer[] = [];
    for (const { name, entries } of tree.layers)
      layers.push(await keptLayer(parts.cache, entries, () => parts.say(`${definition.name}: packing ${name}`)));
    const options = optionsOf(definition, image, version, debian);
    const wanted = createHash("sha256")
      .update(JSON.stringify([options, layers.map((l) => l.digest)]))
      .digest("hex");
    const mark = `${file}.made-of`;
    const [was, wasDigest] = existsSync(file) && existsSync(mark) ? readFileSync(mark, "utf8").split("\n") : [];
    const cached = was === wanted && wasDigest !== undefined;
    const digest = cached ? wasDigest : await writeLayers(layers, file, options);
    if (!cached) writeFileSync(mark, `${wanted}\n${digest}`);
    forgetOld(parts.cache);
    const files = tree.layers.flatMap((l) => l.entries).filter((e) => e.type === "file");
    return {
      name: definition.name,
      image,
      file,
      digest,
      plainBytes: files.reduce((sum, e) => sum + e.size, 0),
      packedBytes: layers.reduce((sum, l) => sum + l.size, 0),
      files: files.length,
      user: definition.user,
      debian: debian.map((p) => `${p.name} ${p.version}`),
      npm: tree.packages.length,
      cached,
      seconds: Math.round((performance.now() - began) / 100) / 10,
    };
  });
}
