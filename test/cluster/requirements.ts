// Whether this machine can run a cluster, said before anything is built.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { hierarchies } from "./machine/groups.ts";

/** Program -> Debian package. */
const forAll = { ip: "iproute2", nsenter: "util-linux", flock: "util-linux", sysctl: "procps" } as const;
const forNodes = {
  runc: "runc",
  nft: "nftables",
  iptables: "iptables",
  busybox: "busybox-static",
  gcc: "gcc",
} as const;

/** v1 controllers that kubelet and runc want where v2 has not taken them over. */
const controllers = ["cpu", "cpuacct", "cpuset", "memory", "pids"] as const;

/** What is missing, in one line with what to do, or undefined. */
export function missingForCluster(apiOnly: boolean): string | undefined {
  if (process.platform !== "linux") return "a cluster needs Linux (namespaces and control groups)";
  if (process.getuid?.() !== 0) return "a cluster needs root (namespaces and control groups): run it as root";
  const path = (process.env.PATH ?? "").split(":").concat("/usr/sbin", "/sbin", "/bin");
  const programs = Object.entries(apiOnly ? forAll : { ...forAll, ...forNodes });
  const missing = programs.filter(([name]) => !path.some((folder) => existsSync(join(folder, name))));
  if (missing.length > 0) {
    const packages = [...new Set(missing.map(([, name]) => name))].join(" ");
    return `a cluster needs ${missing.map(([name]) => name).join(", ")}: scripts/setup cluster, or apt-get install ${packages}`;
  }
  try {
    const { v1 } = hierarchies();
    const lacking =
      v1.length === 0 ? [] : controllers.filter((c) => !v1.some((m) => m.split("/").at(-1)?.split(",").includes(c)));
    if (!apiOnly && lacking.length > 0)
      return `the cgroup v1 controllers ${lacking.join(", ")} are not mounted, and nodes need them`;
  } catch (error) {
    return (error as Error).message;
  }
  return undefined;
}
