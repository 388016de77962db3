package xtr

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// with replaces the locators of a record.
func with(r *mapping.Record, addrs ...string) *mapping.Record {
	r.Locators = nil
	for _, a := range addrs {
		r.Locators = append(r.Locators, mapping.MakeLocator(addr(a), 1, 1))
	}
	return r
}

// TestReplyAcceptance asks for 10.2.0.9 and gives one answer.
func TestReplyAcceptance(t *testing.T) {
	neg := func(e string, a mapping.Action) *mapping.Record { return mapping.NegativeRecord(eid(e), a, 15) }
	sourced := rec("10.2.0.0/16", 10)
	sourced.EID.Source = netip.MustParsePrefix("10.1.0.0/16")
	for _, c := range []struct {
		name     string
		recs     []*mapping.Record
		cached   []string
		refused  uint64 // records
		answered bool
	}{
		{"host", []*mapping.Record{rec("10.2.0.9/32", 10)}, []string{"10.2.0.9/32"}, 0, true},
		{"prefix", []*mapping.Record{rec("10.2.0.0/16", 10)}, []string{"10.2.0.0/16"}, 0, true},
		{"with more-specifics", []*mapping.Record{rec("10.2.0.0/16", 10), rec("10.2.3.0/24", 10), rec("10.2.4.0/24", 10)},
			[]string{"10.2.0.0/16", "10.2.3.0/24", "10.2.4.0/24"}, 0, true},
		{"more-specifics first", []*mapping.Record{rec("10.2.3.0/24", 10), rec("10.2.0.0/16", 10)}, []string{"10.2.0.0/16", "10.2.3.0/24"}, 0, true},
		{"negative", []*mapping.Record{neg("10.0.0.0/8", mapping.NativelyForward)}, []string{"10.0.0.0/8"}, 0, true},
		{"everything", []*mapping.Record{neg("0.0.0.0/0", mapping.NativelyForward)}, []string{"0.0.0.0/0"}, 0, true},
		{"TTL 0", []*mapping.Record{rec("10.2.0.0/16", 0)}, nil, 0, true},
		{"TTL 0 among others", []*mapping.Record{rec("10.2.0.0/16", 10), rec("10.2.3.0/24", 0)}, []string{"10.2.0.0/16"}, 0, true},
		{"no record", nil, nil, 0, false},
		{"another prefix", []*mapping.Record{rec("10.3.0.0/16", 10)}, nil, 0, false},
		{"only a more-specific elsewhere", []*mapping.Record{rec("10.2.3.0/24", 10)}, nil, 0, false},
		{"another instance", []*mapping.Record{rec("[7]10.2.0.0/16", 10)}, nil, 0, false},
		{"another family", []*mapping.Record{rec("::/0", 10)}, nil, 0, false},
		{"with a source", []*mapping.Record{sourced}, nil, 1, false},
		{"with an unrelated one", []*mapping.Record{rec("10.2.0.0/16", 10), rec("10.9.0.0/16", 10)}, []string{"10.2.0.0/16"}, 1, true},
		{"with one of another instance", []*mapping.Record{rec("10.2.0.0/16", 10), rec("[7]10.2.3.0/24", 10)}, []string{"10.2.0.0/16"}, 1, true},
		{"twice the same", []*mapping.Record{rec("10.2.0.0/16", 10), rec("10.2.0.0/16", 20)}, []string{"10.2.0.0/16"}, 1, true},
		{"covers our own", []*mapping.Record{rec("10.0.0.0/8", 10)}, []string{"10.0.0.0/8"}, 0, true},
		{"with our own", []*mapping.Record{rec("10.0.0.0/8", 10), rec("10.1.0.0/16", 10), rec("10.1.2.0/24", 10)}, []string{"10.0.0.0/8"}, 2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, noRegister())
			r.miss(peer, hostA)
			_, m := mapRequest(t, r.one().data)
			r.receive(reply(t, m.Nonce, c.recs...), etr1)
			if got := r.cached(); !slices.Equal(got, append([]string{}, c.cached...)) {
				t.Errorf("cached %v, want %v", got, c.cached)
			}
			if got := r.stat(mapReplyRecordsRefused); got != c.refused {
				t.Errorf("%d records refused, want %d", got, c.refused)
			}
			if got := r.stat(resolutionsAnswered) == 1; got != c.answered || (len(r.m.itr.queries) == 0) != c.answered {
				t.Errorf("answered: %v, %d queries", got, len(r.m.itr.queries))
			}
			if len(r.changes) != len(c.cached) {
				t.Errorf("changes %v", r.changes)
			}
			r.check()
		})
	}
}

// TestI7_NonceMustMatch: everything but the nonce is right.
func TestI7_NonceMustMatch(t *testing.T) {
	r := newRig(t, noRegister())
	r.miss(peer, hostA)
	_, m := mapRequest(t, r.one().data)
	for _, nonce := range []uint64{0, m.Nonce + 1, ^m.Nonce} {
		r.receive(reply(t, nonce, rec("10.2.0.0/16", 10)), etr1)
	}
	probe := mustEncode(t, &wire.MapReply{Probe: true, Nonce: m.Nonce, Records: records(t, rec("10.2.0.0/16", 10))})
	r.receive(probe, etr1)
	if len(r.cached()) != 0 || r.stat(mapRepliesUnmatched) != 4 || len(r.m.itr.queries) != 1 {
		t.Errorf("cached %v, unmatched %d", r.cached(), r.stat(mapRepliesUnmatched))
	}
	r.receive(reply(t, m.Nonce, rec("10.2.0.0/16", 10)), etr1)
	if len(r.cached()) != 1 {
		t.Error("the right nonce was not accepted afterwards")
	}
}

// TestReplyTruncated: no truncation of a good reply does anything.
func TestReplyTruncated(t *testing.T) {
	r := newRig(t, noRegister())
	r.miss(peer, hostA)
	_, m := mapRequest(t, r.one().data)
	good := reply(t, m.Nonce, rec("10.2.0.0/16", 10), rec("10.2.3.0/24", 10))
	for n := range good {
		r.receive(good[:n], etr1)
	}
	if len(r.cached()) != 0 || len(r.changes) != 0 {
		t.Errorf("cached %v", r.cached())
	}
	r.receive(good, etr1)
	if len(r.cached()) != 2 {
		t.Error("the whole reply was not accepted")
	}
}

func TestReplyLocators(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []string
		want []string
	}{
		{"good", []string{"203.0.113.7", "2001:db8:ffff::7"}, []string{"203.0.113.7", "2001:db8:ffff::7"}},
		{"not routed", []string{"127.0.0.1", "203.0.113.7", "224.0.0.1", "255.255.255.255", "fe80::1", "ff02::1"}, []string{"203.0.113.7"}},
		{"inside our EIDs", []string{"10.1.0.1", "203.0.113.7", "2001:db8:1::1"}, []string{"203.0.113.7"}},
		{"none left", []string{"0.0.0.0", "::1"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, noRegister())
			r.learn(peer, with(rec("10.2.0.0/16", 10), c.in...))
			got, ok := r.m.itr.cache.Lookup(0, peer)
			if !ok {
				t.Fatal("not cached")
			}
			var addrs []string
			for _, l := range got.Locators {
				addrs = append(addrs, l.Addr.String())
			}
			if !slices.Equal(addrs, c.want) {
				t.Errorf("locators %v, want %v", addrs, c.want)
			}
			if n := r.stat(mapReplyLocatorsRefused); int(n) != len(c.in)-len(c.want) {
				t.Errorf("%d refused", n)
			}
		})
	}
	t.Run("kept as they are", func(t *testing.T) {
		in := rec("10.2.0.0/16", 10)
		in.Locators = []mapping.Locator{
			{Addr: etr1.Addr(), Priority: 3, Weight: 4, MPriority: 5, MWeight: 6, Flags: mapping.Reachable | mapping.Local | mapping.Probed},
			{Opaque: "\x00\x11etr\x00", Priority: 1},
		}
		r := newRig(t, noRegister())
		r.learn(peer, in)
		got, _ := r.m.itr.cache.Lookup(0, peer)
		want := in.Clone()
		want.Locators[0].Flags &^= mapping.Probed
		if !got.Equal(want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

// TestSuperseded: cached entries between the answer and the question are gone.
func TestSuperseded(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer []*mapping.Record // to a refresh of 10.2.0.0/16
		cached []string
	}{
		{"the same", []*mapping.Record{rec("10.2.0.0/16", 10)}, []string{"10.2.0.0/16", "10.2.3.0/24"}},
		{"withdrawn", []*mapping.Record{rec("10.2.0.0/16", 0)}, []string{"10.2.3.0/24"}},
		{"gone into a hole", []*mapping.Record{mapping.NegativeRecord(eid("10.0.0.0/12"), mapping.NativelyForward, 15)}, []string{"10.0.0.0/12", "10.2.3.0/24"}},
		{"gone into a less-specific", []*mapping.Record{rec("10.0.0.0/8", 10)}, []string{"10.0.0.0/8", "10.2.3.0/24"}},
		{"both", []*mapping.Record{rec("10.0.0.0/8", 10), rec("10.2.0.0/16", 10)}, []string{"10.0.0.0/8", "10.2.0.0/16", "10.2.3.0/24"}},
		{"divided", []*mapping.Record{rec("10.2.0.0/17", 10), rec("10.2.128.0/17", 10)}, []string{"10.2.0.0/17", "10.2.3.0/24", "10.2.128.0/17"}},
		{"half of it gone", []*mapping.Record{rec("10.2.0.0/17", 10)}, []string{"10.2.0.0/17", "10.2.3.0/24"}},
		{"another part", []*mapping.Record{rec("10.2.128.0/17", 10)}, []string{"10.2.0.0/16", "10.2.3.0/24"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, noRegister())
			r.learn(peer, rec("10.2.0.0/16", 1), rec("10.2.3.0/24", 30))
			r.until(50e9)
			r.used("10.2.0.0/16")
			_, m := mapRequest(t, r.one().data)
			r.receive(reply(t, m.Nonce, c.answer...), etr1)
			if got := r.cached(); !slices.Equal(got, c.cached) {
				t.Errorf("cached %v, want %v", got, c.cached)
			}
			// The changes rebuild the cache.
			copied := map[string]bool{}
			for _, ch := range r.changes {
				if ch.Record == nil {
					delete(copied, ch.EID.String())
				} else {
					copied[ch.EID.String()] = true
				}
			}
			for _, e := range r.cached() {
				if !copied[e] {
					t.Errorf("%s is not in the copy", e)
				}
				delete(copied, e)
			}
			if len(copied) != 0 {
				t.Errorf("left over in the copy: %v", copied)
			}
			r.check()
		})
	}
}
