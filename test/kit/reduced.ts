// Words before an agent's command line that take something away from it: capabilities, a mount, tools, system calls. Each ends in exec.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { PROJECT_DIR } from "../lab/paths.ts";

/** The capabilities that docs/interception.md says a way of intercepting needs, in setpriv's names. */
export function documentedCapabilities(way: "ebpf" | "nftables"): readonly string[] {
  const rows = readFileSync(join(PROJECT_DIR, "docs/interception.md"), "utf8").matchAll(
    /^\| `CAP_([A-Z_]+)` +\|[^|]*\| *(yes)? *\| *(yes)? *\|/gm,
  );
  const at = way === "ebpf" ? 2 : 3;
  return [...rows].filter((row) => row[at] === "yes").map((row) => (row[1] ?? "").toLowerCase());
}

/** Nothing but these capabilities, for ever. */
export const withOnly = (capabilities: readonly string[]): readonly string[] => [
  "setpriv",
  `--bounding-set=${["-all", ...capabilities.map((c) => `+${c}`)].join(",")}`,
  "--inh-caps=-all",
  "--",
];

const inMounts = (script: string): readonly string[] => [
  "unshare",
  "--mount",
  "--propagation=private",
  "/bin/sh",
  "-ec",
  `${script}\nexec "$@"`,
  "sh",
];

/** As on a host that has cgroup v1 only. */
export const withoutCgroup2 = inMounts(
  `awk '$3 == "cgroup2" { print $2 }' /proc/mounts | while read -r at; do umount -l "$at"; done`,
);

/** As on a kernel that was built without type information. */
export const withoutBtf = inMounts("mount -t tmpfs none /sys/kernel/btf");

/** As on a kernel that says it is of this release. @param file a path for what it says */
export const onKernel = (release: string, file: string): readonly string[] =>
  inMounts(`echo ${release} > ${file}\nmount --bind ${file} /proc/sys/kernel/osrelease`);

/** As on a machine that has neither nft nor iptables. */
export const withoutTools: readonly string[] = ["/usr/bin/env", "PATH=/nonexistent"];

/** The profile that is shipped for the agent's container. */
export const seccompProfile: string = join(PROJECT_DIR, "manifests/seccomp/agent.json");

/** Under the shipped seccomp profile, and without a way to gain privileges. With `--kill` a call that it does not name ends the program. */
export const confined = (...flags: readonly "--kill"[]): readonly string[] => [
  "python3",
  join(PROJECT_DIR, "test/kit/confine.py"),
  ...flags,
  seccompProfile,
];
