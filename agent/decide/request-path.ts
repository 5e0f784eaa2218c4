// A request's path as policies read it: Istio's normalisation, and the plainest reading that any backend could make of it. Pure.
import type { PathNormalization } from "../api/settings.ts";

/** What can make two readings of a path differ. */
const suspicious = /[%\\;]|\/\/|\/\.|^[^/]/;
/** Rounds of decoding for the plainest reading: a backend behind a gateway may decode twice. */
const maxRounds = 3;

/** The path of a request target, without query and fragment. */
export function pathOf(target: string): string {
  const query = target.indexOf("?");
  const path = query < 0 ? target : target.slice(0, query);
  const fragment = path.indexOf("#");
  return fragment < 0 ? path : path.slice(0, fragment);
}

/** Whether every mode and every backend reads this path the same: true of nearly all, and then nothing else is computed. */
export const isPlainPath = (path: string): boolean => !suspicious.test(path);

/**
 * Istio's "Authorization Policy Normalization": base decodes unreserved characters once, turns backslashes and resolves dot
 * segments (RFC 3986 §6.2.2); merge_slashes merges slashes after that; decode_and_merge_slashes decodes %2F and %5C before.
 */
export function normalizePath(path: string, mode: PathNormalization): string {
  if (mode === "none" || isPlainPath(path)) return path;
  let out = mode === "decode_and_merge_slashes" ? path.replace(/%2f/gi, "/").replace(/%5c/gi, "\\") : path;
  if (out.includes("%")) out = out.replace(/%(2d|2e|3[0-9]|[46][1-9a-f]|[57][0-9a]|5f|7e)/gi, decodeOne);
  out = withoutDots(out.replaceAll("\\", "/"));
  return mode === "base" ? out : out.replace(/\/{2,}/g, "/");
}

/**
 * The path with everything decoded, again and again, matrix parameters (";v=1") left out, slashes merged and dot segments resolved:
 * if a DENY covers this, some backend may serve it, whatever the client wrote.
 */
export function plainestReading(path: string): string {
  if (isPlainPath(path)) return path;
  const out = decodeAll(path)
    .replaceAll("\\", "/")
    .replace(/;[^/]*/g, "");
  return withoutDots(out.replace(/\/{2,}/g, "/")).replace(/\/{2,}/g, "/");
}

function decodeAll(path: string): string {
  let out = path;
  for (let round = 0; round < maxRounds && out.includes("%"); round++) {
    const decoded = out.replace(/%([0-9a-f]{2})/gi, decodeOne);
    if (decoded === out) break;
    out = decoded;
  }
  return out;
}

const decodeOne = (encoded: string): string => String.fromCharCode(Number.parseInt(encoded.slice(1), 16));

/** Whether a path's plainest reading has other segments than the path itself, each decoded: then nobody knows which resource is meant. */
export function isAmbiguous(path: string, plainest: string): boolean {
  if (path === plainest) return false;
  return path.includes("%00") || slashesIn(path) !== slashesIn(plainest) || decodeAll(path) !== plainest;
}

function slashesIn(path: string): number {
  let count = 0;
  for (let i = 0; i < path.length; i++) if (path.charCodeAt(i) === 0x2f) count++;
  return count;
}

/** RFC 3986 §5.2.4; a path that climbs above the root stays at the root. */
function withoutDots(path: string): string {
  if (!path.includes("/.")) return path;
  const out: string[] = [];
  const segments = path.split("/");
  for (const [i, segment] of segments.entries()) {
    const isLast = i === segments.length - 1;
    if (segment === ".") {
      if (isLast) out.push("");
    } else if (segment === "..") {
      if (out.length > 1) out.pop();
      if (isLast) out.push("");
    } else {
      out.push(segment);
    }
  }
  return out.join("/");
}
