// Panic (DIS-6): where so few endpoints are left that those few would be overrun, what says that the others are ill is not heeded, and
// all are used. An open breaker still holds its endpoint back: it lets a probe through by itself.
import { type EndpointStats, gateBits } from "../decide/balance/endpoint-stats.ts";
import type { Member } from "./member.ts";

const healthBits = gateBits.outlier | gateBits.health;

export interface PanicChange {
  readonly isOn: boolean;
  readonly healthy: number;
  readonly endpoints: number;
}

export class Panic {
  /** Bits of gates that close them: one element, read with each pick. */
  readonly heeded: Uint8Array = Uint8Array.of(0xff);

  get isOn(): boolean {
    return this.heeded[0] !== 0xff;
  }

  /**
   * Counts anew. Weights play no part; an endpoint that has none gets nothing in any case.
   * @param percent below this share of healthy endpoints all are used; 0: never
   */
  review(members: readonly Member[], stats: EndpointStats, percent: number): PanicChange | undefined {
    let endpoints = 0;
    let healthy = 0;
    for (const { slot, weight } of members) {
      if (weight === 0) continue;
      endpoints++;
      if (((stats.gates[slot] as number) & healthBits) === 0) healthy++;
    }
    const isOn = healthy * 100 < percent * endpoints;
    if (isOn === this.isOn) return undefined;
    this.heeded[0] = isOn ? 0xff ^ healthBits : 0xff;
    return { isOn, healthy, endpoints };
  }
}
