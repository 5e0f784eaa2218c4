/* sockops: carries what the connect hook decided to the other end (rows in `syns`), keeps `listening`, and tells the agent
 * of ended direct connections. TCP_CONNECT_CB runs before the SYN leaves, with the source port chosen, so no SYN is ever
 * ahead of its row. */
#include "listening.h"

/* One more or one less SYN row of a pod; false if it has its fill. */
static __always_inline bool take_pending(__u64 cookie)
{
	struct pod_key key = {cookie};
	struct pending_value zero = {}, *value = bpf_map_lookup_elem(&pending, &key);

	if (!value) {
		bpf_map_update_elem(&pending, &key, &zero, BPF_NOEXIST);
		value = bpf_map_lookup_elem(&pending, &key);
	}
	if (!value)
		return false;
	if (value->count >= LIMIT_PENDING_PER_POD)
		return false;
	__sync_fetch_and_add(&value->count, 1);
	return true;
}

static __always_inline void give_pending(__u64 cookie)
{
	struct pod_key key = {cookie};
	struct pending_value *value = bpf_map_lookup_elem(&pending, &key);

	if (value)
		__sync_fetch_and_add(&value->count, -1);
}

/* Whoever deletes the row gives its place back, so the count is exact whichever end is first. */
static __always_inline void delete_row(const struct syn_key *key, __u64 source_cookie)
{
	if (bpf_map_delete_elem(&syns, key) == 0 && source_cookie)
		give_pending(source_cookie);
}

/* Key under which the SYN of this client socket will be looked up. */
static __always_inline void client_key(struct bpf_sock_ops *ctx, const struct socket_state *state, struct syn_key *key)
{
	struct ip local, remote;
	bool elsewhere = state->role == SOCKET_ROLE_DIRECT || state->role == SOCKET_ROLE_PROBE;

	__builtin_memset(key, 0, sizeof(*key));
	addresses(ctx, &local, &remote);
	key->cookie = elsewhere ? state->destination_cookie : bpf_get_netns_cookie(ctx);
	ip_store(key->source, &local);
	ip_store(key->destination, &remote);
	key->source_port = READ(ctx, local_port);
	key->destination_port = bpf_ntohl(READ(ctx, remote_port));
}

/* Rules DP-7: the row is written only if nothing changed behind the connect hook's back. */
static __always_inline bool may_admit(const struct socket_state *state, const struct syn_key *key)
{
	struct ip target = ip_load(state->target), destination = ip_load(key->destination), source = ip_load(key->source);

	if (!ip_equal(&target, &destination) || state->target_port != key->destination_port) {
		count(COUNTER_SYN_DESTINATION_CHANGED);
		return false;
	}
	if (state->role == SOCKET_ROLE_DIRECT && local_pod(&source) != state->source_cookie) {
		count(COUNTER_SYN_SOURCE_NOT_OWN);
		return false;
	}
	return true;
}

static __always_inline void on_connect(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct socket_state *state = sk ? bpf_sk_storage_get(&sockets, sk, 0, 0) : 0;
	struct syn_value row = {.version = 1};
	struct syn_key key;

	if (!state)
		return;
	if (state->role != SOCKET_ROLE_OWN_APP && state->role != SOCKET_ROLE_REDIRECTED && state->role != SOCKET_ROLE_DIRECT &&
	    state->role != SOCKET_ROLE_PROBE)
		return;
	client_key(ctx, state, &key);
	if ((state->role == SOCKET_ROLE_DIRECT || state->role == SOCKET_ROLE_PROBE) && !may_admit(state, &key)) {
		state->role = SOCKET_ROLE_NONE;
		return;
	}
	set_state_callback(ctx, true);
	if (state->source_cookie && !take_pending(state->source_cookie)) {
		count(COUNTER_SYN_QUOTA_EXCEEDED);
		return;
	}
	row.role = state->role;
	row.flags = state->flags & SOCKET_FLAG_BYPASS ? SYN_FLAG_BYPASS : 0;
	if (state->role == SOCKET_ROLE_OWN_APP && sk->bound_dev_if == LOOPBACK_IFINDEX)
		row.flags |= SYN_FLAG_LOOPBACK_ONLY;
	row.verdict = state->verdict;
	row.source_cookie = state->source_cookie;
	row.generation = state->generation;
	row.time_ns = bpf_ktime_get_ns();
	__builtin_memcpy(row.original, state->original, 16);
	row.original_port = state->original_port;
	row.backend_port = state->target_port;
	__builtin_memcpy(row.backend, state->target, 16);
	if (bpf_map_update_elem(&syns, &key, &row, BPF_ANY)) {
		count(COUNTER_SYN_ROW_FAILED);
		if (state->source_cookie)
			give_pending(state->source_cookie);
	}
}

static __always_inline void bypass_key_of(struct bpf_sock_ops *ctx, struct bypass_key *key, bool other_end)
{
	__u16 local_port = READ(ctx, local_port), remote_port = bpf_ntohl(READ(ctx, remote_port));
	struct ip local, remote;

	__builtin_memset(key, 0, sizeof(*key));
	addresses(ctx, &local, &remote);
	ip_store(key->local, other_end ? &remote : &local);
	ip_store(key->remote, other_end ? &local : &remote);
	key->local_port = other_end ? remote_port : local_port;
	key->remote_port = other_end ? local_port : remote_port;
}

/* Makes this end known to sk_msg. Should that fail, its bytes go by TCP as always. */
static __always_inline void join_bypass(struct bpf_sock_ops *ctx, bool is_server)
{
	struct bypass_value zero = {};
	struct bypass_key key;

	bypass_key_of(ctx, &key, false);
	if (is_server)
		bpf_map_update_elem(&bypass_bytes, &key, &zero, BPF_ANY);
	bpf_sock_hash_update(ctx, &bypass, &key, BPF_ANY);
}

/* What the server's end has sent past TCP; asked once, at the client's end. */
static __always_inline __u64 take_bypass_bytes(struct bpf_sock_ops *ctx)
{
	struct bypass_value *value;
	struct bypass_key key;
	__u64 sent;

	bypass_key_of(ctx, &key, true);
	value = bpf_map_lookup_elem(&bypass_bytes, &key);
	sent = value ? value->sent : 0;
	bpf_map_delete_elem(&bypass_bytes, &key);
	return sent;
}

/* Wakes nobody: the reader takes it with the next event, or when it looks by itself. */
static __always_inline void tell_opened(struct socket_state *state)
{
	struct event_direct_opened *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return; /* then it counts when it ends */
	event->kind = EVENT_KIND_DIRECT_OPENED;
	event->verdict = state->verdict;
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	state->opening_told = 1;
}

static __always_inline void on_active_established(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct socket_state *state = sk ? bpf_sk_storage_get(&sockets, sk, 0, 0) : 0;

	if (!state)
		return;
	if (state->role == SOCKET_ROLE_DIRECT) {
		state->flags |= SOCKET_FLAG_ESTABLISHED;
		tell_opened(state);
		if (state->flags & SOCKET_FLAG_BYPASS)
			join_bypass(ctx, false);
	} else
		/* The other end deletes the row; nothing is recorded of these here, so spare the calls. */
		set_state_callback(ctx, false);
}

/* The app's end of a connection that the agent opened with the client's address, and its TIME_WAIT, would be found by the SYN of that very
 * client from the same port, which then gets no answer. Packets of a device find no socket of another one (rule DP-1). */
static __always_inline void tie_to_loopback(struct bpf_sock_ops *ctx)
{
	int loopback = LOOPBACK_IFINDEX;

	if (bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTOIFINDEX, &loopback, sizeof(loopback)))
		count(COUNTER_APP_NOT_TIED);
}

/* And the other way round: what the agent sends to an app by lo would find a client's socket with the same ends, since one that is tied to no
 * device takes packets of all, and of several the latest is found. NAT may give a client such a port at any time. */
static __always_inline void tie_to_its_device(struct bpf_sock_ops *ctx, struct bpf_sock *sk, __u16 remote_port)
{
	__u64 ports = setting(SETTING_APP_PORTS);
	struct tcp_sock *tcp;
	int device;

	if (remote_port < ports >> 16 || remote_port > (ports & 0xffff) || sk->bound_dev_if)
		return;
	tcp = bpf_skc_to_tcp_sock(sk);
	device = tcp ? tcp->inet_conn.icsk_inet.sk.sk_rx_dst_ifindex : 0;
	if (device <= LOOPBACK_IFINDEX)
		return;
	if (bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTOIFINDEX, &device, sizeof(device)))
		count(COUNTER_APP_NOT_TIED);
}

static __always_inline void on_passive_established(struct bpf_sock_ops *ctx)
{
	struct syn_key key = {.cookie = bpf_get_netns_cookie(ctx)};
	struct bpf_sock *sk = ctx->sk;
	struct socket_state *state;
	struct ip local, remote;
	struct syn_value *row;

	if (!sk || !pod_of(key.cookie))
		return;
	/* Inherited from the listener; an accepted socket has nothing to tell. */
	if (READ(ctx, bpf_sock_ops_cb_flags))
		set_state_callback(ctx, false);
	addresses(ctx, &local, &remote);
	ip_store(key.source, &remote);
	ip_store(key.destination, &local);
	key.source_port = bpf_ntohl(READ(ctx, remote_port));
	key.destination_port = READ(ctx, local_port);
	tie_to_its_device(ctx, sk, key.source_port);
	row = bpf_map_lookup_elem(&syns, &key);
	if (!row)
		return;
	if (row->role == SOCKET_ROLE_REDIRECTED) {
		state = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (state) {
			state->version = 1;
			state->role = SOCKET_ROLE_ACCEPTED;
			state->source_cookie = row->source_cookie;
			state->generation = row->generation;
			state->started_ns = row->time_ns;
			__builtin_memcpy(state->original, row->original, 16);
			__builtin_memcpy(state->target, row->backend, 16);
			state->original_port = row->original_port;
			state->target_port = row->backend_port;
		}
	}
	/* It inherits the mark of its SYN; one of the client itself, which finds a row that nobody deleted, has another. */
	if (row->role == SOCKET_ROLE_OWN_APP && (row->flags & SYN_FLAG_LOOPBACK_ONLY) && sk->mark == LIMIT_APP_MARK)
		tie_to_loopback(ctx);
	if (row->role == SOCKET_ROLE_DIRECT && (row->flags & SYN_FLAG_BYPASS)) {
		state = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (state) {
			state->version = 1;
			state->role = SOCKET_ROLE_DIRECT_PEER;
			state->flags = SOCKET_FLAG_BYPASS;
			join_bypass(ctx, true);
		}
	}
	delete_row(&key, row->source_cookie);
}

/* Notes who closed first and whether a FIN went out: what the record needs. */
static __always_inline void note_transition(struct socket_state *state, __u32 from, __u32 to)
{
	if (to == BPF_TCP_FIN_WAIT1 || to == BPF_TCP_LAST_ACK)
		state->flags |= SOCKET_FLAG_FIN_SENT;
	if (from == BPF_TCP_ESTABLISHED && to == BPF_TCP_FIN_WAIT1)
		state->flags |= SOCKET_FLAG_CLIENT_FIRST;
	if (from == BPF_TCP_ESTABLISHED && to == BPF_TCP_CLOSE_WAIT)
		state->flags |= SOCKET_FLAG_SERVER_FIRST;
}

/* Without a FIN on either side it was a reset: ours (no error, unread data) or the other's. */
static __always_inline __u32 closed_by(const struct socket_state *state, int error)
{
	if (state->flags & SOCKET_FLAG_CLIENT_FIRST)
		return CLOSED_BY_CLIENT;
	if (state->flags & SOCKET_FLAG_SERVER_FIRST)
		return CLOSED_BY_SERVER;
	if (!(state->flags & SOCKET_FLAG_ESTABLISHED))
		return CLOSED_BY_NOBODY;
	return !error ? CLOSED_BY_CLIENT : error == ECONNRESET ? CLOSED_BY_SERVER : CLOSED_BY_NOBODY;
}

static __always_inline void tell_closed(struct bpf_sock_ops *ctx, struct socket_state *state, const struct syn_key *key)
{
	struct event_direct_closed *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	__u64 acked = ctx->bytes_acked, received = ctx->bytes_received;
	__u64 bypassed = state->flags & SOCKET_FLAG_BYPASS ? take_bypass_bytes(ctx) : 0;
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : 0;

	if (!event) {
		count(COUNTER_EVENT_LOST);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	if (tcp && tcp->inet_conn.icsk_inet.sk.__sk_common.skc_flags >> SOCK_DONE_BIT & 1)
		state->flags |= SOCKET_FLAG_FIN_RECEIVED;
	event->error = tcp ? tcp->inet_conn.icsk_inet.sk.sk_err : 0;
	event->kind = EVENT_KIND_DIRECT_CLOSED;
	event->flags = state->flags | (state->opening_told ? SOCKET_FLAG_OPENING_TOLD : 0);
	event->closed_by = closed_by(state, event->error);
	event->verdict = state->verdict;
	event->source_cookie = state->source_cookie;
	event->destination_cookie = state->destination_cookie;
	event->started_ns = state->started_ns;
	event->duration_ns = bpf_ktime_get_ns() - state->started_ns;
	/* The kernel counts an acknowledged SYN, an acknowledged FIN and a received FIN as a byte each. */
	if (acked && (state->flags & SOCKET_FLAG_FIN_SENT) && READ(ctx, snd_una) == READ(ctx, snd_nxt))
		acked--;
	event->sent = (acked ? acked - 1 : 0) + state->bypass_sent;
	event->received = (received && (state->flags & SOCKET_FLAG_FIN_RECEIVED) ? received - 1 : received) + bypassed;
	__builtin_memcpy(event->source, key->source, 16);
	__builtin_memcpy(event->destination, state->original, 16);
	__builtin_memcpy(event->upstream, key->destination, 16);
	event->source_port = key->source_port;
	event->destination_port = state->original_port;
	event->upstream_port = key->destination_port;
	event->identity = state->identity;
	bpf_ringbuf_submit(event, 0);
}

static __always_inline void on_state(struct bpf_sock_ops *ctx)
{
	__u32 from = READ(ctx, args[0]), to = READ(ctx, args[1]);
	struct bpf_sock *sk = ctx->sk;
	struct socket_state *state;
	struct syn_key key;

	if (from == BPF_TCP_LISTEN) {
		on_listen_end(ctx);
		return;
	}
	state = sk ? bpf_sk_storage_get(&sockets, sk, 0, 0) : 0;
	if (!state)
		return;
	if (state->role == SOCKET_ROLE_DIRECT)
		note_transition(state, from, to);
	if (to != BPF_TCP_CLOSE)
		return;
	client_key(ctx, state, &key);
	delete_row(&key, state->source_cookie);
	if (state->role == SOCKET_ROLE_DIRECT)
		tell_closed(ctx, state, &key);
}

SEC("sockops")
int fl_sockops(struct bpf_sock_ops *ctx)
{
	switch (READ(ctx, op)) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		on_connect(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		on_active_established(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		on_passive_established(ctx);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		on_listen(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		on_state(ctx);
		break;
	}
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
