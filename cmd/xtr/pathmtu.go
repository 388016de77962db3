package main

import (
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// pathMTUs returns what the plane uses toward the locators in mappings, where
// their routes are known.
func pathMTUs(fib *dataplane.FIB) (list []xtr.PathMTU) {
	for r := range fib.RLOCs() {
		if r.RouteKnown() {
			list = append(list, xtr.PathMTU{Remote: r.Addr(), MTU: r.MTU(), Limit: r.RouteMTU()})
		}
	}
	return list
}

// usePathMTUs gives the plane what was found.
func usePathMTUs(fib *dataplane.FIB) func([]xtr.PathMTU) {
	return func(list []xtr.PathMTU) {
		for _, m := range list {
			fib.SetPathMTU(m.Remote, m.MTU, time.Now())
		}
	}
}
