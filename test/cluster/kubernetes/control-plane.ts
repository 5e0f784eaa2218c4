// The programs of the control plane and how they are told what they are: etcd, API server, controller manager, scheduler.
import { join } from "node:path";
import type { Program } from "../machine/programs.ts";
import { ranges, SERVICE_RANGE } from "../machine/ranges.ts";
import type { ClusterPaths } from "../paths.ts";
import { type ClusterState, program } from "../state.ts";
import { API_PORT } from "./credentials.ts";

const ETCD = "http://127.0.0.1:2379";
const ETCD_PEER = "http://127.0.0.1:2380";

/** In the order in which they are started. */
export function controlPlanePrograms(cluster: ClusterPaths, state: ClusterState): readonly Program[] {
  const make = (name: string, command: readonly [string, ...string[]]): Program => ({
    name,
    group: `${cluster.controlPlaneGroup}/${name}`,
    log: join(cluster.logs, `${name}.log`),
    command,
    entering: () => ["nsenter", `--net=/run/netns/${cluster.netns}`, "--"],
  });
  const servers = [
    make("etcd", [program(state, "etcd", "etcd"), ...etcdFlags(cluster)]),
    make("kube-apiserver", [program(state, "kube-apiserver", "kube-apiserver"), ...apiServerFlags(cluster, state)]),
  ];
  if (state.apiOnly) return servers;
  const kube = program(state, "kube", "kube");
  return [
    ...servers,
    make("kube-controller-manager", [kube, "kube-controller-manager", ...controllerManagerFlags(cluster)]),
    make("kube-scheduler", [kube, "kube-scheduler", ...asking(cluster, "scheduler"), "--leader-elect=false"]),
  ];
}

/** Nothing of a test cluster must outlive a power cut, so nobody waits for the disk. */
const etcdFlags = (cluster: ClusterPaths): string[] => [
  `--data-dir=${cluster.etcd}`,
  `--listen-client-urls=${ETCD}`,
  `--advertise-client-urls=${ETCD}`,
  `--listen-peer-urls=${ETCD_PEER}`,
  `--initial-advertise-peer-urls=${ETCD_PEER}`,
  `--initial-cluster=default=${ETCD_PEER}`,
  "--unsafe-no-fsync",
  "--log-level=warn",
];

function apiServerFlags(cluster: ClusterPaths, state: ClusterState): string[] {
  const pki = (file: string): string => join(cluster.pki, file);
  return [
    `--etcd-servers=${ETCD}`,
    "--bind-address=0.0.0.0",
    `--secure-port=${API_PORT}`,
    `--advertise-address=${ranges(state.block).controlPlane}`,
    `--tls-cert-file=${pki("apiserver.crt")}`,
    `--tls-private-key-file=${pki("apiserver.key")}`,
    `--client-ca-file=${pki("ca.crt")}`,
    `--service-account-key-file=${pki("tokens.pub")}`,
    `--service-account-signing-key-file=${pki("tokens.key")}`,
    "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
    `--kubelet-client-certificate=${pki("kubelet-client.crt")}`,
    `--kubelet-client-key=${pki("kubelet-client.key")}`,
    `--kubelet-certificate-authority=${pki("ca.crt")}`,
    "--kubelet-preferred-address-types=InternalIP",
    `--proxy-client-cert-file=${pki("front-proxy.crt")}`,
    `--proxy-client-key-file=${pki("front-proxy.key")}`,
    `--requestheader-client-ca-file=${pki("ca.crt")}`,
    "--requestheader-allowed-names=front-proxy",
    "--requestheader-username-headers=X-Remote-User",
    "--requestheader-group-headers=X-Remote-Group",
    "--requestheader-extra-headers-prefix=X-Remote-Extra-",
    "--enable-aggregator-routing=true", // Services are reached by their pods' addresses: the control plane has no rules for cluster IPs
    "--authorization-mode=Node,RBAC",
    "--enable-admission-plugins=NodeRestriction",
    // Without a controller manager nobody makes the default service accounts, and no pod could be created.
    ...(state.apiOnly ? ["--disable-admission-plugins=ServiceAccount"] : []),
    "--allow-privileged=true",
    `--service-cluster-ip-range=${SERVICE_RANGE}`,
    ...state.apiServerFlags,
  ];
}

/** How a part finds the API server, for itself and for judging who asks it. */
function asking(cluster: ClusterPaths, part: string): string[] {
  const file = join(cluster.pki, `${part}.kubeconfig`);
  const flags = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"];
  return [...flags.map((flag) => `--${flag}=${file}`), "--bind-address=127.0.0.1"];
}

const controllerManagerFlags = (cluster: ClusterPaths): string[] => [
  ...asking(cluster, "controller-manager"),
  "--leader-elect=false",
  "--use-service-account-credentials",
  `--service-account-private-key-file=${join(cluster.pki, "tokens.key")}`,
  `--root-ca-file=${join(cluster.pki, "ca.crt")}`,
  `--cluster-signing-cert-file=${join(cluster.pki, "ca.crt")}`,
  `--cluster-signing-key-file=${join(cluster.pki, "ca.key")}`,
  `--service-cluster-ip-range=${SERVICE_RANGE}`,
  "--allocate-node-cidrs=false", // the CNI configuration of each node has its range; two allocators would contradict each other
];
