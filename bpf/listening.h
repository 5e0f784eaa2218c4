/* The part of sockops that keeps `listening`: what each enrolled pod listens on, told to the agent as it changes. */
#ifndef FAIRLEAD_LISTENING_H
#define FAIRLEAD_LISTENING_H

#include "lib.h"

static __always_inline void addresses(struct bpf_sock_ops *ctx, struct ip *local, struct ip *remote)
{
	if (READ(ctx, family) == AF_INET) {
		*local = ip_from_v4(READ(ctx, local_ip4));
		*remote = ip_from_v4(READ(ctx, remote_ip4));
		return;
	}
	*local = (struct ip){{READ(ctx, local_ip6[0]), READ(ctx, local_ip6[1]), READ(ctx, local_ip6[2]), READ(ctx, local_ip6[3])}};
	*remote = (struct ip){{READ(ctx, remote_ip6[0]), READ(ctx, remote_ip6[1]), READ(ctx, remote_ip6[2]), READ(ctx, remote_ip6[3])}};
}

static __always_inline void set_state_callback(struct bpf_sock_ops *ctx, bool on)
{
	__u32 flags = READ(ctx, bpf_sock_ops_cb_flags);

	bpf_sock_ops_cb_flags_set(ctx, on ? flags | BPF_SOCK_OPS_STATE_CB_FLAG : flags & ~BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void tell_listening(const struct listening_key *key, __u32 open)
{
	struct event_listening *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count(COUNTER_EVENT_LOST);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = EVENT_KIND_LISTENING;
	event->open = open;
	event->cookie = key->cookie;
	__builtin_memcpy(event->ip, key->ip, 16);
	event->port = key->port;
	bpf_ringbuf_submit(event, 0);
}

static __always_inline void listening_key_of(struct bpf_sock_ops *ctx, struct listening_key *key)
{
	struct ip local, remote;

	__builtin_memset(key, 0, sizeof(*key));
	addresses(ctx, &local, &remote);
	key->cookie = bpf_get_netns_cookie(ctx);
	ip_store(key->ip, &local);
	key->port = READ(ctx, local_port);
}

static __always_inline void on_listen(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct socket_state *state = sk ? bpf_sk_storage_get(&sockets, sk, 0, 0) : 0;
	struct listening_value *row, zero = {};
	struct listening_key key;
	struct tcp_sock *tcp;

	if (!sk || (state && state->role == SOCKET_ROLE_OWN_LISTENER))
		return;
	listening_key_of(ctx, &key);
	if (!pod_of(key.cookie))
		return;
	row = bpf_map_lookup_elem(&listening, &key);
	if (!row) {
		tcp = bpf_skc_to_tcp_sock(sk);
		if (tcp && BPF_CORE_READ_BITFIELD(&tcp->inet_conn.icsk_inet.sk.__sk_common, skc_ipv6only))
			zero.flags = LISTENING_FLAG_V6ONLY;
		bpf_map_update_elem(&listening, &key, &zero, BPF_NOEXIST);
		row = bpf_map_lookup_elem(&listening, &key);
	}
	if (!row) {
		count(COUNTER_LISTENING_ROW_FAILED);
		return;
	}
	set_state_callback(ctx, true);
	/* Rows are not deleted here when they fall to zero: that would race with a socket that begins to listen just then. */
	if (__sync_fetch_and_add(&row->count, 1) == 0)
		tell_listening(&key, 1);
}

static __always_inline void on_listen_end(struct bpf_sock_ops *ctx)
{
	struct listening_value *row;
	struct listening_key key;

	listening_key_of(ctx, &key);
	row = bpf_map_lookup_elem(&listening, &key);
	if (row && __sync_fetch_and_add(&row->count, -1) == 1)
		tell_listening(&key, 0);
}

#endif
