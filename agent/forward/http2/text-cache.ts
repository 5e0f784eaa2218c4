// Texts that a peer sends again and again as literals, each made once: without it every answer of a server that uses no table costs a
// Huffman decoding and a new string for each of its fields.

const places = 64;
const mostBytes = 64;

/** Direct-mapped by a hash of the coded bytes; a text that finds its place taken takes it over. */
export class TextCache {
  private readonly bytes = new Uint8Array(places * mostBytes);
  /** Length and coding (Huffman or not) of what lies at a place; -1: nothing. */
  private readonly shapes = new Int32Array(places).fill(-1);
  private readonly texts: string[] = new Array(places).fill("");
  /** The place that `find` looked at; `keep` fills it. */
  private place = 0;

  /** The text of bytes `start` to `end`, or undefined if it has to be made. */
  find(from: Uint8Array, start: number, end: number, coded: boolean): string | undefined {
    let hash = coded ? 7 : 0;
    for (let i = start; i < end; i++) hash = (Math.imul(hash, 31) + (from[i] as number)) | 0;
    const place = (hash ^ (hash >>> 6) ^ (hash >>> 12)) & (places - 1);
    this.place = place;
    const length = end - start;
    if (this.shapes[place] !== (coded ? length + mostBytes + 1 : length)) return undefined;
    const bytes = this.bytes;
    for (let i = 0, at = place * mostBytes; i < length; i++) {
      if (bytes[at + i] !== from[start + i]) return undefined;
    }
    return this.texts[place];
  }

  /** After a `find` of these bytes in vain. */
  keep(from: Uint8Array, start: number, end: number, coded: boolean, text: string): void {
    const place = this.place;
    const length = end - start;
    for (let i = 0, at = place * mostBytes; i < length; i++) this.bytes[at + i] = from[start + i] as number;
    this.shapes[place] = coded ? length + mostBytes + 1 : length;
    this.texts[place] = text;
  }

  fits(length: number): boolean {
    return length <= mostBytes;
  }
}
