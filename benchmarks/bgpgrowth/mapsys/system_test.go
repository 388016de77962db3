package mapsys

import (
	"net/netip"
	"testing"
	"time"
)

func testSites(n int) (list []Site) {
	for i := range n {
		list = append(list, Site{EID: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, byte(i >> 8), byte(i), 0}), 24), Uplinks: 2 + i%3})
	}
	return list
}

func start(t *testing.T, cfg Config) *System {
	t.Helper()
	s, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Each way by which users hear of a change works alone, with the messages that are
// its own and not with those of the others; and all together.
func TestWaysToHear(t *testing.T) {
	for _, x := range []struct {
		name                string
		smr, pubsub, probes bool
	}{{"smr", true, false, false}, {"pubsub", false, true, false}, {"probes", false, false, true}, {"all", true, true, true}} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, Config{Sites: testSites(8), Victims: 2, Users: 4, SMR: x.smr, PubSub: x.pubsub, Probes: x.probes})
			for v, n := range []int{3, 4} {
				if err := s.Use(t.Context(), v, n); err != nil {
					t.Fatal(err)
				}
			}
			if want := map[bool]int{true: 7}[x.pubsub]; s.Subscriptions() != want {
				t.Errorf("%d subscriptions, expected %d", s.Subscriptions(), want)
			}
			if _, err := s.Rest(t.Context(), 300*time.Millisecond); err != nil { // packets are heard
				t.Fatal(err)
			}
			o, err := s.Fail(t.Context(), 0, 20*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("failure: %+v", o)
			if o.Users != 3 || o.Changed != 3 || o.LastUser <= 0 || o.LastUser < o.FirstUser {
				t.Errorf("of %d users %d changed, after %v to %v", o.Users, o.Changed, o.FirstUser, o.LastUser)
			}
			told := x.smr || x.pubsub
			if (o.Registers > 0) != told || (o.Notifies > 0) != told {
				t.Errorf("%d registrations, %d confirmations", o.Registers, o.Notifies)
			}
			if (o.SMRs > 0) != x.smr || (o.Publications > 0) != x.pubsub || (o.Acks > 0) != x.pubsub || (o.Probes > 0) != x.probes {
				t.Errorf("SMRs %d, publications %d, acks %d, probes %d", o.SMRs, o.Publications, o.Acks, o.Probes)
			}
			if x.name == "smr" && (o.SMRs < 3 || o.Requests < 3 || o.Replies < 3) {
				t.Errorf("SMRs %d, requests %d, replies %d for 3 users", o.SMRs, o.Requests, o.Replies)
			}
			o, err = s.Repair(t.Context(), 0, 40*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("repair: %+v", o)
			if o.Users != 3 || o.Changed != 3 {
				t.Errorf("of %d users %d changed back", o.Users, o.Changed)
			}
		})
	}
}

// Sites without an xTR are registered, with a message and a confirmation for each.
func TestRegisterAll(t *testing.T) {
	s := start(t, Config{Sites: testSites(500), Victims: 1, Users: 1, SMR: true})
	s.counter.reset(netip.Prefix{})
	if _, err := s.RegisterAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	total, _ := s.counter.counts()
	if total.Registers < 498 || total.Notifies < 498 || total.Registers > 600 {
		t.Errorf("%+v", total)
	}
	if n := s.Registered(); n != 500 {
		t.Errorf("%d registrations", n)
	}
}

// A map-cache under load holds no more than it may, a first packet waits for its
// mapping and the next ones do not, and after a restart all is there again.
func TestLoad(t *testing.T) {
	s := start(t, Config{Sites: testSites(300), Victims: 1, Users: 1, SMR: true})
	if _, err := s.RegisterAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	for cache, rate := range map[int]float64{0: 1000, 40: 150} {
		x, err := s.Run(t.Context(), Load{Zipf: 1, Rate: rate, Duration: 2 * time.Second, Cache: cache, Unlimited: true, Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("cache of %d: %d packets, %d misses, %d entries, p50 %v, p99 %v, %+v", cache, x.Packets, x.Misses, x.Entries, x.Wait(0.5), x.Wait(0.99), x.Count)
		if x.Packets < int(1.5*rate) || x.Misses < x.Entries || x.Misses > x.Packets || len(x.Waits) != x.Misses || x.Requests < x.Entries || x.Wait(0.5) <= 0 {
			t.Errorf("cache of %d: %d packets, %d misses, %d waits, %d entries, %d requests", cache, x.Packets, x.Misses, len(x.Waits), x.Entries, x.Requests)
		}
		if cache > 0 && (x.Entries > cache || x.Misses < 2*cache) || cache == 0 && (x.Entries < 150 || x.Misses > x.Packets/2) {
			t.Errorf("cache of %d: %d entries, %d misses", cache, x.Entries, x.Misses)
		}
	}
	x, err := s.Restart(t.Context(), 200, 20*time.Second, Load{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("restart: %d entries after %v, p50 %v, %+v", x.Entries, x.Window, x.Wait(0.5), x.Count)
	if x.Entries != 200 || x.Misses != 200 || x.Requests < 200 {
		t.Errorf("%d entries, %d misses, %d requests after a restart with 200 flows", x.Entries, x.Misses, x.Requests)
	}
}
