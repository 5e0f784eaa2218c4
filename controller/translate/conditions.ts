// What is said about an object: accepted or not, and warnings. Shown by status, decided by translate.
import type { ServiceName } from "../../agent/api/names.ts";
import type { Scope } from "../../agent/api/policy.ts";
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
  | "FaultsOff"
  | "DryRun"
  | "Disabled"
  | "EnricherOff"
  | RouteReason
  | "ServiceAccountMissing";

/** Words of Gateway API's conditions Accepted and ResolvedRefs. */
export type RouteReason =
  | "NoMatchingParent"
  | "Conflicted"
  | "UnsupportedProtocol"
  | "UnsupportedValue"
  | "InvalidKind"
  | "BackendNotFound"
  | "RefNotPermitted";

/** metav1.Condition without its time, which is the writer's. */
export interface ApiCondition {
  readonly type: string;
  readonly status: "True" | "False" | "Unknown";
  readonly reason: string;
  readonly message: string;
  readonly observedGeneration: number;
}
/** Gateway API RouteStatus: one entry per parent that is ours. */
export interface RouteStatus {
  readonly parents: readonly {
    readonly parentRef: {
      readonly group: string;
      readonly kind: string;
      /** As the route has it. */
      readonly namespace?: string;
      readonly name: string;
      readonly sectionName?: string;
      readonly port?: number;
    };
    readonly controllerName: string;
    readonly conditions: readonly ApiCondition[];
  }[];
}
export interface PolicyStatus {
  readonly observedGeneration: number;
  /** "<namespace>/<name>" */
  readonly appliedToServices: readonly string[];
  readonly conditions: readonly ApiCondition[];
}

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
  /** The object's status as its own API words it. */
  readonly status?: RouteStatus | PolicyStatus;
  /** metadata.generation of what is in force. */
  readonly generation: number;
  /** The workloads whose nodes it has to reach; undefined: every node of the mesh. */
  readonly covered?: Covered;
}
/** What a policy of this scope, selector and targets has under it. */
export interface Covered {
  readonly namespace: string;
  readonly scope: Scope;
  readonly selector: Readonly<Record<string, string>>;
  readonly targets: readonly ServiceName[];
}
type Detail = Partial<Pick<Condition, "message" | "field" | "fix" | "resources" | "status">>;

export const accepted = (entry: Indexed, detail: Detail = {}, reason: Reason = "Accepted"): Condition =>
  make(entry, true, reason, detail);
/** Accepted, and told to be in dry run where the field `trial` says so. */
export const acceptedTrial = (entry: Indexed, detail: Detail, trial: string | undefined): Condition =>
  trial === undefined
    ? accepted(entry, detail)
    : accepted(
        entry,
        { ...detail, field: trial, message: dryRunMessage, fix: "remove the field to enforce it" },
        "DryRun",
      );
const dryRunMessage = "is in dry run: it decides nothing, and what it would change is noted and counted";
export const dryRunField = 'metadata.annotations["istio.io/dry-run"]';
export const isDryRun = (annotations: Readonly<Record<string, string>>): boolean =>
  annotations["istio.io/dry-run"] === "true";
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
    generation: entry.object.metadata.generation,
    ...(detail.status === undefined ? {} : { status: detail.status }),
  };
}
