// What a cluster is, kept beside it: whoever asks later needs neither the options that it was made with nor the checkout.
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { readText, replaceFile } from "../lab/files.ts";
import { CLUSTERS_DIR, type ClusterPaths, clusterPaths, parseClusterName } from "./paths.ts";

export interface ClusterState {
  readonly name: string;
  /** Its addresses, see machine/ranges.ts. */
  readonly block: number;
  /** API server and etcd alone. */
  readonly apiOnly: boolean;
  readonly nodes: number;
  /** Module -> what was built of it. */
  readonly built: Readonly<Record<string, { readonly version: string; readonly folder: string }>>;
  /** Further flags of the API server. */
  readonly apiServerFlags: readonly string[];
}

export function readState(cluster: ClusterPaths): ClusterState | undefined {
  const text = readText(cluster.stateFile);
  return text === "" ? undefined : (JSON.parse(text) as ClusterState);
}

export const writeState = (cluster: ClusterPaths, state: ClusterState): void =>
  replaceFile(cluster.stateFile, `${JSON.stringify(state, null, 2)}\n`);

/** Names of clusters that are up or have left something on the disk. */
export const clusterNames = (): string[] =>
  existsSync(CLUSTERS_DIR)
    ? readdirSync(CLUSTERS_DIR)
        .filter((name) => parseClusterName(name).ok)
        .sort()
    : [];

/** Folder of a module's programs. @throws Error if the cluster was made without it */
export function programs(state: ClusterState, module: string): string {
  const folder = state.built[module]?.folder;
  if (folder === undefined) throw new Error(`cluster ${state.name} was made without ${module}`);
  return folder;
}

export const program = (state: ClusterState, module: string, name: string): string =>
  join(programs(state, module), name);

/** Blocks of addresses that clusters have. */
export const usedBlocks = (): number[] =>
  clusterNames().flatMap((name) => {
    const state = readState(clusterPaths(name));
    return state === undefined ? [] : [state.block];
  });
