// What the node is like, where the configuration leaves it open: which cgroup2 folder the programs go to, and which is the kubelet's.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Logger } from "../base/log.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { Config } from "../config.ts";
import { cgroup2Mount, findKubelet } from "../intercept/host-groups.ts";

/** The configuration with both filled in. Without a kubelet its probes pass as anybody's connections, which STRICT refuses: a warning. */
export async function onHost(config: Config, log: Logger): Promise<Result<Config, string>> {
  if (config.pods === "folder" && config.cgroup !== "") return ok(config);
  const mounts = await readFile(join(config.procDir, "self/mounts"), "utf8").catch(() => "");
  const cgroup = config.cgroup || cgroup2Mount(mounts);
  if (cgroup === undefined)
    return err(
      "FAIRLEAD_CGROUP: is not set, and no cgroup2 is mounted: mount the host's /sys/fs/cgroup into the agent",
    );
  if (config.pods === "folder" || config.kubeletCgroup !== "") return ok({ ...config, cgroup });
  const kubelet = await findKubelet(config.procDir, cgroup);
  if (typeof kubelet === "string") {
    log.warn("kubelet_not_found", {
      reason: kubelet,
      effect: "probes are refused under STRICT",
      fix: "set FAIRLEAD_KUBELET_CGROUP",
    });
    return ok({ ...config, cgroup });
  }
  log.info("kubelet_found", { cgroup: kubelet.folder });
  return ok({ ...config, cgroup, kubeletCgroup: kubelet.folder });
}
