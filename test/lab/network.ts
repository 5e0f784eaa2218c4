// Namespaces, links and routes of a lab, by ip(8) in batches. A pod's link is point to point and routed (no bridge), so every packet between pods crosses its node's stack.

import { CONTROLLER_IPS, linkNode, linkRouter, nodePodGateway, type Pair, podRange } from "./addresses.ts";
import { finish, run } from "./command.ts";
import { netnsPath } from "./paths.ts";

/** Settings of each namespace: routing on, no reverse-path filter (replies of intercepted flows come from other links), IPv6 addresses usable at once. */
const forwarding = [
  "net/ipv4/ip_forward=1",
  "net/ipv6/conf/all/forwarding=1",
  "net/ipv4/conf/all/rp_filter=0",
  "net/ipv4/conf/default/rp_filter=0",
  "net/ipv6/conf/all/accept_dad=0",
  "net/ipv6/conf/default/accept_dad=0",
  "net/ipv6/conf/all/disable_ipv6=0",
  "net/ipv6/conf/default/disable_ipv6=0",
];
const leaf = forwarding.filter((s) => !s.includes("forward"));

async function sysctls(netns: string, settings: readonly string[]): Promise<void> {
  const script = settings
    .map((s) => s.replace(/^(.*)=(.*)$/, "if [ -e /proc/sys/$1 ]; then echo $2 > /proc/sys/$1; fi"))
    .join("\n");
  await run(["nsenter", `--net=${netnsPath(netns)}`, "--", "/bin/sh", "-ec", script]);
}

const ip = (netns: string, lines: readonly string[]): Promise<string> =>
  run(["ip", "-n", netns, "-batch", "-"], { input: `${lines.join("\n")}\n` });

export async function addNamespace(netns: string): Promise<void> {
  await run(["ip", "netns", "add", netns]);
}

/** Deletes a namespace if it is there; links in it go with it. */
export async function removeNamespace(netns: string): Promise<void> {
  const done = await finish(["ip", "netns", "delete", netns]);
  if (done.code !== 0 && !/No such file/.test(done.stderr))
    throw new Error(`ip netns delete ${netns}: ${done.stderr.trim()}`);
}

/** The router between nodes; the controller's addresses are on its loopback. */
export async function buildRouter(netns: string): Promise<void> {
  await addNamespace(netns);
  await sysctls(netns, forwarding);
  await ip(netns, [
    "link set lo up",
    `addr add ${CONTROLLER_IPS[0]}/32 dev lo`,
    `addr add ${CONTROLLER_IPS[1]}/128 dev lo nodad`,
  ]);
}

/** Node N: link `node<N>` in the router, `eth0` in the node, default route through the router, the pod range routed to it. */
export async function buildNode(router: string, netns: string, n: number): Promise<void> {
  await addNamespace(netns);
  await sysctls(netns, forwarding);
  const [near, far, gateway, range] = [linkRouter(n), linkNode(n), nodePodGateway(n), podRange(n)];
  await ip(router, [
    `link add node${n} type veth peer name eth0 netns ${netns}`,
    `addr add ${near.v4}/30 dev node${n}`,
    `addr add ${near.v6}/64 dev node${n} nodad`,
    `link set node${n} up`,
  ]);
  await ip(netns, [
    "link set lo up",
    `addr add ${gateway.v4}/32 dev lo`,
    `addr add ${gateway.v6}/128 dev lo nodad`,
    `addr add ${far.v4}/30 dev eth0`,
    `addr add ${far.v6}/64 dev eth0 nodad`,
    "link set eth0 up",
    `route add default via ${near.v4}`,
    `route add default via ${near.v6}`,
  ]);
  await ip(router, [`route add ${range.v4} via ${far.v4}`, `route add ${range.v6} via ${far.v6}`]);
}

/** Interface on the node's side of a pod's link: at most 15 characters, the host number is unique on the node. */
export const podLink = (host: number): string => `pod${host}`;

export interface PodLink {
  readonly nodeNetns: string;
  readonly podNetns: string;
  readonly node: number;
  readonly host: number;
  readonly address: Pair;
}

/** A pod's namespace with `eth0`, its two addresses, and default routes through its node. */
export async function buildPod(link: PodLink): Promise<void> {
  const { nodeNetns, podNetns, address } = link;
  const outer = podLink(link.host);
  const gateway = nodePodGateway(link.node);
  await addNamespace(podNetns);
  await sysctls(podNetns, leaf);
  await ip(nodeNetns, [
    `link add ${outer} type veth peer name eth0 netns ${podNetns}`,
    `addr add fe80::1/64 dev ${outer} nodad`,
    `link set ${outer} up`,
    `route add ${address.v4}/32 dev ${outer} src ${gateway.v4}`,
    `route add ${address.v6}/128 dev ${outer} src ${gateway.v6}`,
  ]);
  await ip(podNetns, [
    "link set lo up",
    `addr add ${address.v4}/32 dev eth0`,
    `addr add ${address.v6}/128 dev eth0 nodad`,
    "link set eth0 up",
    `route add ${gateway.v4}/32 dev eth0 scope link src ${address.v4}`,
    `route add default via ${gateway.v4} dev eth0 src ${address.v4}`,
    `route add default via fe80::1 dev eth0 src ${address.v6}`,
  ]);
}

/** Removes the pod's namespace and, at once, the node's end of its link (the kernel frees a namespace only some time later). */
export async function removePod(nodeNetns: string, podNetns: string, host: number): Promise<void> {
  await finish(["ip", "-n", nodeNetns, "link", "delete", podLink(host)]);
  await removeNamespace(podNetns);
}

/** Names of all network namespaces that begin with `prefix`. */
export async function namespacesOf(prefix: string): Promise<string[]> {
  const done = await finish(["ip", "netns", "list"]);
  return done.stdout
    .split("\n")
    .map((line) => line.split(" ")[0] ?? "")
    .filter((name) => name.startsWith(prefix));
}
