/* Helpers of all programs: addresses as 16 bytes, counters, settings, liveness of the agent. Always inlined. */
#ifndef FAIRLEAD_LIB_H
#define FAIRLEAD_LIB_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "maps.h"

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262
#define SOL_SOCKET 1
#define SO_BINDTOIFINDEX 62
#define LOOPBACK_IFINDEX 1
#define ECONNREFUSED 111
#define ECONNRESET 104
#define SECOND_NS 1000000000ull

/* A 32-bit field of the context. In assembly, since the verifier refuses what the compiler makes of plain C here: merged
 * wide reads, and addresses computed before a branch. */
#define READ(ctx, field) \
	({ \
		__u64 read_value; \
		asm volatile("%[v] = *(u32 *)(%[c] + %[o])" \
			     : [v] "=r"(read_value) \
			     : [c] "r"(ctx), [o] "i"(__builtin_offsetof(typeof(*(ctx)), field))); \
		(__u32)read_value; \
	})

/* An address as four words in network order; the same bytes as the 16-byte fields of layout.h. */
struct ip {
	__u32 w[4];
};

static __always_inline struct ip ip_from_v4(__u32 v4_be)
{
	return (struct ip){{0, 0, bpf_htonl(0xffff), v4_be}};
}

static __always_inline void ip_store(__u8 *into, const struct ip *ip)
{
	__builtin_memcpy(into, ip, 16);
}

static __always_inline struct ip ip_load(const __u8 *from)
{
	struct ip ip;

	__builtin_memcpy(&ip, from, 16);
	return ip;
}

static __always_inline bool ip_equal(const struct ip *a, const struct ip *b)
{
	return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

static __always_inline bool ip_is_v4(const struct ip *ip)
{
	return !ip->w[0] && !ip->w[1] && ip->w[2] == bpf_htonl(0xffff);
}

static __always_inline bool ip_is_loopback(const struct ip *ip)
{
	if (ip_is_v4(ip))
		return (ip->w[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !ip->w[0] && !ip->w[1] && !ip->w[2] && ip->w[3] == bpf_htonl(1);
}

/* 0.0.0.0 and :: as a destination mean the own host. */
static __always_inline bool ip_is_any(const struct ip *ip)
{
	if (ip_is_v4(ip))
		return !ip->w[3];
	return !ip->w[0] && !ip->w[1] && !ip->w[2] && !ip->w[3];
}

static __always_inline bool ip_is_link_local(const struct ip *ip)
{
	if (ip_is_v4(ip))
		return (ip->w[3] & bpf_htonl(0xffff0000)) == bpf_htonl(0xa9fe0000);
	return (ip->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline __u32 ip_hash(const struct ip *ip, __u16 port)
{
	__u32 h = ip->w[0] ^ ip->w[1] * 0x85ebca6b ^ ip->w[2] * 0xc2b2ae35 ^ ip->w[3] * 0x9e3779b1 ^ port * 0x27d4eb2f;

	h ^= h >> 16;
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	return h ^ h >> 16;
}

static __always_inline void count(__u32 index)
{
	struct counter_value *value = bpf_map_lookup_elem(&counters, &index);

	if (value)
		value->value++;
}

static __always_inline __u64 setting(__u32 index)
{
	struct setting_key key = {index};
	struct setting_value *value = bpf_map_lookup_elem(&settings, &key);

	return value ? value->value : 0;
}

static __always_inline __u64 heartbeat_age(__u64 now)
{
	__u64 beat = setting(SETTING_HEARTBEAT_NS);

	return now > beat ? now - beat : 0;
}

/* Dead: the listener's row is gone (the kernel removes it with the socket). Hung: no heartbeat for too long. */
static __always_inline bool agent_alive(__u64 cookie, __u32 traffic, __u32 family)
{
	struct listener_key key = {.cookie = cookie, .traffic = traffic, .family = family};
	__u64 dead = setting(SETTING_HEARTBEAT_DEAD_NS);
	struct bpf_sock *listener;

	if (dead && heartbeat_age(bpf_ktime_get_ns()) > dead)
		return false;
	listener = bpf_map_lookup_elem(&listeners, &key);
	if (!listener)
		return false;
	bpf_sk_release(listener);
	return true;
}

static __always_inline struct pod_value *pod_of(__u64 cookie)
{
	struct pod_key key = {cookie};

	return bpf_map_lookup_elem(&pods, &key);
}

/* Cookie of the enrolled pod of this node that owns the address, 0 if none. */
static __always_inline __u64 local_pod(const struct ip *ip)
{
	struct address_key key;
	struct local_pod_value *value;

	ip_store(key.ip, ip);
	value = bpf_map_lookup_elem(&local_pods, &key);
	return value ? value->cookie : 0;
}

static __always_inline bool is_speaker(const struct ip *ip)
{
	struct address_key key;

	ip_store(key.ip, ip);
	return bpf_map_lookup_elem(&tunnel_speakers, &key) != 0;
}

static __always_inline bool is_excluded(__u64 cookie, __u16 traffic, const struct ip *ip, __u16 port)
{
	struct excluded_port_key port_key = {.cookie = cookie, .port = port, .traffic = traffic};
	struct excluded_cidr_key cidr_key = {.prefix_bits = 224, .traffic = traffic, .cookie = cookie};

	if (bpf_map_lookup_elem(&excluded_ports, &port_key))
		return true;
	ip_store(cidr_key.ip, ip);
	return bpf_map_lookup_elem(&excluded_cidrs, &cidr_key) != 0;
}

#endif
