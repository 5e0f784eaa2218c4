// Images without a registry or a daemon: folders and trees become the layers of an OCI image, as a tar file that containerd imports. The
// same files give the same bytes. (OCI image format 1.1: layout, index, manifest, configuration.)
import { createHash } from "node:crypto";
import { createReadStream, createWriteStream, mkdtempSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { Readable, Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { filesTar, folderTree, type TreeEntry, treeTar } from "./tar.ts";

export interface ImageOptions {
  /** Full name with tag, e.g. "docker.io/library/shop:1": containerd keeps it under exactly this name. */
  readonly name: string;
  readonly entrypoint?: readonly string[];
  readonly command?: readonly string[];
  /** NAME=VALUE. */
  readonly env?: readonly string[];
  /** uid or uid:gid. */
  readonly user?: string;
  readonly workingDir?: string;
  readonly labels?: Readonly<Record<string, string>>;
}

const PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MANIFEST = "application/vnd.oci.image.manifest.v1+json";
const CONFIG = "application/vnd.oci.image.config.v1+json";
const LAYER = "application/vnd.oci.image.layer.v1.tar+gzip";
/** As Go, and so every container runtime, names processors. */
export const goArchitecture: Readonly<Record<string, string>> = { x64: "amd64", arm64: "arm64" };

const sha256 = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");

/** Passes bytes on and counts them in a hash. */
function hashing(): { readonly stream: Transform; readonly digest: () => string } {
  const hash = createHash("sha256");
  const stream = new Transform({
    transform: (chunk, _encoding, done) => {
      hash.update(chunk as Buffer);
      done(null, chunk);
    },
  });
  return { stream, digest: () => hash.digest("hex") };
}

/** What is wrong with an image's name, or undefined. */
export function badImageName(name: string): string | undefined {
  if (/^[a-z0-9.-]+(:\d+)?(\/[a-z0-9]+([._-][a-z0-9]+)*)+:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/.test(name))
    return undefined;
  return `image name ${JSON.stringify(name)}: write it in full, with host and tag, e.g. docker.io/library/shop:1`;
}

/** A layer as it lies in the image: gzip of a tar archive. */
export interface Layer {
  readonly file: string;
  /** Of the packed and of the plain bytes, SHA-256 in hexadecimal. */
  readonly digest: string;
  readonly plainDigest: string;
  readonly size: number;
}

/**
 * Packs a tree into one layer at `file`.
 * @param level of gzip, 1 (quick) to 9 (small)
 */
export async function writeLayer(tree: readonly TreeEntry[], file: string, level: number): Promise<Layer> {
  const [plain, packed] = [hashing(), hashing()];
  const gzip = createGzip({ level });
  await pipeline(Readable.from(treeTar(tree)), plain.stream, gzip, packed.stream, createWriteStream(file));
  return { file, digest: packed.digest(), plainDigest: plain.digest(), size: statSync(file).size };
}

/**
 * Writes the image of `folder` to `file`, which is there whole or not at all.
 * @returns digest of its manifest
 * @throws Error for a bad name, or what a folder cannot be packed for
 */
export async function writeImage(folder: string, file: string, options: ImageOptions): Promise<string> {
  refuseBadName(options.name);
  const scratch = mkdtempSync(join(dirname(file), ".image-"));
  try {
    // Level 1: such images go to the next disk, not over a network.
    const layer = await writeLayer(folderTree(folder), join(scratch, "layer"), 1);
    return await writeLayers([layer], file, options);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Writes an image of layers, the lowest first, to `file`, as `writeImage` does. @returns digest of its manifest */
export async function writeLayers(layers: readonly Layer[], file: string, options: ImageOptions): Promise<string> {
  refuseBadName(options.name);
  const scratch = mkdtempSync(join(dirname(file), ".image-"));
  try {
    const config = Buffer.from(JSON.stringify(configuration(options, layers)));
    const manifest = Buffer.from(JSON.stringify(manifestOf(config, layers)));
    const index = Buffer.from(JSON.stringify(indexOf(manifest, options.name)));
    const whole = (path: string, bytes: Buffer) => ({ path, size: bytes.length, pieces: [bytes] });
    const files = [
      whole("oci-layout", Buffer.from('{"imageLayoutVersion":"1.0.0"}')),
      whole("index.json", index),
      whole(`blobs/sha256/${sha256(manifest)}`, manifest),
      whole(`blobs/sha256/${sha256(config)}`, config),
      ...layers.map((layer) => ({
        path: `blobs/sha256/${layer.digest}`,
        size: layer.size,
        pieces: createReadStream(layer.file),
      })),
    ];
    const draft = join(scratch, "image");
    await pipeline(Readable.from(filesTar(files)), createWriteStream(draft));
    renameSync(draft, file);
    return `sha256:${sha256(manifest)}`;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function refuseBadName(name: string): void {
  const bad = badImageName(name);
  if (bad !== undefined) throw new Error(bad);
}

const platform = { architecture: goArchitecture[process.arch] ?? process.arch, os: "linux" } as const;

function configuration(options: ImageOptions, layers: readonly Layer[]): unknown {
  const { entrypoint, command, user, workingDir, labels } = options;
  return {
    ...platform,
    config: {
      Env: [PATH, ...(options.env ?? [])],
      ...(entrypoint === undefined ? {} : { Entrypoint: entrypoint }),
      ...(command === undefined ? {} : { Cmd: command }),
      ...(user === undefined ? {} : { User: user }),
      ...(workingDir === undefined ? {} : { WorkingDir: workingDir }),
      ...(labels === undefined ? {} : { Labels: labels }),
    },
    rootfs: { type: "layers", diff_ids: layers.map((layer) => `sha256:${layer.plainDigest}`) },
    history: layers.map(() => ({ created_by: "fairlead" })),
  };
}

const descriptor = (mediaType: string, digest: string, size: number) => ({
  mediaType,
  digest: `sha256:${digest}`,
  size,
});

const manifestOf = (config: Buffer, layers: readonly Layer[]): unknown => ({
  schemaVersion: 2,
  mediaType: MANIFEST,
  config: descriptor(CONFIG, sha256(config), config.length),
  layers: layers.map((layer) => descriptor(LAYER, layer.digest, layer.size)),
});

const indexOf = (manifest: Buffer, name: string): unknown => ({
  schemaVersion: 2,
  manifests: [
    {
      ...descriptor(MANIFEST, sha256(manifest), manifest.length),
      platform,
      annotations: {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.slice(name.lastIndexOf(":") + 1),
      },
    },
  ],
});
