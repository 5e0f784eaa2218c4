// One agent's discovery stream: requests in, differences out. Holds no resource of its own.
import { type ServerDuplexStream, status } from "@grpc/grpc-js";
import type { NodeName } from "../../agent/api/names.ts";
import type { Logger } from "../../agent/base/log.ts";
import type { DiscoveryRequest } from "./request.ts";
import { encodeResponse, type Response } from "./response.ts";
import type { Snapshot } from "./snapshot.ts";
import { Subscription } from "./subscription.ts";

export type DiscoveryCall = ServerDuplexStream<DiscoveryRequest, Response>;
export interface StreamEvents {
  sent(typeUrl: string, resources: number, bytes: number): void;
  acked(typeUrl: string): void;
  nacked(typeUrl: string, names: readonly string[], message: string): void;
  /** It has not answered for so long that it must connect anew. */
  fellBehind(typeUrl: string): void;
  ended(): void;
}

/** Types that an agent may ask for though we have none: answered with nothing, so that a newer agent is not left waiting. */
const maxTypes = 32;

export class AgentStream {
  readonly node: NodeName;
  readonly connectedAtMs: number;
  readonly #call: DiscoveryCall;
  readonly #snapshot: Snapshot;
  readonly #events: StreamEvents;
  readonly #log: Logger;
  readonly #subscriptions = new Map<string, Subscription>();
  readonly #stopListening: () => void;
  #nonces = 0;
  readonly #newNonce = (): string => `${++this.#nonces}`;
  #hasEnded = false;

  constructor(
    node: NodeName,
    call: DiscoveryCall,
    snapshot: Snapshot,
    events: StreamEvents,
    log: Logger,
    nowMs: number,
  ) {
    this.node = node;
    this.connectedAtMs = nowMs;
    this.#call = call;
    this.#snapshot = snapshot;
    this.#events = events;
    this.#log = log.with({ node });
    this.#stopListening = snapshot.onChange(() => this.#push());
    call.on("data", (message) => this.#take(message));
    call.on("end", () => this.end());
    call.on("error", () => this.end());
    call.on("cancelled", () => this.end());
  }

  /** Whether this agent has accepted the current version of a resource; the reason if it refused it. */
  stateOf(typeUrl: string, name: string): { readonly isCurrent: boolean; readonly refusal: string | undefined } {
    const subscription = this.#subscriptions.get(typeUrl);
    return {
      isCurrent: subscription?.isCurrent(name, this.#snapshot) ?? false,
      refusal: subscription?.refusal(name),
    };
  }
  /** Types with a response that the agent has not answered yet. */
  get waiting(): readonly string[] {
    return [...this.#subscriptions.values()].filter((s) => s.isWaiting).map((s) => s.typeUrl);
  }

  end(): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#stopListening();
    this.#call.end();
    this.#events.ended();
  }

  #take(message: DiscoveryRequest): void {
    let subscription = this.#subscriptions.get(message.typeUrl);
    if (subscription === undefined) {
      if (this.#subscriptions.size >= maxTypes) return;
      subscription = new Subscription(message.typeUrl);
      this.#subscriptions.set(message.typeUrl, subscription);
    }
    const nack = subscription.request(message, this.#snapshot);
    if (nack !== undefined) {
      this.#log.warn("discovery_nack", {
        type: message.typeUrl,
        names: nack.names.slice(0, 10),
        message: nack.message.slice(0, 500),
      });
      this.#events.nacked(message.typeUrl, nack.names, nack.message);
    } else if (message.responseNonce !== "") {
      this.#events.acked(message.typeUrl);
    }
    this.#push();
  }

  #push(): void {
    if (this.#hasEnded || !this.#snapshot.isReady) return;
    for (const subscription of this.#subscriptions.values()) {
      if (subscription.isTooFarBehind(this.#snapshot)) {
        this.#events.fellBehind(subscription.typeUrl);
        this.#call.emit("error", { code: status.ABORTED, details: "too far behind: connect again" });
        this.end();
        return;
      }
      const response = subscription.next(this.#newNonce, this.#snapshot);
      if (response === undefined) continue;
      this.#call.write(response);
      const { resources, removed } = response;
      this.#events.sent(subscription.typeUrl, resources.length + removed.length, encodeResponse(response).length);
    }
  }
}
