/* cgroup/connect4, connect6: what becomes of a connection that a pod of this node opens. Passes, goes straight to a pod of
 * this node (direct lane), or goes to the agent, which decides everything else. Policy denies nothing here: only a missing
 * agent does. Also what the app is told by getpeername and getsockname. */
#include "lib.h"

enum outcome {
	OUTCOME_PASS,
	OUTCOME_REFUSE,
	OUTCOME_REDIRECT,
	OUTCOME_DIRECT,
};

struct target {
	struct ip ip;
	__u16 port;
	bool is_backend;
};

/* The endpoint that a service address leads to; the address itself if it is none, or has no backends. */
static __always_inline void resolve(const struct ip *to, __u16 port, struct target *target)
{
	struct service_key key = {.port = port};
	struct service_value *service;
	struct backend_key slot = {};
	struct backend_value *backend;

	target->ip = *to;
	target->port = port;
	target->is_backend = false;
	ip_store(key.ip, to);
	service = bpf_map_lookup_elem(&services, &key);
	if (!service || !service->backend_count)
		return;
	slot.service = service->service;
	slot.slot = bpf_get_prandom_u32() % service->backend_count;
	backend = bpf_map_lookup_elem(&backends, &slot);
	if (!backend)
		return;
	target->ip = ip_load(backend->ip);
	target->port = backend->port;
	target->is_backend = true;
}

static __always_inline struct verdict_value *verdict_of(__u32 identity, const struct target *target)
{
	struct verdict_key key = {.identity = identity, .port = target->port};
	struct verdict_value *verdict;

	ip_store(key.ip, &target->ip);
	verdict = bpf_map_lookup_elem(&verdicts, &key);
	if (!verdict || verdict->kind != VERDICT_KIND_ALLOW_DIRECT)
		return 0;
	return verdict->generation >= setting(SETTING_POLICY_GENERATION) ? verdict : 0;
}

/* The kubelet connects from the host's namespace: noted here by its cgroup, let in by the pod's sk_lookup (DP-10). */
static __always_inline void note_probe(struct bpf_sock_addr *ctx, const struct ip *to, __u16 port)
{
	__u64 kubelet = setting(SETTING_KUBELET_CGROUP);
	struct probe_port_key key = {.port = port};
	struct socket_state *state;

	if (!kubelet || bpf_get_current_ancestor_cgroup_id(setting(SETTING_KUBELET_LEVEL)) != kubelet)
		return;
	key.cookie = local_pod(to);
	if (!key.cookie || !bpf_map_lookup_elem(&probe_ports, &key))
		return;
	state = bpf_sk_storage_get(&sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!state)
		return;
	state->version = 1;
	state->role = SOCKET_ROLE_PROBE;
	state->destination_cookie = key.cookie;
	ip_store(state->original, to);
	ip_store(state->target, to);
	state->original_port = port;
	state->target_port = port;
	count(COUNTER_PROBE_NOTED);
}

/* The other end takes the bytes past TCP only if both pods and the verdict say so. */
static __always_inline bool may_bypass(const struct pod_value *pod, __u64 destination_cookie, const struct verdict_value *verdict)
{
	struct pod_value *destination;

	if (!(verdict->flags & VERDICT_FLAG_BYPASS) || !(pod->flags & POD_FLAG_BYPASS))
		return false;
	destination = pod_of(destination_cookie);
	return destination && (destination->flags & POD_FLAG_BYPASS);
}

/* The app holds the MPTCP socket, the hook sees its first subflow: the app's getpeername asks the former (Linux 5.19 on). */
static __always_inline void *mptcp_of(struct bpf_sock *sk)
{
	return bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_skc_to_mptcp_sock) ? bpf_skc_to_mptcp_sock(sk) : 0;
}

static __always_inline int pass(struct bpf_sock_addr *ctx, bool had_state, __u32 why)
{
	void *mptcp;

	/* The socket may have been connected elsewhere before (AF_UNSPEC, then a new connect). */
	if (had_state) {
		mptcp = mptcp_of(ctx->sk);
		if (mptcp)
			bpf_sk_storage_delete(&sockets, mptcp);
		bpf_sk_storage_delete(&sockets, ctx->sk);
	}
	count(why);
	return OUTCOME_PASS;
}

static __always_inline int refuse(__u32 why)
{
	count(why);
	bpf_set_retval(-ECONNREFUSED);
	return OUTCOME_REFUSE;
}

static __always_inline int without_agent(struct bpf_sock_addr *ctx, struct pod_value *pod, bool had_state, const struct target *target)
{
	if ((pod->flags & POD_FLAG_STRICT) || !(pod->flags & POD_FLAG_FAIL_OPEN))
		return refuse(COUNTER_OUT_REFUSED_NO_AGENT);
	if (is_speaker(&target->ip))
		return refuse(COUNTER_OUT_REFUSED_SPEAKER);
	return pass(ctx, had_state, COUNTER_OUT_PASS_FAIL_OPEN);
}

/* A socket tied to a device cannot reach loopback: untied if the app's own rights allow it (DP-11). */
static __always_inline bool untie(struct bpf_sock_addr *ctx)
{
	int any = 0;

	if (!ctx->sk->bound_dev_if)
		return true;
	return bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTOIFINDEX, &any, sizeof(any)) == 0;
}

static __always_inline void show_to_mptcp(struct bpf_sock *sk, const struct socket_state *subflow)
{
	void *mptcp = mptcp_of(sk);
	struct socket_state *shown = mptcp ? bpf_sk_storage_get(&sockets, mptcp, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;

	if (!shown)
		return;
	shown->version = 1;
	shown->role = subflow->role;
	shown->source_cookie = subflow->source_cookie;
	__builtin_memcpy(shown->original, subflow->original, 16);
	shown->original_port = subflow->original_port;
}

static __always_inline int decide(struct bpf_sock_addr *ctx, const struct ip *to, struct target *target)
{
	__u16 port = bpf_ntohs(READ(ctx, user_port));
	__u32 protocol = READ(ctx, protocol);
	__u64 cookie = bpf_get_netns_cookie(ctx);
	struct socket_state *state;
	struct verdict_value *verdict;
	struct pod_value *pod;
	__u64 destination_cookie;
	bool alive, had_state;

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP)
		return OUTCOME_PASS;
	if (!ctx->sk)
		return OUTCOME_PASS;
	pod = pod_of(cookie);
	if (!pod) {
		note_probe(ctx, to, port);
		return OUTCOME_PASS;
	}
	state = bpf_sk_storage_get(&sockets, ctx->sk, 0, 0);
	if (state && (state->role == SOCKET_ROLE_OWN || state->role == SOCKET_ROLE_OWN_APP)) {
		count(COUNTER_OUT_PASS_OWN);
		return OUTCOME_PASS;
	}
	had_state = state != 0;
	if (ip_is_loopback(to) || ip_is_any(to))
		return pass(ctx, had_state, COUNTER_OUT_PASS_LOOPBACK);
	if (ip_is_link_local(to))
		return pass(ctx, had_state, COUNTER_OUT_PASS_LINK_LOCAL);
	if (pod->flags & POD_FLAG_SUSPENDED)
		return pass(ctx, had_state, COUNTER_OUT_PASS_SUSPENDED);
	if ((pod->flags & POD_FLAG_EXCLUDES) && is_excluded(cookie, TRAFFIC_OUTBOUND, to, port))
		return pass(ctx, had_state, COUNTER_OUT_PASS_EXCLUDED);
	resolve(to, port, target);
	destination_cookie = local_pod(&target->ip);
	if (destination_cookie == cookie && !target->is_backend)
		return pass(ctx, had_state, COUNTER_OUT_PASS_SELF);

	alive = agent_alive(cookie, TRAFFIC_OUTBOUND, ip_is_v4(to) ? 4 : 6);
	verdict = destination_cookie ? verdict_of(pod->identity, target) : 0;
	if (verdict && !alive && heartbeat_age(bpf_ktime_get_ns()) > setting(SETTING_DIRECT_GRACE_NS))
		verdict = 0;
	/* A socket of one family cannot be sent to a backend of the other. */
	if (verdict && ip_is_v4(&target->ip) != ip_is_v4(to))
		verdict = 0;
	if (!verdict && !alive)
		return without_agent(ctx, pod, had_state, target);
	if (!verdict && !untie(ctx)) {
		if (pod->flags & POD_FLAG_STRICT)
			return refuse(COUNTER_OUT_REFUSED_BOUND_DEVICE);
		return pass(ctx, had_state, COUNTER_OUT_PASS_BOUND_DEVICE);
	}

	state = bpf_sk_storage_get(&sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!state)
		return refuse(COUNTER_OUT_REFUSED_STORAGE);
	state->version = 1;
	state->role = verdict ? SOCKET_ROLE_DIRECT : SOCKET_ROLE_REDIRECTED;
	state->flags = verdict && may_bypass(pod, destination_cookie, verdict) ? SOCKET_FLAG_BYPASS : 0;
	state->bypass_sent = 0;
	state->verdict = verdict ? verdict->verdict : 0;
	state->source_cookie = cookie;
	state->destination_cookie = verdict ? destination_cookie : 0;
	state->generation = setting(SETTING_POLICY_GENERATION);
	state->started_ns = bpf_ktime_get_ns();
	state->identity = pod->identity;
	ip_store(state->original, to);
	ip_store(state->target, &target->ip);
	state->original_port = port;
	state->target_port = target->port;
	show_to_mptcp(ctx->sk, state);
	count(verdict ? COUNTER_OUT_DIRECT : COUNTER_OUT_REDIRECTED);
	return verdict ? OUTCOME_DIRECT : OUTCOME_REDIRECT;
}

SEC("cgroup/connect4")
int fl_connect4(struct bpf_sock_addr *ctx)
{
	struct ip to = ip_from_v4(READ(ctx, user_ip4));
	struct target target;

	switch (decide(ctx, &to, &target)) {
	case OUTCOME_REFUSE:
		return 0;
	case OUTCOME_DIRECT:
		ctx->user_ip4 = target.ip.w[3];
		ctx->user_port = bpf_htons(target.port);
		return 1;
	case OUTCOME_REDIRECT:
		/* Spread over 127.0.0.0/8 by destination, or one pod had as few connections as there are ports (DP-3). */
		ctx->user_ip4 = bpf_htonl(0x7f000000 | (ip_hash(&to, READ(ctx, user_port)) & 0x7fffff) | 0x800000);
		ctx->user_port = bpf_htons(LIMIT_REDIRECT_PORT);
		return 1;
	}
	return 1;
}

SEC("cgroup/connect6")
int fl_connect6(struct bpf_sock_addr *ctx)
{
	struct ip to = {{READ(ctx, user_ip6[0]), READ(ctx, user_ip6[1]), READ(ctx, user_ip6[2]), READ(ctx, user_ip6[3])}};
	struct target target;
	__u32 hash;

	switch (decide(ctx, &to, &target)) {
	case OUTCOME_REFUSE:
		return 0;
	case OUTCOME_DIRECT:
		ctx->user_ip6[0] = target.ip.w[0];
		ctx->user_ip6[1] = target.ip.w[1];
		ctx->user_ip6[2] = target.ip.w[2];
		ctx->user_ip6[3] = target.ip.w[3];
		ctx->user_port = bpf_htons(target.port);
		return 1;
	case OUTCOME_REDIRECT:
		hash = ip_hash(&to, READ(ctx, user_port));
		if (ip_is_v4(&to)) {
			ctx->user_ip6[3] = bpf_htonl(0x7f000000 | (hash & 0x7fffff) | 0x800000);
			ctx->user_port = bpf_htons(LIMIT_REDIRECT_PORT);
			return 1;
		}
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		ctx->user_ip6[2] = 0;
		ctx->user_ip6[3] = bpf_htonl(1);
		ctx->user_port = bpf_htons(LIMIT_REDIRECT_PORT + hash % LIMIT_REDIRECT_PORT_SPREAD);
		return 1;
	}
	return 1;
}

/* The state of a socket whose address the app must see as if there were no mesh. */
static __always_inline struct socket_state *meshed(struct bpf_sock_addr *ctx)
{
	struct socket_state *state = ctx->sk ? bpf_sk_storage_get(&sockets, ctx->sk, 0, 0) : 0;

	return state && (state->role == SOCKET_ROLE_REDIRECTED || state->role == SOCKET_ROLE_DIRECT) ? state : 0;
}

SEC("cgroup/getpeername4")
int fl_getpeername4(struct bpf_sock_addr *ctx)
{
	struct socket_state *state = meshed(ctx);

	if (!state)
		return 1;
	ctx->user_ip4 = ip_load(state->original).w[3];
	ctx->user_port = bpf_htons(state->original_port);
	return 1;
}

SEC("cgroup/getpeername6")
int fl_getpeername6(struct bpf_sock_addr *ctx)
{
	struct socket_state *state = meshed(ctx);
	struct ip original;

	if (!state)
		return 1;
	original = ip_load(state->original);
	ctx->user_ip6[0] = original.w[0];
	ctx->user_ip6[1] = original.w[1];
	ctx->user_ip6[2] = original.w[2];
	ctx->user_ip6[3] = original.w[3];
	ctx->user_port = bpf_htons(state->original_port);
	return 1;
}

/* A redirected socket's local address is a loopback one; the app is shown its pod's own. */
SEC("cgroup/getsockname4")
int fl_getsockname4(struct bpf_sock_addr *ctx)
{
	struct socket_state *state = meshed(ctx);
	struct ip local = ip_from_v4(READ(ctx, user_ip4));
	struct pod_value *pod;

	if (!state || state->role != SOCKET_ROLE_REDIRECTED || !ip_is_loopback(&local))
		return 1;
	pod = pod_of(state->source_cookie);
	local = pod ? ip_load(pod->ip4) : local;
	if (ip_is_v4(&local))
		ctx->user_ip4 = local.w[3];
	return 1;
}

SEC("cgroup/getsockname6")
int fl_getsockname6(struct bpf_sock_addr *ctx)
{
	struct socket_state *state = meshed(ctx);
	struct ip local = {{READ(ctx, user_ip6[0]), READ(ctx, user_ip6[1]), READ(ctx, user_ip6[2]), READ(ctx, user_ip6[3])}};
	struct pod_value *pod;

	if (!state || state->role != SOCKET_ROLE_REDIRECTED || !ip_is_loopback(&local))
		return 1;
	pod = pod_of(state->source_cookie);
	if (!pod)
		return 1;
	local = ip_is_v4(&local) ? ip_load(pod->ip4) : ip_load(pod->ip6);
	if (ip_is_any(&local))
		return 1;
	ctx->user_ip6[0] = local.w[0];
	ctx->user_ip6[1] = local.w[1];
	ctx->user_ip6[2] = local.w[2];
	ctx->user_ip6[3] = local.w[3];
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
