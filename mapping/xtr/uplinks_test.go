package xtr

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// The uplinks of the tests, and the address that eth3 gets later.
var (
	up1a, up2a, up2b = addr("192.0.2.1"), addr("198.18.0.1"), addr("198.18.0.77")
)

// uplinks returns two uplinks, the second with the given addresses.
func uplinks(first, second bool, addrs ...netip.Addr) []Uplink {
	return []Uplink{{Name: "eth2", Up: first, Addrs: []netip.Addr{up1a}}, {Name: "eth3", Up: second, Addrs: addrs}}
}

// multihomed is a site with two uplinks and two prefixes, one on both uplinks.
func multihomed() Config {
	cfg := testConfig()
	cfg.RLOCs, cfg.Uplinks = nil, uplinks(true, true, up2a)
	cfg.Databases = []Database{{EID: eid("10.1.0.0/16"), Uplinks: []UplinkLocator{
		{Interface: "eth2", IPv4: true, IPv6: true, Priority: 1, Weight: 70},
		{Interface: "eth3", IPv4: true, Priority: 1, Weight: 30},
	}}}
	return cfg
}

func (r *rig) setUplinks(u []Uplink) {
	r.t.Helper()
	if err := r.m.setUplinks(r.now, u); err != nil {
		r.t.Fatal(err)
	}
	r.collect()
}

// TestUplinks: what the kernel says of the uplinks is registered at once, and
// is what the data plane sends from.
func TestUplinks(t *testing.T) {
	r := newRig(t, multihomed())
	r.start()
	both := []Source{{up1a, 1, 70}, {up2a, 1, 30}}
	for _, step := range []struct {
		what       string
		uplinks    []Uplink
		registered string
		from       netip.Addr
		sources    []Source
		held       time.Duration
	}{
		{"both", nil, "10.1.0.0/16 ttl 1440m, 192.0.2.1 1/70 LR, 198.18.0.1 1/30 LR", up1a, both, 0},
		{"the first has no carrier", uplinks(false, true, up2a), "10.1.0.0/16 ttl 1440m, 192.0.2.1 1/70 L, 198.18.0.1 1/30 LR", up2a, both[1:], 0},
		{"it comes back", uplinks(true, true, up2a), "10.1.0.0/16 ttl 1440m, 192.0.2.1 1/70 LR, 198.18.0.1 1/30 LR", up1a, both, time.Second},
		{"the second has another address", uplinks(true, true, up2b), "10.1.0.0/16 ttl 1440m, 192.0.2.1 1/70 LR, 198.18.0.77 1/30 LR", up1a, []Source{both[0], {up2b, 1, 30}}, 0},
		{"the second has none", uplinks(true, true), "10.1.0.0/16 ttl 1440m, 192.0.2.1 1/70 LR", up1a, both[:1], 0},
		{"the first is gone", []Uplink{{Name: "eth3", Up: true, Addrs: []netip.Addr{up2a}}}, "10.1.0.0/16 ttl 1440m, 198.18.0.1 1/30 LR", up2a, both[1:], 0},
	} {
		r.until(r.now.Sub(zeroTime) + 2*time.Minute)
		if step.uplinks != nil {
			r.confirmAll()
			r.take() // acknowledgements
			r.setUplinks(step.uplinks)
			if step.held > 0 {
				if got := r.registered(); len(got) > 0 {
					t.Errorf("%s: registered %q at once", step.what, got)
				}
				r.until(r.now.Sub(zeroTime) + step.held)
			}
		}
		var last sent
		for _, s := range r.out {
			if s.dst == ms1 && !isInfo(s) {
				last = s
			}
		}
		if got := r.registered(); len(got) == 0 || got[len(got)-1] != step.registered {
			t.Errorf("%s: registered %q, want %q", step.what, got, step.registered)
		}
		if last.src.Addr() != step.from {
			t.Errorf("%s: registered from %v, want %v", step.what, last.src, step.from)
		}
		if got, _, changed := r.m.takeSources(); !changed || !slices.Equal(got, step.sources) {
			t.Errorf("%s: sources %v (changed %v), want %v", step.what, got, changed, step.sources)
		}
	}
}

// TestUplinksNone: an EID without a locator is not registered, and is as soon
// as it has one.
func TestUplinksNone(t *testing.T) {
	cfg := multihomed()
	cfg.Uplinks = []Uplink{}
	r := newRig(t, cfg)
	r.start()
	r.until(time.Minute)
	if got := r.registered(); len(got) != 0 {
		t.Errorf("registered %q without an uplink", got)
	}
	r.setUplinks(uplinks(true, true, up2a))
	if got := r.registered(); len(got) == 0 || got[0] != "10.1.0.0/16 ttl 1440m, 192.0.2.1 1/70 LR, 198.18.0.1 1/30 LR" {
		t.Errorf("registered %q when the uplinks came", got)
	}
}

// TestUplinksStatic: a locator given by address is another router's until this
// one has the address, and not reachable when it had.
func TestUplinksStatic(t *testing.T) {
	cfg := multihomed()
	cfg.Databases[0].Uplinks = nil
	cfg.Databases[0].Locators = []mapping.Locator{mapping.MakeLocator(up1a, 1, 50), mapping.MakeLocator(up2b, 1, 50)}
	r := newRig(t, cfg)
	r.start()
	for i, want := range []string{
		"10.1.0.0/16 ttl 1440m, 192.0.2.1 1/50 LR, 198.18.0.77 1/50 R",
		"10.1.0.0/16 ttl 1440m, 192.0.2.1 1/50 LR, 198.18.0.77 1/50 LR",
		"10.1.0.0/16 ttl 1440m, 192.0.2.1 1/50 LR, 198.18.0.77 1/50",
	} {
		if i > 0 {
			r.setUplinks([][]Uplink{uplinks(true, true, up2b), uplinks(true, true, up2a)}[i-1])
		}
		if got := r.registered(); len(got) == 0 || got[len(got)-1] != want {
			t.Errorf("step %d: registered %q, want %q", i, got, want)
		}
	}
}

// TestUplinksLeftOut: an address that can't be an RLOC is not used, and keeps
// nobody from following the others.
func TestUplinksLeftOut(t *testing.T) {
	many := make([]netip.Addr, 40)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{198, 18, 1, byte(i + 1)})
	}
	for what, c := range map[string]struct {
		addrs []netip.Addr
		want  int // RLOCs
	}{
		"an address on two uplinks":  {[]netip.Addr{up1a, up2b}, 2},
		"an address inside the site": {[]netip.Addr{hostA, up2b}, 2},
		"a multicast address":        {[]netip.Addr{addr("224.0.0.1"), up2b}, 2},
		"too many":                   {append([]netip.Addr{up2b}, many...), maxITRRLOCs},
	} {
		r := newRig(t, multihomed())
		r.setUplinks(uplinks(true, true, c.addrs...))
		if got := r.m.locals.rlocs(); len(got) != c.want || got[0] != up1a || got[1] != up2b {
			t.Errorf("%s: rlocs are %v", what, got)
		}
		cfg := multihomed()
		cfg.Uplinks = uplinks(true, true, c.addrs...)
		if got := newRig(t, cfg).m.locals.rlocs(); len(got) != c.want || got[1] != up2b {
			t.Errorf("%s: at the start rlocs are %v", what, got)
		}
	}
}

// TestUplinksRefused: uplinks that can't be told apart are refused, and change
// nothing; so is a database-mapping that holds an RLOC.
func TestUplinksRefused(t *testing.T) {
	r := newRig(t, multihomed())
	if err := r.m.setUplinks(r.now, []Uplink{{Name: "eth2"}, {Name: "eth2"}}); err == nil {
		t.Error("a name twice was accepted")
	}
	d := multihomed().Databases[0]
	d.EID = eid("198.18.0.0/15")
	if err := r.m.setDatabases(r.now, []Database{d}); err == nil {
		t.Error("a database-mapping that holds an RLOC was accepted")
	}
	if got := r.m.locals.rlocs(); !slices.Equal(got, []netip.Addr{up1a, up2a}) {
		t.Errorf("rlocs are %v", got)
	}
}
