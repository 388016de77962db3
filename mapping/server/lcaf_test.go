package server

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// lcafLocator returns a locator of the octets, as a Map-Register brings it.
func lcafLocator(t testing.TB, octets string) mapping.Locator {
	t.Helper()
	a, n, err := wire.DecodeAddress([]byte(octets))
	if err != nil || n != len(octets) {
		t.Fatalf("%x: %d octets, %v", octets, n, err)
	}
	l := loc("192.0.2.1")
	l.Addr, _ = a.RLOC()
	l.Opaque = octets
	return l
}

const (
	namedLocator   = "\x40\x03\x00\x00\x01\x00\x00\x0b\x00\x01\xc0\x00\x02\x01\x00\x11ms\x00"
	placedLocator  = "\x40\x03\x00\x00\x05\x00\x00\x12\x80\x34\x1f\x07\x80\x0d\x18\x1d\x00\x00\x00\x22\x00\x01\xc0\x00\x02\x01"
	pathLocator    = "\x40\x03\x00\x00\x0a\x00\x00\x10\x00\x05\x00\x01\xc0\x00\x02\x01\x00\x00\x00\x01\xc0\x00\x02\x02"
	listLocator    = "\x40\x03\x00\x00\x0d\x00\x00\x0a\x00\x00\x00\x80\x00\x01\xc0\x00\x02\x01"
	unknownLocator = "\x40\x03\x11\x22\xc8\x33\x00\x03abc" // reserved fields set
)

// registerLCAF registers one locator and returns the octets of it that an ITR
// gets.
func registerLCAF(t *testing.T, octets string) (*bench, string) {
	t.Helper()
	b := newBench(t, twoSites(), newMemStore())
	r := rec("2001:db8:1::/48")
	r.Locators = []mapping.Locator{lcafLocator(t, octets)}
	if b.register(registering{proxy: true, records: []*mapping.Record{r}}) == nil {
		t.Fatal("not registered")
	}
	out := b.ask(asking{eids: []mapping.EID{eid("2001:db8:1::1")}})
	if len(out) != 1 {
		t.Fatalf("%d datagrams", len(out))
	}
	recs := records(t, out[0].payload)
	if len(recs) != 1 || len(recs[0].Locators) != 1 {
		t.Fatalf("answered %v", recs)
	}
	return b, recs[0].Locators[0].Opaque
}

func carried(t *testing.T, octets string) {
	t.Helper()
	if _, got := registerLCAF(t, octets); got != octets {
		t.Errorf("%x became %x", octets, got)
	}
}

func TestLC1_NamedLocatorIsCarried(t *testing.T)     { carried(t, namedLocator) }
func TestLC5_PlaceIsCarried(t *testing.T)            { carried(t, placedLocator) }
func TestLC10_PathIsCarriedUnchanged(t *testing.T)   { carried(t, pathLocator) }
func TestLC13_ReplicationListIsCarried(t *testing.T) { carried(t, listLocator) }
func TestLC17_NameIsCarried(t *testing.T)            { carried(t, "\x00\x11etr.example\x00") }
func TestLC100_UnknownLocatorIsCarried(t *testing.T) { carried(t, unknownLocator) }
func TestLC103_ReservedFieldsAreCarried(t *testing.T) {
	carried(t, "\x40\x03\xff\xff\x01\xff\x00\x06\x00\x01\xc0\x00\x02\x01")
}
func TestLC101_NamedLocatorComesLast(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	r := rec("2001:db8:1::/48", "192.0.2.9", "2001:db8::9")
	r.Locators = append([]mapping.Locator{lcafLocator(t, namedLocator)}, r.Locators...)
	b.register(registering{proxy: true, records: []*mapping.Record{r}})
	b.wantAnswer("2001:db8:1::1", "2001:db8:1::/48 ttl 1440m, 192.0.2.9 1/100 R, 2001:db8::9 1/100 R, 192.0.2.1 1/100 R")
}

// A Map-Request can be forwarded to an ETR whose address has a name, but not
// to a path or to what is not known: nobody can be asked then.
func TestLC1_ForwardedToANamedLocator(t *testing.T) {
	for octets, want := range map[string]string{
		namedLocator:   "forwarded to 192.0.2.1:4342",
		placedLocator:  "forwarded to 192.0.2.1:4342",
		pathLocator:    "2001:db8:1::1/128 ttl 1m natively-forward",
		unknownLocator: "2001:db8:1::1/128 ttl 1m natively-forward",
	} {
		b := newBench(t, twoSites(), nil)
		r := rec("2001:db8:1::/48")
		r.Locators = []mapping.Locator{lcafLocator(t, octets)}
		b.register(registering{records: []*mapping.Record{r}})
		got := b.answer("2001:db8:1::1")
		if len(got) != 1 || got[0] != want && !strings.HasPrefix(want, "2001") || strings.HasPrefix(want, "2001") && !strings.Contains(got[0], "natively-forward") {
			t.Errorf("%x: %q, want %s", octets, got, want)
		}
	}
}

// An address that is no RLOC is refused inside an LCAF too.
func TestLC1_NamedLocatorMustBeRouted(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	r := rec("2001:db8:1::/48")
	r.Locators = []mapping.Locator{lcafLocator(t, strings.Replace(namedLocator, "\xc0\x00\x02\x01", "\xe0\x00\x00\x01", 1))}
	if b.register(registering{records: []*mapping.Record{r}}) != nil || b.count(refusedLocator) != 1 {
		t.Error("a multicast address with a name was registered")
	}
}

// Names, places and unknown locators survive a restart.
func TestLC1_NamedLocatorIsStored(t *testing.T) {
	for _, octets := range []string{namedLocator, unknownLocator} {
		b, _ := registerLCAF(t, octets)
		b = b.restart(twoSites())
		out := b.ask(asking{eids: []mapping.EID{eid("2001:db8:1::1")}})
		if len(out) != 1 {
			t.Fatalf("%d datagrams", len(out))
		}
		if got := records(t, out[0].payload)[0].Locators; len(got) != 1 || got[0].Opaque != octets {
			t.Errorf("after a restart: %+v", got)
		}
	}
}

// A message with an EID of an LCAF type that is not known, or with a vendor's
// LCAF, is dropped whole and logged (RFC 9306 sections 3 and 4).
func TestLC100_UnknownEIDDropsTheMessage(t *testing.T) { droppedWhole(t, 200, "unknown LCAF type") }
func TestLC255_VendorDropsTheMessage(t *testing.T)     { droppedWhole(t, 255, "unknown vendor") }

func droppedWhole(t *testing.T, typ byte, why string) {
	t.Helper()
	var log bytes.Buffer
	cfg := twoSites()
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	b := newBench(t, cfg, nil)
	instance := []byte("\x40\x03\x00\x00\x02")
	change := func(msg []byte) []byte {
		i := bytes.LastIndex(msg, instance)
		if i < 0 {
			t.Fatal("no LCAF to change")
		}
		msg[i+4] = typ
		return msg
	}
	// The record before is good, and not answered or registered either.
	request := change(encodeRequest(t, asking{eids: []mapping.EID{eid("10.9.0.1"), eid("[7]10.1.0.1")}, bare: true}.defaults()))
	before := b.count(dropMalformed)
	b.wantDrop("Map-Request", dropMalformed, b.deliver(request, itr4, local4), before)
	register := change(b.encode(registering{records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1"), rec("[7]10.1.0.0/16", "192.0.2.1")}}))
	before = b.count(dropMalformed)
	b.wantDrop("Map-Register", dropMalformed, b.deliver(register, etr1, local4), before)
	if n := strings.Count(log.String(), why); n != 2 {
		t.Errorf("logged %q", log.String())
	}
	b.check()
}

// What is registered for a source is what is answered for it, and nothing else
// is: the whole way from the Map-Register to the Map-Reply.
func TestLC12_RegisteredAndLookedUpBySource(t *testing.T) {
	cfg := twoSites()
	cfg.Sites[0].Prefixes = []SitePrefix{{EID: eid("10.1.0.0/16"), AcceptMoreSpecifics: true}}
	b := newBench(t, cfg, newMemStore())
	if b.register(registering{proxy: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1"), rec("10.1.0.0/16 from 10.5.0.0/16", "192.0.2.2")}}) == nil {
		t.Fatal("not registered")
	}
	b.wantAnswer("10.1.0.9 from 10.5.0.1", "10.1.0.0/18 from 10.5.0.0/16 ttl 1440m, 192.0.2.2 1/100 R")
	got := b.answer("10.1.0.9 from 10.6.0.1")
	if len(got) == 0 || !strings.HasPrefix(got[0], "10.1.0.0/16 ttl") || !strings.Contains(got[0], "192.0.2.1 ") {
		t.Errorf("from elsewhere: %q", got)
	}
	b.check()
}
