package mapping_test

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/testnet"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// TestP15_ChangeReachesTheDataPlane: with map-server and xTR as they are, a
// locator that changes at the map-server is in the map-cache and told to the
// data plane a round trip later, and a withdrawal takes the entry away, without
// a packet and without a TTL that ends.
func TestP15_ChangeReachesTheDataPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const oneWay = 5 * time.Millisecond
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := testnet.New(t, testnet.Path{Latency: oneWay})
		key := auth.Key{ID: 1, Algorithm: auth.SHA256HKDF, Secret: []byte("for publications")}
		id := mapping.XTRID{1, 2, 3}
		rloc := netip.MustParseAddr("192.0.2.1")

		s, err := server.New(ctx, server.Config{PubSub: server.PubSub{Subscribers: []server.Subscriber{{XTRID: id, SiteID: 7, Key: key}}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		put := func(locator string) {
			t.Helper()
			if err := s.Put(ctx, []*mapping.Record{{EID: mapping.MustParseEID("10.2.0.0/16"), TTL: 1440,
				Locators: []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr(locator), 1, 100)}}}); err != nil {
				t.Fatal(err)
			}
		}
		put("203.0.113.1")

		var mu sync.Mutex
		var told []string
		x, err := xtr.New(xtr.Config{
			RLOCs: []netip.Addr{rloc}, XTRID: id, SiteID: 7,
			Databases:    []xtr.Database{{EID: mapping.MustParseEID("10.1.0.0/16"), Locators: []mapping.Locator{mapping.MakeLocator(rloc, 1, 100)}}},
			MapResolvers: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.1:4342")},
			PubSub:       &xtr.PubSub{Key: key},
			OnCache: func(changes []mapping.CacheChange) {
				mu.Lock()
				defer mu.Unlock()
				for _, c := range changes {
					what := "gone"
					if c.Record != nil && !c.Record.Negative() {
						what = c.Record.Locators[0].Addr.String()
					}
					told = append(told, c.EID.String()+" "+what)
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		serverConn, xtrConn := n.MustListen(t, "198.51.100.1:4342"), n.MustListen(t, "192.0.2.1:4342")
		misses := make(chan xtr.Miss, 1)
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx, serverConn, 1) })
		wg.Go(func() { x.Run(ctx, xtrConn, misses) })

		want := func(after time.Duration, changes ...string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(told, changes) {
				t.Fatalf("the data plane was told %q, want %q", told, changes)
			}
			told = nil
		}
		misses <- xtr.Miss{Dst: netip.MustParseAddr("10.2.0.9"), Src: netip.MustParseAddr("10.1.0.5")}
		want(2*oneWay, "10.2.0.0/16 203.0.113.1")
		time.Sleep(time.Minute)
		put("203.0.113.2")
		want(2*oneWay, "10.2.0.0/16 203.0.113.2")
		time.Sleep(time.Minute)
		if err := s.Delete(ctx, []mapping.EID{mapping.MustParseEID("10.2.0.0/16")}); err != nil {
			t.Fatal(err)
		}
		want(2*oneWay, "10.2.0.0/16 gone")
		time.Sleep(time.Minute)
		put("203.0.113.3") // it comes back
		want(2*oneWay, "10.2.0.0/16 203.0.113.3")
		// Every Map-Notify was acknowledged: none is repeated.
		time.Sleep(time.Minute)
		for sub := range s.Subscriptions() {
			if sub.Waiting != 0 {
				t.Errorf("%v: %d Map-Notifies wait for an acknowledgement", sub.EID, sub.Waiting)
			}
		}
		cancel()
		wg.Wait()
	})
}
