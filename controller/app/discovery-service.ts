// The discovery service: who calls, and a stream object for each agent. Only the incremental protocol is answered.
import type { NodeName } from "../../agent/api/names.ts";
import { kindOfTypeUrl } from "../../agent/api/resources.ts";
import type { Clock } from "../../agent/base/clock.ts";
import type { Logger } from "../../agent/base/log.ts";
import type { ControllerMetrics } from "../report/metrics.ts";
import type { AgentRegistry } from "../serve/registry.ts";
import { AgentStream, type DiscoveryCall, type StreamEvents } from "../serve/stream.ts";
import type { Callers } from "./callers.ts";
import type { Mesh } from "./mesh.ts";

export interface DiscoveryParts {
  readonly mesh: Mesh;
  readonly callers: Callers;
  /** Serves the stream of a node's ztunnel. */
  readonly ztunnel: (node: NodeName, call: DiscoveryCall) => void;
  readonly registry: AgentRegistry;
  readonly metrics: ControllerMetrics;
  readonly clock: Clock;
  readonly log: Logger;
  /** The last stream of a node's agents has ended. */
  readonly forgotten: (node: NodeName) => void;
  /** An agent came, went, or took or refused something of this type ("" for all). */
  readonly changed: (typeUrl: string) => void;
}

export function discoveryService(parts: DiscoveryParts): {
  readonly deltaAggregatedResources: (call: DiscoveryCall) => void;
} {
  const { mesh, registry, metrics, clock, log, changed } = parts;
  // A label of its own for every made-up type would let an agent fill the memory.
  const label = (typeUrl: string): { readonly type: string } => ({ type: kindOfTypeUrl(typeUrl) ?? "other" });
  const serve = async (call: DiscoveryCall): Promise<void> => {
    if (parts.callers.isZtunnel(call)) {
      const node = await parts.callers.ztunnel(call);
      metrics.streams.add({ outcome: node.ok ? "accepted" : "refused" });
      if (!node.ok) call.emit("error", { code: node.error.code, details: node.error.message });
      else if (!call.cancelled) parts.ztunnel(node.value, call);
      return;
    }
    // Nothing is read from the call until it is known whose it is.
    const caller = await parts.callers.agent(call);
    if (!caller.ok) {
      metrics.streams.add({ outcome: "refused" });
      log.warn("stream_refused", { peer: call.getPeer(), reason: caller.error.message });
      call.emit("error", { code: caller.error.code, details: caller.error.message });
      return;
    }
    if (call.cancelled) return;
    const node = caller.value;
    const events: StreamEvents = {
      sent(typeUrl, resources, bytes) {
        metrics.sentResources.add(label(typeUrl), resources);
        metrics.sentBytes.add(label(typeUrl), bytes);
      },
      acked(typeUrl) {
        metrics.acks.add(label(typeUrl));
        changed(typeUrl);
      },
      nacked(typeUrl) {
        metrics.nacks.add(label(typeUrl));
        changed(typeUrl);
      },
      fellBehind(typeUrl) {
        metrics.streams.add({ outcome: "behind" });
        log.warn("agent_behind", { node, ...label(typeUrl), effect: "it is told to connect again" });
      },
      ended() {
        registry.remove(stream);
        if (!registry.has(node)) parts.forgotten(node);
        changed("");
        metrics.agents.set({}, registry.size);
        log.info("agent_disconnected", { node });
      },
    };
    const stream = new AgentStream(node, call, mesh.snapshot, events, log, clock.now());
    registry.add(stream);
    changed("");
    metrics.agents.set({}, registry.size);
    metrics.streams.add({ outcome: "accepted" });
    log.info("agent_connected", { node, peer: call.getPeer() });
  };
  return { deltaAggregatedResources: (call) => void serve(call) };
}
