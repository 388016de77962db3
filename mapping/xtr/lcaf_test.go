package xtr

import (
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// lcafRecord returns a record whose locators have the octets.
func lcafRecord(t testing.TB, e string, octets ...string) *mapping.Record {
	t.Helper()
	r := rec(e, 10)
	r.Locators = nil
	for _, o := range octets {
		a, n, err := wire.DecodeAddress([]byte(o))
		if err != nil || n != len(o) {
			t.Fatalf("%x: %d octets, %v", o, n, err)
		}
		l := mapping.MakeLocator(addr("192.0.2.1"), 1, 100)
		l.Addr, _ = a.RLOC()
		if _, plain := a.IP(); !plain {
			l.Opaque = o
		}
		r.Locators = append(r.Locators, l)
	}
	r.SortLocators()
	return r
}

const (
	plainLocator   = "\x00\x01\xcb\x00\x71\x07"
	namedLocator   = "\x40\x03\x00\x00\x01\x00\x00\x0b\x00\x11ms\x00\x00\x01\xcb\x00\x71\x09"
	ownEIDLocator  = "\x40\x03\x00\x00\x01\x00\x00\x0b\x00\x11ms\x00\x00\x01\x0a\x01\x00\x01"
	placedLocator  = "\x40\x03\x00\x00\x05\x00\x00\x12\x80\x34\x1f\x07\x80\x0d\x18\x1d\x00\x00\x00\x22\x00\x01\xcb\x00\x71\x09"
	pathLocator    = "\x40\x03\x00\x00\x0a\x00\x00\x08\x00\x05\x00\x01\xcb\x00\x71\x09"
	unknownLocator = "\x40\x03\x00\x00\xc8\x00\x00\x03abc"
	natLocator     = "\x40\x03\x00\x00\x07\x00\x00\x0a\x00\x01\x00\x02\x00\x00\x00\x00\x00\x00" // none for locators
	name           = "\x00\x11etr\x00"
)

// learned returns the record that the map-cache holds for peer after a
// Map-Reply with the locators.
func learned(t *testing.T, octets ...string) (*rig, *mapping.Record) {
	t.Helper()
	r := newRig(t, noRegister())
	r.learn(peer, lcafRecord(t, "10.2.0.0/16", octets...))
	got, ok := r.m.itr.cache.Lookup(0, peer)
	if !ok {
		t.Fatal("not cached")
	}
	return r, got
}

// An address with a name or a place beside it is encapsulated to, and keeps
// them.
func TestLC1_NamedLocatorIsUsed(t *testing.T)  { usedWhole(t, namedLocator) }
func TestLC5_PlacedLocatorIsUsed(t *testing.T) { usedWhole(t, placedLocator) }

func usedWhole(t *testing.T, octets string) {
	t.Helper()
	_, got := learned(t, octets)
	if len(got.Locators) != 1 {
		t.Fatalf("cached %v", got)
	}
	if l := got.Locators[0]; !l.Usable() || l.Addr != addr("203.0.113.9") || l.Opaque != octets {
		t.Errorf("cached %+v", l)
	}
}

// The address in an LCAF is held to the same rules as a plain one.
func TestLC1_NamedLocatorInsideOwnEIDs(t *testing.T) {
	r, got := learned(t, plainLocator, ownEIDLocator)
	if len(got.Locators) != 1 || got.Locators[0].Opaque != "" || r.stat(mapReplyLocatorsRefused) != 1 {
		t.Errorf("cached %v, %d refused", got, r.stat(mapReplyLocatorsRefused))
	}
}

// Paths, and names alone, are kept to be shown, and not used.
func TestLC10_PathIsNotUsed(t *testing.T) { notUsed(t, pathLocator) }
func TestLC17_NameIsNotUsed(t *testing.T) { notUsed(t, name) }

func notUsed(t *testing.T, octets string) {
	t.Helper()
	r, got := learned(t, octets)
	if len(got.Locators) != 1 || got.Locators[0].Usable() || got.Locators[0].Opaque != octets || r.stat(mapReplyLocatorsIgnored) != 0 {
		t.Errorf("cached %+v", got.Locators)
	}
}

// Locators of an unknown LCAF type are ignored; if there are no others, the
// record has none (RFC 9306 section 3).
func TestLC100_UnknownLocatorIsIgnored(t *testing.T) {
	r, got := learned(t, plainLocator, unknownLocator)
	if got.Negative() || r.stat(mapReplyLocatorsIgnored) != 1 {
		t.Errorf("cached %v, %d ignored", got, r.stat(mapReplyLocatorsIgnored))
	}
	usable := 0
	for _, l := range got.Locators {
		if l.Usable() {
			usable++
		}
	}
	if usable != 1 {
		t.Errorf("%d usable locators in %+v", usable, got.Locators)
	}
	r, got = learned(t, unknownLocator, natLocator)
	if !got.Negative() || r.stat(mapReplyLocatorsIgnored) != 2 {
		t.Errorf("all unknown: cached %v, %d ignored", got, r.stat(mapReplyLocatorsIgnored))
	}
}

// A Map-Reply with an EID of an unknown type, or with a vendor's LCAF, is
// dropped whole (RFC 9306 sections 3 and 4).
func TestLC100_UnknownEIDDropsTheReply(t *testing.T) { refusedReply(t, 200, "[7]10.2.0.0/16") }
func TestLC255_VendorDropsTheReply(t *testing.T)     { refusedReply(t, 255, "[7]10.2.0.0/16") }

func refusedReply(t *testing.T, typ byte, second string) {
	t.Helper()
	r := newRig(t, noRegister())
	r.miss(peer, hostA)
	_, req := mapRequest(t, r.one().data)
	msg := reply(t, req.Nonce, rec("10.2.0.0/16", 10), rec(second, 10))
	found := false
	for i := 12; i+5 < len(msg); i++ {
		if string(msg[i:i+5]) == "\x40\x03\x00\x00\x02" {
			msg[i+4], found = typ, true
		}
	}
	if !found {
		t.Fatal("no LCAF to change")
	}
	r.receive(msg, etr1)
	if len(r.cached()) != 0 || r.stat(controlMalformed) != 1 {
		t.Errorf("cached %v, %d counted", r.cached(), r.stat(controlMalformed))
	}
}

// An ITR asks for destinations from anywhere: what holds for some sources only
// is left out, and cannot stand for the destination.
func TestLC12_RecordOfASourceIsNotCached(t *testing.T) {
	r := newRig(t, noRegister())
	r.learn(peer, rec("10.2.0.0/16", 10), rec("10.2.0.0/16 from 10.1.0.0/16", 10))
	if got := r.cached(); len(got) != 1 || got[0] != "10.2.0.0/16" || r.stat(mapReplyRecordsRefused) != 1 {
		t.Errorf("cached %v, %d refused", got, r.stat(mapReplyRecordsRefused))
	}
	r = newRig(t, noRegister())
	r.miss(peer, hostA)
	_, req := mapRequest(t, r.one().data)
	r.receive(reply(t, req.Nonce, rec("10.2.0.0/16 from 10.1.0.0/16", 10)), etr1)
	if got := r.cached(); len(got) != 0 || r.stat(mapRepliesWrongEID) != 1 {
		t.Errorf("alone: cached %v, %d counted", got, r.stat(mapRepliesWrongEID))
	}
}

// A locator of this xTR that has a name is registered with it, as its own.
func TestLC17_OwnLocatorWithAName(t *testing.T) {
	cfg := testConfig()
	l := mapping.MakeLocator(own4, 1, 100)
	l.Opaque = string(wire.NamedAddress(own4, "uplink-a").Bytes())
	cfg.Databases = []Database{{EID: eid("10.1.0.0/16"), Locators: []mapping.Locator{l}}}
	r := newRig(t, cfg)
	r.start()
	r.until(1e9)
	registered := 0
	for _, d := range r.take() {
		var m wire.MapRegister
		if m.Decode(d.data) != nil {
			continue
		}
		for w := range m.Records.All() {
			rec, err := w.Mapping()
			if err != nil {
				t.Fatal(err)
			}
			registered++
			if got := rec.Locators; len(got) != 1 || got[0].Opaque != l.Opaque || got[0].Addr != own4 || got[0].Flags != mapping.Local|mapping.Reachable {
				t.Errorf("registered %+v", got)
			}
		}
	}
	if registered == 0 {
		t.Error("nothing registered")
	}
	// With a name and without is twice the same address.
	cfg.Databases[0].Locators = append(cfg.Databases[0].Locators, mapping.MakeLocator(own4, 1, 100))
	if _, err := cfg.withDefaults(); err == nil || !strings.Contains(err.Error(), "given twice") {
		t.Errorf("the same address twice: %v", err)
	}
}
