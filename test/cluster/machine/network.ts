// Namespaces, links and routes of a cluster: a bridge in the control plane's namespace, a link from it to each node and to the machine.
import { existsSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { finish, run } from "../../lab/command.ts";
import { addNamespace, namespacesOf, removeNamespace } from "../../lab/network.ts";
import { netnsPath } from "../../lab/paths.ts";
import type { ClusterPaths, NodePaths } from "../paths.ts";
import { nodeAddress, nodePods, type Ranges } from "./ranges.ts";

const ip = (netns: string | undefined, lines: readonly string[]): Promise<string> =>
  run(["ip", ...(netns === undefined ? [] : ["-n", netns]), "-batch", "-"], { input: `${lines.join("\n")}\n` });

/** Routing on; no reverse-path filter, since what a mesh intercepts is answered over other links; no addresses of IPv6 of the kernel's own. */
async function forwarding(netns: string): Promise<void> {
  const settings = { "ipv4.ip_forward": 1, "ipv4.conf.all.rp_filter": 0, "ipv4.conf.default.rp_filter": 0 };
  const words = Object.entries(settings).map(([name, value]) => `net.${name}=${value}`);
  await run(["nsenter", `--net=/run/netns/${netns}`, "--", "sysctl", "--quiet", "--write", ...words]);
}

/** Addresses and routes of the machine's own namespace, as `ip` prints them. */
export async function takenRanges(): Promise<string[]> {
  const lines = `${await run(["ip", "-4", "-o", "addr"])}\n${await run(["ip", "-4", "route", "show", "table", "all"])}`;
  return [...lines.matchAll(/\d+\.\d+\.\d+\.\d+(?:\/\d+)?/g)].map((m) => m[0]);
}

/** Written once a namespace has all that belongs to it: one that was left half made is made anew. */
const MARK = "network";
/** Type of file system that a name of a living namespace is on; after a reboot an empty file may be left. */
const NSFS = 0x6e736673;
const isNamespace = (path: string): boolean => existsSync(path) && statfsSync(path).type === NSFS;
const isMarked = (folder: string): boolean => existsSync(join(folder, MARK));
const mark = (folder: string): void => writeFileSync(join(folder, MARK), "");

/** The control plane's namespace, and the machine's way to it and to the pods. */
export async function buildControlPlaneNetwork(cluster: ClusterPaths, ranges: Ranges): Promise<void> {
  await addNamespace(cluster.netns);
  await forwarding(cluster.netns);
  await ip(cluster.netns, [
    "link set lo up",
    "link add cluster type bridge",
    `addr add ${ranges.controlPlane}/24 dev cluster`,
    "link set cluster up",
    `link add machine type veth peer name ${cluster.machineLink} netns ${process.pid}`,
    "link set machine master cluster up",
  ]);
  await ip(undefined, [
    `addr add ${ranges.machine}/24 dev ${cluster.machineLink}`,
    `link set ${cluster.machineLink} up`,
    `route add ${ranges.pods} via ${ranges.controlPlane}`,
  ]);
  mark(cluster.dir);
}

/** Node N with its link to the bridge, unless it is there; pods of other nodes are reached over the nodes themselves. */
export async function buildNodeNetwork(
  cluster: ClusterPaths,
  ranges: Ranges,
  node: NodePaths,
  n: number,
): Promise<void> {
  const { block } = ranges;
  const { netns } = node;
  if (isMarked(node.dir) && isNamespace(netnsPath(netns))) return;
  await finish(["ip", "-n", cluster.netns, "link", "delete", node.name]);
  await removeNamespace(netns);
  const others = Array.from({ length: n - 1 }, (_, i) => i + 1);
  await addNamespace(netns);
  await forwarding(netns);
  await ip(cluster.netns, [
    `link add ${node.name} type veth peer name eth0 netns ${netns}`,
    `link set ${node.name} master cluster up`,
    `route replace ${nodePods(block, n)} via ${nodeAddress(block, n)}`,
  ]);
  await ip(netns, [
    "link set lo up",
    `addr add ${nodeAddress(block, n)}/24 dev eth0`,
    "link set eth0 up",
    `route add default via ${ranges.controlPlane}`,
    ...others.map((o) => `route add ${nodePods(block, o)} via ${nodeAddress(block, o)}`),
  ]);
  for (const o of others)
    await ip(`${cluster.netnsPrefix}n${o}`, [`route replace ${nodePods(block, n)} via ${nodeAddress(block, n)}`]);
  mark(node.dir);
}

/** Whether the control plane's network is whole. */
export const networkIsThere = (cluster: ClusterPaths): boolean =>
  isMarked(cluster.dir) && isNamespace(netnsPath(cluster.netns));

/** Removes the machine's link and all namespaces. @returns how many namespaces there were */
export async function removeNetwork(cluster: ClusterPaths): Promise<number> {
  // At once, together with the machine's routes: the kernel frees a namespace only some time after its last process.
  await finish(["ip", "link", "delete", cluster.machineLink]);
  const namespaces = await namespacesOf(cluster.netnsPrefix);
  for (const netns of namespaces) await removeNamespace(netns);
  return namespaces.length;
}
