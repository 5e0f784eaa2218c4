// A table of a fixed size in shared memory, keyed by hashes, for counters that all threads of the process have in common (DP-25).
//
//   set 0: | slot | slot | ... 8 slots |     slot: | tag | hash | the user's words ... |
//   set 1: | ...                       |     tag 0: empty; tag -1: just being taken over
//
// A key may stand in any slot of its set. A slot that is in use is never taken from its key, so a flood of new keys takes away no
// counter of another; whoever finds its set full is told, and counts elsewhere.

const ways = 8;
const head = 2;
const busy = -1;
/** Another thread takes a slot over in some hundred nanoseconds; one that died meanwhile leaves it taken. */
const maxSpins = 1_000;
const maxTries = 4;

export class SharedTable {
  /** Everything, as 32-bit words; a slot's own begin where `locate` says. */
  readonly words: Int32Array;
  readonly #stride: number;
  readonly #mask: number;

  /** How many bytes a table of at least `slots` slots takes, each with `own` words. */
  static bytes(slots: number, own: number): number {
    return setsFor(slots) * ways * (own + head) * 4;
  }

  /** `buffer`: of the size that `bytes` says for the same numbers; zeros at first. */
  constructor(buffer: SharedArrayBuffer, slots: number, own: number) {
    this.words = new Int32Array(buffer);
    this.#stride = own + head;
    this.#mask = setsFor(slots) - 1;
  }

  get slots(): number {
    return (this.#mask + 1) * ways;
  }

  /**
   * Index of the first own word of a key's slot; a key that has none gets one, with zeros. -1: every slot of its set is in use.
   * `isFree(at)` tells whether what a slot counted may be forgotten.
   */
  locate(high: number, low: number, isFree: (at: number) => boolean): number {
    const tag = tagOf(high);
    const first = (low & this.#mask) * ways * this.#stride;
    for (let attempt = 0; attempt < maxTries; attempt++) {
      const found = this.#find(first, tag, low);
      if (found >= 0) return found;
      let taken = this.#take(first, tag, low, isNever);
      if (taken === -1) taken = this.#take(first, tag, low, isFree);
      if (taken !== retry) return taken;
    }
    return -1;
  }

  /** As `locate`, of a key that has a slot already; -1: it has none. */
  find(high: number, low: number): number {
    return this.#find((low & this.#mask) * ways * this.#stride, tagOf(high), low);
  }

  /** Calls `see` with the first own word of every slot in use. */
  each(see: (at: number) => void): void {
    for (let at = 0; at < this.slots * this.#stride; at += this.#stride) {
      const tag = Atomics.load(this.words, at);
      if (tag !== 0 && tag !== busy) see(at + head);
    }
  }

  #find(first: number, tag: number, low: number): number {
    const { words } = this;
    for (let way = 0; way < ways; way++) {
      const at = first + way * this.#stride;
      if (Atomics.load(words, at) === tag && words[at + 1] === low) return at + head;
    }
    return -1;
  }

  #take(first: number, tag: number, low: number, isFree: (at: number) => boolean): number {
    const { words } = this;
    for (let way = 0; way < ways; way++) {
      const at = first + way * this.#stride;
      const old = Atomics.load(words, at);
      if (old === busy) {
        // It may be for this very key: look again once it is done.
        for (let spin = 0; spin < maxSpins; spin++) if (Atomics.load(words, at) !== busy) return retry;
        continue;
      }
      if (old !== 0 && !isFree(at + head)) continue;
      if (Atomics.compareExchange(words, at, old, busy) !== old) return retry;
      words.fill(0, at + head, at + this.#stride);
      words[at + 1] = low;
      Atomics.store(words, at, tag);
      return at + head;
    }
    return -1;
  }
}

const retry = -2;
const isNever = (): boolean => false;

function setsFor(slots: number): number {
  let sets = 1;
  while (sets * ways < slots) sets *= 2;
  return sets;
}

const tagOf = (high: number): number => (high === 0 || high === busy ? 1 : high | 0);
