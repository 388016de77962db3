package xtr

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

var (
	internet = addr("100.64.9.9") // a host without LISP
	petr1    = etr1.Addr()
	petr2    = rlocB
)

// petrs returns the proxy-ETRs that the planes may use for e now; nil if they
// were told of none.
func (r *probeRig) petrs(e string) (out []string) {
	for _, c := range r.changes {
		if c.EID != eid(e) {
			continue
		}
		if out = nil; c.Record == nil {
			continue
		}
		for _, l := range c.ProxyETRs {
			if l.Usable() {
				out = append(out, l.Addr.String())
			}
		}
	}
	return out
}

// Packets to natively-forward go to proxy-ETRs, and to nothing else, in
// instances that use them. What does not answer probes is left alone while
// another does.
func TestProxyETRsInUse(t *testing.T) {
	const hole = "100.64.0.0/10"
	r := newProbeRig(t, func(c *Config) {
		c.ProxyETRs = []mapping.Locator{mapping.MakeLocator(petr2, 1, 100), mapping.MakeLocator(petr1, 1, 100)}
		c.UsePETR = map[uint32]bool{0: true}
	})
	r.learn(internet, mapping.NegativeRecord(eid(hole), mapping.NativelyForward, 60))
	both := []string{petr1.String(), petr2.String()}
	if got := r.petrs(hole); !slices.Equal(got, both) {
		t.Fatalf("proxy-ETRs %v, want %v", got, both)
	}
	if c := r.changes[len(r.changes)-1]; !c.Record.Negative() {
		t.Errorf("the record %v is not as it was learned", c.Record)
	}
	for i, action := range []mapping.Action{mapping.NoAction, mapping.Drop, mapping.DropPolicy, mapping.DropAuth} {
		e := mapping.EID{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(16 + i), 0, 0}), 16)}
		r.learn(e.Prefix.Addr().Next(), mapping.NegativeRecord(e, action, 60))
		if got := r.petrs(e.String()); got != nil {
			t.Errorf("%v goes to %v", action, got)
		}
	}
	r.used = []string{hole}
	r.silent[petr1] = true
	r.run(time.Minute)
	if got := r.petrs(hole); !slices.Equal(got, both[1:]) {
		t.Errorf("of one that is silent and one that answers: %v", got)
	}
	for _, s := range r.probes {
		if s.dst.Addr() != petr1 && s.dst.Addr() != petr2 {
			t.Errorf("a probe to %v", s.dst)
		}
		if got := asked(t, probeRequest(t, s.data)); got != eid(hole) {
			t.Errorf("a probe about %v", got)
		}
	}
	r.silent[petr2] = true
	r.run(2 * time.Minute)
	if got := r.petrs(hole); !slices.Equal(got, both) {
		t.Errorf("when none answers: %v", got)
	}
	r.silent = map[netip.Addr]bool{petr2: true}
	r.run(3 * time.Minute)
	if got := r.petrs(hole); !slices.Equal(got, both[:1]) {
		t.Errorf("when the first is back: %v", got)
	}
}

// An instance with another policy goes to no proxy-ETR.
func TestProxyETRsOfOtherInstances(t *testing.T) {
	r := newProbeRig(t, func(c *Config) {
		c.ProxyETRs = []mapping.Locator{mapping.MakeLocator(petr1, 1, 100)}
		c.UsePETR = map[uint32]bool{7: true}
	})
	r.learn(internet, mapping.NegativeRecord(eid("100.64.0.0/10"), mapping.NativelyForward, 60))
	if got := r.petrs("100.64.0.0/10"); got != nil {
		t.Errorf("proxy-ETRs %v", got)
	}
}

// A proxy-ETR answers probes about destinations that are not of its sites, with
// no more than that it is there, to the router that probes it.
func TestProxyETRAnswersProbes(t *testing.T) {
	cfg := etrConfig()
	cfg.Databases, cfg.ProxyETR = nil, []mapping.EID{eid("10.0.0.0/8")}
	probe := func(e string) []byte {
		return request(t, []string{"203.0.113.7"}, []string{e}, func(m *wire.MapRequest) { m.Probe = true })
	}
	r := newStrictRig(t, cfg)
	r.receive(probe("100.64.0.0/10"), etr1)
	d := r.one()
	m, recs := answer(t, d)
	if d.dst != etr1 || d.src != local || !m.Probe || m.Nonce != 0x1122334455667788 || len(recs) != 1 {
		t.Fatalf("sent %v to %v: %+v", d.src, d.dst, m)
	}
	l := recs[0].Locators
	if recs[0].EID != eid("100.64.0.0/10") || !recs[0].Authoritative || len(l) != 1 || l[0].Addr != own4 || l[0].Flags&mapping.Probed == 0 {
		t.Errorf("record %v, locators %v", recs[0], l)
	}
	for name, msg := range map[string][]byte{
		"of a site":            probe("10.7.0.0/16"),
		"not a probe":          request(t, []string{"203.0.113.7"}, []string{"100.64.0.0/10"}, nil),
		"encapsulated":         forwarded(t, probe("100.64.0.0/10"), "203.0.113.7:61000"),
		"nothing to answer on": request(t, nil, []string{"100.64.0.0/10"}, func(m *wire.MapRequest) { m.Probe, m.ITRRLOCs = true, []wire.Address{{}} }),
	} {
		r.now = r.now.Add(time.Minute)
		if r.receive(msg, etr1); len(r.take()) != 0 {
			t.Errorf("%s: answered", name)
		}
	}
	cfg.ProxyETR = nil
	r = newRig(t, cfg)
	if r.receive(probe("100.64.0.0/10"), etr1); len(r.take()) != 0 {
		t.Error("no proxy-ETR, and it answered")
	}
}

// Whoever sends probes to a proxy-ETR in the name of another makes it send no
// more than was sent to it, give or take the half.
func TestAbuse_ProxyETRAmplifiesNothing(t *testing.T) {
	cfg := etrConfig()
	cfg.Databases, cfg.ProxyETR = nil, []mapping.EID{eid("10.0.0.0/8")}
	r := newStrictRig(t, cfg)
	in, out := 0, 0
	for i := range 10_000 {
		e := mapping.HostEID(0, netip.AddrFrom4([4]byte{100, 64, byte(i >> 8), byte(i)})).String()
		msg := request(t, []string{"203.0.113.7"}, []string{e}, func(m *wire.MapRequest) { m.Probe = true })
		in += onWire(len(msg), etr1.Addr())
		r.now = r.now.Add(time.Millisecond)
		r.receive(msg, etr1)
		for _, d := range r.take() {
			out += onWire(len(d.data), etr1.Addr())
		}
	}
	if out == 0 || out > in*3/2 || out > in/10 {
		t.Errorf("%d octets for %d", out, in)
	}
}

// A proxy-ITR says so, and names no source; a site that is a proxy-ITR too says
// so only of packets that it attracted.
func TestProxyITRAsks(t *testing.T) {
	cfg := noRegister()
	cfg.ProxyITR = []mapping.EID{eid("10.0.0.0/8")}
	r := newRig(t, cfg)
	ask := func(src netip.Addr) wire.MapRequest {
		r.now = r.now.Add(time.Minute)
		r.until(r.now.Sub(zeroTime))
		r.take()
		r.miss(peer, src)
		_, m := mapRequest(t, r.one().data)
		return m
	}
	if m := ask(internet); !m.PITR || m.SourceEID.AFI() != 0 {
		t.Errorf("attracted: %+v", m)
	}
	r.m.itr.finish(r.m.itr.queries[mapping.HostEID(0, peer)])
	if m := ask(hostA); m.PITR || m.SourceEID.AFI() == 0 {
		t.Errorf("of the site: %+v", m)
	}
	cfg.Databases = nil
	r = newRig(t, cfg)
	r.learn(peer, rec("10.2.0.0/16", 1440))
	r.take()
	r.now = r.now.Add(time.Minute)
	r.receive(mustEncode(t, &wire.MapRequest{SMR: true, Nonce: 9, SourceEID: wire.EIDAddress(0, peer), ITRRLOCs: []wire.Address{wire.IPAddress(etr1.Addr())},
		EIDs: []wire.RequestRecord{wire.NewRequestRecord(eid("10.2.0.0/16"))}}), etr1)
	if _, m := mapRequest(t, r.one().data); !m.PITR || !m.SMRInvoked || asked(t, m) != eid("10.2.0.0/16") {
		t.Errorf("after an SMR: %+v", m)
	}
}

func TestProxyConfig(t *testing.T) {
	for name, edit := range map[string]func(*Config){
		"a proxy-ETR inside an EID":           func(c *Config) { c.ProxyETRs = []mapping.Locator{mapping.MakeLocator(addr("10.1.0.9"), 1, 1)} },
		"itself as proxy-ETR":                 func(c *Config) { c.ProxyETRs = []mapping.Locator{mapping.MakeLocator(own4, 1, 1)} },
		"an unusable proxy-ETR":               func(c *Config) { c.ProxyETRs = []mapping.Locator{mapping.MakeLocator(petr1, 255, 1)} },
		"a map-resolver that it attracts":     func(c *Config) { c.ProxyITR = []mapping.EID{eid("198.51.100.0/24")} },
		"an RLOC of itself that it attracts":  func(c *Config) { c.ProxyITR = []mapping.EID{eid("192.0.2.0/24")} },
		"a prefix to attract that is no such": func(c *Config) { c.ProxyITR = []mapping.EID{{}} },
	} {
		cfg := testConfig()
		edit(&cfg)
		if _, err := cfg.withDefaults(); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
