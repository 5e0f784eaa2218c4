// The benchmark's own two nodes without agents, for "no mesh" and the peers: the same links and routes as the lab's, built by the lab's own functions.
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { linkNode, nodePodGateway, podAddress } from "../lab/addresses.ts";
import { buildNode, buildPod, buildRouter, namespacesOf, removeNamespace } from "../lab/network.ts";
import { cgroup2Mount } from "../lab/paths.ts";
import { endCgroup, newCgroup, type Place } from "./place.ts";

/** Host numbers of the pods, chosen so that both topologies look alike. */
export const PODS = {
  client: { node: 1, host: 10 },
  server: { node: 2, host: 10 },
  near: { node: 2, host: 11 },
} as const;
export type PodName = keyof typeof PODS;

export interface Topology {
  /** Scratch folder for configurations, certificates and logs. */
  readonly dir: string;
  readonly router: string;
  pod(name: PodName): Place & { readonly ip: string };
  /** A place on the node itself, in a cgroup of its own. */
  onNode(node: 1 | 2, group: string): Place & { readonly ip: string; readonly podGateway: string };
  down(): Promise<void>;
}

/** @param name short and unique on the machine; names of namespaces and the cgroup come from it */
export async function buildTopology(name: string): Promise<Topology> {
  const mount = cgroup2Mount();
  if (!mount.ok) throw new Error(mount.error);
  const prefix = `flb-${name}-`;
  const root = join(mount.value, `flb-${name}`);
  const dir = mkdtempSync(join(tmpdir(), `flb-${name}-`));
  const netns = (part: string): string => prefix + part;
  const down = async (): Promise<void> => {
    await endCgroup(root);
    for (const each of await namespacesOf(prefix)) await removeNamespace(each);
    rmSync(dir, { recursive: true, force: true });
  };
  const groupOf = (part: string): string => {
    const path = join(root, part);
    newCgroup(path);
    return path;
  };
  try {
    mkdirSync(join(dir, "log"));
    newCgroup(root);
    await buildRouter(netns("net"));
    for (const n of [1, 2]) await buildNode(netns("net"), netns(`node${n}`), n);
    for (const [pod, at] of Object.entries(PODS)) {
      await buildPod({
        nodeNetns: netns(`node${at.node}`),
        podNetns: netns(pod),
        node: at.node,
        host: at.host,
        address: podAddress(at.node, at.host),
      });
    }
  } catch (error) {
    await down();
    throw error;
  }
  return {
    dir,
    router: netns("net"),
    pod: (pod) => ({
      cgroup: groupOf(`pod-${pod}`),
      netns: netns(pod),
      ip: podAddress(PODS[pod].node, PODS[pod].host).v4,
    }),
    onNode: (node, group) => ({
      cgroup: groupOf(`node${node}-${group}`),
      netns: netns(`node${node}`),
      ip: linkNode(node).v4,
      podGateway: nodePodGateway(node).v4,
    }),
    down,
  };
}
