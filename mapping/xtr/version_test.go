package xtr

import (
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// versionedConfig is a site whose 10.1.0.0/16 has a map-version.
func versionedConfig(v mapping.Version) Config {
	cfg := testConfig()
	cfg.Databases = slices.Clone(cfg.Databases)
	cfg.Databases[0].Version = v
	return cfg
}

func (r *rig) versionFound(ev VersionEvent) {
	r.m.versionFound(r.now, ev)
	r.collect()
}

// elsewhere returns what was sent since the last call, but to the map-server.
func (r *rig) elsewhere() []sent {
	return slices.DeleteFunc(r.take(), func(s sent) bool { return s.dst == ms1 })
}

// versions returns the map-versions in the last Map-Register, by EID.
func (r *rig) versions() map[string]uint16 {
	r.t.Helper()
	v := map[string]uint16{}
	for _, s := range r.take() {
		if s.dst != ms1 {
			continue
		}
		m := register(r.t, s.data)
		for rec := range m.Records.All() {
			mr, err := rec.Mapping()
			if err != nil {
				r.t.Fatal(err)
			}
			v[mr.EID.String()] = mr.Version
		}
	}
	return v
}

// RFC 9302 sections 5 and 6: the version stands in the EID-records of
// Map-Registers and Map-Replies, and goes to the next one when locators change,
// over the end of the circle too.
func TestDP25_VersionInRecords(t *testing.T) {
	r := newRig(t, versionedConfig(4095))
	r.start()
	if v := r.versions(); v["10.1.0.0/16"] != 4095 || v["2001:db8:1::/48"] != 0 {
		t.Errorf("registered versions %v", v)
	}
	request := func() uint16 {
		r.t.Helper()
		r.now = r.now.Add(5 * time.Second)
		r.take()
		r.receive(mustEncode(t, &wire.MapRequest{Nonce: 1, ITRRLOCs: []wire.Address{wire.IPAddress(etr1.Addr())},
			EIDs: []wire.RequestRecord{wire.NewRequestRecord(eid("10.1.0.5/32"))}}), etr1)
		var m wire.MapReply
		for _, s := range r.take() {
			if s.dst == etr1 && m.Decode(s.data) == nil {
				for rec := range m.Records.All() {
					return rec.Version
				}
			}
		}
		t.Fatal("no Map-Reply")
		return 0
	}
	if v := request(); v != 4095 {
		t.Errorf("replied version %d", v)
	}
	set := func(v mapping.Version, priority uint8) uint16 {
		t.Helper()
		d := versionedConfig(v).Databases
		d[0].Locators = []mapping.Locator{mapping.MakeLocator(own4, priority, 100)}
		r.take()
		if err := r.setDatabases(d...); err != nil {
			t.Fatal(err)
		}
		return request()
	}
	for _, c := range []struct {
		what     string
		given    mapping.Version
		priority uint8
		want     uint16
	}{
		{"another priority", 4095, 2, 1}, // 0 is skipped
		{"the same as configured at first", 4095, 2, 1},
		{"yet another priority", 4095, 3, 2},
		{"a newer one is given", 77, 3, 77},
		{"and locators with it", 80, 4, 80},
		{"an older one is given", 79, 4, 80},
		{"none", 0, 5, 0},
	} {
		if v := set(c.given, c.priority); v != c.want {
			t.Errorf("%s: version %d, want %d", c.what, v, c.want)
		}
	}
	bad := versionedConfig(4096)
	if _, err := New(bad); err == nil {
		t.Error("a version of 13 bits was accepted")
	}
}

// RFC 9302 section 7.1: who uses an old mapping of the site gets an SMR, one in
// 3 s, and nobody else does.
func TestDP25_OldVersionIsAnsweredBySMR(t *testing.T) {
	r := newRig(t, versionedConfig(5))
	r.start()
	r.learn(peer, rec("10.2.0.0/16", 60))
	r.take()
	ev := VersionEvent{Outdated: true, EID: eid("10.1.0.0/16"), RLOC: etr1.Addr(), Host: peer}
	for range 70 { // 7 s
		r.versionFound(ev)
		r.now = r.now.Add(100 * time.Millisecond)
	}
	n := 0
	for _, s := range r.elsewhere() {
		var m wire.MapRequest
		if err := m.Decode(s.data); err != nil {
			t.Fatal(err)
		}
		src, err := hostEID(m.SourceEID)
		if s.dst.Addr() != etr1.Addr() || !m.SMR || err != nil || !eid("10.1.0.0/16").Covers(src) || asked(t, m) != eid("10.2.0.0/16") {
			t.Errorf("sent %+v to %v", m, s.dst)
		}
		n++
	}
	if n != 3 {
		t.Errorf("%d SMRs in 7 s", n)
	}
	if n := r.stat(mapVersionsRateLimited); n != 67 {
		t.Errorf("%d were limited", n)
	}
	for _, ev := range []VersionEvent{
		{Outdated: true, EID: eid("10.1.0.0/24"), RLOC: addr("203.0.113.50"), Host: peer}, // no mapping of the site
		{Outdated: true, EID: eid("10.1.0.0/16"), RLOC: own4, Host: peer},
		{Outdated: true, EID: eid("10.1.0.0/16"), RLOC: addr("224.0.0.1"), Host: peer},
	} {
		r.versionFound(ev)
	}
	if out := r.elsewhere(); len(out) != 0 {
		t.Errorf("%d messages to who can't be told", len(out))
	}
}

// RFC 9302 section 7.2: a newer version of a cached mapping is asked for, once a
// second at most; nothing is taken from the packet itself.
func TestDP25_NewerVersionIsAskedFor(t *testing.T) {
	r := newRig(t, versionedConfig(5))
	r.start()
	old := rec("10.2.0.0/16", 60)
	old.Version = 3
	r.learn(peer, old)
	r.now = r.now.Add(time.Minute)
	r.take()
	ev := VersionEvent{EID: eid("10.2.0.0/16"), RLOC: addr("203.0.113.99"), Host: peer}
	for range 100 {
		r.versionFound(ev)
	}
	out := r.elsewhere()
	if len(out) != 1 {
		t.Fatalf("%d messages, want one", len(out))
	}
	e, m := mapRequest(t, out[0].data)
	if asked(t, m) != eid("10.2.0.0/16") || e.Dst.Addr() != addr("10.2.0.0") {
		t.Errorf("asked for %v", asked(t, m))
	}
	if got, _ := r.m.itr.cache.Lookup(0, peer); got.Version != 3 || got.Locators[0].Addr != etr1.Addr() {
		t.Errorf("a packet changed the mapping to %v", got)
	}
	fresh := rec("10.2.0.0/16", 60)
	fresh.Version = 4
	r.receive(reply(t, m.Nonce, fresh), etr1)
	if got, _ := r.m.itr.cache.Lookup(0, peer); got.Version != 4 {
		t.Errorf("version %d after the reply", got.Version)
	}
	r.take()
	r.versionFound(VersionEvent{EID: eid("10.9.0.0/16"), RLOC: etr1.Addr(), Host: peer})
	if out := r.elsewhere(); len(out) != 0 {
		t.Errorf("%d messages about a mapping that is not cached", len(out))
	}
}

// The databases in effect are told, so that the data plane has their versions;
// those that are refused are not.
func TestOnDatabases(t *testing.T) {
	cfg := versionedConfig(9)
	var told [][]Database
	cfg.OnDatabases = func(d []Database) { told = append(told, d) }
	x, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d := versionedConfig(9).Databases
	d[0].Locators = []mapping.Locator{mapping.MakeLocator(own4, 7, 100)}
	if err := x.SetDatabases(d); err != nil {
		t.Fatal(err)
	}
	if err := x.SetDatabases([]Database{{}}); err == nil {
		t.Error("a database without EID was accepted")
	}
	if len(told) != 1 || told[0][0].Version != 10 || told[0][1].Version != 0 {
		t.Errorf("told %+v", told)
	}
	if s := x.Databases(); s[0].Version != 10 {
		t.Errorf("status has version %d", s[0].Version)
	}
}
