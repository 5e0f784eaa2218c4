// `npm run image -- agent|controller|all`: the images as OCI archives, without a registry and without Docker. Results go to standard output,
// progress and errors to standard error.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { run } from "../../test/lab/command.ts";
import { type BuildParts, type BuiltImage, buildImage, imageCache, withTree } from "./build.ts";
import { debianArchitecture, fetchPackages, type Pin, pinLine } from "./debian.ts";
import { type ImageName, imageNames, images, nodePackages } from "./definition.ts";
import { badImageName } from "./oci.ts";
import { writeTree } from "./write-tree.ts";

const project = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const usage = `npm run image -- agent|controller|all

  --out DIR        where agent.tar and controller.tar are written (build/images)
  --tag TAG        tag of the images (the version in package.json)
  --prefix PREFIX  what stands before /agent and /controller in their names (fairlead.dev)
  --rootfs DIR     writes the files of one image into a folder instead; the Dockerfiles do this
  --locked         refuses when the distribution no longer offers a pinned package; without it what it offers is taken, and said
  --update-pins    pins what the distribution offers now (scripts/image/debian.lock), and builds nothing
  --json           prints one JSON document

The archives are made of contents alone: the same sources give the same bytes. Layers and packages are kept in ~/.cache/fairlead/images
(FAIRLEAD_IMAGE_CACHE). "npm run cluster -- load build/images/agent.tar" takes an archive into the nodes of a test cluster.`;

/** Wrong use: exit code 2. */
class UsageError extends Error {}

const began = performance.now();
const say = (line: string): void =>
  console.error(`[${((performance.now() - began) / 1000).toFixed(1).padStart(6)} s] ${line}`);

const options = {
  out: { type: "string", default: "build/images" },
  tag: { type: "string" },
  prefix: { type: "string", default: "fairlead.dev" },
  rootfs: { type: "string" },
  locked: { type: "boolean", default: false },
  "update-pins": { type: "boolean", default: false },
  json: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const;

function read(argv: string[]) {
  try {
    return parseArgs({ args: argv, options, allowPositionals: true });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function asked(words: readonly string[]): readonly ImageName[] {
  const [word] = words;
  if (word === undefined || words.length > 1) throw new UsageError("say which image: agent, controller or all");
  if (word === "all") return imageNames;
  const name = imageNames.find((n) => n === word);
  if (name === undefined) throw new UsageError(`there is no image ${word}: agent, controller or all`);
  return [name];
}

const mib = (bytes: number): string => `${(bytes / 1_048_576).toFixed(1)} MiB`;

function print(built: BuiltImage): void {
  console.log(`${built.image} ${built.digest}`);
  console.log(`  ${built.file}: ${mib(built.packedBytes)}, unpacked ${mib(built.plainBytes)} in ${built.files} files`);
  console.log(
    `  user ${built.user}, ${built.npm} npm packages, ${built.debian.length} of the distribution${built.cached ? ", nothing changed" : ""}`,
  );
}

async function updatePins(parts: BuildParts): Promise<void> {
  const file = join(project, "scripts/image/debian.lock");
  const names = [...new Set([...nodePackages, ...Object.values(images).flatMap((i) => i.debian)])].sort();
  const architecture = await debianArchitecture();
  const pins: Pin[] = [];
  for (const name of names) {
    const shown = await run(["apt-cache", "show", "--no-all-versions", name]);
    const field = (of: string): string => new RegExp(`^${of}: (\\S+)$`, "m").exec(shown)?.[1] ?? "";
    pins.push({ name, version: field("Version"), sha256: field("SHA256") });
  }
  await fetchPackages(join(parts.cache, "debian"), pins, architecture, "pinned", say);
  const header =
    "# Debian packages whose files are in the images: NAME VERSION SHA256 (of the .deb, amd64).\n# npm run image -- --update-pins writes this file.\n";
  writeFileSync(file, `${header}${pins.map(pinLine).join("\n")}\n`);
  say(`${file}: ${pins.length} packages`);
}

async function main(argv: string[]): Promise<number> {
  const { values, positionals } = read(argv);
  if (values.help) {
    console.log(usage);
    return 0;
  }
  const parts: BuildParts = {
    project,
    cache: imageCache(process.env),
    strictness: values.locked ? "pinned" : "offered",
    say,
  };
  if (values["update-pins"]) {
    await updatePins(parts);
    return 0;
  }
  const names = asked(positionals);
  if (values.rootfs !== undefined) {
    const [name, another] = names;
    if (name === undefined || another !== undefined) throw new UsageError("--rootfs: name one image");
    const folder = resolve(values.rootfs);
    await withTree(images[name], parts, async (tree) =>
      writeTree(
        tree.layers.flatMap((l) => l.entries),
        folder,
      ),
    );
    say(`${folder} has the files of ${name}`);
    return 0;
  }
  const { version } = JSON.parse(readFileSync(join(project, "package.json"), "utf8")) as { version: string };
  const out = resolve(values.out);
  mkdirSync(out, { recursive: true });
  const built: BuiltImage[] = [];
  for (const name of names) {
    const image = `${values.prefix}/${name}:${values.tag ?? version}`;
    const bad = badImageName(image);
    if (bad !== undefined) throw new UsageError(bad);
    built.push(await buildImage(images[name], image, join(out, `${name}.tar`), parts));
    say(`${name}: done`);
  }
  if (values.json) console.log(JSON.stringify({ images: built }, null, 2));
  else for (const one of built) print(one);
  return 0;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  console.error(`image: ${(error as Error).message}`);
  if (error instanceof UsageError) console.error("npm run image -- --help tells more");
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
