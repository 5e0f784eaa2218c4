/* tcx ingress at the node's end of an enrolled pod's link, one copy per pod (DP-7): drops what leaves the pod under the address
 * of another pod of the mesh, ARP and neighbour advertisements included, so that raw sockets and addresses which a pod gives
 * itself take nobody's place. Addresses that the mesh does not know are not its business and pass. */
#include "lib.h"

#define TCX_NEXT -1
#define TCX_DROP 2
#define ETH_HEADER 14
#define ETH_P_IP 0x0800
#define ETH_P_ARP 0x0806
#define ETH_P_IPV6 0x86dd
#define IP4_SOURCE (ETH_HEADER + 12)
#define ARP_SENDER (ETH_HEADER + 14)
#define IP6_NEXT_HEADER (ETH_HEADER + 6)
#define IP6_SOURCE (ETH_HEADER + 8)
#define ICMP6_TYPE (ETH_HEADER + 40)
#define ND_TARGET (ETH_HEADER + 48)
#define NEXT_HEADER_ICMP6 58
#define NEIGHBOUR_ADVERTISEMENT 136

/* Whose link this is. Its addresses are known here too: what is right costs no lookup. Written once, like the cookie of inbound.bpf.c. */
volatile struct guard_pod self;

static __always_inline int judge(const struct ip *source)
{
	__u64 owner;

	if (ip_equal(source, (const struct ip *)self.ip4) || ip_equal(source, (const struct ip *)self.ip6))
		return TCX_NEXT;
	owner = local_pod(source);
	if (owner == self.cookie || (!owner && !is_speaker(source)))
		return TCX_NEXT;
	count(COUNTER_SPOOFED_DROPPED);
	return TCX_DROP;
}

static __always_inline int judge_v4(struct __sk_buff *skb, __u32 at)
{
	struct ip source;
	__u32 v4;

	if (bpf_skb_load_bytes(skb, at, &v4, sizeof(v4)))
		return TCX_NEXT;
	source = ip_from_v4(v4);
	return judge(&source);
}

static __always_inline int judge_v6(struct __sk_buff *skb, __u32 at)
{
	struct ip source;

	if (bpf_skb_load_bytes(skb, at, &source, sizeof(source)))
		return TCX_NEXT;
	return judge(&source);
}

SEC("tcx/ingress")
int fl_guard(struct __sk_buff *skb)
{
	__u8 next = 0, type = 0;
	int verdict;

	switch (bpf_ntohs(READ(skb, protocol))) {
	case ETH_P_IP:
		return judge_v4(skb, IP4_SOURCE);
	case ETH_P_ARP:
		return judge_v4(skb, ARP_SENDER);
	case ETH_P_IPV6:
		verdict = judge_v6(skb, IP6_SOURCE);
		if (verdict != TCX_NEXT)
			return verdict;
		bpf_skb_load_bytes(skb, IP6_NEXT_HEADER, &next, 1);
		if (next != NEXT_HEADER_ICMP6)
			return TCX_NEXT;
		bpf_skb_load_bytes(skb, ICMP6_TYPE, &type, 1);
		return type == NEIGHBOUR_ADVERTISEMENT ? judge_v6(skb, ND_TARGET) : TCX_NEXT;
	}
	return TCX_NEXT;
}

char LICENSE[] SEC("license") = "GPL";
