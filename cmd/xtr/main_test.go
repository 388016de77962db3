package main

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/uplink"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// plane has what a data plane tells the control plane.
type plane struct {
	dataplane.Plane
	misses   chan dataplane.Miss
	versions chan dataplane.VersionEvent
}

func (p *plane) Versions() <-chan dataplane.VersionEvent { return p.versions }

func (p *plane) Misses() <-chan dataplane.Miss { return p.misses }

// told has what the control plane was told.
type told struct {
	used     []mapping.EID
	versions []xtr.VersionEvent
	mtus     []xtr.PathMTU
}

func (c *told) PathMTUs(mtus []xtr.PathMTU)      { c.mtus = mtus }
func (c *told) Used(eids []mapping.EID)          { c.used = append(c.used, eids...) }
func (c *told) VersionFound(ev xtr.VersionEvent) { c.versions = append(c.versions, ev) }

// TestPass: the control plane hears of misses and of map-versions at once, and
// in rounds of path MTUs.
func TestPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := &plane{misses: make(chan dataplane.Miss, 1), versions: make(chan dataplane.VersionEvent)}
		c, misses, done := new(told), make(chan xtr.Miss), make(chan error, 1)
		fib, rloc := dataplane.NewFIB(), netip.MustParseAddr("198.51.100.1")
		fib.SetSources([]dataplane.Source{{Addr: netip.MustParseAddr("192.0.2.1"), Priority: 1, Weight: 1}})
		rec := &mapping.Record{EID: mapping.MustParseEID("10.2.0.0/16"), TTL: 60, Locators: []mapping.Locator{mapping.MakeLocator(rloc, 1, 1)}}
		fib.Apply([]mapping.CacheChange{{EID: rec.EID, Record: rec, Expires: time.Now().Add(time.Hour)}})
		fib.SetRouteMTU(rloc, 1500, time.Now())
		usePathMTUs(fib)([]xtr.PathMTU{{Remote: rloc, MTU: 1400}})
		go func() { done <- pass(ctx, 5*time.Second, fib, p, c, misses) }()
		want := dataplane.Miss{IID: 7, Dst: netip.MustParseAddr("10.2.0.1"), Src: netip.MustParseAddr("10.1.0.1")}
		p.misses <- want
		if got := <-misses; got != xtr.Miss(want) {
			t.Errorf("%+v, want %+v", got, want)
		}
		found := dataplane.VersionEvent{Outdated: true, EID: mapping.MustParseEID("10.1.0.0/16"), RLOC: netip.MustParseAddr("198.51.100.1")}
		p.versions <- found
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if !slices.Equal(c.versions, []xtr.VersionEvent{xtr.VersionEvent(found)}) {
			t.Errorf("told of %+v", c.versions)
		}
		if want := []xtr.PathMTU{{Remote: rloc, MTU: 1400, Limit: 1500}}; !slices.Equal(c.mtus, want) {
			t.Errorf("path MTUs %v, want %v", c.mtus, want)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestVersionsReachThePlane: the data plane knows the configured map-versions,
// and those that follow a change of locators.
func TestVersionsReachThePlane(t *testing.T) {
	rloc := netip.MustParseAddr("192.0.2.1")
	eid := mapping.MustParseEID("10.1.0.0/16")
	m := config.DatabaseMapping{EID: eid, Locators: []mapping.Locator{mapping.MakeLocator(rloc, 1, 100)}, MapVersion: 41}
	fib := dataplane.NewFIB()
	c := controlConfig(&config.XTR{DatabaseMappings: []config.DatabaseMapping{m}, MapVersioning: true},
		controlUplinks([]uplink.State{{Name: "eth2", Up: true, Addrs: []netip.Addr{rloc}}}), fib, slog.New(slog.DiscardHandler))
	if d := local(c.Databases); len(d) != 1 || d[0] != (dataplane.LocalEID{EID: eid, Version: 41}) {
		t.Errorf("at the start %+v", d)
	}
	x, err := xtr.New(c)
	if err != nil {
		t.Fatal(err)
	}
	m.Locators = []mapping.Locator{mapping.MakeLocator(rloc, 2, 100)}
	if err := x.SetDatabases([]xtr.Database{database(m)}); err != nil {
		t.Fatal(err)
	}
	if v := fib.Snapshot().LocalVersion(0, netip.MustParseAddr("10.1.2.3")); v != 42 {
		t.Errorf("after a change of locators version %d", v)
	}
}
