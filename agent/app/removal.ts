// Takes the mesh off this node, for good: pods leave it in order, then programs, pins and the CNI plugin go, and at the process's end its
// files. Asked for on the admin socket (POST /v1/uninstall) by whoever uninstalls the mesh; the agent then waits to be ended.
import { readdir, rm, rmdir } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../base/clock.ts";
import { type Logger, messageOf } from "../base/log.ts";
import type { Config } from "../config.ts";
import type { Enrolment } from "../intercept/enrol.ts";
import type { Native } from "../native.ts";
import type { Cni } from "./cni.ts";
import type { NodePods } from "./node-pods.ts";

export interface RemovalParts {
  readonly config: Config;
  readonly clock: Clock;
  readonly log: Logger;
  readonly native: Native;
  readonly enrolment: Enrolment;
  readonly nodePods: () => NodePods;
  readonly cni: () => Cni;
}

export interface RemovalStatus {
  readonly state: "none" | "removing" | "removed" | "failed";
  /** Pods that are still in the mesh. */
  readonly pods: number;
  /** What could not be removed. */
  readonly problems: readonly string[];
}

/** Pods that have not left by then, with open connections above all, are let go as they are. */
const leaveMs = 60_000;
const lookMs = 250;

export class Removal {
  readonly #parts: RemovalParts;
  #state: RemovalStatus["state"] = "none";
  #problems: string[] = [];

  constructor(parts: RemovalParts) {
    this.#parts = parts;
  }

  get status(): RemovalStatus {
    return { state: this.#state, pods: this.#parts.enrolment.all().length, problems: this.#problems };
  }

  /** Begins, or begins again after a failure; while it goes on and when it is done this only tells how it stands. */
  start(): RemovalStatus {
    if (this.#state === "none" || this.#state === "failed") {
      this.#state = "removing";
      this.#problems = [];
      void this.#remove().catch((error: unknown) => this.#failed(messageOf(error)));
    }
    return this.status;
  }

  async #remove(): Promise<void> {
    const { clock, log, native, enrolment, nodePods, cni } = this.#parts;
    log.warn("removing_mesh", { pods: enrolment.all().length, reason: "asked on the admin socket" });
    // First: without its agent the plugin would let no pod start.
    const plugin = await cni().remove();
    if (!plugin.ok) this.#problems.push(plugin.error);
    nodePods().leaveMesh();
    const deadline = clock.monotonicMs() + leaveMs;
    do {
      await nodePods().sync();
      if (enrolment.all().length > 0) await clock.sleep(lookMs);
    } while (enrolment.all().length > 0 && clock.monotonicMs() < deadline);
    const left = enrolment.all().length;
    if (left > 0) log.warn("pods_left_in_a_hurry", { pods: left, afterMs: leaveMs });
    const unloaded = await native.call("programs.unload", {}, 30_000);
    if (!unloaded.ok) this.#problems.push(`${unloaded.error.code}: ${unloaded.error.message}`);
    if (this.#problems.length > 0) return this.#failed(this.#problems.join("; "));
    this.#state = "removed";
    log.warn("mesh_removed", { effect: "this node is not in the mesh any more; the agent waits for its end" });
  }

  #failed(problem: string): void {
    if (!this.#problems.includes(problem) && this.#problems.length === 0) this.#problems.push(problem);
    this.#state = "failed";
    this.#parts.log.error("mesh_not_removed", {
      problem,
      fix: "what is named is tried again when it is asked for again",
    });
  }

  /** At the very end of the process, when the mesh was removed: keys, caches and pins. What cannot go is told and no reason to stay. */
  async finish(): Promise<void> {
    if (this.#state !== "removed") return;
    const { config, log } = this.#parts;
    for (const folder of [config.runDir, config.cacheDir, config.pinDir]) {
      const problem = await removeFolder(folder, join(config.procDir, "1/root", folder));
      if (problem !== undefined) log.warn("folder_left", { folder, reason: problem });
    }
  }
}

/**
 * Removes a folder and all that is in it. In a container it is where a folder of the node is mounted, which cannot go: then it goes by its
 * name on the node itself.
 * @returns what is in the way
 */
async function removeFolder(folder: string, onNode: string): Promise<string | undefined> {
  try {
    for (const name of await readdir(folder)) await rm(join(folder, name), { recursive: true, force: true });
    await rmdir(folder).catch(() => rmdir(onNode));
    return undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOENT" ? undefined : messageOf(error);
  }
}
