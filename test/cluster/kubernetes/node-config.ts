// What the programs of a node are told: containerd, the CNI plugins, kubelet, kube-proxy. Pure: names and addresses in, texts out.
import { API_SERVICE, DNS_SERVICE } from "../machine/ranges.ts";

export interface NodeFacts {
  readonly name: string;
  readonly address: string;
  /** Range of the node's own pods, and of all nodes'. */
  readonly pods: string;
  readonly allPods: string;
  /** Control group that the node's pods live in. */
  readonly group: string;
  readonly containerdAddress: string;
  readonly pauseImage: string;
  /** Folder of the cluster's certificates. */
  readonly pki: string;
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

/** Default places inside the node, as on any machine. `restrict_oom_score_adj`: root may lack CAP_SYS_RESOURCE, and then every pod would fail. */
export const containerdConfig = (node: NodeFacts): string => `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]

[grpc]
  address = "${node.containerdAddress}"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "${node.pauseImage}"

[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.grpc.v1.cri"]
  stream_server_port = "0"
`;

/** Pods have routed links of their own and no bridge: with a bridge answers of a pod on the same node would pass the Services' rules by. */
export const cniConfig = (node: NodeFacts): string =>
  json({
    cniVersion: "1.0.0",
    name: "pods",
    plugins: [
      {
        type: "ptp",
        ipMasq: false,
        mtu: 1500,
        ipam: { type: "host-local", ranges: [[{ subnet: node.pods }]], routes: [{ dst: "0.0.0.0/0" }] },
      },
      { type: "portmap", capabilities: { portMappings: true } },
    ],
  });

export const kubeletConfig = (node: NodeFacts): string =>
  json({
    apiVersion: "kubelet.config.k8s.io/v1beta1",
    kind: "KubeletConfiguration",
    address: node.address,
    port: 10250,
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: true },
      x509: { clientCAFile: `${node.pki}/ca.crt` },
    },
    authorization: { mode: "Webhook" },
    tlsCertFile: `${node.pki}/${node.name}.crt`,
    tlsPrivateKeyFile: `${node.pki}/${node.name}.key`,
    containerRuntimeEndpoint: `unix://${node.containerdAddress}`,
    cgroupDriver: "cgroupfs",
    cgroupRoot: `/${node.group}`,
    // Machines with v1 controllers are still in the field, and this may be one.
    failCgroupV1: false,
    failSwapOn: false,
    clusterDNS: [DNS_SERVICE],
    clusterDomain: "cluster.local",
    healthzPort: 0,
    resolvConf: "",
    // The disk is the machine's: how full it is says nothing about the node, and evictions would make tests fail at random.
    evictionHard: { "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
    imageGCHighThresholdPercent: 100,
    imageGCLowThresholdPercent: 99,
    protectKernelDefaults: false,
    nodeStatusUpdateFrequency: "5s",
    shutdownGracePeriod: "0s",
  });

/** conntrack's limits are the machine's, and not to be changed from here. */
export const proxyConfig = (node: NodeFacts): string =>
  json({
    apiVersion: "kubeproxy.config.k8s.io/v1alpha1",
    kind: "KubeProxyConfiguration",
    mode: "nftables",
    clientConnection: { kubeconfig: `${node.pki}/proxy.kubeconfig` },
    clusterCIDR: node.allPods,
    hostnameOverride: node.name,
    bindAddress: node.address,
    healthzBindAddress: "",
    metricsBindAddress: "",
    conntrack: { maxPerCore: 0 },
  });

/** Names that pods and people call the API server by. */
export const apiServerNames = [
  "localhost",
  "kubernetes",
  "kubernetes.default",
  "kubernetes.default.svc",
  "kubernetes.default.svc.cluster.local",
] as const;
export const apiServerAddresses = (controlPlane: string): readonly string[] => ["127.0.0.1", API_SERVICE, controlPlane];
