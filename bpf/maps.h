/* Map declarations. Beside each: key -> value, who writes, who reads. Maps marked FROZEN outlive program versions (rule
 * DP-18): their layout never changes, they are pinned outside the versioned folder. */
#ifndef FAIRLEAD_MAPS_H
#define FAIRLEAD_MAPS_H

#include <bpf/bpf_helpers.h>
#include "layout.h"

#define MAP(name, kind, entries, key_type, value_type, flags) \
	struct { \
		__uint(type, kind); \
		__uint(max_entries, entries); \
		__uint(map_flags, flags); \
		__type(key, key_type); \
		__type(value, value_type); \
	} name SEC(".maps")

/* FROZEN. socket -> what it is to the mesh. Connect hook, sockops and native (own sockets) write; every hook reads. */
MAP(sockets, BPF_MAP_TYPE_SK_STORAGE, 0, int, struct socket_state, BPF_F_NO_PREALLOC);
/* FROZEN. SYN on its way -> what it is. sockops writes and deletes; sk_lookup reads; native sweeps rows that went stale. */
MAP(syns, BPF_MAP_TYPE_HASH, 262144, struct syn_key, struct syn_value, BPF_F_NO_PREALLOC);
/* FROZEN. (pod, direction, family) -> the agent's listener. Native writes; the row dies with the socket. */
MAP(listeners, BPF_MAP_TYPE_SOCKHASH, 16384, struct listener_key, __u64, 0);
/* FROZEN. end of a connection -> its socket. sockops writes; sk_msg finds the other end; the row dies with the socket. */
MAP(bypass, BPF_MAP_TYPE_SOCKHASH, 131072, struct bypass_key, __u64, 0);
/* FROZEN. server's end -> bytes it has sent past TCP. sockops makes and deletes, sk_msg adds. */
MAP(bypass_bytes, BPF_MAP_TYPE_HASH, 131072, struct bypass_key, struct bypass_value, BPF_F_NO_PREALLOC);

/* index -> number. Native and the agent write; all hooks read. */
MAP(settings, BPF_MAP_TYPE_ARRAY, SETTING_COUNT, __u32, struct setting_value, 0);
/* namespace cookie -> enrolled pod. Native writes. */
MAP(pods, BPF_MAP_TYPE_HASH, 4096, struct pod_key, struct pod_value, BPF_F_NO_PREALLOC);
/* address -> enrolled pod of this node. Native writes. */
MAP(local_pods, BPF_MAP_TYPE_HASH, 16384, struct address_key, struct local_pod_value, BPF_F_NO_PREALLOC);
/* address -> speaks a tunnel. The agent writes, from discovery. */
MAP(tunnel_speakers, BPF_MAP_TYPE_HASH, 262144, struct address_key, struct speaker_value, BPF_F_NO_PREALLOC);
/* address and port -> service. The agent writes. */
MAP(services, BPF_MAP_TYPE_HASH, 131072, struct service_key, struct service_value, BPF_F_NO_PREALLOC);
/* (service, slot) -> endpoint. The agent writes. */
MAP(backends, BPF_MAP_TYPE_HASH, 524288, struct backend_key, struct backend_value, BPF_F_NO_PREALLOC);
/* (source identity, destination) -> verdict. The agent writes. */
MAP(verdicts, BPF_MAP_TYPE_HASH, 524288, struct verdict_key, struct verdict_value, BPF_F_NO_PREALLOC);
/* (pod, port) -> the kubelet may probe it. Native writes at pod.enrol. */
MAP(probe_ports, BPF_MAP_TYPE_HASH, 16384, struct probe_port_key, struct flag_value, BPF_F_NO_PREALLOC);
/* (pod, direction, port) -> left alone. Native writes at pod.enrol. */
MAP(excluded_ports, BPF_MAP_TYPE_HASH, 32768, struct excluded_port_key, struct flag_value, BPF_F_NO_PREALLOC);
/* (pod, direction, range) -> left alone. Native writes at pod.enrol. */
MAP(excluded_cidrs, BPF_MAP_TYPE_LPM_TRIE, 32768, struct excluded_cidr_key, struct flag_value, BPF_F_NO_PREALLOC);
/* (pod, address, port) -> how many listen. sockops writes; sk_lookup reads; native deletes what stayed at zero. */
MAP(listening, BPF_MAP_TYPE_HASH, 131072, struct listening_key, struct listening_value, BPF_F_NO_PREALLOC);
/* (pod, address, port) -> listened already at enrolment. Native writes and sweeps, by sock_diag; sk_lookup reads. A map of
 * its own, since replacing a row that sockops counts in would lose counts. */
MAP(seeded, BPF_MAP_TYPE_HASH, 65536, struct listening_key, struct flag_value, BPF_F_NO_PREALLOC);
/* pod -> SYN rows in flight. sockops writes; native corrects when it sweeps. */
MAP(pending, BPF_MAP_TYPE_HASH, 4096, struct pod_key, struct pending_value, BPF_F_NO_PREALLOC);
/* reason -> how often, per CPU. All hooks write; native sums. */
MAP(counters, BPF_MAP_TYPE_PERCPU_ARRAY, COUNTER_COUNT, __u32, struct counter_value, 0);
/* What the agent is told. sockops writes. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

#endif
