/* The only definition of what crosses the kernel line: map keys and values, events, flags, limits. TypeScript and Rust copies are generated from
 * it (gen-layout.mjs). Rules: fixed-width fields, pads named pad or spare and always zero, no bit-fields, unions or packing; addresses are 16 bytes with IPv4 as ::ffff:a.b.c.d; ports are numbers in host order. */
#ifndef FAIRLEAD_LAYOUT_H
#define FAIRLEAD_LAYOUT_H

/* Flags of an enrolled pod. */
enum pod_flag {
	POD_FLAG_STRICT = 1,         /* mTLS STRICT: never fails open, in either direction */
	POD_FLAG_FAIL_OPEN = 2,      /* without a live agent, plain connections pass (not toward or from tunnel speakers) */
	POD_FLAG_EXCLUDES = 4,       /* has rows in excluded_ports or excluded_cidrs */
	POD_FLAG_BYPASS = 8,         /* opted in to the sk_msg bypass; both sides and the verdict must say so */
	POD_FLAG_SUSPENDED = 16,     /* being unenrolled: nothing new is intercepted, old connections go on */
};

/* Which way, seen from the pod. */
enum traffic {
	TRAFFIC_OUTBOUND = 0,
	TRAFFIC_INBOUND = 1,
};

/* Index into the map `settings`. */
enum setting {
	SETTING_POLICY_GENERATION = 0, /* verdict rows with a lower generation do not count */
	SETTING_HEARTBEAT_NS = 1,      /* CLOCK_MONOTONIC of the last sign of life of the agent; written by native only */
	SETTING_HEARTBEAT_DEAD_NS = 2, /* a heartbeat older than this means a hung agent; 0 disables; written by native */
	SETTING_DIRECT_GRACE_NS = 3,   /* verdicts still count for this long after the agent died */
	SETTING_KUBELET_CGROUP = 4,    /* cgroup id of the kubelet, 0 none; written by native only */
	SETTING_KUBELET_LEVEL = 5,     /* its depth below the root of cgroup2; written by native only */
	SETTING_APP_PORTS = 6,         /* first port << 16 | last port of the agent's sockets toward apps; written by native only */
	SETTING_COUNT = 8,
};

/* Verdict for one (source identity, destination address, port). No row, or another kind: the agent decides. */
enum verdict_kind {
	VERDICT_KIND_ASK = 0,
	VERDICT_KIND_ALLOW_DIRECT = 1,
};

enum verdict_flag {
	VERDICT_FLAG_BYPASS = 1, /* sk_msg bypass allowed for this pair (both pods opted in) */
};

/* What a socket is to the mesh (socket_state.role). */
enum socket_role {
	SOCKET_ROLE_NONE = 0,
	SOCKET_ROLE_OWN = 1,        /* the agent's, toward the network */
	SOCKET_ROLE_OWN_APP = 2,    /* the agent's, toward the app in the same namespace: its SYN passes sk_lookup */
	SOCKET_ROLE_OWN_LISTENER = 3,
	SOCKET_ROLE_REDIRECTED = 4, /* an app's, connected to the agent instead */
	SOCKET_ROLE_DIRECT = 5,     /* an app's, connected straight to a pod of this node */
	SOCKET_ROLE_ACCEPTED = 6,   /* the agent's end of a redirected connection */
	SOCKET_ROLE_PROBE = 7,      /* the kubelet's */
	SOCKET_ROLE_DIRECT_PEER = 8, /* the app's end of a direct connection */
};

enum socket_flag {
	SOCKET_FLAG_BYPASS = 1,
	SOCKET_FLAG_FIN_SENT = 2,
	SOCKET_FLAG_FIN_RECEIVED = 4,
	SOCKET_FLAG_CLIENT_FIRST = 8,
	SOCKET_FLAG_SERVER_FIRST = 16,
	SOCKET_FLAG_ESTABLISHED = 32,
	SOCKET_FLAG_BYPASS_ON = 64,   /* the first message of this direction went past TCP: all do */
	SOCKET_FLAG_BYPASS_OFF = 128, /* it did not: none does */
	SOCKET_FLAG_OPENING_TOLD = 256, /* in events only: socket_state.opening_told */
};

enum syn_flag {
	SYN_FLAG_BYPASS = 1,        /* SOCKET_FLAG_BYPASS of the client's end */
	SYN_FLAG_LOOPBACK_ONLY = 2, /* the client's end is tied to lo, and the app's is to be */
};

/* Events in the ring buffer `events`. */
enum event_kind {
	EVENT_KIND_DIRECT_CLOSED = 1,
	EVENT_KIND_LISTENING = 2,
	EVENT_KIND_DIRECT_OPENED = 3,
};

enum closed_by {
	CLOSED_BY_NOBODY = 0,
	CLOSED_BY_CLIENT = 1,
	CLOSED_BY_SERVER = 2,
};

/* Index into the map `counters`: one per way a connection can be treated. */
enum counter {
	COUNTER_OUT_REDIRECTED = 0,
	COUNTER_OUT_DIRECT = 1,
	COUNTER_OUT_PASS_OWN = 2,
	COUNTER_OUT_PASS_LOOPBACK = 3,
	COUNTER_OUT_PASS_SELF = 4,
	COUNTER_OUT_PASS_EXCLUDED = 5,
	COUNTER_OUT_PASS_LINK_LOCAL = 6,
	COUNTER_OUT_PASS_FAIL_OPEN = 7,
	COUNTER_OUT_PASS_SUSPENDED = 8,
	COUNTER_OUT_PASS_BOUND_DEVICE = 9,
	COUNTER_OUT_REFUSED_NO_AGENT = 10,
	COUNTER_OUT_REFUSED_SPEAKER = 11,
	COUNTER_OUT_REFUSED_BOUND_DEVICE = 12,
	COUNTER_OUT_REFUSED_STORAGE = 13,
	COUNTER_SYN_QUOTA_EXCEEDED = 14,
	COUNTER_SYN_ROW_FAILED = 15,
	COUNTER_SYN_DESTINATION_CHANGED = 16,
	COUNTER_SYN_SOURCE_NOT_OWN = 17,
	COUNTER_IN_STEERED = 18,
	COUNTER_IN_OUTBOUND_STEERED = 19,
	COUNTER_IN_PASS_OWN = 20,
	COUNTER_IN_PASS_DIRECT = 21,
	COUNTER_IN_PASS_PROBE = 22,
	COUNTER_IN_PASS_LOOPBACK = 23,
	COUNTER_IN_PASS_SELF = 24,
	COUNTER_IN_PASS_EXCLUDED = 25,
	COUNTER_IN_PASS_FAIL_OPEN = 26,
	COUNTER_IN_PASS_SUSPENDED = 27,
	COUNTER_IN_REFUSED_NOT_LISTENING = 28,
	COUNTER_IN_REFUSED_NO_AGENT = 29,
	COUNTER_IN_REFUSED_SPEAKER = 30,
	COUNTER_IN_REFUSED_ASSIGN = 31,
	COUNTER_IN_ADMISSION_STALE = 32,
	COUNTER_EVENT_LOST = 33,
	COUNTER_LISTENING_ROW_FAILED = 34,
	COUNTER_BYPASS_MESSAGES = 35,
	COUNTER_BYPASS_FELL_TO_TCP = 36,
	COUNTER_PROBE_NOTED = 37,
	COUNTER_SPOOFED_DROPPED = 38, /* packets of an enrolled pod under the address of another */
	COUNTER_APP_NOT_TIED = 39,    /* an app's end of one of the agent's connections that could not be tied to lo, or a client's to its device */
	COUNTER_COUNT = 48,
};

/* Limits. */
enum limit {
	LIMIT_PENDING_PER_POD = 8192,   /* SYN rows that one pod may have in flight */
	LIMIT_SYN_AGE_S = 70,           /* a SYN is retried for about 63 s by default */
	LIMIT_SYN_INSTANT_MS = 10,      /* a SYN that has just been sent: admitted by what held then, whatever changed since */
	LIMIT_REDIRECT_PORT = 15001,    /* what a redirected connection appears to go to; nothing listens there */
	LIMIT_REDIRECT_PORT_SPREAD = 16384, /* IPv6 has one loopback address, so ports are spread instead */
	LIMIT_INBOUND_PORT = 15006,
	LIMIT_HBONE_PORT = 15008,
	LIMIT_APP_MARK = 0xf1ead,       /* mark of the agent's sockets toward apps that have a client's address */
};

/* What the guard at a pod's link knows of the pod; baked into its copy. */
struct guard_pod {
	__u64 cookie;
	__u8 ip4[16]; /* v4-mapped; zero if it has none */
	__u8 ip6[16];
};

/* Key of `settings`. */
struct setting_key {
	__u32 index;
};

/* Value of `settings`. */
struct setting_value {
	__u64 value;
};

/* Key of `pods`: the network namespace cookie. */
struct pod_key {
	__u64 cookie;
};

/* An enrolled pod. Written by native at pod.enrol. */
struct pod_value {
	__u32 flags;    /* enum pod_flag */
	__u32 identity; /* number of the workload's identity, given out by the agent; part of verdict_key */
	__u8 ip4[16];   /* own address of each family, all zero if none */
	__u8 ip6[16];
	__u8 spare[24];
};

/* Key of maps that hold something about one address. */
struct address_key {
	__u8 ip[16];
};

/* Which enrolled pod of this node owns an address. Written by native at pod.enrol only, never from discovery. */
struct local_pod_value {
	__u64 cookie;
};

/* Known speakers of a tunnel (any node), by address: never reached or believed in plain text when the agent is gone. */
struct speaker_value {
	__u32 flags;
	__u32 pad;
};

/* An address and port that leads to a service: cluster IP, external IP, ingress IP, node:port, hostPort. */
struct service_key {
	__u8 ip[16];
	__u16 port;
	__u16 pad;
};

/* backend_count 0: the agent explains that there are none. To change the set atomically write the backends under a new
 * service number, then this row, then delete the old backends. */
struct service_value {
	__u32 service;
	__u32 backend_count;
};

/* Slots 0..backend_count-1; weights are expressed by repeated slots. */
struct backend_key {
	__u32 service;
	__u32 slot;
};

struct backend_value {
	__u8 ip[16];
	__u16 port;
	__u16 pad;
	__u32 flags;
};

/* (identity number of the source pod, destination pod address, port). */
struct verdict_key {
	__u32 identity;
	__u16 port;
	__u16 pad;
	__u8 ip[16];
};

struct verdict_value {
	__u64 generation; /* counts while >= settings[SETTING_POLICY_GENERATION] */
	__u32 kind;       /* enum verdict_kind */
	__u32 flags;      /* enum verdict_flag */
	__u32 verdict;    /* the agent's own number of this verdict; comes back in event_direct_closed */
	__u32 pad;
};

/* A port that the pod's probes name. */
struct probe_port_key {
	__u64 cookie;
	__u16 port;
	__u16 pad;
	__u32 pad2;
};

/* A port left alone: destination port of outbound, own port of inbound connections. */
struct excluded_port_key {
	__u64 cookie;
	__u16 port;
	__u16 traffic; /* enum traffic */
	__u32 pad;
};

/* An address range left alone, longest prefix first. prefix_bits = 96 + prefix length of the 16-byte address (IPv4: 96 +
 * 96 + length). */
struct excluded_cidr_key {
	__u32 prefix_bits;
	__u32 traffic; /* enum traffic */
	__u64 cookie;
	__u8 ip[16];
};

struct flag_value {
	__u32 flags;
};

enum listening_flag {
	LISTENING_FLAG_V6ONLY = 1,
};

/* A listening socket of a pod. ip is :: for the IPv6 wildcard, ::ffff:0.0.0.0 for the IPv4 wildcard. */
struct listening_key {
	__u64 cookie;
	__u8 ip[16];
	__u16 port;
	__u16 pad;
	__u32 pad2;
};

struct listening_value {
	__s32 count; /* sockets that began to listen since enrolment and still do */
	__u32 flags; /* enum listening_flag */
};

/* Pending SYN rows of one source pod. */
struct pending_value {
	__s64 count;
};

/* FROZEN: key of `syns`, a connection whose SYN has not been answered yet. cookie is of the namespace in which the SYN
 * will look for a listener. */
struct syn_key {
	__u64 cookie;
	__u8 source[16];
	__u8 destination[16];
	__u16 source_port;
	__u16 destination_port;
	__u32 pad;
};

/* FROZEN: what that SYN is (enum socket_role), who sent it and when. */
struct syn_value {
	__u8 version; /* 1 */
	__u8 role;
	__u8 flags; /* enum syn_flag */
	__u8 pad;
	__u32 verdict;
	__u64 source_cookie;
	__u64 generation;
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u8 original[16]; /* redirected: where the app wanted to go */
	__u16 original_port;
	__u16 backend_port;
	__u32 pad2;
	__u8 backend[16]; /* redirected to a service: the endpoint that the kernel would have taken; a hint */
	__u8 spare[32];
};

/* FROZEN: value of the socket storage `sockets`. */
struct socket_state {
	__u8 version; /* 1 */
	__u8 role;    /* enum socket_role */
	__u8 flags;   /* enum socket_flag */
	__u8 opening_told; /* direct: an event of its opening went out */
	__u32 verdict;
	__u64 source_cookie;
	__u64 destination_cookie;
	__u64 generation;
	__u64 started_ns;
	__u8 original[16]; /* where the app wanted to go: what getpeername shows */
	__u8 target[16];   /* direct: the pod that the connect hook chose */
	__u16 original_port;
	__u16 target_port;
	__u32 identity;
	__u64 bypass_sent; /* bytes that TCP does not count since they went past it */
	__u8 spare[32];
};

/* FROZEN: key of `listeners`, the agent's listening sockets. */
struct listener_key {
	__u64 cookie;
	__u32 traffic; /* enum traffic */
	__u32 family;  /* 4 or 6 */
};

/* FROZEN: key of `bypass`, one end of a direct connection whose bytes may go past TCP, as seen from it. */
struct bypass_key {
	__u8 local[16];
	__u8 remote[16];
	__u16 local_port;
	__u16 remote_port;
	__u32 pad;
};

/* FROZEN: bytes that the server's end of a bypassed connection has sent; the record is made at the client's. */
struct bypass_value {
	__u64 sent;
};

/* Value of the per-CPU array `counters`. */
struct counter_value {
	__u64 value;
};

/* A direct-lane connection has ended. */
struct event_direct_closed {
	__u32 kind; /* EVENT_KIND_DIRECT_CLOSED */
	__u32 flags; /* enum socket_flag */
	__u32 closed_by;
	__u32 verdict;
	__u64 source_cookie;
	__u64 destination_cookie;
	__u64 started_ns;
	__u64 duration_ns;
	__u64 sent;     /* bytes of data from client to server */
	__u64 received; /* and back */
	__u8 source[16];
	__u8 destination[16]; /* as the app asked */
	__u8 upstream[16];    /* as connected */
	__u16 source_port;
	__u16 destination_port;
	__u16 upstream_port;
	__u16 pad;
	__u32 identity;
	__u32 error; /* errno that ended it, 0 none */
};

/* A direct-lane connection was opened: counted, so that a long one is seen before it ends. */
struct event_direct_opened {
	__u32 kind; /* EVENT_KIND_DIRECT_OPENED */
	__u32 verdict;
};

/* A pod began or ceased to listen. */
struct event_listening {
	__u32 kind; /* EVENT_KIND_LISTENING */
	__u32 open;
	__u64 cookie;
	__u8 ip[16];
	__u16 port;
	__u16 pad;
	__u32 pad2;
};

#endif
