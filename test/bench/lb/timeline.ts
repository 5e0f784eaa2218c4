// What is to happen when, the earliest first: a binary heap. Things of the same time happen in the order in which they were added.
interface Entry<T> {
  readonly at: number;
  readonly turn: number;
  readonly what: T;
}

export class Timeline<T> {
  readonly #heap: Entry<T>[] = [];
  #turn = 0;

  add(at: number, what: T): void {
    const heap = this.#heap;
    const entry = { at, turn: this.#turn++, what };
    let i = heap.length;
    heap.push(entry);
    while (i > 0) {
      const up = (i - 1) >> 1;
      if (isBefore(heap[up] as Entry<T>, entry)) break;
      heap[i] = heap[up] as Entry<T>;
      i = up;
    }
    heap[i] = entry;
  }

  next(): { readonly at: number; readonly what: T } | undefined {
    const heap = this.#heap;
    const top = heap[0];
    const last = heap.pop();
    if (top === undefined || last === undefined || heap.length === 0) return top;
    let i = 0;
    for (;;) {
      let down = 2 * i + 1;
      if (down >= heap.length) break;
      if (down + 1 < heap.length && isBefore(heap[down + 1] as Entry<T>, heap[down] as Entry<T>)) down++;
      if (isBefore(last, heap[down] as Entry<T>)) break;
      heap[i] = heap[down] as Entry<T>;
      i = down;
    }
    heap[i] = last;
    return top;
  }
}

const isBefore = (a: Entry<unknown>, b: Entry<unknown>): boolean => a.at < b.at || (a.at === b.at && a.turn < b.turn);
