// Where the agent learns which pods its node has: one seam, with a folder of records (the lab) or the API server behind it.
import type { Result } from "../base/result.ts";
import type { PodRecord } from "./pod-record.ts";

export interface PodsRead {
  readonly records: readonly PodRecord[];
  /** `file`: the record's file, or the pod. */
  readonly problems: readonly { readonly file: string; readonly message: string }[];
}

/** What the container runtime says of a pod whose network it has just made (CNI ADD). */
export interface ToldPod {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  /** Path of the network namespace, as the runtime names it. */
  readonly netns: string;
  readonly ips: readonly string[];
}

export interface PodSource {
  /** Calls `changed` after whatever may concern this node's pods, from now until the returned function is called. */
  watch(changed: () => void): () => void;
  /** All pods of the node whose network is there. Never throws. */
  read(): Promise<PodsRead>;
  /** Why `read` does not know all pods yet, for people; undefined when it does. */
  missing(): string | undefined;
  /**
   * The record of a pod that the runtime tells of, before the API has said anything about it; from now on `read` has it too, until it ends.
   * The error says what is missing: the runtime should try again.
   */
  told(pod: ToldPod): Promise<Result<PodRecord, string>>;
  /** The runtime takes the pod's network down (CNI DEL): `read` does not have it any more. */
  left(uid: string): void;
}
