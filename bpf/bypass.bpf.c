/* sk_msg on the ends of direct connections of pods that opted in: a message goes into the other end's receive queue, past
 * TCP. Off by default, since there is no flow control: a reader that does not read lets the sender's bytes pile up. */
#include "lib.h"

static __always_inline void other_end(struct sk_msg_md *msg, struct bypass_key *key)
{
	struct ip local, remote;

	__builtin_memset(key, 0, sizeof(*key));
	if (READ(msg, family) == AF_INET) {
		local = ip_from_v4(READ(msg, local_ip4));
		remote = ip_from_v4(READ(msg, remote_ip4));
	} else {
		local = (struct ip){{READ(msg, local_ip6[0]), READ(msg, local_ip6[1]), READ(msg, local_ip6[2]), READ(msg, local_ip6[3])}};
		remote = (struct ip){{READ(msg, remote_ip6[0]), READ(msg, remote_ip6[1]), READ(msg, remote_ip6[2]), READ(msg, remote_ip6[3])}};
	}
	ip_store(key->local, &remote);
	ip_store(key->remote, &local);
	key->local_port = bpf_ntohl(READ(msg, remote_port));
	key->remote_port = READ(msg, local_port);
}

/* Turns the other end's key into this end's. */
static __always_inline void own_end(struct bypass_key *key)
{
	struct ip local = ip_load(key->remote), remote = ip_load(key->local);
	__u16 local_port = key->remote_port;

	ip_store(key->local, &local);
	ip_store(key->remote, &remote);
	key->remote_port = key->local_port;
	key->local_port = local_port;
}

SEC("sk_msg")
int fl_bypass(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	struct bypass_value *bytes;
	struct socket_state *state;
	__u32 size = READ(msg, size);
	struct bypass_key key;

	state = sk ? bpf_sk_storage_get(&sockets, sk, 0, 0) : 0;
	/* Decided at the first message, once for each direction: TCP and the bypass would overtake each other. */
	if (!state || (state->flags & SOCKET_FLAG_BYPASS_OFF))
		return SK_PASS;
	other_end(msg, &key);
	if (bpf_msg_redirect_hash(msg, &bypass, &key, BPF_F_INGRESS) != SK_PASS) {
		/* Not there (yet, or any more): TCP carries it, or says EPIPE. */
		if (!(state->flags & SOCKET_FLAG_BYPASS_ON)) {
			state->flags |= SOCKET_FLAG_BYPASS_OFF;
			count(COUNTER_BYPASS_FELL_TO_TCP);
		}
		return SK_PASS;
	}
	state->flags |= SOCKET_FLAG_BYPASS_ON;
	state->bypass_sent += size;
	count(COUNTER_BYPASS_MESSAGES);
	if (state->role == SOCKET_ROLE_DIRECT_PEER) {
		own_end(&key);
		bytes = bpf_map_lookup_elem(&bypass_bytes, &key);
		if (bytes)
			bytes->sent += size;
	}
	return SK_PASS;
}

char LICENSE[] SEC("license") = "GPL";
