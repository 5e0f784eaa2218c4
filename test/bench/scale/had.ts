// What a played agent has of one type: a number for each name that any agent of the process has met, so that a hundred agents with ten thousand
// resources each are no garbage collector's work.

/** Strings of the process by their numbers, from 1. */
class Strings {
  readonly #numbers = new Map<string, number>();
  readonly #texts: string[] = [""];

  numberOf(text: string): number {
    let number = this.#numbers.get(text);
    if (number === undefined) {
      number = this.#texts.push(text) - 1;
      this.#numbers.set(text, number);
    }
    return number;
  }
  text(number: number): string {
    return this.#texts[number] ?? "";
  }
}
const names = new Strings();
const versions = new Strings();

export class Had {
  /** The version's number by the name's, 0 for none. */
  #versions = new Int32Array(1_024);
  #size = 0;
  #sum = 0;

  get size(): number {
    return this.#size;
  }
  /** Equal for equal sets, and for others by chance once in 2^32. */
  get mark(): string {
    return `${this.#size} ${this.#sum}`;
  }
  set(name: string, version: string): void {
    this.#put(names.numberOf(name), versions.numberOf(version));
  }
  delete(name: string): void {
    this.#put(names.numberOf(name), 0);
  }
  /** Name and version of each. */
  versions(): ReadonlyMap<string, string> {
    const all = new Map<string, string>();
    for (const [name, version] of this.#versions.entries())
      if (version !== 0) all.set(names.text(name), versions.text(version));
    return all;
  }

  #put(name: number, version: number): void {
    if (name >= this.#versions.length) {
      const larger = new Int32Array(name * 2);
      larger.set(this.#versions);
      this.#versions = larger;
    }
    const before = this.#versions[name] ?? 0;
    this.#versions[name] = version;
    this.#size += Number(version !== 0) - Number(before !== 0);
    this.#sum ^= mixed(name, before) ^ mixed(name, version);
  }
}

/** Spreads both numbers over 32 bits; nothing for no version. */
function mixed(name: number, version: number): number {
  if (version === 0) return 0;
  let value = Math.imul(name, 0x9e37_79b1) ^ Math.imul(version, 0x85eb_ca6b);
  value = Math.imul(value ^ (value >>> 15), 0x2c1b_3c6d);
  return value ^ (value >>> 12);
}
