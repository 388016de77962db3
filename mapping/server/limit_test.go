package server

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// strictBench is a bench with the limits of the shipped configuration.
func strictBench(t testing.TB, cfg Config, store *memStore) *bench {
	t.Helper()
	cfg.ReplyRate = ReplyRate{Every: replySpacing, Burst: replyBurst}
	b := newBench(t, cfg, store)
	b.strict = true
	return b
}

// TestS11_RepliesOfOneITRAndPrefix: a burst of three, then one in 3 s, for each
// pair of ITR-RLOC and EID-prefix.
func TestS11_RepliesOfOneITRAndPrefix(t *testing.T) {
	b := strictBench(t, twoSites(), nil)
	answered := func(e, itr string, n int) (k int) {
		for range n {
			k += len(b.ask(asking{eids: []mapping.EID{eid(e)}, itr: []netip.Addr{addr(itr)}}))
		}
		return k
	}
	for _, c := range []struct {
		why, eid, itr string
		pass          time.Duration
		n, want       int
	}{
		{"a burst", "10.9.0.1", "192.0.2.10", 0, 10, 3},
		{"another address of the EID-prefix", "10.9.7.7", "192.0.2.10", 0, 10, 0},
		{"another EID-prefix", "10.8.0.1", "192.0.2.10", 0, 10, 3},
		{"another instance", "[7]10.9.0.1", "192.0.2.10", 0, 10, 3},
		{"another ITR", "10.9.0.1", "192.0.2.11", 0, 10, 3},
		{"just before 3 s", "10.9.0.1", "192.0.2.10", 2999 * time.Millisecond, 10, 0},
		{"after 3 s", "10.9.0.1", "192.0.2.10", time.Millisecond, 10, 1},
		{"after 6 s more", "10.9.0.1", "192.0.2.10", 6 * time.Second, 10, 2},
		{"much later", "10.9.0.1", "192.0.2.10", 60 * 24 * time.Hour, 10, 3},
	} {
		b.now = b.now.Add(c.pass)
		before := b.count(dropReplyRate)
		if got := answered(c.eid, c.itr, c.n); got != c.want {
			t.Errorf("%s: %d of %d were answered, want %d", c.why, got, c.n, c.want)
		}
		if got := b.count(dropReplyRate) - before; got != uint64(c.n-c.want) {
			t.Errorf("%s: %d drops counted, want %d", c.why, got, c.n-c.want)
		}
	}
	// What is forwarded is no Map-Reply.
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
	if got := answered("10.2.0.1", "192.0.2.10", 10); got != 10 {
		t.Errorf("%d of 10 were forwarded", got)
	}
}

// TestS11_Shipped: the limits are there without any configuration.
func TestS11_Shipped(t *testing.T) {
	s, err := New(t.Context(), Config{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	answers := 0
	r := s.newReader()
	msg := encodeRequest(t, asking{eids: []mapping.EID{eid("11.0.0.1")}}.defaults())
	now := time.Now()
	for range 20 {
		out, _ := r.handle(now, msg, itr4, local4)
		answers += len(out)
	}
	if answers != 3 {
		t.Errorf("%d answers of 20 at once, want 3", answers)
	}
}

// TestReplyLimiterShared: many readers do not get more than one would.
func TestReplyLimiterShared(t *testing.T) {
	l := newReplyLimiter(ReplyRate{})
	var taken atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if l.allow(int64(time.Second), itr6.Addr(), eid("2001:db8::/32")) {
					taken.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got := taken.Load(); got != replyBurst {
		t.Errorf("%d tokens were taken, want %d", got, replyBurst)
	}
}

// TestCredits: an account never gives more than 1.5 times what it got, and
// saves what it did not give.
func TestCredits(t *testing.T) {
	c := newCredits()
	a := c.of(itr4.Addr())
	for _, s := range []struct {
		received, sent int
		want           bool
		left           int
	}{
		{100, 151, false, 150},
		{100, 300, true, 0},
		{100, 50, true, 100},
		{1, 102, false, 101},
		{0, 101, true, 0},
		{1 << 20, 0, true, maxCredit},
		{10, maxCredit + 1, false, maxCredit},
		{0, maxCredit, true, 0},
	} {
		if got := a.spend(s.received, s.sent); got != s.want || a.available(0) != s.left {
			t.Errorf("%d in, %d out: %v, and %d left, want %v and %d", s.received, s.sent, got, a.available(0), s.want, s.left)
		}
	}
	a.spend(1000, 0)
	// Another address in the same slot gets nothing of it.
	other := credit{a.slot, a.tag ^ 1}
	if got := other.available(0); got != 0 {
		t.Errorf("another address has a credit of %d", got)
	}
}

// TestLongAnswers: a single record that is longer than 1.5 times the
// Map-Request reaches an ITR that asks again.
func TestLongAnswers(t *testing.T) {
	long := rec("10.7.0.0/16")
	for i := range 20 {
		long.Locators = append(long.Locators, loc(fmt.Sprintf("192.0.2.%d", i+1)))
	}
	b := strictBench(t, Config{Static: []*mapping.Record{long}}, nil)
	q := asking{eids: []mapping.EID{eid("10.7.0.1")}}
	b.wantDrop("the first", dropAmplification, b.ask(q), 0)
	tries := 1
	for ; tries < 10; tries++ {
		b.now = b.now.Add(time.Second)
		if out := b.ask(q); len(out) > 0 {
			wantStrings(t, "the answer", b.texts(out), long.String())
			break
		}
	}
	if tries > 2 {
		t.Errorf("it took %d Map-Requests", tries+1)
	}
}
