// The discovery service: who calls, and a stream object for each agent. Only the incremental protocol is answered.
import type { AggregatedDiscoveryServiceServer } from "../../agent/api/discovery.gen.ts";
import { kindOfTypeUrl } from "../../agent/api/resources.ts";
import type { Clock } from "../../agent/base/clock.ts";
import type { Logger } from "../../agent/base/log.ts";
import type { ControllerMetrics } from "../report/metrics.ts";
import { callingNode } from "../serve/caller.ts";
import type { AgentRegistry } from "../serve/registry.ts";
import { AgentStream, type StreamEvents } from "../serve/stream.ts";
import type { Mesh } from "./mesh.ts";

export interface DiscoveryParts {
  readonly mesh: Mesh;
  readonly registry: AgentRegistry;
  readonly metrics: ControllerMetrics;
  readonly clock: Clock;
  readonly log: Logger;
}

export function discoveryService(parts: DiscoveryParts): AggregatedDiscoveryServiceServer {
  const { mesh, registry, metrics, clock, log } = parts;
  // A label of its own for every made-up type would let an agent fill the memory.
  const label = (typeUrl: string): { readonly type: string } => ({ type: kindOfTypeUrl(typeUrl) ?? "other" });
  return {
    deltaAggregatedResources(call) {
      const caller = callingNode(call, mesh.trustDomains);
      if (!caller.ok) {
        metrics.streams.add({ outcome: "refused" });
        log.warn("stream_refused", { peer: call.getPeer(), reason: caller.error.message });
        call.emit("error", { code: caller.error.code, details: caller.error.message });
        return;
      }
      const node = caller.value;
      const events: StreamEvents = {
        sent(typeUrl, resources, bytes) {
          metrics.sentResources.add(label(typeUrl), resources);
          metrics.sentBytes.add(label(typeUrl), bytes);
        },
        acked: (typeUrl) => metrics.acks.add(label(typeUrl)),
        nacked: (typeUrl) => metrics.nacks.add(label(typeUrl)),
        ended() {
          registry.remove(stream);
          metrics.agents.set({}, registry.size);
          log.info("agent_disconnected", { node });
        },
      };
      const stream = new AgentStream(node, call, mesh.snapshot, events, log, clock.now());
      registry.add(stream);
      metrics.agents.set({}, registry.size);
      metrics.streams.add({ outcome: "accepted" });
      log.info("agent_connected", { node, peer: call.getPeer() });
    },
  };
}
