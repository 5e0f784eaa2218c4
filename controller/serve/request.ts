// A request of the discovery stream, read from bytes. An agent that comes back names every version that it has, hundreds of kilobytes: those stay
// bytes until they are compared, since two hundred agents come back at once after a restart.
import { DeltaDiscoveryRequest } from "../../agent/api/discovery.gen.ts";

export type DiscoveryRequest = Omit<DeltaDiscoveryRequest, "node" | "initialResourceVersions"> & {
  readonly initial: InitialVersions;
};

/** Tags and wire types of protobuf; field numbers as in discovery.proto. */
const initialTag = 5 * 8 + 2;
const entryTags = { key: 1 * 8 + 2, value: 2 * 8 + 2 };
const lengthDelimited = 2;

/** Versions by name as an agent says that it has them. */
export class InitialVersions {
  readonly #entries: readonly Buffer[];

  /** `entries`: runs of the message's map entries, tags and lengths included, that `decodeRequest` has checked. */
  constructor(entries: readonly Buffer[]) {
    this.#entries = entries;
  }
  /** Whether it is the same in the same order. */
  equals(other: InitialVersions): boolean {
    const [mine, others] = [this.#entries, other.#entries];
    return mine.length === others.length && mine.every((run, i) => run.equals(others[i] as Buffer));
  }
  get isEmpty(): boolean {
    return this.#entries.length === 0;
  }
  /** In the order of the message; a name that is said twice comes twice. */
  forEach(take: (name: string, version: string) => void): void {
    for (const run of this.#entries) {
      const reader = new Reader(run);
      while (!reader.isAtEnd) {
        reader.varint();
        const end = reader.end();
        let [name, version] = ["", ""];
        while (reader.at < end) {
          const tag = reader.varint();
          if (tag === entryTags.key) name = reader.string(end);
          else if (tag === entryTags.value) version = reader.string(end);
          else reader.skip(tag, end);
        }
        take(name, version);
      }
    }
  }
}

/** @throws RangeError for bytes that are no such message */
export function decodeRequest(bytes: Buffer): DiscoveryRequest {
  const reader = new Reader(bytes);
  const runs: Buffer[] = [];
  const rest: Buffer[] = [];
  let [began, isInitial] = [0, false];
  const keep = (until: number): void => {
    if (until > began) (isInitial ? runs : rest).push(bytes.subarray(began, until));
    began = until;
  };
  // Neighbours of one kind are kept as one run.
  while (!reader.isAtEnd) {
    const at = reader.at;
    const tag = reader.varint();
    if ((tag === initialTag) !== isInitial) {
      keep(at);
      isInitial = tag === initialTag;
    }
    if (isInitial) checkEntry(reader);
    else reader.skip(tag, bytes.length);
  }
  keep(bytes.length);
  const { initialResourceVersions: _, node: __, ...others } = DeltaDiscoveryRequest.decode(Buffer.concat(rest));
  return { ...others, initial: new InitialVersions(runs) };
}

function checkEntry(reader: Reader): void {
  const end = reader.end();
  while (reader.at < end) reader.skip(reader.varint(), end);
}

/** Just enough of protobuf's wire format. */
class Reader {
  readonly #bytes: Buffer;
  at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }
  get isAtEnd(): boolean {
    return this.at >= this.#bytes.length;
  }
  /** Below 2^32; more is no tag and no length that a message can have. */
  varint(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.#bytes[this.at++];
      if (byte === undefined) throw new RangeError("the message is cut off");
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw new RangeError("a number is too long");
  }
  /** Reads a length; where what follows ends. */
  end(limit = this.#bytes.length): number {
    const length = this.varint();
    if (this.at + length > limit) throw new RangeError("the message is cut off");
    return this.at + length;
  }
  string(limit: number): string {
    const end = this.end(limit);
    const text = this.#bytes.toString("utf8", this.at, end);
    this.at = end;
    return text;
  }
  /** Fields that we do not know, too. Groups are not: nothing here ever had one. */
  skip(tag: number, limit: number): void {
    const type = tag & 7;
    if (type === lengthDelimited) this.at = this.end(limit);
    else if (type === 0) this.#skipVarint();
    else if (type === 1) this.at += 8;
    else if (type === 5) this.at += 4;
    else throw new RangeError(`wire type ${type} is not used`);
    if (this.at > limit) throw new RangeError("the message is cut off");
  }
  #skipVarint(): void {
    for (let n = 0; n < 10; n++) if ((this.#bytes[this.at++] ?? 0) < 0x80) return;
    throw new RangeError("a number is too long");
  }
}
