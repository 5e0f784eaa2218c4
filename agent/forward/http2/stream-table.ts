// The live streams of a connection by id. Ids only rise, so a Map is rebuilt again and again; here a stream hangs in the bucket of its
// id's low bits, and buckets hold one or two.
import type { Http2Stream } from "./stream.ts";

const buckets = 128;

export class StreamTable {
  size = 0;
  private readonly first: (Http2Stream | null)[] = new Array(buckets).fill(null);

  get(id: number): Http2Stream | undefined {
    let each = this.first[(id >> 1) & (buckets - 1)] as Http2Stream | null;
    while (each !== null && each.id !== id) each = each.chained;
    return each ?? undefined;
  }

  add(stream: Http2Stream): void {
    const place = (stream.id >> 1) & (buckets - 1);
    stream.chained = this.first[place] as Http2Stream | null;
    this.first[place] = stream;
    this.size++;
  }

  delete(stream: Http2Stream): void {
    const place = (stream.id >> 1) & (buckets - 1);
    let each = this.first[place] as Http2Stream | null;
    if (each === stream) this.first[place] = stream.chained;
    else {
      while (each !== null && each.chained !== stream) each = each.chained;
      if (each === null) return;
      each.chained = stream.chained;
    }
    stream.chained = null;
    this.size--;
  }

  /** All of them now, oldest first. */
  values(): Http2Stream[] {
    const all: Http2Stream[] = [];
    for (const head of this.first) {
      for (let each = head; each !== null; each = each.chained) all.push(each);
    }
    return all.sort((a, b) => a.id - b.id);
  }

  clear(): void {
    for (const stream of this.values()) stream.chained = null;
    this.first.fill(null);
    this.size = 0;
  }
}
