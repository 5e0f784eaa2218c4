// The file tree of an image, in layers: what changes seldom, and what all images have, lies below. Nothing of it depends on when or where it
// is made.
import { createHash } from "node:crypto";
import { createReadStream, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { run } from "../../test/lab/command.ts";
import { type Fetched, packageFiles } from "./debian.ts";
import { HOME, type ImageDefinition, NODE, nodePackages, UNPRIVILEGED } from "./definition.ts";
import { reachedFrom } from "./imports.ts";
import { type Platform, packageFolders, packageTree, readLock } from "./packages.ts";
import { folderTree, type TreeEntry } from "./tar.ts";

export interface TreeLayer {
  readonly name: string;
  readonly entries: readonly TreeEntry[];
}

export interface Tree {
  /** The lowest first. */
  readonly layers: readonly TreeLayer[];
  /** Folders of npm packages. */
  readonly packages: readonly string[];
}

export interface TreeParts {
  readonly project: string;
  /** Kept between runs: programs without their symbols. */
  readonly cache: string;
  /** Gone after the run: unpacked packages. */
  readonly scratch: string;
  readonly platform: Platform;
  readonly debian: readonly Fetched[];
}

const text = (path: string, content: string, mode = 0o644): TreeEntry => {
  const bytes = Buffer.from(content);
  return { path, type: "file", mode, size: bytes.length, content: { bytes } };
};
const folder = (path: string, mode = 0o755): TreeEntry => ({ path, type: "folder", mode, size: 0 });
const inside = (path: string): string => `${HOME}/${path}`.slice(1);

/** `fairlead` inside the image, which has no shell that could start it. */
const COMMAND = `#!${NODE} --disable-warning=ExperimentalWarning
Promise.all([import("${HOME}/cli/inside.ts"), import("${HOME}/cli/run.ts")]).then(([inside, { runProcess }]) => runProcess(inside.main));
`;

const accounts = (): TreeEntry[] => [
  text("etc/passwd", `root:x:0:0:root:/:/sbin/nologin\nfairlead:x:${UNPRIVILEGED}:${UNPRIVILEGED}::/:/sbin/nologin\n`),
  text("etc/group", `root:x:0:\nfairlead:x:${UNPRIVILEGED}:\n`),
  text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
];
/** Places of mounts: there before a root that may not be written. */
const places = (): TreeEntry[] => [
  ...["dev", "etc", "proc", "run", "sys", "var", "var/lib", "var/lib/fairlead"].map((path) => folder(path)),
  folder("tmp", 0o1777),
];

export async function sha256Of(file: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const piece of createReadStream(file, { highWaterMark: 1 << 20 })) hash.update(piece as Buffer);
  return hash.digest("hex");
}

/** A program or library without symbols and lines for debuggers, which are most of its bytes. */
async function stripped(cache: string, file: string, path: string, mode: number): Promise<TreeEntry> {
  if (!existsSync(file)) throw new Error(`${file} is missing: npm run setup builds it`);
  const kept = join(cache, "stripped", await sha256Of(file));
  if (!existsSync(kept)) {
    mkdirSync(dirname(kept), { recursive: true });
    const draft = join(mkdtempSync(join(cache, ".strip-")), "file");
    await run(["strip", "--strip-unneeded", "-o", draft, file]);
    renameSync(draft, kept);
  }
  return { path, type: "file", mode, size: statSync(kept).size, content: { file: kept } };
}

const taken = (project: string, path: string): TreeEntry[] => {
  const at = join(project, path);
  if (!existsSync(at)) throw new Error(`${path} is missing: npm run gen makes it`);
  if (statSync(at).isFile())
    return [{ path: inside(path), type: "file", mode: 0o644, size: statSync(at).size, content: { file: at } }];
  return folderTree(at).flatMap((e) =>
    e.type === "file" ? [{ ...e, mode: 0o644, path: inside(`${path}/${e.path}`) }] : [],
  );
};

/** Puts folders before what is in them, each once, and everything in order. @throws Error if two files have one place */
export function inOrder(entries: readonly TreeEntry[]): readonly TreeEntry[] {
  const byPath = new Map<string, TreeEntry>();
  for (const entry of entries) {
    for (let at = dirname(entry.path); at !== "."; at = dirname(at)) if (!byPath.has(at)) byPath.set(at, folder(at));
    const there = byPath.get(entry.path);
    if (there !== undefined && !(there.type === "folder" && entry.type === "folder"))
      throw new Error(`${entry.path} would be in the image twice`);
    byPath.set(entry.path, entry);
  }
  return [...byPath.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Everything of an image. @throws Error naming what is missing and what makes it */
export async function imageTree(definition: ImageDefinition, parts: TreeParts): Promise<Tree> {
  const { project, cache, scratch, platform } = parts;
  const reached = reachedFrom(project, definition.entries);
  const folders = packageFolders(readLock(project), reached.packages, platform);
  const node = join(project, `node_modules/node-linux-${platform.cpu}/bin/node`);
  const filesOf = async (isShared: boolean): Promise<readonly TreeEntry[]> => {
    const wanted = parts.debian.filter((p) => (nodePackages as readonly string[]).includes(p.name) === isShared);
    return (await Promise.all(wanted.map((fetched) => packageFiles(fetched, scratch)))).flat();
  };
  const base = [
    ...places(),
    ...accounts(),
    ...(await filesOf(true)),
    await stripped(cache, node, NODE.slice(1), 0o755),
  ];
  const built = Object.entries(definition.built).map(([from, to]) =>
    stripped(cache, join(project, from), inside(to), 0o755),
  );
  const own = [
    ...[...reached.files, "LICENSE"].filter((f) => f !== "package.json").flatMap((file) => taken(project, file)),
    ...definition.files.flatMap((file) => taken(project, file)),
    ...(await Promise.all(built)),
    // The project's own names tools of development; Node needs the kind of its modules, and the command its version.
    text(inside("package.json"), `${JSON.stringify(ownManifest(project))}\n`),
    text("usr/local/bin/fairlead", COMMAND, 0o755),
  ];
  const layers = {
    "Node and what it needs": base,
    "programs of the distribution": await filesOf(false),
    "npm packages": packageTree(project, folders, HOME.slice(1), platform),
    Fairlead: own,
  };
  const filled = Object.entries(layers).filter(([, entries]) => entries.length > 0);
  return { layers: filled.map(([name, entries]) => ({ name, entries: inOrder(entries) })), packages: folders };
}

function ownManifest(project: string): unknown {
  const file = join(project, "package.json");
  const { name, version, license, type } = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
  return { name, version, license, type };
}
