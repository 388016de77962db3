package xtr

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

func (r *rig) steer(name string, edit func(*steering)) {
	r.t.Helper()
	if err := r.m.steer(r.now, name, edit); err != nil {
		r.t.Fatal(err)
	}
	r.collect()
}

func drain(s *steering)   { s.drained = true }
func undrain(s *steering) { s.drained = false }

// TestDrain: what an operator wants is registered, told and the source of data
// at once; a drained locator is the last resort.
func TestDrain(t *testing.T) {
	r := newRig(t, multihomed())
	r.start()
	p, w := uint8(2), uint8(99)
	const both = "10.1.0.0/16 ttl 1440m, 192.0.2.1 1/70 LR, 198.18.0.1 1/30 LR"
	for _, step := range []struct {
		what       string
		do         func()
		registered string
		from       netip.Addr
		sources    []Source
	}{
		{"drained by its uplink", func() { r.steer("eth2", drain) },
			"10.1.0.0/16 ttl 1440m, 192.0.2.1 255/70 LR, 198.18.0.1 1/30 LR", up2a, []Source{{up2a, 1, 30}, {up1a, 255, 0}}},
		{"undrained", func() { r.steer("eth2", undrain) }, both, up1a, []Source{{up1a, 1, 70}, {up2a, 1, 30}}},
		{"drained by its address", func() { r.steer("198.18.0.1", drain) },
			"10.1.0.0/16 ttl 1440m, 192.0.2.1 1/70 LR, 198.18.0.1 255/30 LR", up1a, []Source{{up1a, 1, 70}, {up2a, 255, 0}}},
		{"the other has no carrier", func() { r.setUplinks(uplinks(false, true, up2a)) },
			"10.1.0.0/16 ttl 1440m, 192.0.2.1 1/70 L, 198.18.0.1 1/30 LR", up2a, []Source{{up2a, 255, 0}}},
		{"it has again", func() { r.setUplinks(uplinks(true, true, up2a)); r.until(r.now.Sub(zeroTime) + 2*time.Second) },
			"10.1.0.0/16 ttl 1440m, 192.0.2.1 1/70 LR, 198.18.0.1 255/30 LR", up1a, []Source{{up1a, 1, 70}, {up2a, 255, 0}}},
		{"undrained", func() { r.steer("198.18.0.1", undrain) }, both, up1a, []Source{{up1a, 1, 70}, {up2a, 1, 30}}},
		{"set", func() { r.steer("eth3", func(s *steering) { s.priority, s.weight = &p, &w }) },
			"10.1.0.0/16 ttl 1440m, 192.0.2.1 1/70 LR, 198.18.0.1 2/99 LR", up1a, []Source{{up1a, 1, 70}, {up2a, 2, 99}}},
		{"with another address", func() { r.setUplinks(uplinks(true, true, up2b)) },
			"10.1.0.0/16 ttl 1440m, 192.0.2.1 1/70 LR, 198.18.0.77 2/99 LR", up1a, []Source{{up1a, 1, 70}, {up2b, 2, 99}}},
		{"as configured", func() { r.steer("eth3", func(s *steering) { s.priority, s.weight = nil, nil }) },
			"10.1.0.0/16 ttl 1440m, 192.0.2.1 1/70 LR, 198.18.0.77 1/30 LR", up1a, []Source{{up1a, 1, 70}, {up2b, 1, 30}}},
	} {
		r.confirmAll()
		r.take() // acknowledgements
		step.do()
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
	if len(r.m.locals.steered) != 0 {
		t.Errorf("orders are left: %v", r.m.locals.steered)
	}
	for _, name := range []string{"eth9", "198.18.0.1", ""} {
		if err := r.m.steer(r.now, name, drain); !errors.Is(err, ErrNoLocator) {
			t.Errorf("%q was drained: %v", name, err)
		}
	}
	r.steer(up2b.String(), drain)
	r.setUplinks(uplinks(true, true, up2a))
	if err := r.m.steer(r.now, up2b.String(), undrain); err != nil || len(r.m.locals.steered) != 0 {
		t.Errorf("an address that is gone is undrained: %v, left %v", err, r.m.locals.steered)
	}
}

// TestDrainTold: who sends to the site hears of a drained locator, from the
// other one and without it among the ITR-RLOCs.
func TestDrainTold(t *testing.T) {
	r := newPathRig(t, nil)
	r.stream(20*time.Second, always(true))
	r.smrs = nil
	r.steer("eth2", drain)
	r.stream(21*time.Second, always(true))
	if len(r.smrs) != 2 {
		t.Fatalf("%d SMRs, want one to each locator of the peer", len(r.smrs))
	}
	for _, s := range r.smrs {
		var m wire.MapRequest
		if err := m.Decode(s.data); err != nil {
			t.Fatal(err)
		}
		if a, _ := m.ITRRLOCs[0].IP(); s.src.Addr() != up2a || len(m.ITRRLOCs) != 1 || a != up2a {
			t.Errorf("SMR from %v with ITR-RLOCs %v", s.src, m.ITRRLOCs)
		}
	}
	if r.stat(pathsDown) != 0 {
		t.Error("the drained paths were called down")
	}
}

// TestLocalLocators: the states of a local RLOC.
func TestLocalLocators(t *testing.T) {
	r := newPathRig(t, nil)
	want := func(what string, first, second LocatorState) {
		t.Helper()
		got := r.m.localLocators()
		if len(got) < 2 || got[0].Addr != up1a || got[1].Addr != up2a || got[0].State != first || got[1].State != second {
			t.Errorf("%s: %+v, want %v and %v", what, got, first, second)
		}
	}
	r.stream(20*time.Second, always(true))
	want("at rest", LocatorUp, LocatorUp)
	if l := r.m.localLocators()[0]; l.Uplink != "eth2" || l.Paths != 2 || l.PathsDown != 0 || l.Priority != 1 || l.Weight != 70 || l.LastReply.IsZero() {
		t.Errorf("at rest: %+v", l)
	}
	r.setUplinks(uplinks(true, false, up2a))
	want("no carrier", LocatorUp, LocatorNoCarrier)
	r.setUplinks(uplinks(true, true, up2a))
	want("a carrier again", LocatorUp, LocatorHeld)
	if l := r.m.localLocators()[1]; l.Held != r.now.Add(holdDown) || l.Flaps != 1 {
		t.Errorf("held: %+v", l)
	}
	r.stream(40*time.Second, always(true))
	want("held for long enough", LocatorUp, LocatorUp)
	r.lost = func(from, to netip.Addr) bool { return from == up1a || to == up1a }
	r.converge(always(false), func() bool { return len(r.sources) == 1 })
	want("a dead provider", LocatorDead, LocatorUp)
	r.steer("eth3", drain)
	p := uint8(9)
	r.steer("eth3", func(s *steering) { s.priority = &p })
	r.setUplinks(uplinks(true, true, up2b))
	got := r.m.localLocators()
	if len(got) != 3 || got[1].Addr != up2b || !got[1].Drained || got[1].Priority != 255 || got[2].Addr != up2a || got[2].State != LocatorGone {
		t.Errorf("another address: %+v", got)
	}
	if l := got[1]; l.SetPriority == nil || *l.SetPriority != p || l.SetWeight != nil || got[0].SetPriority != nil {
		t.Errorf("set by an operator: %+v", got)
	}
}
