// Where clients of a cluster stay from one request to the next: by the sessions of a policy or route (keys.ts), or, where neither says
// anything, by their address as their Service has it (client-sessions.ts).
import { defaultPolicy, type HttpPolicy, type SessionAffinity } from "../api/http-policy.ts";
import type { Service } from "../api/service.ts";
import type { Random } from "../base/random.ts";
import { algorithmOf, isKeyedAlgorithm, type PickerOptions } from "../decide/balance/build-picker.ts";
import { keyOf, type Session, Sessions } from "../decide/balance/keys.ts";
import type { Client, ClientSessions } from "../decide/client-sessions.ts";
import type { RequestHead } from "../http.ts";

export class Stays {
  readonly #name: Omit<Client, "ip">;
  readonly #clients: ClientSessions;
  #policy: HttpPolicy = defaultPolicy;
  #ids: readonly string[] = [];
  #sessions = new Sessions([]);
  /** Of the Service's session affinity, s; 0 where there is none or a policy has another idea. */
  #timeoutS = 0;

  constructor(name: Omit<Client, "ip">, clients: ClientSessions) {
    this.#name = name;
    this.#clients = clients;
  }

  /** `ids`: of the cluster's members, by their index. */
  set(policy: HttpPolicy, service: Service | undefined, ids: readonly string[]): void {
    this.#policy = policy;
    this.#ids = ids;
    this.#sessions = new Sessions(ids);
    const isElsewise =
      policy.affinity !== undefined || isKeyedAlgorithm(algorithmOf(policy, service?.loadBalancing ?? ""));
    this.#timeoutS = isElsewise ? 0 : (service?.clientAffinityS ?? 0);
  }

  /** What the balancer is made of: a session by the client's address is the endpoint that its address hashes to. */
  get balancing(): PickerOptions["policy"] {
    const { balancer, locality } = this.#policy;
    return { balancer: this.#isBySource ? { ...balancer, ...bySource } : balancer, locality };
  }

  session(affinity: SessionAffinity | undefined, head: RequestHead, nowS: number): Session | undefined {
    return affinity === undefined || affinity.kind === "source" ? undefined : this.#sessions.find(affinity, head, nowS);
  }
  /** See Sessions.fieldFor; `index`: of the member that answered, -1 if it is gone. */
  sessionField(
    affinity: SessionAffinity,
    index: number,
    session: Session | undefined,
    nowS: number,
  ): readonly [name: string, value: string] | undefined {
    return index < 0 ? undefined : this.#sessions.fieldFor(affinity, index, session, nowS, false);
  }

  /** What a balancer with keys goes by. */
  keyOf(head: RequestHead, sourceIp: string, random: Random): number {
    return keyOf(this.#isBySource ? bySource : this.#policy.balancer, head, sourceIp, random);
  }

  /** Index of the member that the Service keeps the client with, -1 if none. */
  find(ip: string, nowMs: number): number {
    return this.#timeoutS === 0 ? -1 : this.#clients.find(this.#client(ip), this.#ids, this.#timeoutS, nowMs / 1000);
  }
  keep(ip: string, index: number, nowMs: number): void {
    const id = this.#ids[index];
    const timeoutS = this.#timeoutS;
    if (timeoutS > 0 && id !== undefined) this.#clients.keep({ client: this.#client(ip), id, timeoutS }, nowMs / 1000);
  }

  get #isBySource(): boolean {
    return this.#policy.affinity?.kind === "source" || this.#timeoutS > 0;
  }
  #client(ip: string): Client {
    return { service: this.#name.service, port: this.#name.port, ip };
  }
}

const bySource = { algorithm: "rendezvous", hashOn: "source", hashName: "" } as const;
