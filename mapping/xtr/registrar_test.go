package xtr

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

func register(t testing.TB, b []byte) wire.MapRegister {
	t.Helper()
	var m wire.MapRegister
	if err := m.Decode(b); err != nil {
		t.Fatal(err)
	}
	return m
}

// notify makes a signed Map-Notify with the fields of a Map-Register.
func notify(t testing.TB, reg []byte, k auth.Key) []byte {
	t.Helper()
	m := register(t, reg)
	b := mustEncode(t, &wire.MapNotify{Nonce: m.Nonce, Auth: k.Template(), Records: m.Records, HasXTRID: m.HasXTRID, XTRID: m.XTRID, SiteID: m.SiteID})
	if err := auth.Sign(b, k); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMapRegisterContents(t *testing.T) {
	cfg := testConfig()
	cfg.XTRID, cfg.SiteID = mapping.XTRID{1, 2, 3}, 77
	cfg.Databases[0].Locators = []mapping.Locator{mapping.MakeLocator(own6, 2, 10), mapping.MakeLocator(etr1.Addr(), 1, 20), mapping.MakeLocator(own4, 1, 30)}
	cfg.Databases[0].Locators[0].Flags |= mapping.Probed
	cfg.MapServers = []MapServer{
		{Addr: netip.AddrPortFrom(ms1.Addr(), 0), Key: key, WantNotify: true, ProxyReply: true},
		{Addr: ms6, Key: auth.Key{Algorithm: auth.SHA1, Secret: []byte("x")}, Merge: true, TTLFromRegister: true},
	}
	r := newRig(t, cfg)
	r.start()
	out := r.take()
	if len(out) != 2 {
		t.Fatalf("%d messages", len(out))
	}
	if out[0].dst != ms1 || out[0].src != local || out[1].dst != ms6 || out[1].src != netip.AddrPortFrom(own6, 4342) {
		t.Errorf("sent %v > %v and %v > %v", out[0].src, out[0].dst, out[1].src, out[1].dst)
	}
	a, b := register(t, out[0].data), register(t, out[1].data)
	if !a.ProxyReply || !a.WantNotify || a.Merge || a.TTLFromRegister || a.Security || a.EIDNotify ||
		b.ProxyReply || b.WantNotify || !b.Merge || !b.TTLFromRegister {
		t.Errorf("flags %+v and %+v", a, b)
	}
	for i, m := range []wire.MapRegister{a, b} {
		if !m.HasXTRID || m.XTRID != cfg.XTRID || m.SiteID != 77 {
			t.Errorf("no IDs in %+v", m)
		}
		if _, err := auth.Verify(out[i].data, []auth.Key{cfg.MapServers[i].Key}, auth.SHA1); err != nil {
			t.Error(err)
		}
		var recs []*mapping.Record
		for rec := range m.Records.All() {
			mr, err := rec.Mapping()
			if err != nil {
				t.Fatal(err)
			}
			recs = append(recs, mr)
		}
		want := &mapping.Record{EID: eid("10.1.0.0/16"), TTL: 1440, Authoritative: true, Locators: []mapping.Locator{
			{Addr: own4, Priority: 1, Weight: 30, MPriority: 255, Flags: mapping.Local | mapping.Reachable},
			{Addr: etr1.Addr(), Priority: 1, Weight: 20, MPriority: 255, Flags: mapping.Reachable},
			{Addr: own6, Priority: 2, Weight: 10, MPriority: 255, Flags: mapping.Local | mapping.Reachable},
		}}
		if len(recs) != 2 || !recs[0].Equal(want) || recs[1].EID != eid("2001:db8:1::/48") {
			t.Errorf("records %v", recs)
		}
	}
	if a.Nonce >= b.Nonce || a.Nonce != uint64(zeroTime.UnixNano()) {
		t.Errorf("nonces %d and %d", a.Nonce, b.Nonce)
	}
}

// TestRegisterWithoutNotify: every 20 s for 5 minutes, then every 60 s.
func TestRegisterWithoutNotify(t *testing.T) {
	cfg := testConfig()
	cfg.MapServers[0].WantNotify = false
	r := newRig(t, cfg)
	r.start()
	r.until(9 * time.Minute)
	var want []time.Duration
	for s := 0; s <= 300; s += 20 {
		want = append(want, time.Duration(s)*time.Second)
	}
	want = append(want, seconds(360, 420, 480, 540)...)
	if got := times(r.out); !slices.Equal(got, want) {
		t.Errorf("sent at %v, want %v", got, want)
	}
	st := r.m.reg.databases()[0].Registrations[0]
	if st.State != RegistrationSent || st.Failures != 0 {
		t.Errorf("status %+v", st)
	}
}

// TestE13_RetransmissionBackoff: the original is retransmitted after 1 s, doubling; a
// round with a fresh nonce begins every 20 s, and every 60 s after 5 minutes.
func TestE13_RetransmissionBackoff(t *testing.T) {
	var log bytes.Buffer
	cfg := testConfig()
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	r := newRig(t, cfg)
	r.start()
	r.until(8 * time.Minute)
	var want []time.Duration
	for s := 0.0; s < 300; s += 20 {
		want = append(want, seconds(s, s+1, s+3, s+7, s+15)...)
	}
	for s := 300.0; s < 480; s += 60 {
		want = append(want, seconds(s, s+1, s+3, s+7, s+15, s+31)...)
	}
	want = append(want, seconds(480)...)
	out := r.take()
	if got := times(out); !slices.Equal(got, want) {
		t.Errorf("sent at %v, want %v", got, want)
	}
	for i := 1; i < 5; i++ {
		if !bytes.Equal(out[i].data, out[0].data) {
			t.Errorf("retransmission %d is not the original", i)
		}
	}
	for i := 5; i <= 75; i += 5 {
		if a, b := register(t, out[i-1].data), register(t, out[i].data); a.Nonce >= b.Nonce {
			t.Errorf("the nonce of the round that begins at %v is not greater than the one before", out[i].at)
		}
	}
	st := r.m.reg.databases()[0].Registrations[0]
	if st.State != RegistrationUnconfirmed || st.Failures != len(want) || !st.LastNotify.IsZero() {
		t.Errorf("status %+v", st)
	}
	if s := r.m.reg.mapServers()[0]; s.Registered != 0 || s.Databases != 2 || s.Failures != len(want) {
		t.Errorf("status %+v", s)
	}
	if n := strings.Count(log.String(), "registration not confirmed"); n != 5 { // at 3, 8, 16, 32 and 64 tries
		t.Errorf("%d warnings:\n%s", n, &log)
	}
	if !strings.Contains(log.String(), "map_server=198.51.100.3:4342 tries=3") {
		t.Errorf("the first warning lacks what it should say:\n%s", &log)
	}
}

// TestRegisterConfirmed: notified at once, the next one comes after 60 s; when
// the map-server goes away, the back-off begins, and ends with its return.
func TestRegisterConfirmed(t *testing.T) {
	var log bytes.Buffer
	cfg := testConfig()
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	r := newRig(t, cfg)
	r.start()
	first := r.one()
	r.until(30 * time.Millisecond)
	r.receive(notify(t, first.data, key), ms1)
	st := r.m.reg.databases()
	for _, d := range st {
		g := d.Registrations[0]
		if g.State != RegistrationRegistered || g.RTT != 30*time.Millisecond || g.Failures != 0 || !g.Next.Equal(zeroTime.Add(time.Minute)) {
			t.Errorf("status %+v", g)
		}
	}
	if strings.Count(log.String(), "msg=registered") != 2 || !strings.Contains(log.String(), "eid=2001:db8:1::/48 map_server=198.51.100.3:4342") {
		t.Errorf("log:\n%s", &log)
	}
	r.receive(notify(t, first.data, key), ms1)
	if r.stat(mapNotifiesDuplicate) != 1 {
		t.Error("a second Map-Notify is not a duplicate")
	}
	r.until(60 * time.Second)
	second := r.one()
	if second.at != time.Minute || register(t, second.data).Nonce <= register(t, first.data).Nonce {
		t.Errorf("second round at %v", second.at)
	}
	r.receive(notify(t, first.data, key), ms1) // late, of the round before
	if r.stat(mapNotifiesDuplicate) != 2 || r.m.reg.databases()[0].Registrations[0].Failures != 1 {
		t.Error("a late Map-Notify confirmed the next round")
	}
	r.until(170 * time.Second) // away
	if got, want := times(r.take()), seconds(61, 63, 67, 75, 91, 120, 121, 123, 127, 135, 151); !slices.Equal(got, want) {
		t.Errorf("sent at %v, want %v", got, want)
	}
	if s := r.m.reg.mapServers()[0]; s.Registered != 0 {
		t.Errorf("still registered: %+v", s)
	}
	r.until(180 * time.Second)
	r.receive(notify(t, r.one().data, key), ms1) // back
	if rtt := r.m.reg.mapServers()[0].RTT; rtt != 0 {
		t.Errorf("RTT %v", rtt)
	}
	if s := r.m.reg.mapServers()[0]; s.Registered != 2 || s.Failures != 0 {
		t.Errorf("not registered: %+v", s)
	}
	if strings.Count(log.String(), "msg=registered") != 4 {
		t.Errorf("the return is not logged:\n%s", &log)
	}
	r.until(242 * time.Second) // the back-off starts again
	out := r.take()
	if got, want := times(out), seconds(240, 241); !slices.Equal(got, want) {
		t.Errorf("sent at %v, want %v", got, want)
	}
	r.receive(notify(t, out[1].data, key), ms1) // to which of the two?
	if rtt := r.m.reg.mapServers()[0].RTT; rtt != 0 {
		t.Errorf("RTT %v of an answer to one of two copies", rtt)
	}
}

func TestAbuse_ForgedMapNotify(t *testing.T) {
	wrong := key
	wrong.Secret = []byte("another")
	weak := key
	weak.Algorithm = auth.SHA1
	for _, c := range []struct {
		name  string
		msg   func(t *testing.T, reg []byte) []byte
		from  netip.AddrPort
		count counter
	}{
		{"wrong secret", func(t *testing.T, reg []byte) []byte { return notify(t, reg, wrong) }, ms1, mapNotifiesAuthFailed},
		{"weaker algorithm", func(t *testing.T, reg []byte) []byte { return notify(t, reg, weak) }, ms1, mapNotifiesAuthFailed},
		{"changed", func(t *testing.T, reg []byte) []byte { b := notify(t, reg, key); b[len(b)-1] ^= 1; return b }, ms1, mapNotifiesAuthFailed},
		{"cut", func(t *testing.T, reg []byte) []byte { return notify(t, reg, key)[:20] }, ms1, mapNotifiesAuthFailed},
		{"the Map-Register itself, as a Map-Notify", func(t *testing.T, reg []byte) []byte { b := slices.Clone(reg); b[0] = 0x40; return b }, ms1, mapNotifiesAuthFailed},
		{"another nonce from a stranger", func(t *testing.T, reg []byte) []byte { b := notify(t, reg, key); b[4] ^= 1; return b }, etr1, mapNotifiesUnknownServer},
		{"another nonce", func(t *testing.T, reg []byte) []byte { b := notify(t, reg, key); b[4] ^= 1; return b }, ms1, mapNotifiesAuthFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, testConfig())
			r.start()
			reg := r.one().data
			r.receive(c.msg(t, reg), c.from)
			if r.stat(c.count) != 1 || len(r.take()) != 0 {
				t.Errorf("%s is %d", counterTable[c.count].name, r.stat(c.count))
			}
			if st := r.m.reg.databases()[0].Registrations[0]; st.State != RegistrationPending || !st.LastNotify.IsZero() {
				t.Errorf("status %+v", st)
			}
			r.receive(notify(t, reg, key), ms1)
			if st := r.m.reg.databases()[0].Registrations[0]; st.State != RegistrationRegistered {
				t.Errorf("the true one is refused afterwards: %+v", st)
			}
		})
	}
}

// TestE14_UnsolicitedMapNotify: it is acknowledged with the same nonce and records,
// each time, within the limit.
func TestE14_UnsolicitedMapNotify(t *testing.T) {
	r := newRig(t, testConfig())
	m := wire.MapNotify{Nonce: 42, Auth: key.Template(), Records: records(t, rec("10.1.0.0/16", 10)), HasXTRID: true, SiteID: 5}
	msg := mustEncode(t, &m)
	if err := auth.Sign(msg, key); err != nil {
		t.Fatal(err)
	}
	from := netip.AddrPortFrom(ms1.Addr(), 5555)
	for range 2 { // a lost ack is asked for again
		r.receive(msg, from)
		d := r.one()
		var ack wire.MapNotify
		if err := ack.Decode(d.data); err != nil {
			t.Fatal(err)
		}
		if !ack.Ack || ack.Nonce != 42 || ack.Records.Len() != 1 || !ack.HasXTRID || ack.SiteID != 5 || d.dst != from || d.src != local {
			t.Errorf("ack %+v to %v", ack, d.dst)
		}
		if _, err := auth.Verify(d.data, []auth.Key{key}, key.Algorithm); err != nil {
			t.Error(err)
		}
	}
	n := 0
	for range 100 {
		r.receive(msg, from)
		n += len(r.take())
	}
	if n != notifyAckBurst-2 || r.stat(mapNotifyAcksRateLimited) == 0 {
		t.Errorf("%d acks at once", n)
	}
	if len(r.cached()) != 0 {
		t.Error("a Map-Notify changed the map-cache")
	}
}

// TestRegisterSplit: many EID-prefixes go out in messages within the size
// limit, each with its own nonce, and are confirmed one by one.
func TestRegisterSplit(t *testing.T) {
	cfg := testConfig()
	cfg.XTRID = mapping.XTRID{1}
	cfg.Databases = nil
	for i := range 100 {
		cfg.Databases = append(cfg.Databases, Database{EID: eid(fmt.Sprintf("10.1.%d.0/24", i)),
			Locators: []mapping.Locator{mapping.MakeLocator(own4, 1, 1), mapping.MakeLocator(own6, 1, 1)}})
	}
	for _, c := range []struct{ max, limit, messages int }{{0, maxPayload4, 12}, {1400, 1400, 4}, {9000, 9000, 1}} {
		cfg.MaxMessage = c.max
		r := newRig(t, cfg)
		r.start()
		out := r.take()
		if len(out) != c.messages {
			t.Errorf("max %d: %d messages, want %d", c.max, len(out), c.messages)
		}
		seen, nonces := map[string]int{}, map[uint64]bool{}
		for _, d := range out {
			if len(d.data) > c.limit {
				t.Errorf("message of %d octets, limit %d", len(d.data), c.limit)
			}
			m := register(t, d.data)
			nonces[m.Nonce] = true
			for x := range m.Records.All() {
				e, _ := x.EID.EID(x.MaskLen)
				seen[e.String()]++
			}
		}
		if len(seen) != 100 || len(nonces) != len(out) {
			t.Errorf("%d EIDs, %d nonces", len(seen), len(nonces))
		}
		r.receive(notify(t, out[0].data, key), ms1)
		m := register(t, out[0].data)
		if s := r.m.reg.mapServers()[0]; s.Registered != m.Records.Len() {
			t.Errorf("%d registered, want %d", s.Registered, m.Records.Len())
		}
	}
}

// TestRegisterSplitLost: where the EID-prefixes take several Map-Registers, one
// that is lost, or whose Map-Notify is, is made good by its retransmission at a
// map-server that drops every nonce but a higher one, and the repetition of the
// last (RFC 9301 section 5.6).
func TestRegisterSplitLost(t *testing.T) {
	cfg := testConfig()
	for i := range 40 {
		d := cfg.Databases[0]
		d.EID = mapping.HostEID(0, netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}))
		cfg.Databases = append(cfg.Databases, d)
	}
	for _, lost := range []string{"Map-Register", "Map-Notify"} {
		r := newRig(t, cfg)
		r.start()
		var last uint64
		for step := 0; r.now.Before(zeroTime.Add(3 * time.Second)); step++ {
			for i, s := range r.take() {
				m := register(t, s.data)
				first := step == 0 && i == 0
				if first && lost == "Map-Register" || m.Nonce < last {
					continue
				}
				last = m.Nonce
				if !first {
					r.receive(notify(t, s.data, key), ms1)
				}
			}
			r.until(time.Duration(step+1) * 100 * time.Millisecond)
		}
		for _, d := range r.m.reg.databases() {
			if st := d.Registrations[0]; st.State != RegistrationRegistered {
				t.Errorf("%s lost: %v is %v after 3 s", lost, d.EID, st.State)
			}
		}
		// The withdrawal of one is lost too.
		r.m.stop(r.now)
		r.collect()
		out := r.take()
		for _, s := range out[1:] {
			last = max(last, register(t, s.data).Nonce)
			r.receive(notify(t, s.data, key), ms1)
		}
		r.until(r.now.Add(stopLinger).Sub(zeroTime))
		again := r.one()
		m := register(t, again.data)
		for rec := range m.Records.All() {
			if m.Nonce <= last || rec.TTL != 0 {
				t.Fatalf("the withdrawal was repeated with nonce %d after %d and TTL %d", m.Nonce, last, rec.TTL)
			}
		}
		r.receive(notify(t, again.data, key), ms1)
		if !r.m.reg.stopped() {
			t.Error("not all is withdrawn")
		}
	}
}

// TestRegisterWithLoss: with a loss of 30 % each way, no registration of a
// strict map-server goes without a refresh for as long as it lives.
func TestRegisterWithLoss(t *testing.T) {
	cfg := testConfig()
	for i := range 40 {
		d := cfg.Databases[0]
		d.EID = mapping.HostEID(0, netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}))
		cfg.Databases = append(cfg.Databases, d)
	}
	rng := seeded(t)
	arrives := func() bool { return rng.Float64() >= 0.3 }
	r := newRig(t, cfg)
	r.start()
	var last uint64
	refreshed := make(map[string]time.Duration) // by the first EID of the message
	for now := time.Duration(0); now < 24*time.Hour; now += 100 * time.Millisecond {
		r.until(now)
		for _, s := range r.take() {
			m := register(t, s.data)
			if !arrives() || m.Nonce < last {
				continue
			}
			if m.Nonce > last {
				last = m.Nonce
				for rec := range m.Records.All() {
					refreshed[rec.EID.PrefixString(rec.MaskLen)] = now
					break
				}
			}
			if arrives() {
				r.receive(notify(t, s.data, key), ms1)
			}
		}
		for e, at := range refreshed {
			if now-at >= 3*time.Minute {
				t.Fatalf("%s was not refreshed from %v to %v", e, at, now)
			}
		}
	}
	if len(refreshed) != 3 {
		t.Errorf("%d Map-Registers, want 3", len(refreshed))
	}
}

func TestStop(t *testing.T) {
	for _, keep := range []bool{false, true} {
		cfg := testConfig()
		cfg.KeepRegistered = keep
		r := newRig(t, cfg)
		r.start()
		r.receive(notify(t, r.one().data, key), ms1)
		r.until(10 * time.Second)
		r.m.stop(r.now)
		r.collect()
		if keep {
			if len(r.take()) != 0 || !r.m.reg.stopped() {
				t.Error("registrations were withdrawn")
			}
			continue
		}
		r.until(11 * time.Second)
		out := r.take()
		if got := times(out); !slices.Equal(got, seconds(10, 11)) || !bytes.Equal(out[0].data, out[1].data) {
			t.Fatalf("withdrawn at %v", got)
		}
		m := register(t, out[0].data)
		for x := range m.Records.All() {
			if x.TTL != 0 {
				t.Errorf("TTL %d", x.TTL)
			}
		}
		if m.Records.Len() != 2 || !m.WantNotify || r.m.reg.stopped() {
			t.Errorf("withdrawal %+v", m)
		}
		r.receive(notify(t, out[0].data, key), ms1)
		if !r.m.reg.stopped() {
			t.Error("not stopped after the Map-Notify")
		}
		if st := r.m.reg.databases()[0].Registrations[0].State; st != RegistrationWithdrawn {
			t.Errorf("state %v", st)
		}
		// Nothing else is done any more.
		r.miss(peer, hostA)
		r.receive(request(t, []string{"203.0.113.7"}, []string{"10.1.1.5"}, nil), etr1)
		r.until(10 * time.Minute)
		if n := len(r.take()); n != 0 {
			t.Errorf("%d datagrams after the stop", n)
		}
	}
}

// TestE11_NonceAcrossRestarts: nonces increase even when the clock goes back, with
// the floor that was saved, and it is saved once an hour.
func TestE11_NonceAcrossRestarts(t *testing.T) {
	var floors []uint64
	var last uint64
	cfg := testConfig()
	cfg.SaveNonceFloor = func(f uint64) error { floors = append(floors, f); return nil }
	r := newRig(t, cfg)
	r.start()
	for m := range 125 { // two hours and a bit
		r.until(time.Duration(m) * time.Minute)
		for _, d := range r.take() {
			n := register(t, d.data).Nonce
			if n < last || n > floors[len(floors)-1] {
				t.Fatalf("nonce %d after %d, floor %d", n, last, floors[len(floors)-1])
			}
			last = n
			r.receive(notify(t, d.data, key), ms1)
		}
	}
	if len(floors) != 3 {
		t.Errorf("saved %d times in two hours", len(floors))
	}
	cfg.NonceFloor = floors[len(floors)-1]
	cfg.SaveNonceFloor = func(uint64) error { return errors.New("disk full") } // does not stop it
	r = newRig(t, cfg)                                                         // the clock starts where it did
	r.start()
	if n := register(t, r.one().data).Nonce; n <= last {
		t.Errorf("after a restart %d, before it %d", n, last)
	}

	before := cfg.NonceFloor
	cfg.SaveNonceFloor = func(f uint64) error { cfg.NonceFloor = f; return nil }
	for range 1000 { // it crashes at each start
		newRig(t, cfg).start()
	}
	if ahead := time.Duration(cfg.NonceFloor - before); ahead > time.Second {
		t.Errorf("a thousand restarts have moved the floor by %v", ahead)
	}
}

// TestRegisterInterval: a shorter one holds in the quick phase too.
func TestRegisterInterval(t *testing.T) {
	cfg := testConfig()
	cfg.MapServers[0].RegisterInterval = 10 * time.Second
	r := newRig(t, cfg)
	r.start()
	var got []time.Duration
	for n := range 50 {
		r.until(time.Duration(n) * time.Second)
		for _, d := range r.take() {
			got = append(got, d.at)
			r.receive(notify(t, d.data, key), ms1)
		}
	}
	if want := seconds(0, 10, 20, 30, 40); !slices.Equal(got, want) {
		t.Errorf("sent at %v, want %v", got, want)
	}
	cfg.MapServers[0].WantNotify = false
	r = newRig(t, cfg)
	r.start()
	r.until(40 * time.Second)
	if got, want := times(r.take()), seconds(0, 10, 20, 30, 40); !slices.Equal(got, want) {
		t.Errorf("without Map-Notify sent at %v, want %v", got, want)
	}
}
