package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

var newKey = auth.Key{ID: 1, Algorithm: auth.SHA256, Secret: []byte("a new site's secret")}

// newSite is one that the API puts.
func newSite() *Site {
	return &Site{Name: "new", Keys: []auth.Key{newKey}, Prefixes: []SitePrefix{{EID: eid("10.20.0.0/16"), AcceptMoreSpecifics: true}}}
}

// putSite puts x, and fails the test when that fails.
func (b *bench) putSite(x *Site) uint64 {
	b.t.Helper()
	n, err := b.s.ChangeSite(context.Background(), x.Name, func(*Site, uint64) (*Site, error) { return x, nil })
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

func (b *bench) site(name string) (st SiteStatus) {
	for _, x := range b.s.Sites() {
		if x.Name == name {
			st = x
		}
	}
	return st
}

// registers reports whether a Map-Register is taken.
func (b *bench) registers(key auth.Key, xtr mapping.XTRID, r *mapping.Record) bool {
	b.t.Helper()
	return b.register(registering{key: key, xtr: xtr, proxy: true, records: []*mapping.Record{r}}) != nil
}

// A site of the API registers at once, is there after a crash, and ends with
// everything that it registered.
func TestSiteIsPut(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	r := rec("10.20.7.0/24", "192.0.2.1")
	if b.registers(newKey, xtrID(1), r) {
		t.Error("a registration without a site")
	}
	first := b.putSite(newSite())
	b.wantAnswer("10.20.7.1", "10.20.0.0/16 ttl 1m natively-forward")
	if !b.registers(newKey, xtrID(1), r) {
		t.Error("the new site can't register")
	}
	b.wantAnswer("10.20.7.1", "10.20.7.0/24 ttl 1440m, 192.0.2.1 1/100 R")
	st := b.site("new")
	if st.Put != first || st.Registrations != 1 || len(st.Keys) != 1 || st.Keys[0].Secret != nil || st.Keys[0].ID != 1 || st.MinAlgorithm != auth.SHA256 {
		t.Errorf("its state is %+v", st)
	}
	if again := b.putSite(newSite()); again != b.s.Snapshot().Revision || b.site("new").Put != first {
		t.Errorf("the same again is at revision %d", again)
	}
	b.check()

	b = b.restart(twoSites())
	if st := b.site("new"); st.Put != first || st.Registrations != 1 {
		t.Errorf("after a restart its state is %+v", st)
	}
	b.wantAnswer("10.20.7.1", "10.20.7.0/24 ttl 1440m, 192.0.2.1 1/100 R")
	if !b.registers(newKey, xtrID(1), r) {
		t.Error("no registration after a restart")
	}
	accepted := b.nonce
	b.pass(2 * time.Second) // the nonce of a refresh is kept a little later

	f, err := b.s.Follow(b.s.Snapshot().Revision)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	events, err := b.s.Watch(8)
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	if _, err := b.s.ChangeSite(context.Background(), "new", func(was *Site, at uint64) (*Site, error) {
		if at != first || was == nil || !sameSite(was, newSite()) {
			t.Errorf("what was put is %+v at %d", was, at)
		}
		return nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	if changes, _, err := f.Next(context.Background(), 10); err != nil || len(changes) != 1 || changes[0].EID != eid("10.20.7.0/24") || changes[0].Mapping != nil {
		t.Errorf("who follows hears %+v, %v", changes, err)
	}
	if told, err := events.Next(context.Background()); err != nil || told[0].Event.Kind != EventWithdrawn || told[0].Event.Reason == "" {
		t.Errorf("who watches hears %+v, %v", told, err)
	}
	b.wantAnswer("10.20.7.1", "10.16.0.0/12 ttl 15m natively-forward")
	if b.registers(newKey, xtrID(1), r) {
		t.Error("a site that is gone registers")
	}
	b.check()
	if b = b.restart(twoSites()); b.site("new").Name != "" || len(b.store.registrations()) > 0 {
		t.Error("it is back after a restart")
	}
	if _, err := b.s.ChangeSite(context.Background(), "new", func(*Site, uint64) (*Site, error) { return nil, nil }); !errors.Is(err, ErrNoSite) {
		t.Errorf("deleted twice: %v", err)
	}
	// What was said before can't be said again to a site of the same name.
	replay := b.encode(registering{key: newKey, xtr: xtrID(1), nonce: accepted, records: []*mapping.Record{r}})
	b.putSite(newSite())
	if before := b.count(refusedReplay); b.notify(b.deliver(replay, etr1, local4), newKey) != nil || b.count(refusedReplay) != before+1 {
		t.Error("a replay to a site of the same name is taken")
	}
}

// A key that is gone is refused at once, also from who refreshes by the short
// way, and ends nothing; an xTR-ID that is gone ends its registrations.
func TestKeysAndXTRsChange(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	x := newSite()
	x.XTRIDs = []mapping.XTRID{xtrID(1), xtrID(2)}
	b.putSite(x)
	r, r2 := rec("10.20.7.0/24", "192.0.2.1"), rec("10.20.8.0/24", "192.0.2.1")
	for range 2 { // the second is a refresh
		if !b.registers(newKey, xtrID(1), r) || !b.registers(newKey, xtrID(2), r2) {
			t.Fatal("no registration")
		}
	}
	next := auth.Key{ID: 2, Algorithm: auth.SHA256, Secret: []byte("the next secret")}
	y := *x
	y.Keys = []auth.Key{next}
	b.putSite(&y)
	before := b.count(refusedUnknownKey)
	if b.registers(newKey, xtrID(1), r) || b.count(refusedUnknownKey) != before+1 {
		t.Error("a key that is gone is taken")
	}
	b.wantAnswer("10.20.7.1", "10.20.7.0/24 ttl 1440m, 192.0.2.1 1/100 R")
	if !b.registers(next, xtrID(1), r) {
		t.Error("the new key is not taken")
	}
	z := y
	z.XTRIDs = []mapping.XTRID{xtrID(1)}
	b.putSite(&z)
	b.wantAnswer("10.20.7.1", "10.20.7.0/24 ttl 1440m, 192.0.2.1 1/100 R")
	b.wantAnswer("10.20.8.1", "10.20.8.0/21 ttl 1m natively-forward")
	b.check()
	b.pass(registrationTimeout + time.Second)
	b.check()
	if n := b.site("new").Registrations; n != 0 {
		t.Errorf("%d registrations after their time", n)
	}
}

// What a reader has checked by sites that are no more is checked again.
func TestQueuedRegisterIsCheckedAgain(t *testing.T) {
	for what, c := range map[string]struct {
		change func(x *Site) *Site
		taken  bool
		why    counter
	}{
		"gone": {func(*Site) *Site { return nil }, false, refusedNoSite},
		"other key": {func(x *Site) *Site {
			x.Keys = []auth.Key{{ID: 1, Algorithm: auth.SHA256, Secret: []byte("other")}}
			return x
		}, false, refusedUnknownKey},
		"stronger":    {func(x *Site) *Site { x.Keys[0].Algorithm, x.MinAlgorithm = auth.SHA256HKDF, auth.SHA256HKDF; return x }, false, refusedAlgorithm},
		"other xTR":   {func(x *Site) *Site { x.XTRIDs = []mapping.XTRID{xtrID(7)}; return x }, false, refusedXTRID},
		"less":        {func(x *Site) *Site { x.Prefixes[0].AcceptMoreSpecifics = false; return x }, false, refusedMoreSpecific},
		"more":        {func(x *Site) *Site { x.Prefixes = append(x.Prefixes, SitePrefix{EID: eid("10.21.0.0/16")}); return x }, true, 0},
		"not changed": {func(x *Site) *Site { return x }, true, 0},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, twoSites(), newMemStore())
			b.putSite(newSite())
			msg := b.encode(registering{key: newKey, xtr: xtrID(1), records: []*mapping.Record{rec("10.20.7.0/24", "192.0.2.1")}})
			_, reg := b.r.handle(b.now, msg, etr1, local4)
			if reg == nil {
				t.Fatal("the reader refuses it")
			}
			if _, err := b.s.ChangeSite(context.Background(), "new", func(*Site, uint64) (*Site, error) { return c.change(newSite()), nil }); err != nil {
				t.Fatal(err)
			}
			out := b.s.registerAll(context.Background(), b.now, []*register{reg})
			if taken := len(out) > 0; taken != c.taken || c.why != 0 && b.count(c.why) != 1 {
				t.Errorf("taken %v, counted %d", taken, b.count(c.why))
			}
			b.check()
		})
	}
}

// The sites of the configuration change at once: what is not admitted any more
// ends, all else goes on, and after a restart it is the same.
func TestSetSites(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	for _, x := range []struct {
		key auth.Key
		r   *mapping.Record
	}{
		{leftKey, rec("10.1.0.0/16", "192.0.2.1")}, {leftKey, rec("10.1.5.0/24", "192.0.2.1")}, {leftKey, rec("2001:db8:1::/48", "192.0.2.1")},
		{rightKey, rec("10.2.0.0/16", "192.0.2.1")}, {rightKey, rec("10.3.0.0/16", "192.0.2.1")},
	} {
		if !b.registers(x.key, xtrID(1), x.r) {
			t.Fatal("no registration")
		}
	}
	cfg := twoSites()
	accepted := b.site("left").Accepted
	cfg.Sites[0].Prefixes = []SitePrefix{{EID: eid("10.1.0.0/16")}, {EID: eid("10.2.0.0/16")}, {EID: eid("10.30.0.0/16"), Requests: RequestsDenied}}
	cfg.Sites[1].Prefixes = []SitePrefix{{EID: eid("10.3.0.0/16"), ProxyReply: ProxyNever}}
	revision := b.s.Snapshot().Revision
	if err := b.s.SetSites(context.Background(), cfg.Sites); err != nil {
		t.Fatal(err)
	}
	if now := b.s.Snapshot().Revision; now != revision+1 {
		t.Errorf("revision %d after %d", now, revision)
	}
	same := func() {
		t.Helper()
		b.wantAnswer("10.1.5.1", "10.1.0.0/16 ttl 1440m, 192.0.2.1 1/100 R")
		b.wantAnswer("10.2.0.1", "10.2.0.0/16 ttl 1m natively-forward")
		b.wantAnswer("10.3.0.1", "forwarded to 192.0.2.1:4342")
		b.wantAnswer("10.30.0.1", "10.30.0.0/16 ttl 15m drop-policy-denied")
		b.check()
		if got := b.site("left").Registrations + b.site("right").Registrations; got != 2 {
			t.Errorf("%d registrations", got)
		}
	}
	same()
	if b.site("left").Accepted != accepted {
		t.Error("a site that stays has lost its counters")
	}
	if !b.registers(leftKey, xtrID(1), rec("10.1.0.0/16", "192.0.2.1")) || b.registers(rightKey, xtrID(1), rec("10.2.0.0/16", "192.0.2.1")) {
		t.Error("the new rules are not in effect")
	}
	revision = b.s.Snapshot().Revision
	if err := b.s.SetSites(context.Background(), cfg.Sites); err != nil || b.s.Snapshot().Revision != revision {
		t.Errorf("the same sites: revision %d, %v", b.s.Snapshot().Revision, err)
	}
	if b = b.restart(cfg); b.s.Snapshot().Revision != revision {
		t.Errorf("revision %d after a restart with the same sites, it was %d", b.s.Snapshot().Revision, revision)
	}
	same()
	bad := twoSites()
	bad.Sites[0].Keys = nil
	if err := b.s.SetSites(context.Background(), bad.Sites); err == nil {
		t.Error("a site without a key")
	}
	same()
}

// A store that takes nothing leaves the sites as they are.
func TestSitesStayWhenTheStoreFails(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	b.putSite(newSite())
	r := rec("10.20.7.0/24", "192.0.2.1")
	if !b.registers(newKey, xtrID(1), r) {
		t.Fatal("no registration")
	}
	full := errors.New("the disk is full")
	b.store.setFail(full)
	if _, err := b.s.ChangeSite(context.Background(), "new", func(*Site, uint64) (*Site, error) { return nil, nil }); !errors.Is(err, full) {
		t.Errorf("deleted: %v", err)
	}
	if err := b.s.SetSites(context.Background(), nil); !errors.Is(err, full) {
		t.Errorf("set: %v", err)
	}
	b.store.setFail(nil)
	b.check()
	b.wantAnswer("10.20.7.1", "10.20.7.0/24 ttl 1440m, 192.0.2.1 1/100 R")
	if !b.registers(newKey, xtrID(1), r) || len(b.s.Sites()) != 3 {
		t.Error("something has changed")
	}
}

// What the configuration says goes before the API, and what the API has put
// comes back with it.
func TestConfiguredSitesGoFirst(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	b.putSite(newSite())
	for what, taken := range map[string]Site{
		"name":   {Name: "new", Keys: []auth.Key{leftKey}, Prefixes: []SitePrefix{{EID: eid("10.40.0.0/16")}}},
		"prefix": {Name: "other", Keys: []auth.Key{leftKey}, Prefixes: []SitePrefix{{EID: eid("10.20.0.0/16")}}},
	} {
		cfg := twoSites()
		cfg.Sites = append(cfg.Sites, taken)
		if err := b.s.SetSites(context.Background(), cfg.Sites); err != nil {
			t.Fatal(err)
		}
		if b.registers(newKey, xtrID(1), rec("10.20.0.0/16", "192.0.2.1")) {
			t.Errorf("%s: the site of the API registers", what)
		}
		all := b.s.Sites()
		if st := all[len(all)-1]; len(all) != 4 || st.Name != "new" || st.Shadowed == "" || st.Put == 0 {
			t.Errorf("%s: %+v", what, st)
		}
		again := b.restart(cfg)
		if all := again.s.Sites(); len(all) != 4 || all[3].Shadowed == "" {
			t.Errorf("%s: after a restart %+v", what, all)
		}
		if err := b.s.SetSites(context.Background(), twoSites().Sites); err != nil {
			t.Fatal(err)
		}
		if !b.registers(newKey, xtrID(1), rec("10.20.0.0/16", "192.0.2.1")) {
			t.Errorf("%s: it does not come back", what)
		}
	}
}

func TestBadSitesAreNotPut(t *testing.T) {
	cfg := twoSites()
	cfg.LISPSec = LISPSec{Policy: auth.SecurityPreferred, Keys: []auth.WrapKey{{ID: 1, Secret: []byte("of an ITR")}}}
	b := newBench(t, cfg, newMemStore())
	b.putSite(newSite())
	before := b.store.commitCount()
	for what, x := range map[string]*Site{
		"no key":            {Name: "x", Prefixes: newSite().Prefixes},
		"another name":      {Name: "y", Keys: []auth.Key{newKey}},
		"a taken prefix":    {Name: "x", Keys: []auth.Key{newKey}, Prefixes: []SitePrefix{{EID: eid("10.20.0.0/16")}}},
		"one of the file":   {Name: "x", Keys: []auth.Key{newKey}, Prefixes: []SitePrefix{{EID: eid("10.1.0.0/16")}}},
		"a static mapping":  {Name: "x", Keys: []auth.Key{newKey}, Prefixes: []SitePrefix{{EID: eid("10.9.0.0/16")}}},
		"twice a prefix":    {Name: "x", Keys: []auth.Key{newKey}, Prefixes: []SitePrefix{{EID: eid("10.50.0.0/16")}, {EID: eid("10.50.0.0/16")}}},
		"a weak key":        {Name: "x", Keys: []auth.Key{weakKey}},
		"an ITR's key":      {Name: "x", Keys: []auth.Key{{ID: 1, Algorithm: auth.SHA256, Secret: []byte("of an ITR")}}},
		"a long key":        {Name: "x", Keys: []auth.Key{{ID: 1, Algorithm: auth.SHA256, Secret: make([]byte, maxSecret+1)}}},
		"too many prefixes": {Name: "x", Keys: []auth.Key{newKey}, Prefixes: make([]SitePrefix, maxSitePrefixes+1)},
	} {
		_, err := b.s.ChangeSite(context.Background(), "x", func(*Site, uint64) (*Site, error) { return x, nil })
		if _, ok := errors.AsType[*SiteError](err); !ok {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && strings.Contains(err.Error(), "of an ITR") {
			t.Errorf("%s: the error has the key: %v", what, err)
		}
	}
	left := *newSite()
	left.Name = "left"
	if _, err := b.s.ChangeSite(context.Background(), "left", func(*Site, uint64) (*Site, error) { return &left, nil }); !errors.Is(err, ErrConfigured) {
		t.Errorf("a site of the configuration: %v", err)
	}
	mine := errors.New("no")
	if _, err := b.s.ChangeSite(context.Background(), "new", func(*Site, uint64) (*Site, error) { return nil, mine }); !errors.Is(err, mine) {
		t.Errorf("the caller's own error: %v", err)
	}
	if len(b.s.Sites()) != 3 || b.store.commitCount() != before {
		t.Error("something has changed")
	}
}

// Everything of a site is kept.
func TestSiteForm(t *testing.T) {
	x := Site{
		Name: "a", Keys: []auth.Key{{ID: 0, Algorithm: auth.SHA1, Secret: []byte{0, 255}}, {ID: 255, Algorithm: auth.SHA256HKDF, Secret: []byte("k")}},
		MinAlgorithm: auth.SHA1, XTRIDs: []mapping.XTRID{xtrID(1), {0: 0xfe}}, MaxRegistrations: 3,
		Prefixes: []SitePrefix{
			{EID: eid("[7]10.0.0.0/8"), AcceptMoreSpecifics: true, ProxyReply: ProxyNever, Requests: RequestsPostponed},
			{EID: eid("2001:db8::/32 from 2001:db8:1::/48"), ProxyReply: ProxyAlways, Requests: RequestsDenied},
		},
	}
	for _, x := range []Site{x, *newSite()} {
		b, err := encodeSite(&x)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeSite(x.Name, b); err != nil || !sameSite(&x, &got) {
			t.Errorf("%s came back as %+v, %v", b, got, err)
		}
	}
	for _, bad := range []string{``, `{}`, `{"keys":[{"key_id":1,"algorithm":"rot13","key":"aa"}]}`, `{"keys":[{"key_id":1,"algorithm":"hmac-sha-256-128","key":"YWE="}],"eid_prefixes":[{"prefix":"x"}]}`} {
		if x, err := decodeSite("a", []byte(bad)); err == nil {
			t.Errorf("%s is %+v", bad, x)
		}
	}
}

// Readers go on while sites change.
func TestSitesChangeUnderLoad(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			r := b.s.newReader()
			for n := uint64(1); ctx.Err() == nil; n++ {
				msg := encodeRegister(t, registering{key: newKey, xtr: xtrID(byte(i + 1)), nonce: n, records: []*mapping.Record{rec("10.20.7.0/24", "192.0.2.1")}})
				if _, reg := r.handle(start, msg, etr1, local4); reg != nil {
					b.s.registerAll(ctx, start, []*register{reg})
				}
				b.s.Sites()
			}
		})
	}
	for i := range 300 {
		if _, err := b.s.ChangeSite(ctx, "new", func(*Site, uint64) (*Site, error) {
			x := newSite()
			x.Prefixes[0].ProxyReply = ProxyPolicy(i % 3)
			if i%5 == 4 {
				return nil, nil
			}
			return x, nil
		}); err != nil && !errors.Is(err, ErrNoSite) {
			t.Error(err)
		}
	}
	stop()
	wg.Wait()
	b.check()
	if !slices.ContainsFunc(b.s.Sites(), func(x SiteStatus) bool { return x.Name == "left" }) {
		t.Error("a site of the configuration is gone")
	}
}
