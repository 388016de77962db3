package xtr

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// smr is an SMR that was sent.
type smr struct {
	at     time.Duration
	to     netip.AddrPort
	source string // the mapping that changed
	record string
}

// smrs returns the SMRs among what was sent since the last call and checks
// what all of them have in common.
func (r *rig) smrs() []smr {
	r.t.Helper()
	var out []smr
	for _, s := range r.take() {
		var m wire.MapRequest
		if m.Decode(s.data) != nil || !m.SMR {
			continue
		}
		if !m.NoReply || m.Probe || m.SMRInvoked || m.HasMapData || len(m.ITRRLOCs) == 0 || s.dst.Port() != wire.Port {
			r.t.Errorf("SMR %+v to %v", m, s.dst)
		}
		src, err := hostEID(m.SourceEID)
		if err != nil {
			r.t.Fatal(err)
		}
		out = append(out, smr{s.at, s.dst, src.String(), asked(r.t, m).String()})
	}
	return out
}

// siteWithPeers is an xTR that is registered, has sent packets to 10.2.0.0/16
// at 203.0.113.7, and has had packets from 203.0.113.99.
func siteWithPeers(t testing.TB) *rig {
	r := newRig(t, testConfig())
	r.start()
	r.confirmAll()
	r.learn(peer, rec("10.2.0.0/16", 1440))
	r.learn(addr("10.3.0.1"), &mapping.Record{EID: eid("10.3.0.0/16"), TTL: 1440, Locators: []mapping.Locator{
		mapping.MakeLocator(addr("203.0.113.8"), 1, 100), mapping.MakeLocator(addr("203.0.113.9"), 255, 100)}})
	r.learn(addr("10.4.0.1"), &mapping.Record{EID: eid("10.4.0.0/16"), TTL: 1440, Locators: []mapping.Locator{
		mapping.MakeLocator(addr("203.0.113.10"), 1, 100)}}) // carried nothing
	r.used("10.2.0.0/16")
	r.m.smrs.note(r.now, []netip.Addr{addr("203.0.113.99"), own4})
	r.until(30 * time.Second)
	r.used("10.3.0.0/16")
	r.take()
	return r
}

// TestSMRYoungConversation: who a conversation began with a moment ago, before
// the next round of Used, hears of a change too; and the map-cache does not
// take that for a round.
func TestSMRYoungConversation(t *testing.T) {
	r := newRig(t, testConfig())
	r.start()
	r.confirmAll()
	r.learn(peer, rec("10.2.0.0/16", 1440))
	for range 10 {
		r.m.traffic(r.now, []Traffic{{EID: eid("10.2.0.0/16"), Sent: 1, Received: 1}})
	}
	if e, _ := r.m.itr.cache.Get(eid("10.2.0.0/16")); e.InUse || e.LastUsed != r.now {
		t.Errorf("in use %v, last %v", e.InUse, e.LastUsed)
	}
	r.take()
	if err := r.setDatabases(located("10.1.0.0/16", 7), testConfig().Databases[1]); err != nil {
		t.Fatal(err)
	}
	r.confirmAll()
	r.until(r.now.Sub(zeroTime) + 2*time.Second)
	if r.stat(smrOut) != 1 {
		t.Errorf("%d SMRs", r.stat(smrOut))
	}
}

// TestSMRTargets: who has the old mapping hears of the change, once the
// map-server has confirmed the new one.
func TestSMRTargets(t *testing.T) {
	r := siteWithPeers(t)
	if err := r.setDatabases(located("10.1.0.0/16", 7), testConfig().Databases[1]); err != nil {
		t.Fatal(err)
	}
	r.until(30*time.Second + 200*time.Millisecond)
	if n := r.stat(smrOut); n != 0 {
		t.Errorf("%d SMRs before the registration is confirmed", n)
	}
	r.confirmAll()
	at := 30*time.Second + 200*time.Millisecond
	want := []smr{
		{at, netip.MustParseAddrPort("203.0.113.7:4342"), "10.1.0.0/32", "10.2.0.0/16"},
		{at, netip.MustParseAddrPort("203.0.113.8:4342"), "10.1.0.0/32", "10.3.0.0/16"},
		{at, netip.MustParseAddrPort("203.0.113.99:4342"), "10.1.0.0/32", "10.1.0.0/16"},
	}
	if got := r.smrs(); !slices.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
	// A minute after the last packet nobody has to be told.
	r.until(5 * time.Minute)
	r.take()
	if err := r.setDatabases(located("10.1.0.0/16", 8)); err != nil {
		t.Fatal(err)
	}
	r.until(6 * time.Minute)
	if got := r.smrs(); len(got) != 0 {
		t.Errorf("sent %v long after the last packet", got)
	}
}

// TestE15_SMRRate: one SMR in 3 s for each (RLOC, EID-prefix), however often
// the mapping changes, and an end when nobody asks.
func TestE15_SMRRate(t *testing.T) {
	r := siteWithPeers(t)
	for n := range 40 { // a change every 100 ms
		if err := r.setDatabases(located("10.1.0.0/16", uint8(10+n)), testConfig().Databases[1]); err != nil {
			t.Fatal(err)
		}
		r.until(30*time.Second + time.Duration(n)*100*time.Millisecond)
		r.confirmAllKeeping()
	}
	r.until(10 * time.Minute)
	last := map[netip.AddrPort]time.Duration{}
	count := map[netip.AddrPort]int{}
	for _, s := range r.smrs() {
		if before, ok := last[s.to]; ok && s.at-before < 3*time.Second {
			t.Errorf("SMRs to %v at %v and %v", s.to, before, s.at)
		}
		last[s.to] = s.at
		count[s.to]++
	}
	if len(count) != 3 {
		t.Errorf("SMRs to %v", count)
	}
	for a, n := range count {
		if n > smrTries+2 { // one while the changes went on
			t.Errorf("%d SMRs to %v", n, a)
		}
	}
	if r.m.smrs.count != 0 || len(r.m.smrs.jobs) != 0 || len(r.m.smrs.timers) != 0 {
		t.Errorf("%d tasks are left", r.m.smrs.count)
	}
}

// confirmAllKeeping is confirmAll that keeps everything else that was sent.
func (r *rig) confirmAllKeeping() {
	r.t.Helper()
	out := r.take()
	for _, s := range out {
		if s.dst == ms1 {
			r.receive(notify(r.t, s.data, key), ms1)
		}
	}
	r.out = append(slices.DeleteFunc(out, func(s sent) bool { return s.dst == ms1 }), r.out...)
}

// TestSMRRepeated: without a sign of life of the map-server the first SMR goes
// out after a second; it is repeated until its receiver asks for the mapping.
func TestSMRRepeated(t *testing.T) {
	r := siteWithPeers(t)
	if err := r.setDatabases(located("10.1.0.0/16", 7), testConfig().Databases[1]); err != nil {
		t.Fatal(err)
	}
	r.until(32 * time.Second)
	r.receive(mustEncode(t, &wire.MapRequest{SMRInvoked: true, Nonce: 9,
		ITRRLOCs: []wire.Address{wire.IPAddress(etr1.Addr())},
		EIDs:     []wire.RequestRecord{wire.NewRequestRecord(eid("10.1.0.0/16"))}}), etr1)
	r.until(5 * time.Minute)
	got := map[string][]time.Duration{}
	for _, s := range r.smrs() {
		got[s.to.Addr().String()] = append(got[s.to.Addr().String()], s.at)
	}
	if want := seconds(31); !slices.Equal(got["203.0.113.7"], want) {
		t.Errorf("SMRs to who asked at %v, want %v", got["203.0.113.7"], want)
	}
	if want := seconds(31, 34, 40); !slices.Equal(got["203.0.113.8"], want) {
		t.Errorf("SMRs to who did not ask at %v, want %v", got["203.0.113.8"], want)
	}
	if n := r.stat(smrAnswered); n != 1 {
		t.Errorf("smr_answered is %d", n)
	}
}

// TestSMRBounded: a change that very many must hear of is told at a pace, and
// what is under way is bounded.
func TestSMRBounded(t *testing.T) {
	r := newRig(t, testConfig())
	r.start()
	r.confirmAll()
	var rlocs []netip.Addr
	for i := range maxHeard {
		rlocs = append(rlocs, netip.AddrFrom4([4]byte{203, 1, byte(i >> 8), byte(i)}))
	}
	r.m.smrs.note(r.now, rlocs)
	if err := r.setDatabases(located("10.1.0.0/16", 2), located("10.5.0.0/16", 2), located("10.6.0.0/16", 2)); err != nil {
		t.Fatal(err)
	}
	if n, full := r.m.smrs.count, r.stat(smrTableFull); n != maxSolicits || full != 4*maxHeard-maxSolicits {
		t.Errorf("%d tasks, %d refused", n, full)
	}
	r.confirmAll()
	r.until(time.Second)
	if n := len(r.smrs()); n < 100 || n > 200 {
		t.Errorf("%d SMRs in the first second", n)
	}
	r.until(10 * time.Minute)
	if n := r.stat(smrOut); n != smrTries*maxSolicits || r.m.smrs.count != 0 {
		t.Errorf("%d SMRs, %d tasks left", n, r.m.smrs.count)
	}
}

// TestSMRSourceEID: the source EID is an address whose longest match is the
// mapping that changed.
func TestSMRSourceEID(t *testing.T) {
	cfg := testConfig()
	cfg.Databases = []Database{located("10.1.0.0/16", 1), located("10.1.0.0/24", 1), located("10.1.1.0/25", 1),
		located("10.8.0.0/15", 1), located("10.8.0.0/16", 1), located("10.9.0.0/16", 1)}
	r := newRig(t, cfg)
	for e, want := range map[string]string{
		"10.1.0.0/16": "10.1.1.128", "10.1.0.0/24": "10.1.0.0", "10.1.1.0/25": "10.1.1.0",
		"10.8.0.0/15": "10.8.0.0", // has no address of its own
		"10.7.0.0/16": "10.7.0.0", // gone
	} {
		if got := r.m.smrs.representative(eid(e)); got != addr(want) {
			t.Errorf("%s is named by %v, want %s", e, got, want)
		}
	}
}

// TestSetDatabasesDropsOwn: a cached entry that becomes the site's own leaves
// the map-cache.
func TestSetDatabasesDropsOwn(t *testing.T) {
	r := siteWithPeers(t)
	r.changes = nil
	if err := r.setDatabases(append(testConfig().Databases, located("10.2.0.0/15", 1))...); err != nil {
		t.Fatal(err)
	}
	if got := r.cached(); !slices.Equal(got, []string{"10.4.0.0/16"}) {
		t.Errorf("cached %v", got)
	}
	if len(r.changes) != 2 || r.changes[0].Record != nil {
		t.Errorf("changes %v", r.changes)
	}
}

// TestHeardAtAChange: a conversation that began after the last round and only
// comes in is asked for when a mapping changes, and its sender told.
func TestHeardAtAChange(t *testing.T) {
	cfg := testConfig()
	var from []netip.Addr
	cfg.Heard = func() []netip.Addr {
		defer func() { from = nil }() // since the last call
		return from
	}
	r := newRig(t, cfg)
	r.start()
	r.confirmAll()
	r.used()
	from = []netip.Addr{addr("203.0.113.99")}
	r.until(2 * time.Second) // no round
	r.take()
	if err := r.setDatabases(located("10.1.0.0/16", 3)); err != nil {
		t.Fatal(err)
	}
	r.confirmAll()
	r.until(4 * time.Second)
	got := r.smrs()
	if len(got) == 0 || got[0].to.Addr() != addr("203.0.113.99") {
		t.Errorf("SMRs %v", got)
	}
}
