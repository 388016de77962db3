package storetest

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

func mustOpen(t *testing.T, open Open, dir string) mapping.Store {
	t.Helper()
	s, err := open(dir)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func commit(t *testing.T, s mapping.Store, changes ...mapping.Change) {
	t.Helper()
	if err := s.Commit(t.Context(), changes); err != nil {
		t.Fatalf("commit of %d changes: %v", len(changes), err)
	}
}

func put(items ...mapping.Item) []mapping.Change {
	var cs []mapping.Change
	for _, it := range items {
		cs = append(cs, mapping.Change{Item: it})
	}
	return cs
}

// del names an item by its key alone, as Change promises is enough.
func del(it mapping.Item) mapping.Change {
	return mapping.Change{Delete: true, Item: mapping.Item{Kind: it.Kind, EID: it.EID, By: it.By, Site: it.Site, KeyID: it.KeyID}}
}

// items reads the whole store in a canonical order.
func items(t *testing.T, s mapping.Store) []mapping.Item {
	t.Helper()
	var out []mapping.Item
	for it, err := range s.Items(t.Context()) {
		if err != nil {
			t.Fatalf("items: %v", err)
		}
		if it.Kind == mapping.ItemSite && len(out) > 0 && out[len(out)-1].Kind != mapping.ItemSite {
			t.Errorf("site %q comes after others", it.Site)
		}
		out = append(out, it)
	}
	sortItems(out)
	return out
}

func sortItems(its []mapping.Item) {
	slices.SortFunc(its, func(a, b mapping.Item) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), a.EID.Compare(b.EID), cmp.Compare(a.Site, b.Site),
			cmp.Compare(a.KeyID, b.KeyID), bytes.Compare(a.By.XTRID[:], b.By.XTRID[:]),
			cmp.Compare(a.By.SiteID, b.By.SiteID), a.By.RLOC.Compare(b.By.RLOC))
	})
}

func equal(a, b mapping.Item) bool {
	if (a.Record == nil) != (b.Record == nil) || a.Record != nil && !a.Record.Equal(b.Record) {
		return false
	}
	return a.Kind == b.Kind && a.EID == b.EID && a.By == b.By && a.Site == b.Site && a.KeyID == b.KeyID &&
		a.Flags == b.Flags && a.Nonce == b.Nonce && slices.Equal(a.RLOCs, b.RLOCs) && a.At.Equal(b.At) && a.Revision == b.Revision && a.Digest == b.Digest && bytes.Equal(a.Value, b.Value)
}

// want fails the test when the store does not hold exactly these items.
func want(t *testing.T, s mapping.Store, wanted ...mapping.Item) {
	t.Helper()
	got := items(t, s)
	wanted = slices.Clone(wanted)
	sortItems(wanted)
	if len(got) != len(wanted) {
		t.Errorf("%d items in the store, want %d", len(got), len(wanted))
	}
	for i := range min(len(got), len(wanted)) {
		if !equal(got[i], wanted[i]) {
			t.Fatalf("item %d:\n got %+v %v\nwant %+v %v", i, got[i], got[i].Record, wanted[i], wanted[i].Record)
		}
	}
}

func locator(s string) mapping.Locator { return mapping.MakeLocator(netip.MustParseAddr(s), 1, 100) }

func record(e mapping.EID, locs ...mapping.Locator) *mapping.Record {
	return &mapping.Record{EID: e, TTL: mapping.DefaultTTL, Locators: locs}
}

func mappingItem(e string, locs ...mapping.Locator) mapping.Item {
	eid := mapping.MustParseEID(e)
	return mapping.Item{Kind: mapping.ItemMapping, EID: eid, Record: record(eid, locs...)}
}

// numbered is the i-th of many mappings, in ascending order of EID, with a
// locator that tells version v of it.
func numbered(i, v int) mapping.Item {
	a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	eid := mapping.HostEID(0, a)
	l := netip.AddrFrom4([4]byte{192, byte(v >> 16), byte(v >> 8), byte(v)})
	return mapping.Item{Kind: mapping.ItemMapping, EID: eid, Record: record(eid, mapping.MakeLocator(l, 1, 100))}
}

func version(it mapping.Item) int {
	b := it.Record.Locators[0].Addr.As4()
	return int(b[1])<<16 | int(b[2])<<8 | int(b[3])
}

var someTime = time.Unix(1_700_000_000, 0)

// everyKind holds each kind of item in each of its forms.
func everyKind() []mapping.Item {
	xtr := mapping.Registrant{XTRID: mapping.XTRID{0: 0xde, 15: 1}, SiteID: 1<<63 + 5}
	rloc4 := mapping.Registrant{RLOC: netip.MustParseAddr("192.0.2.1")}
	rloc6 := mapping.Registrant{RLOC: netip.MustParseAddr("2001:db8::1")}
	sourced := mapping.MustParseEID("[7]2001:db8:5::/48 from 2001:db8:6::/48")
	full := mapping.MustParseEID("[16777215]2001:db8:1::/48")
	everything := &mapping.Record{EID: full, TTL: mapping.TTLReceiver, Authoritative: true, Version: 0xfff, Locators: []mapping.Locator{
		{Addr: netip.MustParseAddr("192.0.2.1"), Priority: 1, Weight: 2, MPriority: 3, MWeight: 4, Flags: mapping.Local | mapping.Reachable},
		{Addr: netip.MustParseAddr("2001:db8::9"), Priority: 255, Weight: 255, MPriority: 255, MWeight: 255, Flags: mapping.Probed},
		{Opaque: "\x00\x11name\x00", Priority: 254},
		{Addr: netip.MustParseAddr("192.0.2.7"), Opaque: "\x40\x03\x00\x00\x01\x00\x00\x06\x00\x01\xc0\x00\x02\x07", Priority: 9},
	}}
	def4, def6 := mapping.MustParseEID("0.0.0.0/0"), mapping.MustParseEID("::/0")
	host := mapping.MustParseEID("[1]10.0.0.1")
	return []mapping.Item{
		mappingItem("10.0.0.0/8", locator("192.0.2.1")),
		mappingItem("[7]10.0.0.0/8"),
		{Kind: mapping.ItemMapping, EID: def4, Record: mapping.NegativeRecord(def4, mapping.Drop, 15)},
		{Kind: mapping.ItemMapping, EID: def6, Record: mapping.NegativeRecord(def6, mapping.NativelyForward, 1)},
		{Kind: mapping.ItemMapping, EID: sourced, Record: record(sourced, locator("192.0.2.3"))},
		{Kind: mapping.ItemMapping, EID: full, Record: everything, Revision: 1<<64 - 1},
		{Kind: mapping.ItemRegistration, EID: full, By: xtr, Site: "left", Record: everything, At: someTime,
			Flags: mapping.ProxyReply | mapping.MergeSet | mapping.TTLFromReg | mapping.SecurityCap},
		{Kind: mapping.ItemRegistration, EID: full, By: rloc4, Site: "left", Record: everything, At: someTime.Add(time.Second)},
		{Kind: mapping.ItemRegistration, EID: sourced, By: rloc6, Site: "", Record: record(sourced)},
		{Kind: mapping.ItemRegistration, EID: host, By: rloc6, Site: "a site with a long name, spaces and Ünicode", Record: record(host, locator("192.0.2.9")), At: someTime},
		{Kind: mapping.ItemNonce, Site: "left", By: xtr, KeyID: 0, Nonce: 1<<64 - 1},
		{Kind: mapping.ItemNonce, Site: "left", By: rloc4, KeyID: 255, Nonce: 1},
		{Kind: mapping.ItemNonce, Site: "", By: rloc6, KeyID: 1},
		{Kind: mapping.ItemSubscription, EID: full, By: xtr, Nonce: 7, RLOCs: []netip.Addr{rloc4.RLOC, rloc6.RLOC}},
		{Kind: mapping.ItemSubscription, EID: sourced, By: xtr, Nonce: 1<<64 - 1},
		{Kind: mapping.ItemRevision, Revision: 1<<63 + 1, Digest: 1<<64 - 1},
		{Kind: mapping.ItemSite, Site: "a site with a long name, spaces and Ünicode", Revision: 1<<63 + 2, Value: []byte("{\x00}")},
		{Kind: mapping.ItemSite, Site: "left", Revision: 1},
	}
}
