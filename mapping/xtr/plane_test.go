package xtr

import (
	"net/netip"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// An address that names the router or a host of its site inside an EID-prefix
// is never a locator: not as an RLOC of its own, not of the database, not in a
// Map-Reply, also not after a change (RFC 9300 section 4).
func TestDP24_NoEIDIsALocator(t *testing.T) {
	inside := addr("10.1.0.1")
	own := testConfig()
	own.RLOCs = []netip.Addr{own4, own6, inside}
	if _, err := New(own); err == nil {
		t.Error("an RLOC inside the site's EID-prefix was accepted")
	}
	db := testConfig()
	db.Databases = []Database{{EID: eid("10.1.0.0/16"), Locators: []mapping.Locator{mapping.MakeLocator(inside, 1, 100)}}}
	if _, err := New(db); err == nil {
		t.Error("a locator inside the site's EID-prefix was accepted")
	}
	r := newRig(t, testConfig())
	r.start()
	bad := rec("10.2.0.0/16", 60)
	bad.Locators = append(bad.Locators, mapping.MakeLocator(inside, 0, 100))
	bad.SortLocators()
	r.learn(peer, bad)
	got, ok := r.m.itr.cache.Lookup(0, peer)
	if !ok || len(got.Locators) != 1 || got.Locators[0].Addr != etr1.Addr() {
		t.Errorf("cached %v", got)
	}
	if n := r.stat(mapReplyLocatorsRefused); n != 1 {
		t.Errorf("%d locators refused", n)
	}
	if err := r.setDatabases(db.Databases...); err == nil {
		t.Error("SetDatabases accepted it")
	}
}

// That packets came from an RLOC puts nothing into the map-cache, and asks for
// nothing (RFC 9300 sections 4.2 and 9).
func TestDP17_HeardRLOCsAreNoMappings(t *testing.T) {
	r := newRig(t, testConfig())
	r.start()
	r.elsewhere()
	r.m.smrs.note(r.now, []netip.Addr{etr1.Addr(), addr("203.0.113.50")})
	r.collect()
	if c := r.cached(); len(c) != 0 {
		t.Errorf("cached %v", c)
	}
	if out := r.elsewhere(); len(out) != 0 || len(r.changes) != 0 {
		t.Errorf("%d messages, changes %v", len(out), r.changes)
	}
}
