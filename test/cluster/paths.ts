// Names and places of a cluster: everything that one owns can be found from its name alone, so that `down` needs nobody's memory.
import { homedir } from "node:os";
import { join } from "node:path";
import { err, ok, type Result } from "../../agent/base/result.ts";

/** On disk, not in memory: images and their layers lie here. */
export const CLUSTERS_DIR = "/var/lib/fairlead-cluster";

/** Where built programs are kept, for all checkouts on this machine. */
export const cacheFolder = (env: Readonly<Record<string, string | undefined>>): string =>
  env.FAIRLEAD_CLUSTER_CACHE ?? join(env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "fairlead/cluster");

export interface ClusterPaths {
  readonly name: string;
  readonly dir: string;
  /** What the cluster is: block of addresses, number of nodes, programs. */
  readonly stateFile: string;
  readonly lockFile: string;
  readonly logs: string;
  readonly pki: string;
  readonly kubeconfig: string;
  readonly etcd: string;
  readonly images: string;
  readonly netnsPrefix: string;
  /** Control plane, and the bridge between nodes. */
  readonly netns: string;
  /** The machine's end of the link to the control plane. */
  readonly machineLink: string;
  /** Control group, below every hierarchy's mount point. */
  readonly group: string;
  readonly controlPlaneGroup: string;
}

export interface NodePaths {
  readonly name: string;
  readonly dir: string;
  /** Written by the node's first process: its process id as the machine counts. */
  readonly initFile: string;
  readonly netns: string;
  readonly group: string;
  readonly kubeconfig: string;
  /** As seen inside the node; outside it is `containerdSocket`. */
  readonly containerdAddress: string;
  readonly containerdSocket: string;
}

/** At most 10 characters: the name is part of a link's name, and the kernel allows 15. No dash: "a" must not own what is of "a-b". */
export function parseClusterName(text: string): Result<string, string> {
  if (/^[a-z0-9]{1,10}$/.test(text)) return ok(text);
  return err(`--name ${JSON.stringify(text)}: use 1 to 10 lower-case letters and digits, e.g. --name main`);
}

export function clusterPaths(name: string): ClusterPaths {
  const dir = join(CLUSTERS_DIR, name);
  const group = `fairlead-cluster/${name}`;
  return {
    name,
    dir,
    stateFile: join(dir, "cluster.json"),
    lockFile: join(CLUSTERS_DIR, `.${name}.lock`),
    logs: join(dir, "logs"),
    pki: join(dir, "pki"),
    kubeconfig: join(dir, "kubeconfig"),
    etcd: join(dir, "etcd"),
    images: join(dir, "images"),
    netnsPrefix: `flc-${name}-`,
    netns: `flc-${name}-cp`,
    machineLink: `flc-${name}`,
    group,
    controlPlaneGroup: `${group}/cp`,
  };
}

/** Node N, counted from 1. */
export function nodePaths(cluster: ClusterPaths, n: number): NodePaths {
  const name = `n${n}`;
  const dir = join(cluster.dir, "nodes", name);
  return {
    name,
    dir,
    initFile: join(dir, "init.pid"),
    netns: `${cluster.netnsPrefix}${name}`,
    group: `${cluster.group}/${name}`,
    kubeconfig: join(cluster.pki, `${name}.kubeconfig`),
    containerdAddress: "/run/containerd/containerd.sock",
    containerdSocket: join(dir, "run/containerd/containerd.sock"),
  };
}
