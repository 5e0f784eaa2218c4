// What a fuzz target of TypeScript is.

export interface FuzzTarget {
  readonly name: string;
  /** Longest input worth making. */
  readonly maxBytes: number;
  /** An input that takes longer is a finding: a peer could hold the event loop with it. Default 1000. */
  readonly slowMs?: number;
  /** Throws on a breach; otherwise a short name of what the parser made of the input, by which new behaviour is known. */
  readonly run: (input: Buffer) => Promise<string> | string;
  /** Ends what the first input started. */
  readonly close?: () => Promise<void>;
}

/** A refusal without what differs from input to input, so that it names a place in the parser. */
export const shape = (text: string): string =>
  text
    .replace(/\d+/g, "n")
    .replace(/'[^']*'|"[^"]*"/g, "s")
    .slice(0, 60);
