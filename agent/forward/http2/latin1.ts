// Bytes to latin1 strings and back by the shortest way: Buffer has these methods without naming them in its types.

interface Latin1 {
  latin1Slice(start: number, end: number): string;
  latin1Write(text: string, at: number, length: number): number;
}

export const latin1Slice = (from: Buffer, start: number, end: number): string =>
  (from as unknown as Latin1).latin1Slice(start, end);

/** Writes all of `text`, whose characters are below 256; the caller has made room. */
export function latin1Write(to: Buffer, text: string, at: number): number {
  const length = text.length;
  // A call into the runtime costs more than a few bytes written here.
  if (length > 24) (to as unknown as Latin1).latin1Write(text, at, length);
  else for (let i = 0; i < length; i++) to[at + i] = text.charCodeAt(i);
  return at + length;
}
