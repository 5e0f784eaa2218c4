// The images of this checkout, made and taken into every node of a cluster.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { buildImage, imageCache } from "../../scripts/image/build.ts";
import { imageNames, images } from "../../scripts/image/definition.ts";
import type { TestCluster } from "../cluster/kit.ts";
import { importImage } from "../cluster/kubernetes/node.ts";
import { PROJECT_DIR } from "../lab/paths.ts";

type Say = (line: string) => void;

/** @returns the images' files, which stand in `folder` */
export async function buildImages(tag: string, folder: string, say: Say): Promise<readonly string[]> {
  const parts = { project: PROJECT_DIR, cache: imageCache(process.env), strictness: "offered", say } as const;
  mkdirSync(folder, { recursive: true });
  const files: string[] = [];
  for (const name of imageNames) {
    const file = join(folder, `${name}.tar`);
    await buildImage(images[name], `fairlead.dev/${name}:${tag}`, file, parts);
    files.push(file);
  }
  return files;
}

export async function loadImages(on: Pick<TestCluster, "cluster" | "state">, files: readonly string[]): Promise<void> {
  for (const file of files) for (let n = 1; n <= on.state.nodes; n++) await importImage(on.cluster, on.state, n, file);
}
