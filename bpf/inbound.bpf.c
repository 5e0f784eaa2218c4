/* sk_lookup, one copy per enrolled pod (the helper for the namespace cookie is not offered here, so it is baked in): which
 * socket takes an arriving SYN. Everything that the app listens on is taken by the agent; the rest of the rules are about
 * whom to let through. What nobody listens on is dropped, which the client sees as ECONNREFUSED. */
#include "lib.h"

/* Written once, after loading and before it is attached: copies are made ahead, when nobody knows yet for whom. */
volatile __u64 pod_cookie;

static __always_inline bool has_listener(const struct ip *ip, __u16 port, bool need_v4)
{
	struct listening_key key = {.cookie = pod_cookie, .port = port};
	struct listening_value *row;
	struct flag_value *seed;

	ip_store(key.ip, ip);
	row = bpf_map_lookup_elem(&listening, &key);
	if (row && row->count > 0)
		return !(need_v4 && (row->flags & LISTENING_FLAG_V6ONLY));
	seed = bpf_map_lookup_elem(&seeded, &key);
	return seed && !(need_v4 && (seed->flags & LISTENING_FLAG_V6ONLY));
}

static __always_inline bool is_listening(const struct ip *ip, __u16 port)
{
	struct ip any6 = {};
	struct ip any4 = ip_from_v4(0);

	if (has_listener(ip, port, false))
		return true;
	if (!ip_is_v4(ip))
		return has_listener(&any6, port, false);
	return has_listener(&any4, port, false) || has_listener(&any6, port, true);
}

static __always_inline int steer(struct bpf_sk_lookup *ctx, __u32 traffic, __u32 family, __u32 counter)
{
	struct listener_key key = {.cookie = pod_cookie, .traffic = traffic, .family = family};
	struct bpf_sock *listener = bpf_map_lookup_elem(&listeners, &key);
	long failed;

	if (!listener) {
		count(COUNTER_IN_REFUSED_NO_AGENT);
		return SK_DROP;
	}
	/* Without the flag a listener in a reuseport group could hand the connection to an older agent. */
	failed = bpf_sk_assign(ctx, listener, BPF_SK_LOOKUP_F_NO_REUSEPORT);
	bpf_sk_release(listener);
	count(failed ? COUNTER_IN_REFUSED_ASSIGN : counter);
	return failed ? SK_DROP : SK_PASS;
}

static __always_inline int pass(__u32 counter)
{
	count(counter);
	return SK_PASS;
}

static __always_inline bool is_fresh(const struct syn_value *row)
{
	return bpf_ktime_get_ns() - row->time_ns < LIMIT_SYN_AGE_S * SECOND_NS;
}

/* Sent under the rules of now, or so short a time ago that they may have changed while it was under way: an agent's successor
 * numbers its rules anew, and that must refuse nobody. The agent ends twice what such a change forbids, so one that slips
 * through here lives for milliseconds. */
static __always_inline bool is_admitted(const struct syn_value *row)
{
	if (!is_fresh(row))
		return false;
	return row->generation >= setting(SETTING_POLICY_GENERATION) ||
	       bpf_ktime_get_ns() - row->time_ns < LIMIT_SYN_INSTANT_MS * 1000000ull;
}

/* What the agent dials with a client's address comes by lo; that very client from that very port comes by a device. */
static __always_inline bool came_as_told(struct bpf_sk_lookup *ctx, const struct syn_value *row)
{
	return !(row->flags & SYN_FLAG_LOOPBACK_ONLY) || READ(ctx, ingress_ifindex) == LOOPBACK_IFINDEX;
}

SEC("sk_lookup")
int fl_inbound(struct bpf_sk_lookup *ctx)
{
	struct syn_key key = {.cookie = pod_cookie};
	struct ip local, remote;
	struct syn_value *row;
	struct pod_value *pod;
	__u32 family = 6;

	if (READ(ctx, protocol) != IPPROTO_TCP)
		return SK_PASS;
	pod = pod_of(pod_cookie);
	if (!pod)
		return SK_PASS;
	if (READ(ctx, family) == AF_INET) {
		local = ip_from_v4(READ(ctx, local_ip4));
		remote = ip_from_v4(READ(ctx, remote_ip4));
		family = 4;
	} else {
		local = (struct ip){{READ(ctx, local_ip6[0]), READ(ctx, local_ip6[1]), READ(ctx, local_ip6[2]), READ(ctx, local_ip6[3])}};
		remote = (struct ip){{READ(ctx, remote_ip6[0]), READ(ctx, remote_ip6[1]), READ(ctx, remote_ip6[2]), READ(ctx, remote_ip6[3])}};
	}
	key.source_port = bpf_ntohs(ctx->remote_port);
	key.destination_port = READ(ctx, local_port);
	ip_store(key.source, &remote);
	ip_store(key.destination, &local);

	row = bpf_map_lookup_elem(&syns, &key);
	if (row) {
		switch (row->role) {
		case SOCKET_ROLE_OWN_APP:
			/* A row that nobody deleted must not let in a client that has the port by now. */
			if (is_fresh(row) && came_as_told(ctx, row))
				return pass(COUNTER_IN_PASS_OWN);
			break;
		case SOCKET_ROLE_REDIRECTED:
			return steer(ctx, TRAFFIC_OUTBOUND, family, COUNTER_IN_OUTBOUND_STEERED);
		case SOCKET_ROLE_DIRECT:
			if (is_admitted(row))
				return pass(COUNTER_IN_PASS_DIRECT);
			count(COUNTER_IN_ADMISSION_STALE);
			break;
		case SOCKET_ROLE_PROBE:
			if (is_fresh(row))
				return pass(COUNTER_IN_PASS_PROBE);
			break;
		}
	}
	if (ip_is_loopback(&local))
		return pass(COUNTER_IN_PASS_LOOPBACK);
	/* The pod talking to its own address. ingress_ifindex would not tell: it is that of the address, not of lo. */
	if (ip_equal(&local, &remote) || local_pod(&remote) == pod_cookie)
		return pass(COUNTER_IN_PASS_SELF);
	if (pod->flags & POD_FLAG_SUSPENDED)
		return pass(COUNTER_IN_PASS_SUSPENDED);
	if ((pod->flags & POD_FLAG_EXCLUDES) && is_excluded(pod_cookie, TRAFFIC_INBOUND, &remote, key.destination_port))
		return pass(COUNTER_IN_PASS_EXCLUDED);
	if (!is_listening(&local, key.destination_port)) {
		count(COUNTER_IN_REFUSED_NOT_LISTENING);
		return SK_DROP;
	}
	if (agent_alive(pod_cookie, TRAFFIC_INBOUND, family))
		return steer(ctx, TRAFFIC_INBOUND, family, COUNTER_IN_STEERED);
	if ((pod->flags & POD_FLAG_STRICT) || !(pod->flags & POD_FLAG_FAIL_OPEN)) {
		count(COUNTER_IN_REFUSED_NO_AGENT);
		return SK_DROP;
	}
	/* A tunnel speaker's bytes are not the app's: it gets a reset and tries again later (DP-9). */
	if (is_speaker(&remote)) {
		count(COUNTER_IN_REFUSED_SPEAKER);
		return SK_DROP;
	}
	return pass(COUNTER_IN_PASS_FAIL_OPEN);
}

char LICENSE[] SEC("license") = "GPL";
