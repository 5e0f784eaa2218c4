// What a field is by its name, and whether name and value are allowed (RFC 9113 §8.2, §8.3). Kinds are small integers: the HPACK
// table keeps them beside each entry, so that an indexed field is never looked at again.

export const kind = {
  regular: 0,
  method: 1,
  scheme: 2,
  authority: 3,
  path: 4,
  protocol: 5,
  status: 6,
  /** Speaks of the connection (§8.2.2): makes a message malformed. */
  hop: 7,
  te: 8,
  contentLength: 9,
  host: 10,
  badName: 11,
  badValue: 12,
} as const;

const known = new Map<string, number>([
  [":method", kind.method],
  [":scheme", kind.scheme],
  [":authority", kind.authority],
  [":path", kind.path],
  [":protocol", kind.protocol],
  [":status", kind.status],
  ["connection", kind.hop],
  ["proxy-connection", kind.hop],
  ["keep-alive", kind.hop],
  ["transfer-encoding", kind.hop],
  ["upgrade", kind.hop],
  ["te", kind.te],
  ["content-length", kind.contentLength],
  ["host", kind.host],
]);

/** 1: may stand in a field name of HTTP/2 (a token without capitals). */
const nameBytes = new Uint8Array(256);
for (const c of "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz") nameBytes[c.charCodeAt(0)] = 1;

export function kindOf(name: string): number {
  const found = known.get(name);
  if (found !== undefined) return found;
  if (name.length === 0) return kind.badName;
  for (let i = 0; i < name.length; i++) if (nameBytes[name.charCodeAt(i)] !== 1) return kind.badName;
  return kind.regular;
}

/** No control character but tab within, no white space at either end: nothing that HTTP/1.1 would read otherwise. */
export function isValue(value: string): boolean {
  const length = value.length;
  if (length === 0) return true;
  const first = value.charCodeAt(0);
  const last = value.charCodeAt(length - 1);
  if (first === 32 || first === 9 || last === 32 || last === 9) return false;
  for (let i = 0; i < length; i++) {
    const c = value.charCodeAt(i);
    if ((c < 32 && c !== 9) || c === 127) return false;
  }
  return true;
}

/** A token (RFC 9110 §5.6.2), for methods. */
export function isToken(text: string): boolean {
  if (text.length === 0) return false;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (nameBytes[c] !== 1 && !(c >= 65 && c <= 90)) return false;
  }
  return true;
}

/** Path and query without white space, control characters and fragment; bytes above 127 pass, as they do in HTTP/1.1. */
export function isPath(path: string): boolean {
  if (path.charCodeAt(0) !== 47) return false;
  for (let i = 1; i < path.length; i++) {
    const c = path.charCodeAt(i);
    if (c <= 32 || c === 127 || c === 35) return false;
  }
  return true;
}

/** Host and port: no userinfo (§8.3.1), nothing that begins a path, a query or another field. */
export function isAuthority(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    // "@", "/", "?", "#", "\", "," and everything that is not printable ASCII.
    if (c <= 32 || c >= 127 || c === 64 || c === 47 || c === 63 || c === 35 || c === 92 || c === 44) return false;
  }
  return true;
}

/** Digits alone, up to what a number holds exactly; else -1. */
export function parseLength(text: string): number {
  if (text.length === 0 || text.length > 16) return -1;
  let n = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i) - 48;
    if (c < 0 || c > 9) return -1;
    n = n * 10 + c;
  }
  return n <= Number.MAX_SAFE_INTEGER ? n : -1;
}
