// Follows the kubelet's control group (DP-10): a service that is started again gets a new one, and with the old one its probes would be refused.
import { stat } from "node:fs/promises";
import { type Clock, every } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { Config } from "../config.ts";
import { findKubelet } from "../intercept/host-groups.ts";
import type { Native } from "../native.ts";

export interface KubeletGroupParts {
  readonly config: Config;
  readonly clock: Clock;
  readonly log: Logger;
  readonly native: Native;
}

const everyMs = 1_000;

/** Looks once a second whether the group is still the one that native was started with, or told of. Returns what ends that. */
export function followKubelet({ config, clock, log, native }: KubeletGroupParts): () => void {
  let folder = config.kubeletCgroup;
  let known: string | undefined;
  let isLooking = false;
  const look = async (): Promise<void> => {
    const id = await idOf(folder);
    if (known === undefined) known = id;
    if (id !== undefined && id === known) return;
    const found = id === undefined ? await findKubelet(config.procDir, config.cgroup) : { folder, id };
    // Being started: it is looked for again.
    if (typeof found === "string") return;
    const told = await native.call("kubelet.set", { cgroup: found.folder });
    if (!told.ok) return log.error("kubelet_not_followed", { cgroup: found.folder, ...told.error });
    log.info("kubelet_found", { cgroup: found.folder });
    folder = found.folder;
    known = found.id;
  };
  return every(clock, everyMs, () => {
    if (isLooking) return;
    isLooking = true;
    void look()
      .catch((error: unknown) => log.error("kubelet_not_looked_for", { error }))
      .finally(() => {
        isLooking = false;
      });
  });
}

const idOf = async (folder: string): Promise<string | undefined> =>
  folder === ""
    ? undefined
    : stat(folder).then(
        ({ ino }) => String(ino),
        () => undefined,
      );
