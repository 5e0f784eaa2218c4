// What a reflector counts; the metrics behind it are the report's. Labels are reasons of these lists.

/** Why a collection was listed. */
export type ListReason = "start" | "expired" | "garbage" | "failures" | "resync" | "asked" | "stopped";
/** Why a watch ended: `refused` is any other status than those that have a name here. */
export type WatchEndReason = "closed" | "idle" | "broken" | "expired" | "throttled" | "refused" | "garbage" | "stopped";

export interface ReflectorMeter {
  listed(reason: ListReason): void;
  watchEnded(reason: WatchEndReason): void;
  event(): void;
  /** A request that failed, by a label of faultLabel. */
  failed(label: string): void;
  synced(isSynced: boolean): void;
  /** A sign of life of the server. */
  contact(): void;
}
