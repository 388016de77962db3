package mapping

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func record(eid string, ttl uint32) *Record {
	return &Record{EID: MustParseEID(eid), TTL: ttl, Locators: []Locator{MakeLocator(netip.MustParseAddr("192.0.2.1"), 1, 100)}}
}

func TestCacheExpiry(t *testing.T) {
	c := NewCache(10)
	c.Apply(epoch, record("10.0.0.0/8", 2), record("11.0.0.0/8", 1))
	if at, ok := c.NextExpiry(); !ok || at != epoch.Add(time.Minute) {
		t.Fatalf("NextExpiry = %v %v", at, ok)
	}
	if ch := c.Expire(epoch.Add(time.Minute - 1)); len(ch) != 0 {
		t.Fatalf("expired too early: %v", ch)
	}
	ch := c.Expire(epoch.Add(time.Minute))
	if len(ch) != 1 || ch[0].EID.String() != "11.0.0.0/8" || ch[0].Record != nil {
		t.Fatalf("Expire = %v", ch)
	}
	if _, ok := c.Lookup(0, netip.MustParseAddr("11.1.1.1")); ok {
		t.Error("an expired entry is still found")
	}
	if r, ok := c.Lookup(0, netip.MustParseAddr("10.1.1.1")); !ok || r.EID.String() != "10.0.0.0/8" {
		t.Errorf("Lookup = %v %v", r, ok)
	}
	// A record with TTL 0 removes at once.
	if ch := c.Apply(epoch, record("10.0.0.0/8", 0)); len(ch) != 1 || ch[0].Record != nil || c.Len() != 0 {
		t.Errorf("TTL 0: %v, %d left", ch, c.Len())
	}
}

// A less-specific must not outlive a cached more-specific: when that expires,
// the less-specific would wrongly answer for its addresses.
func TestI17_LessSpecificExpiresWithMoreSpecific(t *testing.T) {
	c := NewCache(10)
	c.Apply(epoch, record("10.1.0.0/16", 1))
	ch := c.Apply(epoch, record("10.0.0.0/8", 60))
	if want := epoch.Add(time.Minute); len(ch) != 1 || ch[0].Expires != want {
		t.Errorf("change %v, want expiry %v", ch, want)
	}
	if e, _ := c.Get(MustParseEID("10.0.0.0/8")); e.Expires != epoch.Add(time.Minute) {
		t.Errorf("entry expires %v", e.Expires)
	}
}

func TestCacheScanDoesNotEvictLiveEntries(t *testing.T) {
	const limit = 100
	c := NewCache(limit)
	now := epoch
	var live []EID
	for i := range 60 {
		r := record(fmt.Sprintf("10.1.%d.0/24", i), 1440)
		c.Apply(now, r)
		live = append(live, r.EID)
	}
	for range promoteRounds {
		now = now.Add(5 * time.Second)
		for _, e := range live {
			c.Touch(now, e)
		}
	}
	for i := range 10_000 { // each scanned destination sees traffic once
		now = now.Add(time.Millisecond)
		r := NegativeRecord(HostEID(0, netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})), NativelyForward, 15)
		c.Apply(now, r)
		c.Touch(now, r.EID)
		if c.Len() > limit {
			t.Fatalf("%d entries, the limit is %d", c.Len(), limit)
		}
	}
	for _, e := range live {
		if _, ok := c.Get(e); !ok {
			t.Errorf("%v was in use and was pushed out by a scan", e)
		}
	}
	if c.Evictions() == 0 {
		t.Error("nothing was evicted: the scan did not fill the cache")
	}
}

// Whatever is done to it, the cache stays within its limit, agrees with a map
// and tells every change, so that a copy made from the changes is equal.
func TestCacheInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 20).Draw(t, "limit")
		c, copied, now := NewCache(limit), map[EID]*Record{}, epoch
		follow := func(changes []CacheChange) {
			for _, ch := range changes {
				if ch.Record == nil {
					delete(copied, ch.EID)
				} else {
					copied[ch.EID] = ch.Record
				}
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 50).Draw(t, "s")) * time.Second)
			e := genEID().Draw(t, "eid")
			switch rapid.IntRange(0, 4).Draw(t, "op") {
			case 0, 1:
				ttl := rapid.SampledFrom([]uint32{0, 1, 2, 15, TTLReceiver}).Draw(t, "ttl")
				follow(c.Apply(now, NegativeRecord(e, Drop, ttl), NegativeRecord(genEID().Draw(t, "eid2"), Drop, 1)))
			case 2:
				c.Touch(now, e)
			case 3:
				follow(c.Expire(now))
				if at, ok := c.NextExpiry(); ok && !at.After(now) {
					t.Fatalf("NextExpiry %v is not after %v", at, now)
				}
			case 4:
				follow(c.Delete(e))
			}
			n := 0
			for e := range c.All() {
				n++
				if copied[e.Record.EID] != e.Record {
					t.Fatalf("%v is in the cache but was not told", e.Record.EID)
				}
			}
			if n != c.Len() || n != len(copied) || n > limit || len(c.expiry) != n || c.probation.Len()+c.protected.Len() != n {
				t.Fatalf("%d entries walked, Len %d, %d told, limit %d, heap %d, lists %d+%d", n, c.Len(), len(copied), limit,
					len(c.expiry), c.probation.Len(), c.protected.Len())
			}
		}
	})
}
