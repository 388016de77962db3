package server

import (
	"context"
	"errors"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

var (
	local4 = netip.MustParseAddrPort("198.51.100.1:4342")
	local6 = netip.MustParseAddrPort("[2001:db8:ff::1]:4342")
	itr4   = netip.MustParseAddrPort("192.0.2.10:61000")
	itr6   = netip.MustParseAddrPort("[2001:db8:aa::10]:61000")
	etr1   = netip.MustParseAddrPort("192.0.2.1:4342")
	etr2   = netip.MustParseAddrPort("192.0.2.2:4342")
	start  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

	leftKey  = auth.Key{ID: 1, Algorithm: auth.SHA256HKDF, Secret: []byte("left's secret")}
	rightKey = auth.Key{ID: 1, Algorithm: auth.SHA256, Secret: []byte("right's secret")}
	weakKey  = auth.Key{ID: 9, Algorithm: auth.SHA1, Secret: []byte("weak secret")}
)

func eid(s string) mapping.EID   { return mapping.MustParseEID(s) }
func addr(s string) netip.Addr   { return netip.MustParseAddr(s) }
func xtrID(b byte) mapping.XTRID { return mapping.XTRID{15: b} }

func loc(s string) mapping.Locator { return mapping.MakeLocator(addr(s), 1, 100) }

// rec makes a record with plain reachable locators.
func rec(e string, locators ...string) *mapping.Record {
	r := &mapping.Record{EID: eid(e), TTL: 1440}
	for _, l := range locators {
		r.Locators = append(r.Locators, loc(l))
	}
	return r
}

func withTTL(ttl uint32, r *mapping.Record) *mapping.Record {
	r.TTL = ttl
	return r
}

// memStore is a mapping.Store in memory that can be made to fail.
type memStore struct {
	mu      sync.Mutex
	items   map[itemKey]mapping.Item
	fail    error
	commits [][]mapping.Change
}

func newMemStore() *memStore { return &memStore{items: make(map[itemKey]mapping.Item)} }

func (m *memStore) Commit(_ context.Context, cs []mapping.Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.commits = append(m.commits, slices.Clone(cs))
	for _, c := range cs {
		if c.Delete {
			delete(m.items, keyOf(&c.Item))
			continue
		}
		if c.Record != nil {
			c.Record = c.Record.Clone()
		}
		c.At = c.At.Truncate(time.Second)
		m.items[keyOf(&c.Item)] = c.Item
	}
	return nil
}

func (m *memStore) Items(context.Context) iter.Seq2[mapping.Item, error] {
	m.mu.Lock()
	items := slices.Collect(maps.Values(m.items))
	m.mu.Unlock()
	sites := func(it mapping.Item) int { return map[bool]int{true: 0, false: 1}[it.Kind == mapping.ItemSite] }
	slices.SortStableFunc(items, func(a, b mapping.Item) int { return sites(a) - sites(b) })
	return func(yield func(mapping.Item, error) bool) {
		for _, it := range items {
			if it.Record != nil {
				it.Record = it.Record.Clone()
			}
			if !yield(it, nil) {
				return
			}
		}
	}
}

func (m *memStore) Close() error { return nil }

func (m *memStore) setFail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func (m *memStore) commitCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.commits)
}

// registrations returns the registrations in the store as "EID by locators".
func (m *memStore) registrations() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, it := range m.items {
		if it.Kind == mapping.ItemRegistration {
			out = append(out, it.Record.String()+" by "+it.By.String())
		}
	}
	slices.Sort(out)
	return out
}

func (m *memStore) nonce(site string, by mapping.Registrant, key uint8) (uint64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	it, ok := m.items[itemKey{kind: mapping.ItemNonce, site: site, by: by, id: key}]
	return it.Nonce, ok
}

var errDisk = errors.New("the disk is full")

// twoSites is a configuration with a bit of everything.
func twoSites() Config {
	return Config{
		Sites: []Site{
			{
				Name: "left",
				Keys: []auth.Key{leftKey, {ID: 2, Algorithm: auth.SHA256, Secret: []byte("left's next secret")}},
				Prefixes: []SitePrefix{
					{EID: eid("10.1.0.0/16"), AcceptMoreSpecifics: true},
					{EID: eid("10.1.128.0/20")},
					{EID: eid("2001:db8:1::/48")},
					{EID: eid("[7]10.1.0.0/16")},
				},
			},
			{
				Name: "right",
				Keys: []auth.Key{rightKey, weakKey},
				Prefixes: []SitePrefix{
					{EID: eid("10.2.0.0/16")},
					{EID: eid("10.1.64.0/20"), AcceptMoreSpecifics: true},
					{EID: eid("10.3.0.0/16"), ProxyReply: ProxyAlways},
					{EID: eid("10.4.0.0/16"), ProxyReply: ProxyNever},
				},
				MaxRegistrations: 6,
			},
		},
		Static: []*mapping.Record{
			rec("10.9.0.0/16", "203.0.113.9"),
			mapping.NegativeRecord(eid("10.8.0.0/16"), mapping.DropPolicy, 30),
		},
	}
}

// bench is a server under test without sockets: what a reader and the writer
// do, one after the other, at a time that the test sets.
type bench struct {
	t     testing.TB
	s     *Server
	r     *reader
	store *memStore
	now   time.Time
	nonce uint64
	// strict leaves the limits on answers as they are configured; else
	// every ITR of the test has credit.
	strict bool
}

func newBench(t testing.TB, cfg Config, store *memStore) *bench {
	t.Helper()
	return newBenchAt(t, cfg, store, start)
}

func newBenchAt(t testing.TB, cfg Config, store *memStore, now time.Time) *bench {
	t.Helper()
	b := &bench{t: t, store: store, now: now, nonce: 1000}
	cfg.Now = func() time.Time { return b.now }
	if cfg.ReplyRate == (ReplyRate{}) {
		cfg.ReplyRate = ReplyRate{Every: time.Millisecond, Burst: MaxReplyBurst}
	}
	var kept mapping.Store
	if store != nil {
		kept = store
	}
	s, err := New(context.Background(), cfg, kept)
	if err != nil {
		t.Fatal(err)
	}
	b.s, b.r = s, s.newReader()
	if store != nil {
		store.mu.Lock()
		store.commits = nil // but for those of the start
		store.mu.Unlock()
	}
	return b
}

// restart makes a new server from what the store has, as after a crash.
func (b *bench) restart(cfg Config) *bench {
	b.t.Helper()
	n := newBenchAt(b.t, cfg, b.store, b.now)
	n.nonce, n.strict = b.nonce, b.strict
	return n
}

func (b *bench) count(c counter) uint64 { return b.s.counters[c].Load() }

// deliver gives the server one message and returns what it sends.
func (b *bench) deliver(msg []byte, src, dst netip.AddrPort) []datagram {
	b.t.Helper()
	out, reg := b.r.handle(b.now, msg, src, dst)
	if reg != nil {
		out = append(out, b.s.registerAll(context.Background(), b.now, []*register{reg})...)
	}
	for _, d := range out {
		if !d.dst.IsValid() || d.src.IsValid() && d.src.Addr().Is4() != d.dst.Addr().Is4() {
			b.t.Errorf("a datagram from %v to %v", d.src, d.dst)
		}
	}
	return out
}

// tick lets time pass, a second at a time.
func (b *bench) pass(d time.Duration) {
	for end := b.now.Add(d); b.now.Before(end); {
		b.now = b.now.Add(min(time.Second, end.Sub(b.now)))
		b.s.tick(context.Background(), b.now)
	}
}

// registration is what a test registers.
type registering struct {
	key       auth.Key
	src       netip.AddrPort // default etr1
	nonce     uint64         // default: the next one
	xtr       mapping.XTRID
	merge     bool
	proxy     bool
	signs     bool // does LISP-SEC
	ttlFlag   bool
	quiet     bool // no Map-Notify wanted
	truncated bool
	records   []*mapping.Record
}

func (b *bench) encode(g registering) []byte {
	b.t.Helper()
	if g.nonce == 0 {
		b.nonce++
		g.nonce = b.nonce
	}
	if g.key.Secret == nil {
		g.key = leftKey
	}
	return encodeRegister(b.t, g)
}

func encodeRegister(t testing.TB, g registering) []byte {
	t.Helper()
	recs, err := wire.NewRecords(g.records...)
	if err != nil {
		t.Fatal(err)
	}
	m := wire.MapRegister{ProxyReply: g.proxy, Security: g.signs, Merge: g.merge, TTLFromRegister: g.ttlFlag, WantNotify: !g.quiet, Nonce: g.nonce,
		Auth: g.key.Template(), Records: recs, HasXTRID: g.xtr != mapping.XTRID{}, XTRID: g.xtr, SiteID: 5}
	if g.truncated {
		m.Auth.Data = m.Auth.Data[:auth.Size(g.key.Algorithm, false)]
	}
	msg, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := auth.Sign(msg, g.key); err != nil {
		t.Fatal(err)
	}
	return msg
}

// register registers and returns the Map-Notify, nil if there was none.
func (b *bench) register(g registering) *wire.MapNotify {
	b.t.Helper()
	src := g.src
	if !src.IsValid() {
		src = etr1
	}
	return b.notify(b.deliver(b.encode(g), src, local4), g.key)
}

func (b *bench) notify(out []datagram, key auth.Key) *wire.MapNotify {
	b.t.Helper()
	if len(out) == 0 {
		return nil
	}
	if len(out) > 1 {
		b.t.Fatalf("%d datagrams for one Map-Register", len(out))
	}
	if key.Secret == nil {
		key = leftKey
	}
	if _, err := auth.Verify(out[0].payload, []auth.Key{key}, auth.SHA1); err != nil {
		b.t.Errorf("the Map-Notify is not authentic: %v", err)
	}
	m := new(wire.MapNotify)
	if err := m.Decode(out[0].payload); err != nil {
		b.t.Fatal(err)
	}
	if m.Ack {
		b.t.Error("a Map-Notify-Ack instead of a Map-Notify")
	}
	return m
}

// asking is what a test asks for.
type asking struct {
	eids     []mapping.EID
	itr      []netip.Addr   // default: itr4's address
	src      netip.AddrPort // inner source; default itr4
	nonce    uint64
	bare     bool // not encapsulated
	hops     uint8
	from, to netip.AddrPort // outer; default itr4's address, port 4342, to local4
	change   func(*wire.MapRequest)
}

func encodeRequest(t testing.TB, q asking) []byte {
	t.Helper()
	m := wire.MapRequest{Nonce: q.nonce}
	for _, a := range q.itr {
		m.ITRRLOCs = append(m.ITRRLOCs, wire.IPAddress(a))
	}
	for _, e := range q.eids {
		m.EIDs = append(m.EIDs, wire.NewRequestRecord(e))
	}
	if q.change != nil {
		q.change(&m)
	}
	msg, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if q.bare {
		return msg
	}
	target := q.src.Addr()
	if len(q.eids) > 0 && q.eids[0].Prefix.Addr().Is4() == q.src.Addr().Is4() {
		target = q.eids[0].Prefix.Addr()
	}
	ecm := wire.ECM{Src: q.src, Dst: netip.AddrPortFrom(target, wire.Port), HopLimit: q.hops, Message: msg}
	if msg, err = ecm.AppendBinary(nil); err != nil {
		t.Fatal(err)
	}
	return msg
}

func (q asking) defaults() asking {
	if q.itr == nil {
		q.itr = []netip.Addr{itr4.Addr()}
	}
	if !q.src.IsValid() {
		q.src = itr4
	}
	if !q.from.IsValid() {
		q.from = q.src
	}
	if !q.to.IsValid() {
		q.to = local4
	}
	if q.nonce == 0 {
		q.nonce = 0x0102030405060708
	}
	return q
}

func (b *bench) ask(q asking) []datagram {
	b.t.Helper()
	q = q.defaults()
	if !b.strict {
		for _, a := range q.itr {
			b.s.credits.of(a).spend(maxCredit, 0)
		}
	}
	return b.deliver(encodeRequest(b.t, q), q.from, q.to)
}

// answer asks for one EID and returns the records of the Map-Reply as text; or
// what else was sent.
func (b *bench) answer(e string) []string {
	b.t.Helper()
	return b.texts(b.ask(asking{eids: []mapping.EID{eid(e)}}))
}

func (b *bench) texts(out []datagram) []string {
	b.t.Helper()
	var lines []string
	for _, d := range out {
		switch t, _ := wire.PeekType(d.payload); t {
		case wire.TypeMapReply:
			for _, r := range records(b.t, d.payload) {
				lines = append(lines, r.String())
			}
		case wire.TypeECM:
			lines = append(lines, "forwarded to "+d.dst.String())
		default:
			lines = append(lines, t.String())
		}
	}
	return lines
}

func records(t testing.TB, msg []byte) []*mapping.Record {
	t.Helper()
	var m wire.MapReply
	if err := m.Decode(msg); err != nil {
		t.Fatal(err)
	}
	if m.Probe || m.EchoNonce || m.Security {
		t.Errorf("flags in a Map-Reply of a map-server: %+v", m)
	}
	var out []*mapping.Record
	for w := range m.Records.All() {
		r, err := w.Mapping()
		if err != nil {
			t.Fatal(err)
		}
		if r.Authoritative {
			t.Errorf("%v: A is set in a proxy reply", r)
		}
		for _, l := range r.Locators {
			if l.Flags&^mapping.Reachable != 0 {
				t.Errorf("%v: L or p is set in a proxy reply", r)
			}
		}
		if !slices.IsSortedFunc(r.Locators, mapping.Locator.Compare) {
			t.Errorf("%v: locators are not sorted", r)
		}
		out = append(out, r)
	}
	return out
}

func (b *bench) wantAnswer(e string, want ...string) {
	b.t.Helper()
	got := b.answer(e)
	if !slices.Equal(got, want) {
		b.t.Errorf("answer for %s:\n got %s\nwant %s", e, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

// wantDrop delivers nothing and counts c once.
func (b *bench) wantDrop(name string, c counter, out []datagram, before uint64) {
	b.t.Helper()
	if len(out) > 0 {
		b.t.Errorf("%s: %v were sent", name, b.texts(out))
	}
	if got := b.count(c) - before; got != 1 {
		b.t.Errorf("%s: %v counted %d, want 1", name, c, got)
	}
}

// check compares what must agree inside the server.
func (b *bench) check() {
	b.t.Helper()
	n, perSite := 0, make(map[*site]int64)
	for e, v := range b.s.table.Load().All() {
		if v.eid() != e {
			b.t.Errorf("entry %v under %v", v.eid(), e)
		}
		if rec, _ := v.current(); rec == nil || rec.EID != e {
			b.t.Errorf("%v has the record %v", e, rec)
		}
		if x, ok := v.(*node); ok {
			if x.empty() {
				b.t.Errorf("%v: an empty node", e)
			}
			n += len(x.regs)
			for _, r := range x.regs {
				perSite[r.site]++
				if b.s.expiry[r.queue] != r {
					b.t.Errorf("%v: its place in the expiry queue is wrong", e)
				}
			}
		}
	}
	if n != len(b.s.expiry) {
		b.t.Errorf("%d registrations in the table, %d in the expiry queue", n, len(b.s.expiry))
	}
	for _, x := range b.s.sites.Load().all {
		if got := x.registrations.Load(); got != perSite[x] {
			b.t.Errorf("site %s counts %d registrations, has %d", x.name, got, perSite[x])
		}
	}
	if b.store != nil && len(b.s.pending) == 0 {
		stored := len(b.store.registrations())
		if stored != n {
			b.t.Errorf("%d registrations, %d in the store: %v", n, stored, b.store.registrations())
		}
	}
}
