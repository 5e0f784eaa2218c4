// Classes of bytes in HTTP/1.1 (RFC 9110 §5.5 and §5.6.2, RFC 9112 §3, RFC 3986 §3.2.2) as tables, and names compared without strings.

export const HT = 9;
export const LF = 10;
export const CR = 13;
export const SP = 32;
export const COLON = 58;

/** tchar. */
export const TOKEN = 1;
/** What may stand in a field's value: HTAB, SP, VCHAR, obs-text. */
export const VALUE = 2;
/** What may stand in a request target: visible but "#", and obs-text, which real clients send unencoded. */
export const TARGET = 4;
/** What may stand in a host name or port: RFC 3986 without the comma, which is what two Host fields joined would have between them. */
export const HOST = 8;
export const DIGIT = 16;

export const classOf = new Uint8Array(256);
export const lower = new Uint8Array(256);
/** Value of a hexadecimal digit, or -1. */
export const hexOf = new Int8Array(256).fill(-1);

for (let c = 0; c < 256; c++) {
  const text = String.fromCharCode(c);
  let bits = 0;
  if (/[!#$%&'*+\-.^_`|~0-9A-Za-z]/.test(text)) bits |= TOKEN;
  if (c === HT || (c >= SP && c !== 127)) bits |= VALUE;
  if (c > SP && c !== 127 && text !== "#") bits |= TARGET;
  if (/[-A-Za-z0-9._~%!$&'()*+;=]/.test(text)) bits |= HOST;
  if (/[0-9]/.test(text)) bits |= DIGIT;
  classOf[c] = bits;
  lower[c] = c >= 65 && c <= 90 ? c | 32 : c;
  if (/[0-9a-fA-F]/.test(text)) hexOf[c] = Number.parseInt(text, 16);
}

/** Whether every byte of `buf[from..to)` has one of the classes. */
export function allOf(buf: Uint8Array, from: number, to: number, classes: number): boolean {
  for (let p = from; p < to; p++) if (((classOf[buf[p] as number] as number) & classes) === 0) return false;
  return true;
}

/** Whether `buf[from..to)` is `name` (lower case, latin1), without regard to case. */
export function sameName(buf: Uint8Array, from: number, to: number, name: string): boolean {
  const length = to - from;
  if (length !== name.length) return false;
  for (let i = 0; i < length; i++) if (lower[buf[from + i] as number] !== name.charCodeAt(i)) return false;
  return true;
}

// Fields that the codec itself acts on. ORDINARY is everything else.
export const ORDINARY = 0;
export const HOST_FIELD = 1;
export const CONTENT_LENGTH = 2;
export const TRANSFER_ENCODING = 3;
export const CONNECTION = 4;
export const UPGRADE = 5;
export const TE = 6;
export const EXPECT = 7;
/** Concerns one connection only and is always dropped: Keep-Alive, Proxy-Connection, HTTP2-Settings. */
export const HOP = 8;
/** Named by Connection. */
export const NAMED = 9;

/** The field that `buf[from..to)` names. Its length decides first, so that most names cost one comparison. */
export function fieldKind(buf: Uint8Array, from: number, to: number): number {
  switch (to - from) {
    case 2:
      return sameName(buf, from, to, "te") ? TE : ORDINARY;
    case 4:
      return sameName(buf, from, to, "host") ? HOST_FIELD : ORDINARY;
    case 6:
      return sameName(buf, from, to, "expect") ? EXPECT : ORDINARY;
    case 7:
      return sameName(buf, from, to, "upgrade") ? UPGRADE : ORDINARY;
    case 10:
      if (sameName(buf, from, to, "connection")) return CONNECTION;
      return sameName(buf, from, to, "keep-alive") ? HOP : ORDINARY;
    case 14:
      if (sameName(buf, from, to, "content-length")) return CONTENT_LENGTH;
      return sameName(buf, from, to, "http2-settings") ? HOP : ORDINARY;
    case 16:
      return sameName(buf, from, to, "proxy-connection") ? HOP : ORDINARY;
    case 17:
      return sameName(buf, from, to, "transfer-encoding") ? TRANSFER_ENCODING : ORDINARY;
    default:
      return ORDINARY;
  }
}

/** The same of a name in lower case. */
export function kindOfName(name: string): number {
  const bytes = Buffer.from(name, "latin1");
  return fieldKind(bytes, 0, bytes.length);
}
