// Values of metadata headers: cleaned, normalised, and checked for being what they are to name. Whatever is not is as good as missing. Pure.
import type { MeshKey } from "../api/enricher.ts";

const longest = 253;
const subdomain = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
const label = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;
const zone = /^[A-Za-z0-9]([-A-Za-z0-9._]{0,61}[A-Za-z0-9])?$/;
const traceId = /^[A-Za-z0-9._:-]{1,128}$/;
const traceparent = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$/;
const spiffe = /^spiffe:\/\/[a-z0-9._-]{1,255}(\/[A-Za-z0-9._-]+)+$/;

/** The value of a key as it may stand in `features.mesh`; undefined: the text is no such value. `header`: where it came from. */
export function meshValue(key: MeshKey, header: string, raw: string): string | undefined {
  if (raw.length > longest + 64) return undefined;
  const text = trimmed(raw);
  if (text === "" || text.length > longest) return undefined;
  switch (key) {
    case "trace_id":
      return header === "traceparent" ? traceOf(text) : matching(traceId, text);
    case "zone":
      return matching(zone, text);
    case "mesh_source":
      return spiffe.test(text) ? text : pairOf(text.toLowerCase());
    case "namespace":
    case "service":
      return matching(label, text.toLowerCase());
    case "workload":
    case "pod":
      return matching(subdomain, text.toLowerCase());
  }
}

/** White space of HTTP at the ends (RFC 9110 §5.6.3). */
function trimmed(text: string): string {
  let from = 0;
  let to = text.length;
  while (from < to && isSpace(text.charCodeAt(from))) from++;
  while (to > from && isSpace(text.charCodeAt(to - 1))) to--;
  return text.slice(from, to);
}
const isSpace = (code: number): boolean => code === 0x20 || code === 0x09;
const matching = (pattern: RegExp, text: string): string | undefined => (pattern.test(text) ? text : undefined);

/** All zeros is no trace id (W3C Trace Context §3.2.2.3). */
function traceOf(text: string): string | undefined {
  const id = traceparent.exec(text.toLowerCase())?.[1];
  return id === undefined || /^0+$/.test(id) ? undefined : id;
}
function pairOf(text: string): string | undefined {
  const [namespace = "", name = "", ...rest] = text.split("/");
  return rest.length === 0 && label.test(namespace) && subdomain.test(name) ? text : undefined;
}
