package main

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// TestLoad puts a little load on a real server: every answer is for something
// that was asked, and right. How many there are is not looked at.
func TestLoad(t *testing.T) {
	table := []netip.Prefix{netip.MustParsePrefix("20.0.0.0/8"), netip.MustParsePrefix("20.1.0.0/16"), netip.MustParsePrefix("2001:db8::/32")}
	conn, err := udp.Listen([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(t.Context(), server.Config{Sites: []server.Site{{
		Name: "bench", Keys: keys,
		Prefixes: []server.SitePrefix{{EID: mapping.MustParseEID(registerable), AcceptMoreSpecifics: true}},
	}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var recs []*mapping.Record
	for _, p := range table {
		recs = append(recs, &mapping.Record{EID: mapping.EID{Prefix: p}, TTL: 1440, Locators: []mapping.Locator{mapping.MakeLocator(locators[0], 1, 100)}})
	}
	if err := s.Put(t.Context(), recs); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, conn, 1) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	c, port, err := client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	requests, err := newRequests(table, locators, nil, port, rand.New(rand.NewPCG(1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string, w workload, rate float64) {
		t.Helper()
		r, err := load(t.Context(), c, conn.Addrs()[0], w, 32, rate, 100*time.Millisecond)
		switch {
		case err != nil:
			t.Fatalf("%s: %v", name, err)
		case r.wrong > 0:
			t.Errorf("%s: %d answers were wrong, one: %v", name, r.wrong, r.firstWrong)
		case r.answered+r.lost != r.sent:
			t.Errorf("%s: %d sent, %d answered, %d lost", name, r.sent, r.answered, r.lost)
		}
	}
	run("requests", requests, 0)
	run("requests at a rate", requests, 2000)
	nonce := uint64(0)
	for _, k := range keys {
		for _, change := range []bool{true, false} {
			nonce += 1 << 32
			w, err := newRegisters(k, change, port, nonce)
			if err != nil {
				t.Fatal(err)
			}
			run(k.String(), w, 0)
		}
	}
}
