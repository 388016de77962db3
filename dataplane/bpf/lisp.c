//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * LISP encapsulation and decapsulation (RFC 9300) at the ingress of Ethernet
 * interfaces. Whatever a program can't decide, and whatever is an exception, it
 * leaves alone: then the packet takes its ordinary way through the kernel to the
 * TUN device or to the UDP socket of the user-space plane, which makes the
 * verdict. Nothing is changed in a packet before it is certain that it can be
 * forwarded, and none is dropped here.
 */
#include "tables.h"

enum {
	ETH_LEN = 14,
	IP4_LEN = 20,
	IP6_LEN = 40,
	UDP_LEN = 8,
	LISP_LEN = 8,
	HEAD4 = IP4_LEN + UDP_LEN + LISP_LEN,
	HEAD6 = IP6_LEN + UDP_LEN + LISP_LEN,

	ETH_P_IP = 0x0800,
	ETH_P_IPV6 = 0x86dd,

	AF_INET = 2,
	AF_INET6 = 10,

	TCP = 6,
	UDP = 17,
	SCTP = 132,

	LISP_PORT = 4341,

	FLAG_N = 0x80,
	FLAG_L = 0x40,
	FLAG_V = 0x10,
	FLAG_I = 0x08,
	MASK_KEY = 0x03,

	MAX_DATAGRAM = 65535,
};

struct eth {
	__u8 dst[6], src[6];
	__u16 proto;
};

struct ip4 {
	__u8 vihl, tos;
	__u16 len, id, frag;
	__u8 ttl, proto;
	__u16 sum;
	__u32 src, dst;
};

struct ip6 {
	__u32 word; /* version, traffic class, flow label */
	__u16 len;
	__u8 next, ttl;
	__u32 src[4], dst[4];
};

struct udp {
	__u16 src, dst, len, sum;
};

struct lisp {
	__u32 first, second;
};

/* Filled in by user space before the programs are loaded. */
const volatile __u32 shard_bits = 0;
const volatile __u32 shard_each = 0; /* no two CPUs have one shard */
const volatile __u32 flow_lines = 1; /* of each CPU in flows and arrivals, a power of 2 */

/* An inner packet, and what was decided about it. */
struct packet {
	__u32 src[4], dst[4];
	__u32 ports;
	__u8 v6, proto, tos, ttl;
	__u8 has_ports, df;
	__u16 header; /* octets of IP and transport headers that each segment has */
	__u32 len;
};

#define ROUTED (1ULL << 24) /* of a line of hosts: the kernel would have given packets to the TUN device */
#define ENTRY_MASK 0xffffffULL
#define CHECK_SHIFT 25

INLINE struct stats *stats_of_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&counts, &zero);
}

INLINE void add(__u64 *counter, __u64 n)
{
	if (shard_each)
		*counter += n;
	else
		__sync_fetch_and_add(counter, n);
}

INLINE __u32 shard(__u32 index)
{
	__u32 bits = shard_bits;

	return index << bits | (bpf_get_smp_processor_id() & ((1U << bits) - 1));
}

/* touch puts an entry into what user space looks at next. */
INLINE void touch(__u32 index)
{
	__u32 line = index / TOUCH_LINE;
	struct touch *t = bpf_map_lookup_elem(&touched, &line);
	__u32 above = line / TOUCH_LINE;

	if (!t || t->entry[index % TOUCH_LINE])
		return;
	t->entry[index % TOUCH_LINE] = 1;
	t = bpf_map_lookup_elem(&touched_in, &above);
	if (t)
		t->entry[line % TOUCH_LINE] = 1;
}

#define MOMENT (50ULL * 1000 * 1000) /* in ns */

/* since_boot is the time, which may be late by a tick of the kernel. */
INLINE __u64 since_boot(void)
{
	__u32 zero = 0;
	__u64 now = bpf_ktime_get_coarse_ns();
	struct clock *c = bpf_map_lookup_elem(&clocks, &zero);

	if (!c)
		return bpf_ktime_get_boot_ns();
	if (c->until <= now) {
		c->ahead = bpf_ktime_get_boot_ns() - now;
		c->until = now + MOMENT;
	}
	return now + c->ahead;
}

INLINE __u32 rotl(__u32 x, int n)
{
	return x << n | x >> (32 - n);
}

INLINE __u32 mix(__u32 h, __u32 k)
{
	k *= 0xcc9e2d51;
	k = rotl(k, 15);
	k *= 0x1b873593;
	h ^= k;
	h = rotl(h, 13);
	return h * 5 + 0xe6546b64;
}

/* little reads a word that lies in network order as a little-endian one. */
INLINE __u32 little(__u32 x)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return x;
#else
	return __builtin_bswap32(x);
#endif
}

/* flow_hash is Key.Hash of package encap. */
INLINE __u32 flow_hash(const struct packet *p)
{
	__u32 h = 0, n;
	int i;

	if (p->v6) {
#pragma unroll
		for (i = 0; i < 4; i++)
			h = mix(h, little(p->src[i]));
#pragma unroll
		for (i = 0; i < 4; i++)
			h = mix(h, little(p->dst[i]));
		n = 32;
	} else {
		h = mix(h, little(p->src[0]));
		h = mix(h, little(p->dst[0]));
		n = 8;
	}
	if (p->has_ports) {
		h = mix(h, little(p->ports));
		h = mix(h, (__u32)p->proto << 24);
		n += 8;
	}
	h ^= n;
	h ^= h >> 16;
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	h ^= h >> 16;
	return h;
}

/* routable is Routable of package encap. */
INLINE int routable(int v6, const __u32 *a)
{
	__u32 first = swap32(a[0]);

	if (!v6) {
		__u32 top = first >> 24;

		return top != 0 && top != 127 && top < 224 && first >> 16 != 0xa9fe;
	}
	if (first >> 24 == 0xff || first >> 22 == 0xfe80 >> 6)
		return 0;
	return first || a[1] || a[2] || swap32(a[3]) > 1;
}

/* Makes room in the linear part for all headers that are looked at. */
INLINE int pull(struct __sk_buff *skb, __u32 n)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (data + n <= end)
		return 0;
	return bpf_skb_pull_data(skb, skb->len < n ? skb->len : n);
}

INLINE struct local *local_of(int v6, const __u32 *a)
{
	if (v6) {
		struct local6 k = {.bits = 128, .addr = {a[0], a[1], a[2], a[3]}};

		return bpf_map_lookup_elem(&locals6, &k);
	} else {
		struct local4 k = {.bits = 32, .addr = a[0]};

		return bpf_map_lookup_elem(&locals4, &k);
	}
}

/*
 * find looks for the entry of an address: in the cache of hosts, then in the
 * prefixes, whose answer is kept. A line of the cache is one word: the entry,
 * and a mixture of what the key and the generation were, so that one that was
 * recycled or is of another time is no hit. It returns 0 if there is no prefix.
 */
struct found {
	struct host key;
	__u32 index;
	__u32 generation;
	__u64 line;
	__u8 routed;
};

INLINE __u64 mix64(__u64 x, __u64 w)
{
	x = (x ^ w) * 0x9e3779b97f4a7c15ULL;
	return x ^ x >> 29;
}

/* word reads a word of the generations. */
INLINE __u32 word(__u32 index)
{
	__u32 *w = bpf_map_lookup_elem(&generations, &index);

	return w ? *(volatile __u32 *)w : 0;
}

/* bucket tells which word is that of an address. */
INLINE __u32 bucket(__u32 iid, int v6, __u32 first)
{
	__u32 h;

	/* User space computes the same: see bucket in copier.go. */
	h = mix(mix(0, iid | (v6 ? 1U << 31 : 0)), v6 ? swap32(first) : swap32(first) >> 16);
	return 1 + ((h ^ h >> 15) & (GENERATIONS - 1));
}

/* What is read before the tables are, so that what is changed meanwhile makes old
 * what is kept of them. */
struct before {
	__u32 all, in_place;
};

INLINE void begin(struct before *b)
{
	b->all = word(0);
	b->in_place = word(GENERATIONS + 1);
}

INLINE int find(struct found *f, __u32 all, __u32 iid, int v6, const __u32 *a, struct stats *st)
{
	__u32 *index;
	__u64 check, *line;

	f->key.instance = iid | (v6 ? 1U << 31 : 0);
	f->key.addr[0] = a[0];
	f->key.addr[1] = v6 ? a[1] : 0;
	f->key.addr[2] = v6 ? a[2] : 0;
	f->key.addr[3] = v6 ? a[3] : 0;

	f->generation = all + word(bucket(iid, v6, a[0]));
	check = mix64(f->generation, (__u64)f->key.instance << 32 | f->key.addr[0]);
	if (v6) {
		check = mix64(check, (__u64)a[1] << 32 | a[2]);
		check = mix64(check, a[3]);
	}
	check = mix64(check, 0) & ~(ROUTED | ENTRY_MASK);

	line = bpf_map_lookup_elem(&hosts, &f->key);
	if (line) {
		__u64 was = *(volatile __u64 *)line;

		if ((was & ~(ROUTED | ENTRY_MASK)) == check) {
			st->cache_hits++;
			f->line = was;
			f->index = was & ENTRY_MASK;
			f->routed = !!(was & ROUTED);
			return 1;
		}
	}
	st->cache_misses++;
	if (v6) {
		struct eid6 k = {.bits = 160, .iid = swap32(iid), .addr = {a[0], a[1], a[2], a[3]}};

		index = bpf_map_lookup_elem(&eids6, &k);
	} else {
		struct eid4 k = {.bits = 64, .iid = swap32(iid), .addr = a[0]};

		index = bpf_map_lookup_elem(&eids4, &k);
	}
	if (!index)
		return 0;
	f->index = *index;
	f->line = check | f->index;
	f->routed = 0;
	bpf_map_update_elem(&hosts, &f->key, &f->line, BPF_ANY);
	return 1;
}

/* use returns the entry that was found, unless it has expired. */
INLINE struct entry *use(const struct found *f, __u64 now)
{
	__u32 index = f->index;
	struct entry *e;

	if (!index)
		return NULL;
	e = bpf_map_lookup_elem(&entries, &index);
	if (!e || *(volatile __u64 *)&e->expires <= now)
		return NULL;
	return e;
}

/*
 * routed asks, once for each host in the cache, whether the kernel would have
 * given the packet to the TUN device: what the router's own addresses, the
 * operator's rules and other routes want comes first.
 */
INLINE int routed(struct __sk_buff *skb, struct found *f, const struct packet *p, const struct local *from)
{
	struct bpf_fib_lookup fib = {.family = p->v6 ? AF_INET6 : AF_INET, .ifindex = skb->ifindex};
	__u64 line;
	long ret;

	if (f->routed)
		return 1;
	if (!routable(p->v6, p->dst) || local_of(p->v6, p->dst))
		return 0;
	__builtin_memcpy(fib.src, p->src, 16);
	__builtin_memcpy(fib.dst, p->dst, 16);
	ret = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if ((ret != BPF_FIB_LKUP_RET_SUCCESS && ret != BPF_FIB_LKUP_RET_NO_NEIGH) || fib.ifindex != from->device)
		return 0;
	line = f->line | ROUTED;
	bpf_map_update_elem(&hosts, &f->key, &line, BPF_ANY);
	return 1;
}

INLINE __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

INLINE __u16 header_sum(struct ip4 *ip)
{
	__u16 *w = (__u16 *)ip;

	/* The word of the checksum itself is left out. */
	return fold((__u32)w[0] + w[1] + w[2] + w[3] + w[4] + w[6] + w[7] + w[8] + w[9]);
}

INLINE int header_right(struct ip4 *ip)
{
	__u16 want = header_sum(ip);

	/* 0 and -0 are one number (RFC 1624). */
	return ip->sum == want || (ip->sum == 0xffff && want == 0);
}

/* parse reads the headers of an inner packet that begins at offset off; 0 means
 * that the packet is for the slow path. */
INLINE int parse(struct __sk_buff *skb, struct packet *p, __u32 off, int v6, int ports)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	void *l4;
	__u8 proto;

	p->v6 = v6;
	p->has_ports = 0;
	p->ports = 0;
	if (v6) {
		struct ip6 *ip = data + off;

		if ((void *)(ip + 1) > end || swap32(ip->word) >> 28 != 6)
			return 0;
		p->len = IP6_LEN + swap16(ip->len);
		p->tos = swap32(ip->word) >> 20;
		p->ttl = ip->ttl;
		p->df = 1;
		__builtin_memcpy(p->src, ip->src, 16);
		__builtin_memcpy(p->dst, ip->dst, 16);
		proto = ip->next;
		l4 = ip + 1;
		p->header = IP6_LEN;
		if (ports) {
			switch (proto) {
			case 0:
			case 43:
			case 44:
			case 60: /* extension headers */
				return 0;
			}
		}
	} else {
		struct ip4 *ip = data + off;

		/* No router forwards a packet with a wrong checksum. */
		if ((void *)(ip + 1) > end || ip->vihl != 0x45 || !header_right(ip))
			return 0;
		p->len = swap16(ip->len);
		if (p->len < IP4_LEN)
			return 0;
		p->tos = ip->tos;
		p->ttl = ip->ttl;
		p->df = !!(ip->frag & swap16(0x4000));
		p->src[0] = ip->src;
		p->dst[0] = ip->dst;
		p->src[1] = p->src[2] = p->src[3] = 0;
		p->dst[1] = p->dst[2] = p->dst[3] = 0;
		proto = ip->proto;
		l4 = ip + 1;
		p->header = IP4_LEN;
		if (ip->frag & swap16(0x3fff)) {
			if (skb->gso_size)
				return 0;
			p->proto = 0;
			return 1;
		}
	}
	p->proto = proto;
	switch (proto) {
	case TCP: {
		__u8 *b = l4;

		if (l4 + 20 > end || p->len < p->header + 20)
			return 0;
		__builtin_memcpy(&p->ports, b, 4);
		p->has_ports = 1;
		p->header += (b[12] >> 4) * 4;
		if (b[13] & 0x02) { /* SYN */
			__u32 zero = 0;
			struct config *c = bpf_map_lookup_elem(&settings, &zero);

			if (!c || c->clamp)
				return 0;
		}
		break;
	}
	case UDP:
		if (l4 + UDP_LEN > end || p->len < p->header + UDP_LEN)
			return 0;
		__builtin_memcpy(&p->ports, l4, 4);
		p->has_ports = 1;
		p->header += UDP_LEN;
		break;
	case SCTP:
		if (l4 + 12 > end || p->len < p->header + 12 || skb->gso_size)
			return 0;
		__builtin_memcpy(&p->ports, l4, 4);
		p->has_ports = 1;
		break;
	default:
		if (skb->gso_size)
			return 0;
	}
	return 1;
}

/* segment is the length of the largest packet that skb is, or will become. */
INLINE __u32 segment(struct __sk_buff *skb, const struct packet *p)
{
	return skb->gso_size ? p->header + skb->gso_size : p->len;
}

INLINE int is_virtual(__u32 link)
{
	return bpf_map_lookup_elem(&virtuals, &link) != NULL;
}

/*
 * unfinished reports whether the transport checksum of an inner packet may
 * arrive without having been computed, which a program that reads the datagram
 * from a socket would take for wrong, and a super-packet for one packet. That is
 * when it comes from a link that leaves the computation to others, or was put
 * together from several, and goes out by such a link. What came in one piece by a
 * real one has the checksum that it was sent with.
 */
INLINE int unfinished(struct __sk_buff *skb, const struct packet *p, __u32 out)
{
	return p->has_ports && is_virtual(out) && (skb->gso_size || is_virtual(skb->ifindex));
}

/* packets is how many packets skb is, or will become. */
INLINE __u32 packets(struct __sk_buff *skb, const struct packet *p)
{
	__u32 size = skb->gso_size;

	return size && p->len > p->header ? (p->len - p->header + size - 1) / size : 1;
}

/* update replaces a 16-bit word under a checksum (RFC 1624, equation 3). */
INLINE __u16 update(__u16 sum, __u16 was, __u16 is)
{
	return fold((__u16)~sum + (__u32)(__u16)~was + is);
}

/*
 * next_hop asks the kernel for the way of a packet, and keeps the answer for
 * MOMENT: the question takes as long as the rest of a program, and longer with
 * each rule of the operator. A change of the routes is heeded after that time at
 * the latest, whether a process runs or not. fib is the question, with port the
 * source port and len the octets of what is asked for, and then the answer.
 * Without an answer it returns NULL.
 */
INLINE struct hop *next_hop(struct __sk_buff *skb, struct bpf_fib_lookup *fib, __u32 port, __u32 len, __u64 now)
{
	__u32 kind = (__u32)fib->family << 16 | port, in = fib->ifindex, dst[4], index;
	struct hop *h;
	long ret;

	index = mix(mix(mix(kind ^ in, fib->src[0] ^ fib->src[1]), fib->src[2] ^ fib->src[3]), fib->dst[0] ^ fib->dst[1]);
	index = mix(index, fib->dst[2] ^ fib->dst[3]);
	index = (index ^ index >> 15) & (HOPS - 1);
	h = bpf_map_lookup_elem(&hops, &index);
	if (!h)
		return NULL;
	if (h->until > now && h->kind == kind && h->in == in && h->len >= len && h->dst[0] == fib->dst[0] && h->src[0] == fib->src[0] &&
	    h->dst[1] == fib->dst[1] && h->src[1] == fib->src[1] && h->dst[2] == fib->dst[2] && h->src[2] == fib->src[2] &&
	    h->dst[3] == fib->dst[3] && h->src[3] == fib->src[3]) {
		fib->family = h->family;
		fib->ifindex = h->out;
		__builtin_memcpy(fib->dst, h->gateway, 16);
		return h;
	}
	__builtin_memcpy(dst, fib->dst, 16);
	ret = bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
	if (ret != BPF_FIB_LKUP_RET_SUCCESS && ret != BPF_FIB_LKUP_RET_NO_NEIGH)
		return NULL;
	__builtin_memcpy(h->src, fib->src, 16);
	__builtin_memcpy(h->dst, dst, 16);
	h->in = in;
	h->kind = kind;
	h->len = len;
	h->out = fib->ifindex;
	h->family = fib->family;
	__builtin_memcpy(h->gateway, fib->dst, 16);
	h->outer[0] = h->outer[1] = h->outer[2] = h->outer[3] = h->outer[4] = 0;
	h->until = now + MOMENT;
	return h;
}

/* leave sends the frame on its way later. */
INLINE int leave(struct bpf_fib_lookup *fib)
{
	struct bpf_redir_neigh nh = {.nh_family = fib->family};

	__builtin_memcpy(nh.nh, fib->dst, 16);
	return bpf_redirect_neigh(fib->ifindex, &nh, sizeof(nh), 0);
}

/* put_headers writes the headers of UDP and LISP (RFC 9300 section 5.1). The UDP
 * checksum is 0: RFC 9300 section 5.3, RFC 6936 section 4. The port is one of
 * those that the user-space plane has sockets on, which hear of ICMP errors. */
INLINE void put_headers(struct udp *udp, const struct packet *p, __u16 port, __u32 pair, __u32 iid)
{
	struct lisp *lisp = (void *)(udp + 1);

	udp->src = port;
	udp->dst = swap16(LISP_PORT);
	udp->len = swap16(p->len + UDP_LEN + LISP_LEN);
	udp->sum = 0;
	lisp->first = swap32((pair ? (__u32)FLAG_V << 24 | pair : 0) | (iid ? (__u32)FLAG_I << 24 : 0));
	lisp->second = swap32(iid << 8);
}

/* forwarded takes 1 from the TTL, as a router does. */
INLINE int forwarded(void *at, void *end, int v6)
{
	if (v6) {
		struct ip6 *ip = at;

		if ((void *)(ip + 1) > end)
			return 0;
		ip->ttl--;
	} else {
		struct ip4 *ip = at;
		__u16 was;

		if ((void *)(ip + 1) > end)
			return 0;
		was = *(__u16 *)&ip->ttl;
		ip->ttl--;
		ip->sum = update(ip->sum, was, *(__u16 *)&ip->ttl);
	}
	return 1;
}

INLINE void count_sent(void *table, __u32 index, __u64 packets, __u64 bytes)
{
	__u32 at = shard(index);
	struct usage *u = bpf_map_lookup_elem(table, &at);

	if (u) {
		add(&u->packets, packets);
		add(&u->bytes, bytes);
	}
}

INLINE void count_received(void *table, __u32 index, __u64 packets, __u64 bytes)
{
	__u32 at = shard(index);
	struct usage *u = bpf_map_lookup_elem(table, &at);

	if (u) {
		add(&u->received, packets);
		add(&u->received_bytes, bytes);
	}
}

INLINE int within(const __u32 *a, const __u32 *prefix, const __u32 *mask)
{
	return !(((a[0] ^ prefix[0]) & mask[0]) | ((a[1] ^ prefix[1]) & mask[1]) | ((a[2] ^ prefix[2]) & mask[2]) | ((a[3] ^ prefix[3]) & mask[3]));
}

/* traced reports whether a trace is of an inner packet. Ports are for the slow
 * path to look at, as is the protocol of the rest of a datagram. */
INLINE int traced(const struct trace *t, __u32 iid, const struct packet *p, __u64 now)
{
	if (t->until <= now)
		return 0;
	if (t->iid != iid || (t->family && t->family != (p->v6 ? 6 : 4)) || (t->protocol && p->proto && t->protocol != p->proto))
		return 0;
	return (within(p->src, t->here, t->here_mask) && within(p->dst, t->there, t->there_mask)) ||
	       (within(p->dst, t->here, t->here_mask) && within(p->src, t->there, t->there_mask));
}

/* line_of is the index of that line of this CPU which a hash has. */
INLINE __u32 line_of(__u32 hash)
{
	return bpf_get_smp_processor_id() * flow_lines + (hash & (flow_lines - 1));
}

INLINE __u32 flow_kind(const struct packet *p)
{
	return 1U << 31 | (__u32)p->v6 << 9 | (__u32)p->has_ports << 8 | p->proto;
}

/* is_flow reports whether a line is of the flow of a packet, and valid. */
INLINE int is_flow(const struct flow *k, struct __sk_buff *skb, const struct packet *p, __u64 now)
{
	if (k->src != p->src[0] || k->dst != p->dst[0] || k->ports != p->ports || k->kind != flow_kind(p) || k->in != skb->ifindex ||
	    k->until <= now || k->generation != word(0) + word(bucket(k->iid, p->v6, p->dst[0])) + word(GENERATIONS + 1))
		return 0;
	return !p->v6 || (k->src6[0] == p->src[1] && k->src6[1] == p->src[2] && k->src6[2] == p->src[3] && k->dst6[0] == p->dst[1] &&
			  k->dst6[1] == p->dst[2] && k->dst6[2] == p->dst[3]);
}

INLINE __u32 arrival_hash(const struct packet *p, const struct address *outer)
{
	__u64 h = mix64(mix64(outer->addr[0], (__u64)p->src[0] << 32 | p->dst[0]), outer->addr[3]);

	if (p->v6)
		h = mix64(mix64(mix64(h, (__u64)p->src[1] << 32 | p->src[2]), (__u64)p->src[3] << 32 | p->dst[1]),
			  (__u64)p->dst[2] << 32 | p->dst[3]);
	return h >> 32;
}

INLINE __u32 arrival_kind(const struct packet *p, const struct address *outer)
{
	return 1U << 31 | (__u32)p->v6 << 4 | outer->family;
}

/* is_arrival reports whether a line is of the sources and the destination of a
 * datagram, and valid. */
INLINE int is_arrival(const struct arrival *k, const struct packet *p, const struct address *outer, __u32 iid, __u64 now)
{
	if (k->src != p->src[0] || k->dst != p->dst[0] || k->outer != outer->addr[0] || k->kind != arrival_kind(p, outer) || k->iid != iid ||
	    k->until <= now || k->generation != word(0) + word(bucket(iid, p->v6, p->src[0])) + word(GENERATIONS + 1))
		return 0;
	if (outer->family == 6 && (k->outer6[0] != outer->addr[1] || k->outer6[1] != outer->addr[2] || k->outer6[2] != outer->addr[3]))
		return 0;
	return !p->v6 || (k->src6[0] == p->src[1] && k->src6[1] == p->src[2] && k->src6[2] == p->src[3] && k->dst6[0] == p->dst[1] &&
			  k->dst6[1] == p->dst[2] && k->dst6[2] == p->dst[3]);
}

/* keep_arrival notes in a line that datagrams with the sources and the destination
 * are good, and the entry of the inner source, if there is one. */
INLINE void keep_arrival(struct arrival *k, const struct packet *p, const struct address *outer, __u32 iid, const struct before *b, const struct found *f, const struct entry *e)
{
	k->until = e ? *(volatile __u64 *)&e->expires : ~0ULL;
	k->generation = f->generation + b->in_place;
	k->kind = arrival_kind(p, outer);
	k->iid = iid;
	k->src = p->src[0];
	k->dst = p->dst[0];
	k->outer = outer->addr[0];
	k->entry = e ? f->index : 0;
	if (p->v6) {
		__builtin_memcpy(k->src6, &p->src[1], 12);
		__builtin_memcpy(k->dst6, &p->dst[1], 12);
	}
	if (outer->family == 6)
		__builtin_memcpy(k->outer6, &outer->addr[1], 12);
}

/* choose finds in the tables what is done with a packet out of the site, and puts
 * it into k for the next ones; 0 says that it is the slow path's to find. */
INLINE int choose(struct __sk_buff *skb, struct stats *st, const struct config *cfg, const struct local *from, const struct packet *p, __u32 hash,
		  __u64 now, const struct before *b, struct flow *k)
{
	__u32 index;
	struct sources *s;
	struct entry *e;
	struct found f;
	struct rloc *r;
	__u16 port;

	k->until = 0; /* the rest is not of one flow until the end */
	if (!find(&f, b->all, from->iid, p->v6, p->dst, st) || !(e = use(&f, now)) || !routed(skb, &f, p, from))
		return 0;
	index = e->slots;
	if (index) {
		struct slots *t = bpf_map_lookup_elem(&slot_tables, &index);

		if (!t)
			return 0;
		index = t->rloc[hash % SLOTS];
	} else {
		index = e->rloc;
	}
	r = bpf_map_lookup_elem(&rlocs, &index);
	if (!r)
		return 0;
	k->rloc = index;
	index = r->source ? r->source : r->v6 ? cfg->source6 : cfg->source4;
	s = bpf_map_lookup_elem(&source_tables, &index);
	if (!s || !index || !s->n)
		return 0;
	index = s->slots[hash >> 16 & (SLOTS - 1)];
	if (index >= MAX_SOURCES)
		return 0;
	port = s->ports[index][hash >> 8 & (PORTS - 1)];
	if (!port)
		return 0;
	k->generation = f.generation + b->in_place;
	k->in = skb->ifindex;
	k->kind = flow_kind(p);
	k->src = p->src[0];
	k->dst = p->dst[0];
	k->ports = p->ports;
	k->iid = from->iid;
	k->entry = f.index;
	k->mtu = *(volatile __u32 *)&r->mtu;
	k->remote = r->addr[0];
	k->local = s->addr[index][0];
	k->versions = cfg->versioning && from->version && e->version ? from->version << 12 | e->version : 0;
	k->port = port;
	k->own = s->own[index];
	k->outer6 = r->v6;
	if (p->v6) {
		__builtin_memcpy(k->src6, &p->src[1], 12);
		__builtin_memcpy(k->dst6, &p->dst[1], 12);
	}
	if (r->v6) {
		__builtin_memcpy(k->remote6, &r->addr[1], 12);
		__builtin_memcpy(k->local6, &s->addr[index][1], 12);
	}
	k->until = *(volatile __u64 *)&e->expires;
	return 1;
}

INLINE int encap(struct __sk_buff *skb, int v6)
{
	__u32 zero = 0, frame, hash = 0, head, size, outer6, iid;
	struct bpf_fib_lookup fib = {};
	struct stats *st = stats_of_cpu();
	struct flow *k = NULL;
	struct config *cfg;
	struct packet p = {};
	__u64 bytes, now;
	void *data, *end;

	if (!st || !(cfg = bpf_map_lookup_elem(&settings, &zero)))
		return TC_ACT_UNSPEC;
	pull(skb, ETH_LEN + (v6 ? IP6_LEN : IP4_LEN) + 20);
	now = since_boot();
	frame = skb->len - ETH_LEN;
	if (parse(skb, &p, ETH_LEN, v6, 1)) {
		hash = flow_hash(&p);
		size = line_of(hash);
		k = bpf_map_lookup_elem(&flows, &size);
	}
	if (k && is_flow(k, skb, &p, now)) {
		iid = k->iid;
		st->cache_hits++;
		if (p.ttl <= 1 || p.len > frame || (p.len < frame && skb->gso_size) || traced(&cfg->trace, iid, &p, now))
			goto slow;
	} else {
		/* Most packets that are not of the site are told by their source. */
		__u32 src[4] = {};
		struct before b;
		struct local *from;

		begin(&b);
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		if (v6) {
			struct ip6 *ip = data + ETH_LEN;

			if ((void *)(ip + 1) > end)
				return TC_ACT_UNSPEC;
			__builtin_memcpy(src, ip->src, 16);
		} else {
			struct ip4 *ip = data + ETH_LEN;

			if ((void *)(ip + 1) > end)
				return TC_ACT_UNSPEC;
			src[0] = ip->src;
		}
		from = local_of(v6, src);
		if (!from || !routable(v6, src))
			return TC_ACT_UNSPEC;
		iid = from->iid;
		if (!k || p.ttl <= 1 || p.len > frame || (p.len < frame && skb->gso_size) || traced(&cfg->trace, iid, &p, now))
			goto slow;
		if (!choose(skb, st, cfg, from, &p, hash, now, &b, k))
			goto slow;
	}
	outer6 = k->outer6;
	head = outer6 ? HEAD6 : HEAD4;
	if (segment(skb, &p) + head > k->mtu || p.len + head > MAX_DATAGRAM)
		goto slow;

	fib.family = outer6 ? AF_INET6 : AF_INET;
	fib.l4_protocol = UDP;
	fib.sport = k->port;
	fib.dport = swap16(LISP_PORT);
	fib.ifindex = skb->ifindex;
	fib.src[0] = k->local;
	fib.dst[0] = k->remote;
	if (outer6) {
		__builtin_memcpy(&fib.src[1], k->local6, 12);
		__builtin_memcpy(&fib.dst[1], k->remote6, 12);
	}
	/* The kernel judges the length of what it has not segmented yet. */
	if (!next_hop(skb, &fib, k->port, skb->gso_size ? 0 : skb->len, now))
		goto slow;

	/* A super-packet of UDP that comes whole to who decapsulates it in the kernel
	 * would still be one of a tunnel to that, which then can't take it apart for
	 * a host's socket. */
	if ((!cfg->unfinished || (skb->gso_size && p.proto == UDP)) && unfinished(skb, &p, fib.ifindex))
		goto slow;

	if (p.len < frame && bpf_skb_change_tail(skb, ETH_LEN + p.len, 0))
		goto slow;
	if (bpf_skb_adjust_room(skb, head, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
					(outer6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4)))
		goto slow;

	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (outer6) {
		struct ip6 *ip = data + ETH_LEN;

		if (data + ETH_LEN + HEAD6 > end)
			goto undone;
		((struct eth *)data)->proto = swap16(ETH_P_IPV6);
		ip->word = swap32(6U << 28 | (__u32)p.tos << 20 | (hash & 0xfffff));
		ip->len = swap16(p.len + UDP_LEN + LISP_LEN);
		ip->next = UDP;
		ip->ttl = p.ttl - 1;
		ip->src[0] = k->local;
		__builtin_memcpy(&ip->src[1], k->local6, 12);
		ip->dst[0] = k->remote;
		__builtin_memcpy(&ip->dst[1], k->remote6, 12);
		put_headers((void *)(ip + 1), &p, k->port, k->versions, iid);
		if (!forwarded(data + ETH_LEN + HEAD6, end, v6))
			goto undone;
	} else {
		struct ip4 *ip = data + ETH_LEN;

		if (data + ETH_LEN + HEAD4 > end)
			goto undone;
		((struct eth *)data)->proto = swap16(ETH_P_IP);
		ip->vihl = 0x45;
		ip->tos = p.tos;
		ip->len = swap16(p.len + HEAD4);
		ip->id = 0;
		ip->frag = swap16(0x4000);
		ip->ttl = p.ttl - 1;
		ip->proto = UDP;
		ip->src = k->local;
		ip->dst = k->remote;
		ip->sum = header_sum(ip);
		put_headers((void *)(ip + 1), &p, k->port, k->versions, iid);
		if (!forwarded(data + ETH_LEN + HEAD4, end, v6))
			goto undone;
	}

	size = packets(skb, &p);
	bytes = p.len + (size - 1) * p.header;
	st->encap_packets += size;
	st->encap_bytes += bytes;
	count_sent(&usages, k->entry, size, bytes);
	count_sent(&rloc_usages, k->rloc, size, bytes);
	count_sent(&own_usages, k->own, size, bytes);
	touch(k->entry);
	return leave(&fib);
undone:
	st->undone++;
	return TC_ACT_SHOT;
slow:
	st->slow_encap++;
	return TC_ACT_UNSPEC;
}

/* What RFC 6040 section 4.2 says of an inner and an outer ECN field: the field
 * of the packet that leaves the tunnel, DROP, or with ODD that no standard
 * sender makes the pair. It is ecnTable of package encap. */
enum {
	ODD = 4,
	DROP = 8,
};

INLINE __u8 combine(__u8 inner, __u8 outer)
{
	switch ((inner & 3) << 2 | (outer & 3)) {
	case 0 << 2 | 0:
		return 0;
	case 0 << 2 | 1:
	case 0 << 2 | 2:
		return 0 | ODD;
	case 0 << 2 | 3:
		return DROP;
	case 1 << 2 | 2:
		return 1 | ODD;
	case 1 << 2 | 3:
	case 2 << 2 | 3:
		return 3;
	case 2 << 2 | 1:
		return 1;
	case 3 << 2 | 1:
		return 3 | ODD;
	}
	return inner & 3;
}

/* listed reports whether an outer source is in the mapping of e. */
INLINE int listed(const struct entry *e, const struct address *outer)
{
	if (e->set) {
		struct member m = {.set = e->set, .addr = {outer->addr[0], outer->addr[1], outer->addr[2], outer->addr[3]}};

		/* Members of both families are in one table: an IPv4 address is
		 * told by the set's number, whose lowest bit is that of IPv6. */
		m.set = e->set << 1 | (outer->family == 6);
		return bpf_map_lookup_elem(&members, &m) != NULL;
	} else {
		__u32 index = e->rloc;
		struct rloc *r = bpf_map_lookup_elem(&rlocs, &index);

		return r && !!r->v6 == (outer->family == 6) && r->addr[0] == outer->addr[0] && r->addr[1] == outer->addr[1] &&
		       r->addr[2] == outer->addr[2] && r->addr[3] == outer->addr[3];
	}
}

INLINE int is_own(const struct address *a)
{
	return bpf_map_lookup_elem(&own, a) != NULL;
}

/* inner takes the packet at offset off out of a datagram of port 4341 to one of
 * our locators, of which ours is the index and outer6 tells the family. */
INLINE int inner(struct __sk_buff *skb, struct stats *st, const struct address *src, __u32 ours, __u32 off, __u8 tos, __u8 ttl, int outer6, int v6)
{
	struct bpf_fib_lookup fib = {};
	__u32 zero = 0, first, iid = 0, size, line, entry;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct lisp *lisp = data + off - LISP_LEN;
	struct config *cfg = bpf_map_lookup_elem(&settings, &zero);
	struct arrival *k;
	struct packet p;
	__u8 flags, ecn, sender, *seen, one = 1;
	__u64 flagbits, bytes, now;
	struct hop *hop;

	if (!cfg || (void *)(lisp + 1) > end)
		goto slow;
	first = swap32(lisp->first);
	flags = first >> 24;
	if (flags & FLAG_I)
		iid = swap32(lisp->second) >> 8;
	if (flags & MASK_KEY)
		goto slow;
	if (!parse(skb, &p, off, v6, 0))
		goto slow;
	if (ttl == 0 || p.ttl <= 1 || ttl <= 1 || p.len != skb->len - off)
		goto slow;
	ecn = combine(p.tos, tos);
	if (ecn & DROP)
		goto slow;
	now = since_boot();
	/* The slow path can't take what has an unfinished checksum. */
	if (!cfg->unfinished && traced(&cfg->trace, iid, &p, now))
		goto slow;
	line = line_of(arrival_hash(&p, src));
	k = bpf_map_lookup_elem(&arrivals, &line);
	if (!k)
		goto slow;
	if ((flags & (FLAG_N | FLAG_V)) != FLAG_V && is_arrival(k, &p, src, iid, now)) {
		entry = k->entry;
		st->cache_hits++;
	} else {
		struct entry *e = NULL;
		struct before b;
		struct local *to;
		struct found f;
		__u8 known;

		f.index = 0; /* what is read of it speculatively; Linux 5.15 wants it written */
		begin(&b);
		to = local_of(v6, p.dst);
		if (!to || to->iid != iid || !routable(v6, p.dst) || !routable(v6, p.src) || local_of(v6, p.src))
			goto slow;
		known = find(&f, b.all, iid, v6, p.src, st);
		if (known)
			e = use(&f, now);
		if (cfg->check != CHECK_OFF) {
			if (known && !f.index)
				goto slow;
			if (!e && cfg->check == CHECK_STRICT)
				goto slow;
			if (e && !listed(e, src))
				goto slow;
		}
		if ((flags & (FLAG_N | FLAG_V)) == FLAG_V) {
			if (!cfg->versioning || !to->version || (first & 0xfff) != to->version)
				goto slow;
			if (e && (first >> 12 & 0xfff) && e->version && (first >> 12 & 0xfff) != e->version)
				goto slow;
		}
		/* A mapping that has expired may be valid again without a new generation. */
		if (e || !known || !f.index)
			keep_arrival(k, &p, src, iid, &b, &f, e);
		entry = e ? f.index : 0;
	}

	fib.family = v6 ? AF_INET6 : AF_INET;
	fib.ifindex = skb->ifindex;
	fib.tot_len = segment(skb, &p);
	__builtin_memcpy(fib.src, p.src, 16);
	__builtin_memcpy(fib.dst, p.dst, 16);
	hop = next_hop(skb, &fib, 0, segment(skb, &p), now);
	if (!hop)
		goto slow;
	/* Whether the sender is somebody else, and is noted, is asked as seldom. */
	sender = hop->outer[0] == src->family && hop->outer[1] == src->addr[0] && hop->outer[2] == src->addr[1] &&
		 hop->outer[3] == src->addr[2] && hop->outer[4] == src->addr[3];
	if (!sender && is_own(src))
		goto slow;

	flagbits = BPF_F_ADJ_ROOM_FIXED_GSO;
	if (outer6 && !v6)
		flagbits |= BPF_F_ADJ_ROOM_DECAP_L3_IPV4;
	if (!outer6 && v6)
		flagbits |= BPF_F_ADJ_ROOM_DECAP_L3_IPV6;
	if (bpf_skb_adjust_room(skb, -(__s32)(outer6 ? HEAD6 : HEAD4), BPF_ADJ_ROOM_MAC, flagbits))
		goto slow;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (v6) {
		struct ip6 *ip = data + ETH_LEN;
		__u32 class = (tos & ~3) | (ecn & 3);

		if ((void *)(ip + 1) > end)
			goto undone;
		((struct eth *)data)->proto = swap16(ETH_P_IPV6);
		ip->word = (ip->word & ~swap32(0xffU << 20)) | swap32(class << 20);
		ip->ttl = (p.ttl < ttl ? p.ttl : ttl) - 1;
	} else {
		struct ip4 *ip = data + ETH_LEN;
		__u16 was0, was8;

		if ((void *)(ip + 1) > end)
			goto undone;
		((struct eth *)data)->proto = swap16(ETH_P_IP);
		was0 = *(__u16 *)&ip->vihl;
		was8 = *(__u16 *)&ip->ttl;
		ip->tos = (tos & ~3) | (ecn & 3);
		ip->ttl = (p.ttl < ttl ? p.ttl : ttl) - 1;
		ip->sum = update(update(ip->sum, was0, *(__u16 *)&ip->vihl), was8, *(__u16 *)&ip->ttl);
	}

	size = packets(skb, &p);
	bytes = p.len + (size - 1) * p.header;
	st->decap_packets += size;
	st->decap_bytes += bytes;
	if (ecn & ODD)
		st->ecn_unexpected += size;
	if (flags & (FLAG_N | FLAG_L))
		st->header_bits += size;
	if (entry) {
		count_received(&usages, entry, size, bytes);
		touch(entry);
	}
	count_received(&own_usages, ours, size, bytes);
	if (!sender) {
		seen = bpf_map_lookup_elem(&heard, src);
		if (!seen && bpf_map_update_elem(&heard, src, &one, BPF_ANY))
			st->heard_lost++;
		hop->outer[0] = src->family;
		__builtin_memcpy(&hop->outer[1], src->addr, 16);
	}
	return leave(&fib);
undone:
	st->undone++;
	return TC_ACT_SHOT;
slow:
	st->slow_decap++;
	return TC_ACT_UNSPEC;
}

/* own_index is the index of one of our addresses; 0: it is none. */
INLINE __u32 own_index(const struct address *a)
{
	__u32 zero = 0, now = word(GENERATIONS + 1), *index;
	struct mine *last = bpf_map_lookup_elem(&last_own, &zero);

	if (!last)
		return 0;
	if (last->index && last->generation == now && last->addr.family == a->family && last->addr.addr[0] == a->addr[0] &&
	    last->addr.addr[1] == a->addr[1] && last->addr.addr[2] == a->addr[2] && last->addr.addr[3] == a->addr[3])
		return last->index;
	index = bpf_map_lookup_elem(&own, a);
	if (!index)
		return 0;
	last->addr = *a;
	last->index = *index;
	last->generation = now;
	return *index;
}

/* decap takes what may be a datagram to one of our locators. 1 in the end
 * means that it is none. */
INLINE int decap(struct __sk_buff *skb, int outer6)
{
	struct address src = {}, dst = {};
	struct stats *st = stats_of_cpu();
	void *data, *end;
	__u32 off = ETH_LEN + (outer6 ? HEAD6 : HEAD4), len;
	struct udp *udp;
	__u32 mine;
	__u8 tos, ttl, version;

	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (outer6) {
		struct ip6 *ip = data + ETH_LEN;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end || ip->next != UDP || udp->dst != swap16(LISP_PORT))
			return 1;
	} else {
		struct ip4 *ip = data + ETH_LEN;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end || ip->vihl != 0x45 || ip->proto != UDP || ip->frag & swap16(0x3fff) ||
		    udp->dst != swap16(LISP_PORT))
			return 1;
	}
	if (!st)
		return TC_ACT_UNSPEC;
	pull(skb, off + IP6_LEN + 20);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (outer6) {
		struct ip6 *ip = data + ETH_LEN;

		udp = (void *)(ip + 1);
		if (data + off + IP4_LEN > end)
			goto slow;
		src.family = dst.family = 6;
		__builtin_memcpy(src.addr, ip->src, 16);
		__builtin_memcpy(dst.addr, ip->dst, 16);
		tos = swap32(ip->word) >> 20;
		ttl = ip->ttl;
		len = IP6_LEN + swap16(ip->len);
	} else {
		struct ip4 *ip = data + ETH_LEN;

		udp = (void *)(ip + 1);
		if (data + off + IP4_LEN > end || !header_right(ip))
			goto slow;
		src.family = dst.family = 4;
		src.addr[0] = ip->src;
		dst.addr[0] = ip->dst;
		tos = ip->tos;
		ttl = ip->ttl;
		len = swap16(ip->len);
	}
	/* A datagram with a checksum is verified by the kernel on its way to the
	 * socket, as is one whose lengths do not agree. */
	mine = own_index(&dst);
	if (!mine)
		return 1;
	if (udp->sum || len != skb->len - ETH_LEN || swap16(udp->len) != len - (outer6 ? IP6_LEN : IP4_LEN) || !routable(outer6, src.addr))
		goto slow;
	version = *(__u8 *)(data + off) >> 4;
	if (version == 4)
		return inner(skb, st, &src, mine, off, tos, ttl, outer6, 0);
	if (version == 6)
		return inner(skb, st, &src, mine, off, tos, ttl, outer6, 1);
slow:
	st->slow_decap++;
	return TC_ACT_UNSPEC;
}

SEC("tc")
int ingress(struct __sk_buff *skb)
{
	int ret;

	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return TC_ACT_UNSPEC;
	if (skb->protocol == swap16(ETH_P_IP)) {
		pull(skb, ETH_LEN + IP4_LEN + UDP_LEN);
		ret = decap(skb, 0);
		return ret == 1 ? encap(skb, 0) : ret;
	}
	if (skb->protocol == swap16(ETH_P_IPV6)) {
		pull(skb, ETH_LEN + IP6_LEN + UDP_LEN);
		ret = decap(skb, 1);
		return ret == 1 ? encap(skb, 1) : ret;
	}
	return TC_ACT_UNSPEC;
}

const char license_text[] SEC("license") = "Dual BSD/GPL";
