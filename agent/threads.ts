// What the control thread and a data thread say to each other. Only values that can be cloned; descriptors travel as numbers,
// since both threads are one process.
import type { MeshResource, ResourceKind } from "./api/resources.ts";
import type { TraceSettings } from "./decide/trace/request-trace.ts";
import type { CloseReason, Knowledge, LocalPod } from "./flow.ts";
import type { TenantLimits, TenantRefusals } from "./forward/tenants.ts";
import type { DialEndpoint } from "./native-calls.ts";
import type { Decided } from "./report/decisions.ts";
import type { EndpointChange } from "./report/endpoint-changes.ts";
import type { NoteCount } from "./report/note-counts.ts";
import type { ObservedBatch, ObserveSettings, Tap } from "./report/observed.ts";
import type { RequestDeltas } from "./report/request-series.ts";
import type { GuardMemory, GuardTold } from "./upstream/guard.ts";
import type { SharedMemory } from "./upstream/shared.ts";

export interface ThreadStart {
  readonly thread: number;
  /** This thread's end of its own channel to native (`handover.attach`). */
  readonly channelFd: number;
  /** Label sets of request metrics. */
  readonly metricSeries: number;
  /** Without a request for so long a client's connection is closed once the thread drains. */
  readonly drainIdleMs: number;
  readonly limits: TenantLimits;
  /** Counters that all threads share. */
  readonly guard: GuardMemory;
  /** What all threads know together of endpoints. */
  readonly shared: SharedMemory;
  readonly observe: ObserveSettings;
  readonly trace: TraceSettings;
}
/** A socket that native handed over, as the event on the thread's channel carries it. */
export interface HandedSocket {
  readonly event: "socket";
  readonly fd: number;
  /** The kernel's own number of the socket. */
  readonly cookie?: number | null;
  /** Number of the connection: in records, and for `abort` and the event `aborted` where it came through a tunnel. */
  readonly id: number;
  readonly direction: "outbound" | "inbound";
  /** How it came; through a tunnel, the descriptor is one end of a socket pair. */
  readonly tunnel: "plain" | "local" | "fairlead/1" | "hbone";
  readonly pod: string;
  /** Where the client wanted to go. */
  readonly original: { readonly ip: string; readonly port: number };
  readonly source: { readonly ip: string; readonly port: number };
  /** The endpoint that the plan chose; absent inbound and where the plan has none. */
  readonly upstream?: DialEndpoint;
  readonly service?: string | null;
  /** Named by the first bytes, where these were looked at (`opaque` of the answer). */
  readonly protocol?: "http1" | "http2" | null;
  /** HTTP/2 of a data thread on the client's node, for requests of HTTP/1.1 clients. */
  readonly requests?: boolean;
  readonly planId: number;
  readonly verdictId: number;
  /** Who the peer of the tunnel is, by its certificate. */
  readonly identity?: string | null;
}
/** A change of what a data thread knows; in the order in which the control thread learnt it. */
export type ReplicaMessage =
  | {
      readonly say: "mesh";
      readonly changed: readonly MeshResource[];
      readonly removed: readonly { readonly kind: ResourceKind; readonly name: string }[];
    }
  /** All pods of this node that are enrolled. */
  | { readonly say: "pods"; readonly pods: readonly LocalPod[] }
  | { readonly say: "knowledge"; readonly knowledge: Knowledge };
export type TelemetryMessage =
  /** Who watches live requests from now on. */
  | { readonly say: "taps"; readonly taps: readonly Tap[] }
  /** A batch of `observed` was read. */
  | { readonly say: "read" };
export type ToThread =
  | { readonly say: "stop" }
  | { readonly say: "ping" }
  /** What is open ends in its own time, and clients are told to ask elsewhere. */
  | { readonly say: "drain"; readonly ask: number }
  | ReplicaMessage
  | TelemetryMessage
  /** Everything known at its start has been said: the thread may take connections. */
  | { readonly say: "replicated" };
export type FromThread =
  | { readonly say: "ready" }
  | { readonly say: "requests"; readonly ended: RequestDeltas }
  | { readonly say: "observed"; readonly batch: ObservedBatch }
  | { readonly say: "notes"; readonly notes: readonly NoteCount[] }
  /** Bytes of a client were no request, for this reason. */
  | { readonly say: "malformed"; readonly refused: string }
  | { readonly say: "endpoint"; readonly change: EndpointChange }
  /** A request met a bug of ours, and ended by it alone. */
  | { readonly say: "threw"; readonly error: string }
  /** What namespaces were refused since it was last told. */
  | { readonly say: "limited"; readonly refusals: readonly TenantRefusals[] }
  /** What its guard has to tell. */
  | { readonly say: "guarded"; readonly told: GuardTold }
  /** What it decided and probed since it was last told. */
  | { readonly say: "decided"; readonly told: Decided }
  /** Copies of requests that ended, by how. */
  | { readonly say: "mirrored"; readonly counts: readonly (readonly [how: string, count: number])[] }
  | { readonly say: "pong" }
  /** The thread drains and has no connection of a client. */
  | { readonly say: "drained"; readonly ask: number }
  | { readonly say: "ended"; readonly handed: HandedEnd }
  | { readonly say: "failed"; readonly reason: string };
/** One connection that a data thread carried byte for byte. */
export interface HandedEnd {
  readonly handed: HandedSocket;
  readonly reason: CloseReason;
  /** The policy that refused it. */
  readonly policy?: string;
  /** Unix. */
  readonly startedMs: number;
  readonly durationUs: number;
  /** Until there was a connection to the server; 0: there was none. */
  readonly readyUs: number;
  /** Bytes from the client and to it. */
  readonly sent: number;
  readonly received: number;
}
