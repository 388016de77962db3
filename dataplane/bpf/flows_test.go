package bpf

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// What the programs remember of a flow, and of who sends datagrams, ends with
// whatever it was decided by.
func TestFlowsAreForgotten(t *testing.T) {
	eid := mapping.MustParseEID
	to := func(e string, lifetime time.Duration, rlocs ...netip.Addr) mapping.CacheChange {
		r := &mapping.Record{EID: eid(e), TTL: 60, Version: 3}
		for _, a := range rlocs {
			r.Locators = append(r.Locators, mapping.MakeLocator(a, 1, 100))
		}
		return mapping.CacheChange{EID: r.EID, Record: r, Expires: time.Now().Add(lifetime)}
	}
	both := []dataplane.Source{{Addr: dptest.Ours4, Priority: 1, Weight: 100}, {Addr: dptest.Ours6, Priority: 1, Weight: 100}}
	for _, c := range []struct {
		name   string
		change func(p *program)
		after  time.Duration // that the change needs
		// The locator that the packet goes to then; the zero Addr: it is left to the
		// slow path.
		rloc netip.Addr
		// Whether a datagram from the other site is still taken, where the sources are
		// looked at loosely.
		taken bool
		kept  bool // nothing is forgotten
	}{
		{"nothing", func(*program) {}, 0, dptest.Far4, true, true},
		{"another locator", func(p *program) { p.Learn(to("10.2.0.0/16", time.Hour, dptest.Far6)) }, 0, dptest.Far6, false, false},
		{"no locator", func(p *program) { p.Learn(to("10.2.0.0/16", time.Hour)) }, 0, netip.Addr{}, false, false},
		{"no mapping", func(p *program) { p.Learn(mapping.CacheChange{EID: eid("10.2.0.0/16")}) }, 0, netip.Addr{}, true, false},
		{"a more specific mapping", func(p *program) { p.Learn(to("10.2.0.0/24", time.Hour, dptest.Other4)) }, 0, dptest.Other4, false, false},
		{"a mapping elsewhere", func(p *program) { p.Learn(to("10.99.0.0/16", time.Hour, dptest.Other4)) }, 0, dptest.Far4, true, true},
		{"an earlier end", func(p *program) { p.Learn(to("10.2.0.0/16", 50*time.Millisecond, dptest.Far4)) }, 100 * time.Millisecond, netip.Addr{}, true, false},
		{"a later end", func(p *program) { p.Learn(to("10.2.0.0/16", 2*time.Hour, dptest.Far4)) }, 0, dptest.Far4, true, true},
		{"no IPv4 source", func(p *program) { p.fib.SetSources(both[1:]) }, 0, netip.Addr{}, false, false},
		{"a shorter path", func(p *program) { p.fib.SetRouteMTU(dptest.Far4, 600, time.Now()) }, 0, netip.Addr{}, true, false},
		{"no site", func(p *program) { p.fib.SetLocal(nil) }, 0, netip.Addr{}, false, false},
		{"a site around the other", func(p *program) {
			p.fib.SetLocal([]dataplane.LocalEID{{EID: eid("10.0.0.0/14"), Version: 5}})
		}, 0, netip.Addr{}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &dptest.State{Name: c.name, Sources: both, Config: dataplane.Config{SourceCheck: dataplane.SourcesLoose}}
			p := parts.New(t, s).(*program)
			out := dptest.Flow("10.1.0.1:1000", "10.2.0.1:80", dptest.UDP, 600).Bytes()
			in := dptest.Datagram{Src: dptest.Far4, Dst: dptest.Ours4, TTL: 64, SrcPort: 50000, Sum: dptest.ZeroSum,
				Inner: dptest.Flow("10.2.0.1:80", "10.1.0.1:1000", dptest.UDP, 20).Bytes()}.Bytes()
			play := func(when string, rloc netip.Addr, taken bool) {
				t.Helper()
				o := p.Encap(0, out, 0)
				switch {
				case o.Err != nil:
					t.Fatal(o.Err)
				case !rloc.IsValid():
					if len(o.Sent) > 0 {
						t.Errorf("%s it is sent: %x", when, o.Sent[0])
					}
				case len(o.Sent) != 1:
					t.Errorf("%s it is not sent", when)
				default:
					if d, err := dptest.ParseDatagram(o.Sent[0]); err != nil || d.Dst != rloc {
						t.Errorf("%s it goes to %v, want %v (%v)", when, d.Dst, rloc, err)
					}
				}
				if o = p.Decap(0, in, 0); o.Err != nil {
					t.Fatal(o.Err)
				}
				if got := len(o.Host) == 1; got != taken {
					t.Errorf("%s a datagram is taken: %v, want %v", when, got, taken)
				}
			}
			lookups := func() (misses, hits uint64) {
				st, err := p.plane.copier.read()
				if err != nil {
					t.Fatal(err)
				}
				return st.CacheMisses, st.CacheHits
			}
			play("at first", dptest.Far4, true)
			misses, hits := lookups()
			play("again", dptest.Far4, true)
			if m, h := lookups(); m != misses || h != hits+2 {
				t.Errorf("of the second packets %d were not remembered, and %d were, want 2", m-misses, h-hits)
			}
			c.change(p)
			if err := p.plane.copier.sync(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(c.after)
			misses, hits = lookups()
			play("after the change", c.rloc, c.taken)
			if m, h := lookups(); c.kept && (m != misses || h != hits+2) {
				t.Errorf("what has not changed was looked up again: %d hits, want 2", h-hits)
			}
			play("again after the change", c.rloc, c.taken)
		})
	}
}

// So does what they remember of our own addresses, of which not all are sources.
func TestOwnAddressIsForgotten(t *testing.T) {
	p := parts.New(t, &dptest.State{Name: "own", Sources: []dataplane.Source{{Addr: dptest.Ours4, Priority: 1, Weight: 100}}}).(*program)
	further := netip.MustParseAddr("192.0.2.77")
	in := dptest.Datagram{Src: dptest.Far4, Dst: further, TTL: 64, SrcPort: 50000, Sum: dptest.ZeroSum,
		Inner: dptest.Flow("10.99.0.1:80", "10.1.0.1:1000", dptest.UDP, 20).Bytes()}.Bytes()
	for _, c := range []struct {
		when string
		ours []netip.Addr
	}{
		{"at first", []netip.Addr{dptest.Ours4}},
		{"at an address that has become ours", []netip.Addr{dptest.Ours4, further}},
		{"at one that was ours", []netip.Addr{dptest.Ours4}},
		{"at one that is ours again", []netip.Addr{further, dptest.Ours4}},
	} {
		p.fib.SetLocalRLOCs(c.ours)
		if err := p.plane.copier.sync(); err != nil {
			t.Fatal(err)
		}
		want := slices.Contains(c.ours, further)
		for range 2 {
			if o := p.Decap(0, in, 0); o.Err != nil || len(o.Host) == 1 != want {
				t.Errorf("%s a datagram is taken: %v, want %v (%v)", c.when, len(o.Host) == 1, want, o.Err)
			}
		}
	}
}

// The programs have all settings from the first moment.
func TestSettings(t *testing.T) {
	s := &dptest.State{Name: "settings", Sources: []dataplane.Source{{Addr: dptest.Ours4, Priority: 1, Weight: 100}},
		Config: dataplane.Config{SourceCheck: dataplane.SourcesStrict, MapVersioning: true, MSSClamp: true}}
	router, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer router.Close()
	if err := router.Do(func() error {
		p, err := inState(s, dataplane.NewFIB())
		if err != nil {
			return err
		}
		defer p.Close()
		if got := p.copier.t.settings; got.Check != uint32(dataplane.SourcesStrict) || got.Versioning != 1 || got.Clamp != 1 || got.Unfinished != 1 {
			t.Errorf("%+v", *got)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
