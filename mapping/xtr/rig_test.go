package xtr

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// The addresses of the tests: own RLOCs, map-servers and -resolvers, and an
// ETR elsewhere.
var (
	own4  = netip.MustParseAddr("192.0.2.1")
	own6  = netip.MustParseAddr("2001:db8:ffff::1")
	mr1   = netip.MustParseAddrPort("198.51.100.1:4342")
	mr2   = netip.MustParseAddrPort("198.51.100.2:4342")
	ms1   = netip.MustParseAddrPort("198.51.100.3:4342")
	ms6   = netip.MustParseAddrPort("[2001:db8:ffff::53]:4342")
	etr1  = netip.MustParseAddrPort("203.0.113.7:4342")
	local = netip.AddrPortFrom(own4, 4342)
	key   = auth.Key{ID: 3, Algorithm: auth.SHA256HKDF, Secret: []byte("a shared secret")}
	hostA = netip.MustParseAddr("10.1.0.5")
	peer  = netip.MustParseAddr("10.2.0.9")
)

// zeroTime is when every machine of a test starts.
var zeroTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func eid(s string) mapping.EID { return mapping.MustParseEID(s) }
func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// testConfig is a site with two prefixes, one resolver and one map-server.
func testConfig() Config {
	loc := []mapping.Locator{mapping.MakeLocator(own4, 1, 100)}
	return Config{
		RLOCs:        []netip.Addr{own4, own6},
		Databases:    []Database{{EID: eid("10.1.0.0/16"), Locators: loc}, {EID: eid("2001:db8:1::/48"), Locators: loc}},
		MapServers:   []MapServer{{Addr: ms1, Key: key, WantNotify: true}},
		MapResolvers: []netip.AddrPort{mr1},
	}
}

// sent is a datagram with the time it was put out, from the start of the test.
type sent struct {
	at time.Duration
	datagram
}

// rig is a machine in simulated time.
type rig struct {
	t       testing.TB
	m       *machine
	now     time.Time
	out     []sent
	changes []mapping.CacheChange
}

// nonces is a reader of predictable nonces: 1, 2, 3 ... in the first 8 octets
// of every read.
type nonces struct{ n uint64 }

func (r *nonces) Read(b []byte) (int, error) {
	r.n++
	clear(b)
	binary.BigEndian.PutUint64(b, r.n)
	return len(b), nil
}

func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	if cfg.Rand == nil {
		cfg.Rand = &nonces{}
	}
	c, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(c, new(counters))
	m.etr.verified = func(time.Time, netip.Addr) bool { return true } // see newStrictRig
	return &rig{t: t, m: m, now: zeroTime}
}

// newStrictRig is a rig whose ETR trusts no address before it has answered a
// probe.
func newStrictRig(t testing.TB, cfg Config) *rig {
	r := newRig(t, cfg)
	r.m.etr.verified = r.m.probes.verified
	return r
}

func (r *rig) collect() {
	out, changes := r.m.take()
	for _, d := range out {
		r.out = append(r.out, sent{r.now.Sub(zeroTime), d})
	}
	r.changes = append(r.changes, changes...)
}

// until lets time pass up to d after the start of the test, waking the machine
// when it asks for it.
func (r *rig) until(d time.Duration) {
	end := zeroTime.Add(d)
	for range 1_000_000 {
		at, ok := r.m.next()
		if !ok || at.After(end) {
			r.now = end
			return
		}
		if at.After(r.now) {
			r.now = at
		}
		r.m.advance(r.now)
		r.collect()
	}
	r.t.Fatal("the machine does not come to rest")
}

func (r *rig) start() { r.m.start(r.now); r.collect() }
func (r *rig) miss(dst, src netip.Addr) {
	r.m.miss(r.now, Miss{Dst: dst, Src: src})
	r.collect()
}
func (r *rig) used(e ...string) {
	var eids []mapping.EID
	for _, s := range e {
		eids = append(eids, eid(s))
	}
	r.m.used(r.now, eids)
	r.collect()
}
func (r *rig) receive(msg []byte, from netip.AddrPort) {
	r.m.receive(r.now, msg, from, local)
	r.collect()
}

// take returns what was sent since the last call.
func (r *rig) take() []sent {
	out := r.out
	r.out = nil
	return out
}

// one returns the only datagram sent since the last call.
func (r *rig) one() sent {
	r.t.Helper()
	out := r.take()
	if len(out) != 1 {
		r.t.Fatalf("%d datagrams sent, want 1", len(out))
	}
	return out[0]
}

func (r *rig) stat(c counter) uint64 { return r.m.stats[c].Load() }

// times returns when the datagrams were sent.
func times(out []sent) []time.Duration {
	var ts []time.Duration
	for _, s := range out {
		ts = append(ts, s.at)
	}
	return ts
}

func seconds(s ...float64) []time.Duration {
	var ts []time.Duration
	for _, x := range s {
		ts = append(ts, time.Duration(x*float64(time.Second)))
	}
	return ts
}

func mustEncode(t testing.TB, m interface {
	AppendBinary([]byte) ([]byte, error)
}) []byte {
	t.Helper()
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func records(t testing.TB, recs ...*mapping.Record) wire.Records {
	t.Helper()
	rs, err := wire.NewRecords(recs...)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// rec makes a record with one locator at 203.0.113.7.
func rec(e string, ttl uint32) *mapping.Record {
	return &mapping.Record{EID: eid(e), TTL: ttl, Authoritative: true,
		Locators: []mapping.Locator{mapping.MakeLocator(etr1.Addr(), 1, 100)}}
}

// reply makes a Map-Reply.
func reply(t testing.TB, nonce uint64, recs ...*mapping.Record) []byte {
	t.Helper()
	return mustEncode(t, &wire.MapReply{Nonce: nonce, Records: records(t, recs...)})
}

// mapRequest opens an encapsulated Map-Request.
func mapRequest(t testing.TB, b []byte) (wire.ECM, wire.MapRequest) {
	t.Helper()
	var e wire.ECM
	if err := e.Decode(b); err != nil {
		t.Fatal(err)
	}
	var m wire.MapRequest
	if err := m.Decode(e.Message); err != nil {
		t.Fatal(err)
	}
	return e, m
}

func asked(t testing.TB, m wire.MapRequest) mapping.EID {
	t.Helper()
	if len(m.EIDs) != 1 {
		t.Fatalf("%d records in a Map-Request, want 1", len(m.EIDs))
	}
	e, err := m.EIDs[0].EID.EID(m.EIDs[0].MaskLen)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// learn makes the machine resolve dst with the given records.
func (r *rig) learn(dst netip.Addr, recs ...*mapping.Record) {
	r.t.Helper()
	r.take()
	r.miss(dst, hostA)
	_, req := mapRequest(r.t, r.one().data)
	r.receive(reply(r.t, req.Nonce, recs...), etr1)
	if got := r.m.stats[resolutionsAnswered].Load(); got == 0 {
		r.t.Fatal("the reply was not accepted")
	}
}

// cached returns the EIDs in the map-cache.
func (r *rig) cached() []string {
	out := []string{}
	for e := range r.m.itr.cache.All() {
		out = append(out, e.Record.EID.String())
	}
	return out
}

// check verifies that the state of the machine is consistent and bounded.
func (r *rig) check() {
	r.t.Helper()
	i, l := r.m.itr, r.m.cfg.Limits
	if len(i.queries) > l.Pending {
		r.t.Fatalf("%d queries, limit %d", len(i.queries), l.Pending)
	}
	if len(i.timers) != len(i.queries) {
		r.t.Fatalf("%d timers for %d queries", len(i.timers), len(i.queries))
	}
	attempts, refresh := 0, 0
	perHost := map[host]int{}
	for e, q := range i.queries {
		if q.eid != e || i.timers[q.index] != q {
			r.t.Fatalf("query of %v stands at %v", q.eid, e)
		}
		attempts += len(q.attempts)
		if len(q.attempts) > maxRetransmits+1 {
			r.t.Fatalf("%d attempts for %v", len(q.attempts), e)
		}
		for n, a := range q.attempts {
			if i.nonces[a.nonce] != (outstanding{q, n}) {
				r.t.Fatalf("nonce %x of %v is not outstanding", a.nonce, e)
			}
		}
		if q.why == forMiss {
			perHost[q.by]++
		} else {
			refresh++
		}
	}
	if attempts != len(i.nonces) || refresh != i.refresh || len(perHost) != len(i.perHost) {
		r.t.Fatalf("%d attempts, %d nonces; %d refreshes, counted %d; %d hosts, counted %d",
			attempts, len(i.nonces), refresh, i.refresh, len(perHost), len(i.perHost))
	}
	for h, n := range perHost {
		if i.perHost[h] != n || n > l.PendingPerHost {
			r.t.Fatalf("host %v has %d queries, counted %d, limit %d", h, n, i.perHost[h], l.PendingPerHost)
		}
	}
	if n := i.cache.Len(); n > r.m.cfg.CacheLimit {
		r.t.Fatalf("%d cache entries, limit %d", n, r.m.cfg.CacheLimit)
	}
	for name, n := range map[string][2]int{
		"spacing": {len(i.spacing.young), i.spacing.limit}, "hosts": {len(i.hosts.young), i.hosts.limit},
		"smr": {len(i.smr.young), i.smr.limit}, "replies": {len(r.m.etr.replies.young), r.m.etr.replies.limit},
		"probes": {len(r.m.etr.probes.young), r.m.etr.probes.limit}, "acks": {len(r.m.reg.acks.young), r.m.reg.acks.limit},
		"logs": {len(r.m.logs.young), r.m.logs.limit},
	} {
		if n[0] > n[1] {
			r.t.Fatalf("limiter %s holds %d keys, limit %d", name, n[0], n[1])
		}
	}
}

// seeded returns a source of chance whose seed a failing test prints.
func seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}
