package main

import (
	"net/netip"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/dfz"
	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/measure"
)

// announcement is what a site, or a proxy-ITR, says to a router.
type announcement struct {
	router   int
	path     []uint32
	prefixes []netip.Prefix
	site     *site // nil: a proxy-ITR's
}

// proxyITRs is how many proxy-ITRs there are, each at a router of its own.
const proxyITRs = 2

// pitrAS is the AS of a proxy-ITR.
func pitrAS(i int) uint32 { return dfz.SiteAS(1<<20 + i) }

// announcements is what is in BGP in an arm, besides the blocks of providers, with
// a share of the sites moved, for an arm where that counts.
func announcements(arm, variant string, adoption float64, list []*site, t dfz.Topology) (out []announcement) {
	moved := 0
	switch arm {
	case measure.ArmEidolon:
		return nil
	case measure.ArmMixed:
		moved = int(adoption*float64(len(list)) + 0.5)
	}
	var proxied []netip.Prefix
	for i, s := range list {
		// Those that move are spread evenly over the list.
		if moved > 0 && (i+1)*moved/len(list) > i*moved/len(list) {
			if variant == measure.VariantOldPI && moved < len(list) {
				proxied = append(proxied, s.roots...)
			}
			continue
		}
		out = append(out, s.announcements(arm)...)
	}
	if variant == measure.VariantBlocks && moved > 0 {
		proxied = eidBlocks
	}
	if len(proxied) > 0 {
		for i := range proxyITRs {
			out = append(out, announcement{router: t.Edge[i%len(t.Edge)], path: []uint32{pitrAS(i)}, prefixes: proxied})
		}
	}
	return out
}

// announcements is what a site that has not moved announces.
func (s *site) announcements(arm string) (out []announcement) {
	for i, r := range s.providers {
		a := announcement{router: r, path: []uint32{s.as()}, site: s}
		switch arm {
		case measure.ArmPI, measure.ArmMixed:
			a.prefixes = append(a.prefixes, s.roots...)
			a.prefixes = append(a.prefixes, s.specifics...)
		case measure.ArmBest:
			a.prefixes = s.roots
		case measure.ArmHoles:
			// The halves are what steers traffic: each is heard over one provider.
			a.prefixes = append(a.prefixes, s.holes...)
			for j, p := range s.parts {
				if j%len(s.providers) == i {
					a.prefixes = append(a.prefixes, p)
				}
			}
		}
		out = append(out, a)
	}
	return out
}

// table is who announces each prefix.
type table map[netip.Prefix]int

func (t table) add(list []netip.Prefix) {
	for _, p := range list {
		t[p]++
	}
}

func (t table) remove(list []netip.Prefix) {
	for _, p := range list {
		if t[p]--; t[p] == 0 {
			delete(t, p)
		}
	}
}
