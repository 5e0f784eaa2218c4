// Where the controller's replicas are: each name that stands in the configuration is looked up to all of its addresses, again and again.
// Nothing waits for that, and without an answer the last ones stay: names are of no use while their server is away or slow.
import { lookup } from "node:dns/promises";
import { type Clock, every } from "../base/clock.ts";
import type { HostPort } from "../base/env.ts";
import { formatEndpoint, hostOfEndpoint, isV4, parseIp } from "../base/ip.ts";

/** All addresses of a name. Rejects where there are none. */
export type LookUp = (host: string) => Promise<readonly string[]>;

/** A replica that is new is known after so long. */
const againMs = 10_000;

/** As the system does: the host's file and search domains count. */
const systemLookUp: LookUp = async (host) => (await lookup(host, { all: true })).map(({ address }) => address);

export class ControllerAddresses {
  readonly #given: readonly HostPort[];
  readonly #clock: Clock;
  readonly #lookUp: LookUp;
  readonly #known = new Map<string, readonly string[]>();
  readonly #asking = new Set<string>();
  #stop: (() => void) | undefined;
  /** Which of all comes first: nodes begin at different ones. */
  #turn: number;
  /** The endpoint that comes first while it serves us, whatever its turn. */
  #serving = "";

  constructor(given: readonly HostPort[], node: string, clock: Clock, lookUp: LookUp = systemLookUp) {
    this.#given = given;
    this.#clock = clock;
    this.#lookUp = lookUp;
    this.#turn = Buffer.from(node).reduce((sum, byte) => sum + byte, 0);
  }

  /** Looks names up now, and from now on. */
  refresh(): void {
    const names = new Set(this.#given.map(({ host }) => host).filter((host) => parseIp(host) === undefined));
    for (const host of names) void this.#ask(host);
    if (names.size > 0) this.#stop ??= every(this.#clock, againMs, () => this.refresh());
  }
  close(): void {
    this.#stop?.();
    this.#stop = undefined;
  }

  /** In the order in which they are to be tried; a name that was never found stands as it is. */
  get all(): readonly string[] {
    const all = this.#given.flatMap(({ host, port }) =>
      (this.#known.get(host) ?? [host]).map((address) => formatEndpoint(address, port)),
    );
    const from = this.#turn % all.length;
    const turned = [...all.slice(from), ...all.slice(0, from)];
    return this.#serving === "" ? turned : [this.#serving, ...turned.filter((endpoint) => endpoint !== this.#serving)];
  }
  /** As gRPC takes it: addresses of one family in order, each tried a moment after the one before; or a name. */
  get target(): string {
    const [first = "", ...others] = this.all;
    const scheme = schemeOf(first);
    return scheme === undefined
      ? first
      : `${scheme}:${[first, ...others.filter((e) => schemeOf(e) === scheme)].join()}`;
  }

  /** This endpoint has answered. */
  served(by: string): void {
    if (schemeOf(by) !== undefined) this.#serving = by;
  }
  /** What served us does no longer, or never did: the one after it comes first. */
  next(): void {
    const lost = this.all[0];
    this.#serving = "";
    const at = this.all.indexOf(lost ?? "");
    // Where it was is not where the turn was, when another one than the first had answered.
    this.#turn += at + 1;
  }

  async #ask(host: string): Promise<void> {
    if (this.#asking.has(host)) return;
    this.#asking.add(host);
    try {
      const found = await this.#lookUp(host);
      // Sorted, since name servers shuffle: a turn must mean the same replica the next time.
      if (found.length > 0) this.#known.set(host, [...new Set(found)].sort());
    } catch {
      // What is known stays.
    } finally {
      this.#asking.delete(host);
    }
  }
}

function schemeOf(endpoint: string): "ipv4" | "ipv6" | undefined {
  const ip = parseIp(hostOfEndpoint(endpoint));
  return ip === undefined ? undefined : isV4(ip) ? "ipv4" : "ipv6";
}
