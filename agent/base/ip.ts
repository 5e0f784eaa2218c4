// IP addresses as 16 bytes (IPv4 mapped into ::ffff:0:0/96) and CIDR blocks over them. Pure; used on both sides of the wire.

/** 16 bytes, network order. Two addresses are the same exactly when their bytes are. */
export type IpBytes = Uint8Array;

export interface Cidr {
  readonly network: IpBytes;
  /** Prefix length over the 128 bits, so 10.0.0.0/8 has 104. */
  readonly prefix: number;
  readonly family: 4 | 6;
}

/** Parses dotted-quad IPv4 (no leading zeros: octal readings differ between programs) or RFC 4291 IPv6 without zone. */
export function parseIp(text: string): IpBytes | undefined {
  if (text.length > 45) return undefined;
  const bytes = new Uint8Array(16);
  if (!text.includes(":")) {
    const v4 = parseV4(text);
    if (v4 === undefined) return undefined;
    bytes[10] = 0xff;
    bytes[11] = 0xff;
    bytes.set(v4, 12);
    return bytes;
  }
  const groups = expandGroups(text);
  if (groups === undefined) return undefined;
  for (let i = 0; i < 8; i++) {
    const group = groups[i] ?? 0;
    bytes[2 * i] = group >> 8;
    bytes[2 * i + 1] = group & 0xff;
  }
  return bytes;
}

function parseV4(text: string): readonly number[] | undefined {
  const parts = text.split(".");
  if (parts.length !== 4) return undefined;
  const octets: number[] = [];
  for (const part of parts) {
    if (!/^(0|[1-9][0-9]{0,2})$/.test(part)) return undefined;
    const octet = Number(part);
    if (octet > 255) return undefined;
    octets.push(octet);
  }
  return octets;
}

/** The eight 16-bit groups of an IPv6 text, "::" and a trailing dotted quad resolved. */
function expandGroups(text: string): readonly number[] | undefined {
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const head = parseGroups(halves[0] ?? "", halves.length === 1);
  const tail = halves.length === 2 ? parseGroups(halves[1] ?? "", true) : [];
  if (head === undefined || tail === undefined) return undefined;
  const missing = 8 - head.length - tail.length;
  if (halves.length === 2 ? missing < 1 : missing !== 0) return undefined;
  return [...head, ...new Array<number>(missing).fill(0), ...tail];
}

function parseGroups(text: string, mayEndInV4: boolean): readonly number[] | undefined {
  if (text === "") return [];
  const groups: number[] = [];
  const parts = text.split(":");
  for (const [i, part] of parts.entries()) {
    if (part.includes(".")) {
      const v4 = mayEndInV4 && i === parts.length - 1 ? parseV4(part) : undefined;
      if (v4 === undefined) return undefined;
      const [a = 0, b = 0, c = 0, d = 0] = v4;
      groups.push((a << 8) | b, (c << 8) | d);
    } else {
      if (!/^[0-9a-fA-F]{1,4}$/.test(part)) return undefined;
      groups.push(Number.parseInt(part, 16));
    }
  }
  return groups;
}

export function isV4(bytes: IpBytes): boolean {
  for (let i = 0; i < 10; i++) if (bytes[i] !== 0) return false;
  return bytes[10] === 0xff && bytes[11] === 0xff;
}

/** Canonical text: dotted quad for mapped IPv4, RFC 5952 otherwise. */
export function formatIp(bytes: IpBytes): string {
  if (isV4(bytes)) return `${bytes[12]}.${bytes[13]}.${bytes[14]}.${bytes[15]}`;
  const groups = Array.from({ length: 8 }, (_, i) => ((bytes[2 * i] ?? 0) << 8) | (bytes[2 * i + 1] ?? 0));
  const run = longestZeroRun(groups);
  const hex = (part: readonly number[]) => part.map((g) => g.toString(16)).join(":");
  if (run.length < 2) return hex(groups);
  return `${hex(groups.slice(0, run.start))}::${hex(groups.slice(run.start + run.length))}`;
}

function longestZeroRun(groups: readonly number[]): { readonly start: number; readonly length: number } {
  let best = { start: 0, length: 0 };
  let start = -1;
  for (let i = 0; i <= groups.length; i++) {
    if (groups[i] === 0) {
      if (start < 0) start = i;
    } else if (start >= 0) {
      if (i - start > best.length) best = { start, length: i - start };
      start = -1;
    }
  }
  return best;
}

/** The one spelling of an address that everything compares and keys by. */
export function canonicalIp(text: string): string | undefined {
  const bytes = parseIp(text);
  const canonical = bytes === undefined ? undefined : formatIp(bytes);
  // Most texts are canonical already: who keeps the address beside its text then keeps one string, not two.
  return canonical === text ? text : canonical;
}

/** Parses "10.0.0.0/8", "fd00::/8" or a single address (a block of one). Host bits are cleared. */
export function parseCidr(text: string): Cidr | undefined {
  const slash = text.indexOf("/");
  const address = parseIp(slash < 0 ? text : text.slice(0, slash));
  if (address === undefined) return undefined;
  // A mapped spelling ("::ffff:10.0.0.0/104") counts its bits over 128, a dotted one over 32.
  const dotted = !text.includes(":");
  const most = dotted ? 32 : 128;
  const tail = slash < 0 ? String(most) : text.slice(slash + 1);
  if (!/^(0|[1-9][0-9]{0,2})$/.test(tail) || Number(tail) > most) return undefined;
  const prefix = Number(tail) + (dotted ? 96 : 0);
  return { network: mask(address, prefix), prefix, family: isV4(address) ? 4 : 6 };
}

function mask(address: IpBytes, prefix: number): IpBytes {
  const out = new Uint8Array(16);
  for (let i = 0; i < 16; i++) {
    const bits = Math.max(0, Math.min(8, prefix - 8 * i));
    out[i] = (address[i] ?? 0) & ((0xff << (8 - bits)) & 0xff);
  }
  return out;
}

export function cidrContains(cidr: Cidr, address: IpBytes): boolean {
  const whole = cidr.prefix >> 3;
  for (let i = 0; i < whole; i++) if (cidr.network[i] !== address[i]) return false;
  const rest = cidr.prefix & 7;
  if (rest === 0) return true;
  const bits = (0xff << (8 - rest)) & 0xff;
  return ((cidr.network[whole] ?? 0) & bits) === ((address[whole] ?? 0) & bits);
}

export function formatCidr(cidr: Cidr): string {
  return `${formatIp(cidr.network)}/${cidr.family === 4 ? cidr.prefix - 96 : cidr.prefix}`;
}

/** "1.2.3.4:80" or "[fd00::1]:80". */
export function formatEndpoint(ip: string, port: number): string {
  return ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`;
}

/** "10.0.0.1:80" -> "10.0.0.1", "[fd00::1]:80" -> "fd00::1" */
export const hostOfEndpoint = (endpoint: string): string =>
  endpoint.slice(0, endpoint.lastIndexOf(":")).replace(/^\[(.*)\]$/, "$1");
