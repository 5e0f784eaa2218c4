// What a cluster is built from: Go modules pinned in test/cluster/go, and the programs out of each.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { PROJECT_DIR } from "../../lab/paths.ts";

export interface Module {
  readonly name: string;
  /** Folder with go.mod, go.sum and our own main packages. */
  readonly folder: string;
  /** The module whose version counts as that of its programs. */
  readonly of: string;
  /** Program -> package. */
  readonly programs: Readonly<Record<string, string>>;
  /** Programs that are a package's tests. */
  readonly tests?: Readonly<Record<string, string>>;
  /** Variables that the linker sets, as -X takes them. */
  readonly variables: (version: string) => readonly string[];
}

const none = (): readonly string[] => [];
const folder = (name: string): string => join(PROJECT_DIR, "test/cluster/go", name);

/** Without these Kubernetes calls itself v0.0.0, and clients that ask for its version fail. */
function kubernetesVersion(version: string): readonly string[] {
  const [, major = "", minor = ""] = /^v(\d+)\.(\d+)\./.exec(version) ?? [];
  const facts = {
    gitVersion: version,
    gitMajor: major,
    gitMinor: minor,
    gitTreeState: "clean",
    gitCommit: "unknown",
    buildDate: "1970-01-01T00:00:00Z",
  };
  return ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"].flatMap((pkg) =>
    Object.entries(facts).map(([name, value]) => `${pkg}.${name}=${value}`),
  );
}

const kubernetes = { folder: folder("kubernetes"), of: "k8s.io/kubernetes", variables: kubernetesVersion };
const containerd = "github.com/containerd/containerd/v2/cmd";
const plugins = "github.com/containernetworking/plugins/plugins";

/** The API server is one of its own: tests without nodes need only it and etcd. */
export const modules = {
  etcd: {
    name: "etcd",
    folder: folder("etcd"),
    of: "go.etcd.io/etcd/server/v3",
    programs: { etcd: "." },
    variables: none,
  },
  apiserver: { ...kubernetes, name: "kube-apiserver", programs: { "kube-apiserver": "./apiserver" } },
  kube: { ...kubernetes, name: "kube", programs: { kube: "./kube" } },
  containerd: {
    name: "containerd",
    folder: folder("containerd"),
    of: "github.com/containerd/containerd/v2",
    programs: {
      containerd: `${containerd}/containerd`,
      "containerd-shim-runc-v2": `${containerd}/containerd-shim-runc-v2`,
      ctr: `${containerd}/ctr`,
    },
    variables: (version) => [`github.com/containerd/containerd/v2/version.Version=${version}`],
  },
  cni: {
    name: "cni",
    folder: folder("cni"),
    of: "github.com/containernetworking/plugins",
    programs: {
      ptp: `${plugins}/main/ptp`,
      loopback: `${plugins}/main/loopback`,
      "host-local": `${plugins}/ipam/host-local`,
      portmap: `${plugins}/meta/portmap`,
    },
    variables: none,
  },
  coredns: {
    name: "coredns",
    folder: folder("coredns"),
    of: "github.com/coredns/coredns",
    programs: { coredns: "github.com/coredns/coredns" },
    variables: none,
  },
  /** Built when it is first asked for: a cluster runs without it. */
  helm: {
    name: "helm",
    folder: folder("helm"),
    of: "helm.sh/helm/v4",
    programs: { helm: "helm.sh/helm/v4/cmd/helm" },
    variables: (version) => [`helm.sh/helm/v4/internal/version.version=${version}`],
  },
  /** As helm. */
  kwok: {
    name: "kwok",
    folder: folder("kwok"),
    of: "sigs.k8s.io/kwok",
    programs: { kwok: "sigs.k8s.io/kwok/cmd/kwok" },
    variables: (version) => [`sigs.k8s.io/kwok/pkg/consts.Version=${version}`],
  },
  /** As helm. */
  spiffe: {
    name: "spiffe",
    folder: folder("spiffe"),
    of: "github.com/spiffe/go-spiffe/v2",
    programs: { "spiffe-probe": "." },
    variables: none,
  },
} as const satisfies Readonly<Record<string, Module>>;

export type ModuleName = keyof typeof modules;

/** Version of a module as a go.mod requires it. @throws Error if it does not */
export function requiredVersion(goMod: string, module: string): string {
  const escaped = module.replaceAll(".", "\\.");
  const found = new RegExp(`^\\s*(?:require )?${escaped} (v\\S+)`, "m").exec(goMod)?.[1];
  if (found === undefined) throw new Error(`${module} is not required by this go.mod`);
  return found;
}

export const moduleVersion = (module: Module): string =>
  requiredVersion(readFileSync(join(module.folder, "go.mod"), "utf8"), module.of);
