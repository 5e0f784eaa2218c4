// What the source counts; the metrics behind it are the report's. Labels are kinds that we know.
import type { ReflectorMeter } from "../../../agent/kubernetes/meter.ts";

export interface KubernetesMeter {
  of(kind: string): ReflectorMeter;
  /** Objects in force of a kind, and those that are refused. */
  objects(kind: string, accepted: number, refused: number): void;
  /** From the first event of a batch to the snapshot that has it, seconds. */
  applied(seconds: number): void;
  /** A kind whose CRD is gone. */
  forget(kind: string): void;
}
