// Lists and watch events of the API server as JSON -> what they say. Nothing of them is believed before it has this shape.
import { type ApiFault, faultOf, faultOfEvent } from "./fault.ts";

/** An object as the server sends it; only what is needed to mirror is known of it. */
export interface RawObject extends Readonly<Record<string, unknown>> {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid?: string;
    readonly resourceVersion?: string;
  } & Readonly<Record<string, unknown>>;
}

export interface Page {
  readonly items: readonly RawObject[];
  readonly version: string;
  readonly next: string;
}
/** undefined when it is no list, or one of its items no object with a name. */
export function readPage(value: unknown): Page | undefined {
  if (!isRecord(value) || !isRecord(value.metadata)) return undefined;
  const { resourceVersion, continue: next } = value.metadata;
  // Go writes an empty list as null.
  const items: unknown = value.items ?? [];
  if (!Array.isArray(items) || typeof resourceVersion !== "string" || resourceVersion === "") return undefined;
  return items.every(isObject)
    ? { items, version: resourceVersion, next: typeof next === "string" ? next : "" }
    : undefined;
}

export type WatchEvent =
  | { readonly kind: "put" | "remove"; readonly object: RawObject; readonly version: string }
  | { readonly kind: "bookmark"; readonly version: string }
  /** `error`: the server's own; after either nothing more can be believed of this watch. */
  | { readonly kind: "error" | "garbage"; readonly fault: ApiFault };

/** One line of a watch. Never throws. */
export function readEvent(text: string): WatchEvent {
  const garbage = (message: string): WatchEvent => ({ kind: "garbage", fault: faultOf("garbage", message) });
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return garbage("a line of the watch is not JSON");
  }
  if (!isRecord(value)) return garbage("a line of the watch is not an event");
  const { type, object } = value;
  if (type === "ERROR") return { kind: "error", fault: faultOfEvent(object) };
  const metadata = isRecord(object) && isRecord(object.metadata) ? object.metadata : {};
  const version = typeof metadata.resourceVersion === "string" ? metadata.resourceVersion : "";
  if (type === "BOOKMARK")
    return version === "" ? garbage("a bookmark names no version") : { kind: "bookmark", version };
  if (type !== "ADDED" && type !== "MODIFIED" && type !== "DELETED")
    return garbage("an event of the watch has no known type");
  if (!isObject(object) || version === "") return garbage("an event of the watch names no object");
  return { kind: type === "DELETED" ? "remove" : "put", object, version };
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isObject = (value: unknown): value is RawObject =>
  isRecord(value) &&
  isRecord(value.metadata) &&
  typeof value.metadata.name === "string" &&
  value.metadata.name !== "" &&
  (value.metadata.namespace === undefined || typeof value.metadata.namespace === "string");

/** metav1.MicroTime: exactly six digits after the second. */
export const microTime = (ms: number): string => new Date(ms).toISOString().replace("Z", "000Z");
