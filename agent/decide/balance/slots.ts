// Gives out places in EndpointStats by name: one name has one place for as long as somebody holds it.

export interface SlotBook {
  /** -1: all are taken. `decayMs`: for a slot that is new. */
  take(name: string, decayMs: number): number;
  /** Once for each take. */
  give(name: string): void;
}
