package xtr

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// located returns a database-mapping with one locator.
func located(e string, priority uint8) Database {
	return Database{EID: eid(e), Locators: []mapping.Locator{mapping.MakeLocator(own4, priority, 100)}}
}

func (r *rig) setDatabases(databases ...Database) error {
	err := r.m.setDatabases(r.now, databases)
	r.collect()
	return err
}

// confirmAll answers every Map-Register sent since the last call.
func (r *rig) confirmAll() {
	r.t.Helper()
	for _, s := range r.take() {
		if s.dst == ms1 && !isInfo(s) {
			r.receive(notify(r.t, s.data, key), ms1)
		}
	}
}

// registered returns the records of the Map-Registers sent since the last call.
func (r *rig) registered() []string {
	r.t.Helper()
	var out []string
	for _, s := range r.take() {
		if isInfo(s) {
			continue
		}
		m := register(r.t, s.data)
		for rec := range m.Records.All() {
			mr, err := rec.Mapping()
			if err != nil {
				r.t.Fatal(err)
			}
			out = append(out, mr.String())
		}
	}
	slices.Sort(out)
	return out
}

// TestSetDatabases: a changed locator is registered at once, what is gone is
// withdrawn, what did not change goes along.
func TestSetDatabases(t *testing.T) {
	r := newRig(t, testConfig())
	r.start()
	r.confirmAll()
	r.until(30 * time.Second)
	r.take()
	if err := r.setDatabases(located("10.1.0.0/16", 7), located("10.9.0.0/16", 1)); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"10.1.0.0/16 ttl 1440m, 192.0.2.1 7/100 LR",
		"10.9.0.0/16 ttl 1440m, 192.0.2.1 1/100 LR",
		"2001:db8:1::/48 ttl 0m, 192.0.2.1 1/100 LR",
	}
	if got := r.registered(); !slices.Equal(got, want) {
		t.Errorf("registered %q, want %q", got, want)
	}
	if d := r.m.reg.databases(); len(d) != 2 || d[1].EID != eid("10.9.0.0/16") || len(d[1].Registrations) != 1 {
		t.Errorf("databases %+v", d)
	}
	// The ETR answers for the new set, and not for what is gone.
	if _, own := r.m.ownEID(eid("2001:db8:1::1/128")); own {
		t.Error("an EID-prefix that was removed is still ours")
	}
	if _, own := r.m.ownEID(eid("10.9.0.1/32")); !own {
		t.Error("an EID-prefix that was added is not ours")
	}
}

// TestSetDatabasesRefused: a set with an error in it changes nothing, and one
// that is equal causes nothing.
func TestSetDatabasesRefused(t *testing.T) {
	r := newRig(t, testConfig())
	r.start()
	r.confirmAll()
	for _, bad := range [][]Database{
		{located("10.1.0.0/16", 7), located("10.1.0.0/16", 7)},
		{located("10.1.0.0/16", 7), {EID: eid("10.9.0.0/16")}},
		{located("198.51.100.0/24", 7)}, // holds the map-server
	} {
		if err := r.setDatabases(bad...); err == nil {
			t.Errorf("%v was not refused", bad)
		}
	}
	if err := r.setDatabases(testConfig().Databases...); err != nil {
		t.Error(err)
	}
	if got := r.registered(); len(got) != 0 {
		t.Errorf("registered %q", got)
	}
	if d := r.m.reg.databases(); len(d) != 2 || d[0].Locators[0].Priority != 1 || d[0].Registrations[0].State != RegistrationRegistered {
		t.Errorf("databases %+v", d)
	}
}

// TestSetDatabasesUnconfirmed: registrations of the new set are repeated as
// after a start, and a withdrawal as long as it can matter; one that is taken
// back is not sent again.
func TestSetDatabasesUnconfirmed(t *testing.T) {
	cfg := testConfig()
	cfg.Databases = []Database{located("10.1.0.0/16", 1), located("10.9.0.0/16", 1)}
	r := newRig(t, cfg)
	r.start()
	r.confirmAll()
	r.until(10 * time.Second)
	r.take()
	if err := r.setDatabases(located("10.1.0.0/16", 1)); err != nil {
		t.Fatal(err)
	}
	r.until(20 * time.Minute)
	var withdrawn, kept []time.Duration
	for _, s := range r.take() {
		m := register(t, s.data)
		for rec := range m.Records.All() {
			if rec.TTL == 0 {
				withdrawn = append(withdrawn, s.at)
			} else {
				kept = append(kept, s.at)
			}
		}
	}
	if want := seconds(10, 11, 13, 17, 25, 41, 73, 133, 193, 253); !slices.Equal(withdrawn, want) {
		t.Errorf("withdrawn at %v, want %v", withdrawn, want)
	}
	if want := seconds(10, 11, 13, 17, 25, 30); !slices.Equal(kept[:6], want) {
		t.Errorf("registered at %v, want %v", kept[:6], want)
	}
	if len(r.m.reg.regs) != 1 {
		t.Errorf("%d registrations are left", len(r.m.reg.regs))
	}

	if err := r.setDatabases(located("10.9.0.0/16", 1)); err != nil {
		t.Fatal(err)
	}
	if err := r.setDatabases(located("10.1.0.0/16", 1)); err != nil {
		t.Fatal(err)
	}
	r.take()
	r.until(21 * time.Minute)
	for _, got := range r.registered() {
		if got != "10.1.0.0/16 ttl 1440m, 192.0.2.1 1/100 LR" && got != "10.9.0.0/16 ttl 0m, 192.0.2.1 1/100 LR" {
			t.Errorf("registered %q", got)
		}
	}
}

// TestSetDatabasesBeforeStart: only what is configured at the start is
// registered then.
func TestSetDatabasesBeforeStart(t *testing.T) {
	r := newRig(t, testConfig())
	if err := r.setDatabases(located("10.9.0.0/16", 1)); err != nil {
		t.Fatal(err)
	}
	r.start()
	if got, want := r.registered(), []string{"10.9.0.0/16 ttl 1440m, 192.0.2.1 1/100 LR"}; !slices.Equal(got, want) {
		t.Errorf("registered %q, want %q", got, want)
	}
}

// TestHeardTable: what was heard of is bounded, and forgotten after a minute.
func TestHeardTable(t *testing.T) {
	r := newRig(t, testConfig())
	var rlocs []netip.Addr
	for i := range maxHeard + 10 {
		rlocs = append(rlocs, netip.AddrFrom4([4]byte{203, 1, byte(i >> 8), byte(i)}))
	}
	r.m.smrs.note(r.now, rlocs)
	r.m.smrs.note(r.now, []netip.Addr{own4, addr("224.0.0.1"), addr("127.0.0.1")})
	if n := len(r.m.smrs.heard); n != maxHeard || r.stat(heardTableFull) != 10 {
		t.Errorf("%d RLOCs, %d refused", n, r.stat(heardTableFull))
	}
	r.until(smrWindow + time.Second)
	r.m.smrs.note(r.now, rlocs[:5:5])
	r.m.smrs.note(r.now, []netip.Addr{addr("203.2.0.1")})
	if n := len(r.m.smrs.heard); n != 6 {
		t.Errorf("%d RLOCs after a minute, want 6", n)
	}
}

// registers returns when Map-Registers were sent to a since the last call, and
// from where.
func (r *rig) registers(a netip.AddrPort) (at []time.Duration, from []netip.Addr) {
	for _, s := range r.take() {
		if s.dst == a && !isInfo(s) {
			at, from = append(at, s.at), append(from, s.src.Addr())
		}
	}
	return at, from
}

// TestRegisterByTheNextUplink: a Map-Register without a Map-Notify goes out by
// the other uplink: the first may be dead. After a change the first
// retransmission does not wait for a second, where the round-trip time is known.
func TestRegisterByTheNextUplink(t *testing.T) {
	r := newRig(t, multihomed())
	r.start()
	first := r.take()
	r.until(40 * time.Millisecond)
	for _, s := range first {
		if s.dst == ms1 && !isInfo(s) {
			r.receive(notify(t, s.data, key), ms1)
		}
	}
	r.until(20 * time.Second)
	r.take()
	w := uint8(5)
	r.steer("eth3", func(s *steering) { s.weight = &w })
	r.until(24 * time.Second)
	at, from := r.registers(ms1)
	if want := seconds(20, 20.2, 21.2, 23.2); !slices.Equal(at, want) {
		t.Errorf("registered at %v, want %v", at, want)
	}
	if want := []netip.Addr{up1a, up2a, up1a, up2a}; !slices.Equal(from, want) {
		t.Errorf("registered from %v, want %v", from, want)
	}
}

// TestSilentMapServerIsNotWaitedFor: the SMRs of a change wait until the
// map-servers have confirmed it, but not for one that confirms nothing.
func TestSilentMapServerIsNotWaitedFor(t *testing.T) {
	for _, c := range []struct {
		silent bool
		want   []time.Duration
	}{
		{true, seconds(30)},
		{false, seconds(31)}, // it may still answer
	} {
		cfg := testConfig()
		ms2 := netip.MustParseAddrPort("198.51.100.4:4342")
		cfg.MapServers = append(cfg.MapServers, MapServer{Addr: ms2, Key: key, WantNotify: true})
		r := newRig(t, cfg)
		servers := []netip.AddrPort{ms1}
		if !c.silent {
			servers = append(servers, ms2)
		}
		confirm := func() {
			for _, s := range r.take() {
				if slices.Contains(servers, s.dst) {
					r.receive(notify(t, s.data, key), s.dst)
				}
			}
		}
		r.start()
		confirm()
		r.learn(peer, rec("10.2.0.0/16", 1440))
		for d := time.Second; d < 30*time.Second; d += time.Second {
			r.until(d)
			confirm()
		}
		r.until(30 * time.Second)
		r.used("10.2.0.0/16")
		r.take()
		if err := r.setDatabases(located("10.1.0.0/16", 7)); err != nil {
			t.Fatal(err)
		}
		var at []time.Duration
		for range 40 {
			r.until(r.now.Sub(zeroTime) + 50*time.Millisecond)
			for _, s := range r.take() {
				var m wire.MapRequest
				switch {
				case s.dst == ms1:
					r.receive(notify(t, s.data, key), ms1)
				case s.dst == etr1 && m.Decode(s.data) == nil && m.SMR:
					at = append(at, s.at.Truncate(100*time.Millisecond))
				}
			}
		}
		if len(at) != 2 || at[0] != c.want[0] { // for two EID-prefixes
			t.Errorf("silent=%v: SMRs at %v, want %v", c.silent, at, c.want)
		}
	}
}
