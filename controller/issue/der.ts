// DER (ITU-T X.690 §10), as far as certificate requests are read and leaf certificates written with it: libraries for all of ASN.1 take ten times
// as long as the signature. What is not DER is refused: indefinite lengths, lengths that could be shorter, bytes that are left over.

export const tag = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  oid: 0x06,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const;
/** [n] of a constructed or plain value (context class). */
export const context = (n: number, constructed: boolean): number => (constructed ? 0xa0 : 0x80) | n;

export class DerError extends Error {}

/** A place in bytes: most elements of a request are only looked past, and a view of each would be most of the garbage of reading one. */
export class Element {
  readonly tag: number;
  readonly #bytes: Buffer;
  readonly #at: number;
  readonly #start: number;
  /** Where the next one begins. */
  readonly end: number;

  constructor(bytes: Buffer, at: number, start: number, end: number) {
    this.tag = bytes[at] ?? 0;
    this.#bytes = bytes;
    this.#at = at;
    this.#start = start;
    this.end = end;
  }
  /** The contents alone. */
  get value(): Buffer {
    return this.#bytes.subarray(this.#start, this.end);
  }
  /** With tag and length. */
  get whole(): Buffer {
    return this.#bytes.subarray(this.#at, this.end);
  }
}

/** Elements one after the other, to the end of `bytes`. Throws DerError. */
export function elements(bytes: Buffer): readonly Element[] {
  const found: Element[] = [];
  for (let at = 0; at < bytes.length; ) {
    const element = elementAt(bytes, at);
    found.push(element);
    at = element.end;
  }
  return found;
}
/** The only element of `bytes`. Throws DerError. */
export function only(bytes: Buffer, wanted: number): Element {
  const [first, ...more] = elements(bytes);
  if (first === undefined || more.length > 0) throw new DerError("bytes are missing or left over");
  return expect(first, wanted);
}
export function expect(element: Element | undefined, wanted: number): Element {
  if (element?.tag !== wanted) throw new DerError(`tag ${element?.tag ?? "none"} where ${wanted} belongs`);
  return element;
}

function elementAt(bytes: Buffer, at: number): Element {
  const first = bytes[at] ?? 0;
  if ((first & 0x1f) === 0x1f) throw new DerError("a tag of several bytes");
  const short = bytes[at + 1];
  if (short === undefined) throw new DerError("a length is missing");
  let length = short;
  let start = at + 2;
  if (short >= 0x80) {
    const size = short & 0x7f;
    if (size === 0 || size > 3 || start + size > bytes.length) throw new DerError("a length that is none");
    length = bytes.readUIntBE(start, size);
    start += size;
    if (length < 0x80 || length < 2 ** (8 * (size - 1))) throw new DerError("a length that could be shorter");
  }
  const end = start + length;
  if (end > bytes.length) throw new DerError("a length beyond the end");
  return new Element(bytes, at, start, end);
}

/** Contents of a BIT STRING of whole bytes. Throws DerError. */
export function bits(element: Element): Buffer {
  if (element.tag !== tag.bitString || element.value[0] !== 0) throw new DerError("no bit string of whole bytes");
  return element.value.subarray(1);
}

export function write(first: number, ...parts: readonly Uint8Array[]): Buffer {
  let length = 0;
  for (const part of parts) length += part.length;
  // How many bytes the length takes besides the one that says so.
  const size = length < 0x80 ? 0 : length < 0x100 ? 1 : length < 0x1_0000 ? 2 : 3;
  const bytes = Buffer.allocUnsafe(2 + size + length);
  bytes[0] = first;
  bytes[1] = size === 0 ? length : 0x80 | size;
  if (size > 0) bytes.writeUIntBE(length, 2, size);
  let at = 2 + size;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
export const sequence = (...parts: readonly Uint8Array[]): Buffer => write(tag.sequence, ...parts);
export const octets = (...parts: readonly Uint8Array[]): Buffer => write(tag.octetString, ...parts);
export const bitString = (bytes: Uint8Array): Buffer => write(tag.bitString, Buffer.from([0]), bytes);

/** "1.2.840.10045.4.3.2" -> its element. */
export function oid(text: string): Buffer {
  const [a = 0, b = 0, ...rest] = text.split(".").map(Number);
  const bytes: number[] = [];
  for (const part of [a * 40 + b, ...rest]) {
    const groups = [part & 0x7f];
    for (let left = Math.floor(part / 128); left > 0; left = Math.floor(left / 128))
      groups.unshift((left & 0x7f) | 0x80);
    bytes.push(...groups);
  }
  return write(tag.oid, Buffer.from(bytes));
}

const [zero = 0, zulu = 0] = Buffer.from("0Z");
/** RFC 5280 §4.1.2.5: UTCTime up to 2049, GeneralizedTime from then on; whole seconds. */
export function time(ms: number): Buffer {
  const date = new Date(ms);
  const year = date.getUTCFullYear();
  const rest = [
    date.getUTCMonth() + 1,
    date.getUTCDate(),
    date.getUTCHours(),
    date.getUTCMinutes(),
    date.getUTCSeconds(),
  ];
  const pairs = year < 2050 ? [year % 100, ...rest] : [Math.floor(year / 100), year % 100, ...rest];
  const text = Buffer.allocUnsafe(pairs.length * 2 + 1);
  for (const [i, pair] of pairs.entries()) {
    text[i * 2] = zero + Math.floor(pair / 10);
    text[i * 2 + 1] = zero + (pair % 10);
  }
  text[pairs.length * 2] = zulu;
  return write(year < 2050 ? tag.utcTime : tag.generalizedTime, text);
}
