// The calls of docs/native-channel.md as types: method -> parameters and value. No code; `agent/native.ts` carries them.

/**
 * Why native refused a call; `code` is stable (native/src/fault.rs, of `dial` a close reason), or `call_timeout` / `channel_closed`
 * made on this side.
 */
export interface CallFault {
  readonly code: string;
  readonly message: string;
  /** dial: the policy by which the other agent, or a limit of connections, refused it. */
  readonly policy?: string;
}

/** What `fl_start` is given. Times in ms, ports as [low, high] inclusive. */
export interface NativeSettings {
  readonly workers: number;
  readonly bpfDir: string;
  readonly pinDir: string;
  readonly cgroup: string;
  readonly kubeletCgroup: string;
  readonly interception: "auto" | "ebpf" | "nftables";
  readonly antiSpoofing: boolean;
  readonly appPorts: readonly [number, number];
  readonly tunnelPorts: readonly [number, number];
  readonly questionTimeoutMs: number;
  readonly handshakeTimeoutMs: number;
  readonly connectTimeoutMs: number;
  readonly tunnelIdleMs: number;
  readonly tunnelMaxAgeMs: number;
  readonly tunnelMaxAgeJitterMs: number;
  readonly detectWaitMs: number;
  readonly permissiveWaitMs: number;
  readonly maxTunnelsPerPair: number;
  readonly maxHandshakesPerPair: number;
  readonly bufferBytes: number;
  readonly drainMs: number;
  readonly heartbeatMs: number;
  readonly heartbeatDeadMs: number;
  readonly trustDomain: string;
}

interface Place {
  readonly ip: string;
  readonly port: number;
}

/** A way to go on, as plans have it: what a data thread is told with a socket, and what it dials. */
export interface DialEndpoint extends Place {
  readonly mode: "fairlead/1" | "hbone" | "plain" | "local";
  /** Whom the TLS peer may be; a tunnel to nobody in particular is refused. */
  readonly identities?: readonly string[];
  /** local: the pod of this node; without it native refuses. */
  readonly pod?: string;
  readonly verdictId?: number;
  readonly tunnelAddress?: Place;
  /** Its place in the plan, for records. */
  readonly index?: number;
}

/** What a data thread dials, and for whom. */
export interface DialParams {
  /** The pod in whose namespace, and with whose identity, it is dialled. */
  readonly pod: string;
  readonly endpoint: DialEndpoint;
  /** The client: the address that a local application sees. */
  readonly source: Place;
  /** What the client asked for; the endpoint itself if absent. */
  readonly destination?: Place;
  /** Another identity of the pod than the one it was enrolled with. */
  readonly identity?: string;
  readonly service?: string;
  readonly planId?: number;
  /** The endpoint's place in the plan, for records. */
  readonly index?: number;
  /** In a tunnel of ours: bytes would be requests as HTTP/2, if a data thread of the other agent reads them. */
  readonly requests?: boolean;
  /** Of connections to the service, where this one is carried as it is; a socket that is not paired has its place until `release`. */
  readonly limits?: {
    readonly key: string;
    readonly maxConnections: number;
    readonly maxPending: number;
    readonly connectTimeoutMs?: number;
    readonly policy: string;
  };
}

export interface JoinSide {
  readonly fd: number;
  readonly id: number;
  /** SO_COOKIE, as it was told with the socket: the number of the descriptor may be another's by then. */
  readonly cookie: number;
}

export interface JoinParams {
  /** The thread's own number for it. */
  readonly join: number;
  readonly from: JoinSide;
  readonly to: JoinSide;
  readonly bytes: number;
}

export interface JoinEnd {
  /** "refused": it was not begun; "lost": whoever moved the bytes is gone. */
  readonly how: "done" | "source_ended" | "source_reset" | "sink_reset" | "cancelled" | "refused" | "lost";
  /** Bytes read from the one, and those that the other has. */
  readonly taken: number;
  readonly moved: number;
}

export interface DialledSocket {
  readonly fd: number;
  readonly cookie?: number | null;
  readonly id: number;
  /** "tunnel" and "hbone": one end of a socket pair, which native carries; else the very socket. */
  readonly lane: "tunnel" | "hbone" | "plain" | "local";
  /** Who the TLS peer is. */
  readonly peer?: string | null;
  /** Whether the tunnel had carried others before. */
  readonly reused?: boolean;
  /** The offer is taken: what is sent is read as HTTP/2. Absent or false: it reaches the server as it is. */
  readonly requests?: boolean;
}

export type HexEntry = readonly [key: string, value: string];

export interface HostProbe {
  readonly kernel: string;
  readonly cgroup2: string | null;
  readonly bpf: { readonly ok: boolean; readonly reason?: string };
  readonly nft: { readonly ok: boolean; readonly reason?: string };
  readonly capabilities: readonly string[];
  readonly missing: readonly string[];
  readonly ioUring: boolean;
}

/** What native is told of a pod; `identity` is the SPIFFE id that its tunnels present. */
export interface PodEnrolment {
  readonly pod: string;
  readonly netns: string;
  readonly ips: readonly string[];
  readonly identity: string;
  /** Key of the pod's verdict rows. */
  readonly identityNumber: number;
  readonly strict: boolean;
  readonly failOpen: boolean;
  readonly bypass: boolean;
  readonly probePorts: readonly number[];
  /** Whether another agent that has enrolled it since loses it; else a change leaves the pod to that one. */
  readonly take: boolean;
  readonly exclude: {
    readonly outboundPorts: readonly number[];
    readonly inboundPorts: readonly number[];
    readonly outboundCidrs: readonly string[];
    readonly inboundCidrs: readonly string[];
  };
}

export interface PodEnrolled {
  readonly cookie: number;
  readonly listening: readonly number[];
  readonly existing: readonly { readonly local: string; readonly remote: string }[];
  /** Why nothing keeps the pod from sending under another's address; empty: it is kept (DP-7). */
  readonly unguarded: string;
  readonly ms: number;
}

export interface OpenConnection {
  readonly id: number;
  readonly direction: "outbound" | "inbound";
  readonly lane: string;
  readonly pod: string;
  readonly source: string;
  readonly destination: string;
  readonly upstream: string;
  readonly planId: number;
  readonly verdictId: number;
  readonly endpoint: number;
  readonly identity?: string;
  readonly sent: number;
  readonly received: number;
  readonly startedMs: number;
}

export interface TunnelState {
  readonly id: number;
  readonly direction: "outbound" | "inbound";
  readonly source: string;
  readonly destination: string;
  readonly identity: string;
  readonly peer: string;
  readonly streams: number;
  readonly ageMs: number;
  readonly idle: boolean;
  readonly draining: boolean;
}

export interface Calls {
  readonly "host.probe": { params: object; value: HostProbe };
  readonly "programs.load": {
    params: object;
    value: {
      readonly version: string;
      readonly replaced: boolean;
      readonly interception: "ebpf" | "nftables";
      readonly reason: string;
    };
  };
  readonly "programs.unload": { params: object; value: object };
  readonly "kubelet.set": { params: { readonly cgroup: string }; value: object };
  readonly "map.put": {
    params: { readonly map: string; readonly entries: readonly HexEntry[] };
    value: { readonly count: number };
  };
  readonly "map.delete": {
    params: { readonly map: string; readonly keys: readonly string[] };
    value: { readonly count: number };
  };
  readonly "map.dump": {
    params: { readonly map: string; readonly limit?: number };
    value: { readonly entries: readonly HexEntry[] };
  };
  readonly counters: { params: object; value: Readonly<Record<string, number>> };
  readonly "pod.enrol": { params: PodEnrolment; value: PodEnrolled };
  readonly "pod.unenrol": { params: { readonly pod: string; readonly drainMs: number }; value: object };
  readonly "pod.unfinished": {
    params: { readonly pod: string };
    /** Connections of the pod that native carries, and those in its namespace that have bytes under way. */
    value: { readonly connections: number; readonly sockets: number };
  };
  readonly "pod.gone": { params: { readonly pod: string }; value: { readonly closed: number } };
  readonly "svid.put": {
    params: {
      readonly identity: string;
      readonly chainPem: string;
      readonly keyPem: string;
      readonly generation: number;
      readonly notAfterMs: number;
    };
    value: object;
  };
  readonly "svid.remove": { params: { readonly identity: string }; value: object };
  readonly "trust.put": {
    params: {
      readonly bundles: readonly { readonly trustDomain: string; readonly rootsPem: readonly string[] }[];
      readonly aliases: readonly string[];
      readonly generation: number;
    };
    value: object;
  };
  readonly "generation.set": { params: { readonly generation: number }; value: object };
  readonly "connections.list": { params: object; value: { readonly connections: readonly OpenConnection[] } };
  readonly "connections.reset": {
    params: { readonly ids: readonly number[]; readonly reason: string };
    value: { readonly count: number };
  };
  readonly "sockets.destroy": {
    params: {
      readonly pod: string;
      readonly tuples: readonly { readonly source: string; readonly destination: string }[];
    };
    value: { readonly count: number };
  };
  readonly "tunnels.list": { params: object; value: { readonly tunnels: readonly TunnelState[] } };
  readonly drain: { params: { readonly deadlineMs: number }; value: object };
  readonly stop: { params: object; value: object };
  /** Who connected to a unix socket of ours: `pid` 0 for a process that we cannot see; `pidfd` is ours to close, where the kernel has it. */
  readonly "peer.of": {
    params: { readonly fd: number };
    value: { readonly pid: number; readonly uid: number; readonly gid: number; readonly pidfd: number | null };
  };
  readonly heartbeat: { params: object; value: object };
  /** The answer's `fd` is the data thread's end of its own channel. */
  readonly "handover.attach": { params: { readonly thread: number }; value: { readonly fd: number } };
  /** On a data thread's own channel alone, as `abort`. */
  readonly dial: { params: DialParams; value: DialledSocket };
  /** Resets a stream of which the thread has one end; answered when that is done. */
  readonly abort: { params: { readonly id: number }; value: object };
  /** A socket that was dialled with limits, and that native gave away, has closed: its place is free. */
  readonly release: { params: { readonly id: number }; value: object };
  /** Moves so many bytes from one of the thread's sockets to another; answered when that is over. */
  readonly join: { params: JoinParams; value: JoinEnd };
  /** Stops a join; its own answer says how far it came. */
  readonly unjoin: { params: { readonly join: number }; value: object };
}
