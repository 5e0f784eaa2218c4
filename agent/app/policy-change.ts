// A change of policy reaches connections that are open: every one that the agent carries is judged again by what holds now, and
// those that would be refused are reset. Direct-lane sockets of pairs that lost their row are destroyed.
import type { Clock } from "../base/clock.ts";
import { parseHostPort } from "../base/env.ts";
import type { Logger } from "../base/log.ts";
import { decideInbound } from "../decide/inbound.ts";
import type { Knowledge, LocalPods, VerdictFacts } from "../flow.ts";
import type { EnrolledPod } from "../intercept/enrol.ts";
import type { DirectRow } from "../intercept/kernel-view.ts";
import type { Native } from "../native.ts";
import type { OpenConnection } from "../native-calls.ts";
import type { Book } from "../report/facts-book.ts";
import type { MeshState } from "../state/mesh-state.ts";

/** A SYN that was on its way when its row went passes for 10 ms (LIMIT_SYN_INSTANT_MS in bpf/layout.h); generous, for busy nodes. */
const SLIPPED_MS = 100;

export interface PolicyChangeParts {
  readonly state: MeshState;
  readonly pods: LocalPods;
  readonly book: Book;
  readonly native: Native;
  readonly clock: Clock;
  readonly log: Logger;
  readonly knowledge: () => Knowledge;
  readonly reset: (count: number) => void;
}

export class PolicyChange {
  readonly #parts: PolicyChangeParts;
  #cancel: (() => void) | undefined;

  constructor(parts: PolicyChangeParts) {
    this.#parts = parts;
  }

  /** Judges all open connections soon; many changes in a row are one round. */
  schedule(): void {
    this.#cancel ??= this.#parts.clock.after(10, () => {
      this.#cancel = undefined;
      void this.run();
    });
  }

  /** Returns how many were reset. */
  async run(): Promise<number> {
    const { native, log } = this.#parts;
    const listed = await native.call("connections.list", {});
    if (!listed.ok) {
      log.error("connections_not_judged", { ...listed.error });
      return 0;
    }
    const doomed = listed.value.connections.filter((connection) => !this.#stillAllowed(connection));
    if (doomed.length === 0) return 0;
    const ids = doomed.map((c) => c.id);
    const done = await native.call("connections.reset", { ids, reason: "policy_denied" });
    const count = done.ok ? done.value.count : 0;
    if (done.ok) log.info("connections_reset_by_policy", { count });
    else log.error("connections_not_reset", { ...done.error });
    this.#parts.reset(count);
    return count;
  }

  /** Ends direct-lane connections that used rows which no longer hold, and soon after those that were just being made. */
  async destroyDirect(source: EnrolledPod, rows: readonly DirectRow[]): Promise<void> {
    const tuples = rows.flatMap((row) =>
      source.workload.addresses
        .filter((address) => address.includes(":") === row.ip.includes(":"))
        .map((address) => ({ source: at(address, 0), destination: at(row.ip, row.port) })),
    );
    await this.#destroy(source, tuples);
    await this.#parts.clock.sleep(SLIPPED_MS);
    await this.#destroy(source, tuples);
  }

  /** Port 0 of a source means any. */
  async #destroy(source: EnrolledPod, tuples: readonly Tuple[]): Promise<void> {
    const { native, log } = this.#parts;
    const done = await native.call("sockets.destroy", { pod: source.name, tuples });
    if (!done.ok) log.error("direct_sockets_not_destroyed", { pod: source.name, ...done.error });
    else if (done.value.count > 0) this.#parts.reset(done.value.count);
  }

  #stillAllowed(connection: OpenConnection): boolean {
    const { state, pods, book, knowledge } = this.#parts;
    const facts = book.verdictFacts(connection.verdictId);
    if (facts === undefined) return true; // leaves this node: the other end judges it
    const pod = pods.byAddress(addressIn(facts));
    if (pod === undefined) return true; // going: its own end closes it
    const sourceIp = parseHostPort(connection.source)?.host ?? "";
    const destination = { ip: addressIn(facts), port: facts.port };
    const arrival = { destination, sourceIp, identity: facts.sourceIdentity, tunnel: facts.tunnel };
    return decideInbound(state, pod, arrival, knowledge()).allow;
  }
}

interface Tuple {
  readonly source: string;
  readonly destination: string;
}

const addressIn = (facts: VerdictFacts): string => facts.destination.addresses[0] ?? "";
const at = (ip: string, port: number): string => (ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`);
