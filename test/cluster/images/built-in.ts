// The images that every cluster has: the pods' pause process, CoreDNS, and a shell with the usual tools (Debian's static busybox).
import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type ImageOptions, writeImage } from "../../../scripts/image/oci.ts";
import { run } from "../../lab/command.ts";

export const PAUSE_IMAGE = "fairlead.dev/cluster/pause:1";
export const BUSYBOX_IMAGE = "fairlead.dev/cluster/busybox:1";
export const coreDnsImage = (version: string): string => `fairlead.dev/cluster/coredns:${version}`;

const PAUSE_SOURCE = fileURLToPath(new URL("pause.c", import.meta.url));
const BUSYBOX = "/bin/busybox";

const hashOf = (...parts: readonly (string | Buffer)[]): string => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part).update("\0");
  return hash.digest("hex").slice(0, 16);
};

/** Folder of the compiled `pause`, built once for what it is made of. */
export async function buildPause(cache: string): Promise<string> {
  const folder = join(cache, `pause-${process.arch}-${hashOf(readFileSync(PAUSE_SOURCE))}`);
  if (existsSync(folder)) return folder;
  mkdirSync(cache, { recursive: true });
  const draft = mkdtempSync(join(cache, ".pause-"));
  await run(["gcc", "-Os", "-static", "-s", "-Wall", "-Werror", "-o", join(draft, "pause"), PAUSE_SOURCE]);
  return keep(draft, folder);
}

/** Gives a finished draft its name; of two that were made at once either will do. */
function keep(draft: string, place: string): string {
  try {
    renameSync(draft, place);
  } catch (error) {
    if (!existsSync(place)) throw error;
    rmSync(draft, { recursive: true, force: true });
  }
  return place;
}

/** File of an image, made once for what it is made of. */
async function image(
  cache: string,
  key: string,
  options: ImageOptions,
  fill: (folder: string) => void,
): Promise<string> {
  const folder = join(cache, "images");
  const file = join(folder, `${key}.tar`);
  if (existsSync(file)) return file;
  mkdirSync(folder, { recursive: true });
  const root = mkdtempSync(join(tmpdir(), "fairlead-image-"));
  try {
    fill(root);
    await writeImage(root, file, options);
    return file;
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

const program = (root: string, name: string, from: string): void => {
  mkdirSync(join(root, "bin"), { recursive: true });
  copyFileSync(from, join(root, "bin", name));
};

export interface Programs {
  readonly pause: string;
  readonly coredns: { readonly folder: string; readonly version: string };
}

/** Files of all images. @throws Error naming the missing package */
export async function builtInImages(cache: string, programs: Programs): Promise<readonly string[]> {
  const pause = { name: PAUSE_IMAGE, entrypoint: ["/bin/pause"] };
  const dns = { name: coreDnsImage(programs.coredns.version), entrypoint: ["/bin/coredns"] };
  return Promise.all([
    image(cache, `pause-${hashOf(programs.pause, JSON.stringify(pause))}`, pause, (root) =>
      program(root, "pause", join(programs.pause, "pause")),
    ),
    image(cache, `coredns-${hashOf(programs.coredns.folder, JSON.stringify(dns))}`, dns, (root) =>
      program(root, "coredns", join(programs.coredns.folder, "coredns")),
    ),
    busybox(cache),
  ]);
}

async function busybox(cache: string): Promise<string> {
  if (!existsSync(BUSYBOX)) throw new Error(`${BUSYBOX} is missing: apt-get install busybox-static`);
  const options = { name: BUSYBOX_IMAGE, command: ["sh"] };
  const names = (await run([BUSYBOX, "--list"])).trim().split("\n");
  return image(cache, `busybox-${hashOf(readFileSync(BUSYBOX), JSON.stringify(options))}`, options, (root) => {
    program(root, "busybox", BUSYBOX);
    for (const name of names) if (name !== "busybox") symlinkSync("busybox", join(root, "bin", name));
    for (const folder of ["etc", "tmp", "root"]) mkdirSync(join(root, folder));
    writeFileSync(join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
    writeFileSync(join(root, "etc/group"), "root:x:0:\n");
  });
}
