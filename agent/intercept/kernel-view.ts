// What the kernel's maps should hold, derived from the state: who speaks a tunnel, where services lead, which pairs go direct.
// Only differences are sent. Order matters: the generation that voids old verdicts is raised before new rows are written.
import type { ServiceName } from "../api/names.ts";
import { parseIp } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import { ok, type Result } from "../base/result.ts";
import type { Native } from "../native.ts";
import type { CallFault } from "../native-calls.ts";
import { maps, Setting, settingValue, VerdictFlag, VerdictKind } from "./layout.gen.ts";
import { MirroredMap } from "./maps.ts";

export interface BackendRow {
  readonly ip: string;
  readonly port: number;
  readonly weight: number;
}
export interface ServiceRow {
  readonly ip: string;
  readonly port: number;
  readonly backends: readonly BackendRow[];
}
export interface DirectRow {
  /** Number of the source pod. */
  readonly source: number;
  readonly ip: string;
  readonly port: number;
  /** The agent's number of the verdict, for the record. */
  readonly verdict: number;
  readonly bypass: boolean;
}

/** A service's weighted endpoints are repeated in at most this many slots. */
const mostSlots = 256;

export class KernelView {
  readonly #log: Logger;
  readonly #speakers;
  readonly #services;
  readonly #backends;
  readonly #verdicts;
  readonly #settings;
  /** Rows by their owner, so that an owner's new rows replace exactly its old ones. */
  readonly #serviceRows = new Map<
    ServiceName,
    ReadonlyMap<string, { row: ServiceRow; number: number; text: string }>
  >();
  readonly #directRows = new Map<string, ReadonlyMap<string, DirectRow>>();
  #generation: bigint;
  #nextService: number;
  #queue: Promise<boolean> = Promise.resolve(true);

  /** `firstGeneration` and `firstService` must be above anything that an earlier agent wrote. */
  constructor(native: Native, log: Logger, firstGeneration: bigint, firstService: number) {
    this.#log = log;
    this.#generation = firstGeneration;
    this.#nextService = firstService;
    this.#speakers = new MirroredMap(maps.tunnelSpeakers, native);
    this.#services = new MirroredMap(maps.services, native);
    this.#backends = new MirroredMap(maps.backends, native);
    this.#verdicts = new MirroredMap(maps.verdicts, native);
    this.#settings = new SettingsMap(native);
    this.#settings.set(Setting.policyGeneration, firstGeneration);
  }

  /** How long verdicts of the direct lane hold after the last heartbeat of an agent that is gone, ms. */
  setDirectGrace(ms: number): void {
    this.#settings.set(Setting.directGraceNs, BigInt(ms) * 1_000_000n);
  }

  get sizes(): Readonly<Record<string, number>> {
    return Object.fromEntries(
      [this.#speakers, this.#services, this.#backends, this.#verdicts].map((map) => [map.name, map.size]),
    );
  }
  get generation(): bigint {
    return this.#generation;
  }

  setSpeaker(address: string, speaks: boolean): void {
    const ip = parseIp(address);
    if (ip === undefined) return;
    if (speaks) this.#speakers.set({ ip }, { flags: 0 });
    else this.#speakers.delete({ ip });
  }

  /** All rows of one service; none takes it away. */
  setService(name: ServiceName, rows: readonly ServiceRow[]): void {
    const before = this.#serviceRows.get(name);
    const next = new Map<string, { row: ServiceRow; number: number; text: string }>();
    for (const row of rows) {
      const key = `${row.ip}|${row.port}`;
      const text = JSON.stringify(row.backends);
      const old = before?.get(key);
      next.set(key, old?.text === text ? old : { row, number: this.#nextService++, text });
    }
    for (const [key, { row, number }] of next) if (before?.get(key)?.number !== number) this.#putService(row, number);
    for (const [key, old] of before ?? []) {
      if (next.get(key)?.number === old.number) continue;
      if (!next.has(key)) this.#services.delete({ ip: bytes(old.row.ip), port: old.row.port });
      for (const slot of slots(old.row.backends).keys()) this.#backends.delete({ service: old.number, slot });
    }
    if (next.size === 0) this.#serviceRows.delete(name);
    else this.#serviceRows.set(name, next);
  }

  /**
   * All direct rows of one owner (a pair of pods). A row that goes or changes raises the generation: connections admitted under
   * the old one and not yet established are then refused by the destination's hook too.
   */
  setDirect(owner: string, rows: readonly DirectRow[]): { readonly removed: readonly DirectRow[] } {
    const before = this.#directRows.get(owner);
    const next = new Map(rows.map((row) => [directKey(row), row]));
    const removed = [...(before ?? [])].filter(([key]) => !next.has(key)).map(([, row]) => row);
    for (const row of removed) this.#verdicts.delete(verdictKey(row));
    for (const [key, row] of next) if (!sameRow(before?.get(key), row)) this.#putDirect(row);
    if (next.size === 0) this.#directRows.delete(owner);
    else this.#directRows.set(owner, next);
    return { removed };
  }

  directOwners(): Iterable<string> {
    return this.#directRows.keys();
  }

  /** Raises the policy generation and stamps every remaining direct row with it. */
  raiseGeneration(): void {
    this.#generation += 1n;
    this.#settings.set(Setting.policyGeneration, this.#generation);
    for (const rows of this.#directRows.values()) for (const row of rows.values()) this.#putDirect(row);
  }

  /** Another agent wrote these maps too: at the next flush all that it left there goes, and what it replaced, the generation too, comes back. */
  readAgain(): void {
    for (const map of [this.#speakers, this.#backends, this.#services, this.#verdicts]) map.readAgain();
    this.raiseGeneration();
  }

  /** Sends what changed. False: something failed (logged); the next flush makes up for it. */
  flush(): Promise<boolean> {
    this.#queue = this.#queue.then(() => this.#flushNow());
    return this.#queue;
  }

  async #flushNow(): Promise<boolean> {
    // Verdicts that no longer hold go first: the generation voids them at once. Then what rows refer to before the rows
    // (layout.h, service_value), and only when everything new is in place does the old go.
    const tables = [this.#speakers, this.#backends, this.#services, this.#verdicts];
    const steps = [
      [this.#settings.name, () => this.#settings.flush()] as const,
      ...tables.map((map) => [map.name, () => map.flushPuts()] as const),
      ...tables.toReversed().map((map) => [map.name, () => map.flushDeletes()] as const),
    ];
    for (const [map, step] of steps) {
      const sent = await step();
      if (sent.ok) continue;
      this.#log.error("map_update_failed", { map, ...sent.error });
      return false;
    }
    return true;
  }

  #putService(row: ServiceRow, number: number): void {
    const list = slots(row.backends);
    for (const [slot, { ip, port }] of list.entries())
      this.#backends.set({ service: number, slot }, { ip: bytes(ip), port, flags: 0 });
    this.#services.set({ ip: bytes(row.ip), port: row.port }, { service: number, backendCount: list.length });
  }

  #putDirect(row: DirectRow): void {
    this.#verdicts.set(verdictKey(row), {
      generation: this.#generation,
      kind: VerdictKind.allowDirect,
      flags: row.bypass ? VerdictFlag.bypass : 0,
      verdict: row.verdict,
    });
  }
}

/** The settings array cannot lose rows, so it is only ever written. */
class SettingsMap {
  readonly name = "settings";
  readonly #native: Native;
  readonly #dirty = new Map<number, bigint>();
  constructor(native: Native) {
    this.#native = native;
  }
  set(index: number, value: bigint): void {
    this.#dirty.set(index, value);
  }
  async flush(): Promise<Result<void, CallFault>> {
    const sending = [...this.#dirty];
    if (sending.length === 0) return ok(undefined);
    const entries = sending.map(
      ([index, value]) => [toHex(arrayIndex(index)), toHex(settingValue.encode({ value }))] as const,
    );
    const sent = await this.#native.call("map.put", { map: this.name, entries });
    if (!sent.ok) return sent;
    for (const [index, value] of sending) if (this.#dirty.get(index) === value) this.#dirty.delete(index);
    return ok(undefined);
  }
}

function arrayIndex(index: number): Uint8Array {
  const key = Buffer.alloc(4);
  key.writeUInt32LE(index);
  return key;
}
const toHex = (b: Uint8Array): string => Buffer.from(b).toString("hex");
const bytes = (ip: string): Uint8Array => parseIp(ip) ?? new Uint8Array(16);
const verdictKey = (row: DirectRow) => ({ identity: row.source, port: row.port, ip: bytes(row.ip) });
const directKey = (row: DirectRow): string => `${row.source}|${row.ip}|${row.port}`;
const sameRow = (a: DirectRow | undefined, b: DirectRow): boolean =>
  a !== undefined && a.verdict === b.verdict && a.bypass === b.bypass;

/**
 * Weights as repeated slots, scaled down so that one service never takes more than `mostSlots`, none below one. Weight 0 is a last
 * resort: it gets a slot only where nothing has more.
 */
export function slots(all: readonly BackendRow[]): readonly BackendRow[] {
  const weighted = all.filter((b) => b.weight > 0);
  const backends = weighted.length > 0 ? weighted : all;
  const weights = backends.map((b) => Math.max(1, Math.round(b.weight)));
  const divisor = weights.reduce(gcd, 0) || 1;
  const total = weights.reduce((sum, w) => sum + w / divisor, 0);
  const scale = total > mostSlots ? mostSlots / total : 1;
  return backends.flatMap((backend, i) => {
    const times = Math.max(1, Math.round(((weights[i] ?? 1) / divisor) * scale));
    return new Array<BackendRow>(times).fill(backend);
  });
}
const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));
