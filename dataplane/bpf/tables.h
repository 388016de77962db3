/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The tables between user space, which writes them, and the programs. A change
 * of anything here is a change of LayoutVersion in pins.go: pinned tables of
 * another version are not adopted.
 *
 * Addresses are in network order in four words; an IPv4 address is the first
 * and the rest is 0. Where both families meet in one key, a bit tells them apart.
 */
#pragma once
#include "kernel.h"

enum {
	SLOTS = 256,	   /* dataplane.Slots */
	MAX_OWN = 256,
	MAX_SOURCES = 8,   /* of one family; more are left to the slow path */
	PORTS = 16,
	GENERATIONS = 4096, /* a power of 2 */
	TOUCH_LINE = 64,
	HOPS = 1024, /* a power of 2 */

	/* Sizes that user space replaces by what the configuration wants. */
	DEFAULT_ENTRIES = 1024,
};

/* What is counted for each CPU, see dataplane.Counter. */
struct stats {
	__u64 encap_packets, encap_bytes;
	__u64 decap_packets, decap_bytes;
	__u64 ecn_unexpected;
	__u64 header_bits;
	__u64 heard_lost;
	__u64 cache_hits, cache_misses;
	__u64 slow_encap, slow_decap; /* left to the slow path */
	__u64 undone;		      /* dropped: the kernel did what it does not do */
};

enum {
	CHECK_OFF,
	CHECK_LOOSE,
	CHECK_STRICT,
};

/* Packets that are left to the slow path while a trace is of them, which tells
 * what becomes of them: both directions between two ends. */
struct trace {
	__u64 until; /* in ns since boot; 0: no trace */
	__u32 iid;
	__u32 family;	/* 4 or 6; 0: both */
	__u32 protocol; /* 0: all */
	__u32 here[4], here_mask[4], there[4], there_mask[4];
	__u32 pad;
};

struct config {
	__u32 source4, source6; /* indices of sources, 0: none */
	__u32 check;		/* of inner sources, CHECK_… */
	__u32 versioning;
	__u32 clamp; /* TCP SYNs are the slow path's */
	__u32 unfinished; /* checksums may be left to who is behind a virtual link */
	struct trace trace;
};

/* A prefix of the site. */
struct local {
	__u32 iid;
	__u32 device; /* index of the instance's TUN device */
	__u32 version;
};

/* What is done with packets to one EID-prefix. It does not change in place but
 * for expires. Entry 0 is the slow path's: the prefix has a mapping, and
 * something about it is not for the programs. */
struct entry {
	__u64 expires; /* in ns since boot */
	__u32 rloc;    /* with slots 0 */
	__u32 slots;
	__u32 set; /* of the mapping's locators in members; 0: rloc alone */
	__u32 version;
};

struct rloc {
	__u32 addr[4];
	__u32 v6;
	__u32 mtu;
	__u32 source; /* 0: that of the family */
	__u32 pad;
};

struct slots {
	__u32 rloc[SLOTS];
};

struct sources {
	__u32 n;
	__u32 addr[MAX_SOURCES][4];
	__u32 own[MAX_SOURCES];		 /* as in the table of that name */
	__u16 ports[MAX_SOURCES][PORTS]; /* of the user-space plane, in network order; 0: none */
	__u8 slots[SLOTS];
};

struct usage {
	__u64 packets, bytes, received, received_bytes;
};

struct address {
	__u32 family; /* 4 or 6 */
	__u32 addr[4];
};

struct eid4 {
	__u32 bits; /* 32 and the prefix length */
	__u32 iid;
	__u32 addr;
};

struct eid6 {
	__u32 bits;
	__u32 iid;
	__u32 addr[4];
};

struct local4 {
	__u32 bits;
	__u32 addr;
};

struct local6 {
	__u32 bits;
	__u32 addr[4];
};

struct host {
	__u32 instance; /* IID, and the highest bit for IPv6 */
	__u32 addr[4];
};

struct member {
	__u32 set;
	__u32 addr[4];
};

struct touch {
	__u8 entry[TOUCH_LINE];
};

/* What the kernel said of the way of a packet, which the programs do not ask
 * again at once: see next_hop. It is of one CPU. */
struct hop {
	__u64 until; /* in ns since boot */
	__u32 src[4], dst[4];
	__u32 in;    /* the interface that the packet came by */
	__u32 kind;  /* family and source port */
	__u32 len;   /* this much was not too long */
	__u32 out;   /* the interface that it leaves by */
	__u32 family;
	__u32 gateway[4];
	__u32 outer[5]; /* who sent the datagram; zeroes: an inner packet of nobody's */
};

/* What was decided of the last packet of a flow out of the site, and depends on
 * nothing but the tables: it is that of the next one, as long as the mapping is
 * valid and the generation, the sum of the three that are about it, is the same. It
 * is of one CPU.
 * What there is of an IPv4 flow lies in one line of the processor's cache. */
struct flow {
	__u64 until; /* in ns since boot; 0: nothing */
	__u32 generation;
	__u32 in;   /* the interface that the packet came by */
	__u32 kind; /* flow_kind */
	__u32 src, dst, ports;
	__u32 iid;
	__u32 entry, rloc; /* indices */
	__u32 mtu;	   /* of the locator */
	__u32 remote, local;
	__u32 versions; /* source and destination map-version; 0: none */
	__u16 port;
	__u8 own; /* index */
	__u8 outer6;
	/* The second words of addresses and those after. */
	__u32 src6[3], dst6[3], remote6[3], local6[3];
	__u32 pad[4];
};

/* The same of the last datagram of a sender to a host of the site, of the two
 * outer and inner sources and the destination that it had. */
struct arrival {
	__u64 until;
	__u32 generation;
	__u32 kind; /* arrival_kind */
	__u32 iid;
	__u32 src, dst, outer;
	__u32 entry; /* of the inner source; 0: none */
	__u32 pad[7];
	__u32 src6[3], dst6[3], outer6[3]; /* as in struct flow */
	__u32 pad6[7];
};

/* How far the time since boot is ahead of the coarse clock, which costs little to
 * read and stands still while the machine is suspended. */
struct clock {
	__u64 until; /* by the coarse clock */
	__u64 ahead;
};

/* The last of our addresses that a datagram was to. It is of one CPU. */
struct mine {
	struct address addr;
	__u32 index; /* in own_usages */
	__u32 generation; /* of what is changed in place */
};

#define TABLE(name, kind, k, v, n, f)             \
	struct {                                  \
		__uint(type, BPF_MAP_TYPE_##kind); \
		__type(key, k);                   \
		__type(value, v);                 \
		__uint(max_entries, n);           \
		__uint(map_flags, f);             \
	} name SEC(".maps")

TABLE(settings, ARRAY, __u32, struct config, 1, BPF_F_MMAPABLE);
TABLE(counts, PERCPU_ARRAY, __u32, struct stats, 1, 0);

TABLE(locals4, LPM_TRIE, struct local4, struct local, 1024, BPF_F_NO_PREALLOC);
TABLE(locals6, LPM_TRIE, struct local6, struct local, 1024, BPF_F_NO_PREALLOC);
/* Addresses of this router, each with its index in own_usages. */
TABLE(own, HASH, struct address, __u32, MAX_OWN, 0);

/* Links that hand packets on whose checksum nobody has computed yet. */
TABLE(virtuals, HASH, __u32, __u8, 4096, BPF_F_NO_PREALLOC);

TABLE(eids4, LPM_TRIE, struct eid4, __u32, DEFAULT_ENTRIES, BPF_F_NO_PREALLOC);
TABLE(eids6, LPM_TRIE, struct eid6, __u32, DEFAULT_ENTRIES, BPF_F_NO_PREALLOC);
TABLE(hosts, LRU_HASH, struct host, __u64, 65536, 0);
/* The first is for all, each of the others for what hashes to it, and the last for
 * what is changed in place: locators, sources, settings, our own addresses. */
TABLE(generations, ARRAY, __u32, __u32, GENERATIONS + 2, BPF_F_MMAPABLE);

TABLE(last_own, PERCPU_ARRAY, __u32, struct mine, 1, 0);
TABLE(clocks, PERCPU_ARRAY, __u32, struct clock, 1, 0);
TABLE(hops, PERCPU_ARRAY, __u32, struct hop, HOPS, 0);

/* Lines of each CPU, one CPU after the other. */
TABLE(flows, ARRAY, __u32, struct flow, 1, BPF_F_MMAPABLE);
TABLE(arrivals, ARRAY, __u32, struct arrival, 1, BPF_F_MMAPABLE);

TABLE(entries, ARRAY, __u32, struct entry, DEFAULT_ENTRIES, BPF_F_MMAPABLE);
TABLE(rlocs, ARRAY, __u32, struct rloc, 65536, BPF_F_MMAPABLE);
TABLE(slot_tables, ARRAY, __u32, struct slots, 4096, BPF_F_MMAPABLE);
TABLE(source_tables, ARRAY, __u32, struct sources, 256, BPF_F_MMAPABLE);
TABLE(members, HASH, struct member, __u8, 65536, BPF_F_NO_PREALLOC);

/* Usage of entries, locators and our own addresses, for each shard: index << shard_bits | shard. */
TABLE(usages, ARRAY, __u32, struct usage, DEFAULT_ENTRIES, BPF_F_MMAPABLE);
TABLE(rloc_usages, ARRAY, __u32, struct usage, DEFAULT_ENTRIES, BPF_F_MMAPABLE);
TABLE(own_usages, ARRAY, __u32, struct usage, DEFAULT_ENTRIES, BPF_F_MMAPABLE);
/* Which entries were used since user space cleared them, and in which elements of
 * that table there is such a mark. */
TABLE(touched, ARRAY, __u32, struct touch, DEFAULT_ENTRIES, BPF_F_MMAPABLE);
TABLE(touched_in, ARRAY, __u32, struct touch, DEFAULT_ENTRIES, BPF_F_MMAPABLE);
TABLE(heard, HASH, struct address, __u8, 4096, 0);
