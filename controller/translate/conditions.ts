// What is said about an object: accepted or not, and warnings. Shown by status, decided by translate.
import type { Indexed } from "../index/cluster-index.ts";
import { type ObjectRef, type Origin, refOf } from "../sources/types.ts";

export type Reason =
  | "Accepted"
  | "NamespaceMissing"
  | "AddressTaken"
  | "AddressesExhausted"
  | "NoEndpoints"
  | "SelectsNothing"
  | "TargetMissing"
  | "NeedsHttp"
  | "NeedsToken"
  | "NotReady"
  | "Overruled"
  | "NotSupported"
  | "NameNotUsed"
  | "ServiceAccountMissing";

export interface Condition {
  readonly object: ObjectRef;
  readonly origin: Origin;
  readonly accepted: boolean;
  readonly reason: Reason;
  /** "" for a plain acceptance. */
  readonly message: string;
  readonly field: string;
  readonly fix: string;
  /** Resources that carry this object to agents: kind and name on the stream. */
  readonly resources: readonly { readonly kind: string; readonly name: string }[];
}
type Detail = Partial<Pick<Condition, "message" | "field" | "fix" | "resources">>;

export const accepted = (entry: Indexed, detail: Detail = {}, reason: Reason = "Accepted"): Condition =>
  make(entry, true, reason, detail);
export const refused = (entry: Indexed, reason: Reason, detail: Detail): Condition =>
  make(entry, false, reason, detail);

function make(entry: Indexed, isAccepted: boolean, reason: Reason, detail: Detail): Condition {
  return {
    object: refOf(entry.object),
    origin: entry.origin,
    accepted: isAccepted,
    reason,
    message: detail.message ?? "",
    field: detail.field ?? "",
    fix: detail.fix ?? "",
    resources: detail.resources ?? [],
  };
}
