package xtr

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/testnet"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// tell writes what a resolution says, in seconds since the start.
func tell(r *ResolutionTrace) string {
	s := func(t time.Time) float64 { return t.Sub(zeroTime).Seconds() }
	var b strings.Builder
	fmt.Fprintf(&b, "%v %s %v begun %v", r.EID, r.Why, r.Source, s(r.Begun))
	for _, q := range r.Requests {
		fmt.Fprintf(&b, ", %d to %v at %v", q.Nonce, q.MapResolver.Addr(), s(q.Sent))
	}
	if r.Outcome == ResolutionAnswered {
		fmt.Fprintf(&b, ", %v of %v from %v to %d at %v", r.By, r.Answer.EID, r.From.Addr(), r.Request, s(r.Answered))
	}
	fmt.Fprintf(&b, ", %v at %v", r.Outcome, s(r.Ended))
	return b.String()
}

// TestResolutions: each question is told once, however it ends.
func TestResolutions(t *testing.T) {
	cfg := noRegister()
	cfg.MapResolvers = []netip.AddrPort{mr1, mr2}
	cfg.OnTraces = func([]*ResolutionTrace) {}
	r := newRig(t, cfg)
	ended := func(want ...string) {
		t.Helper()
		var got []string
		for _, x := range r.m.takeTraces() {
			got = append(got, tell(x))
		}
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	r.miss(peer, hostA)
	r.miss(addr("10.2.0.10"), hostA) // what answers the first covers it
	r.until(1500 * time.Millisecond)
	ended()
	r.receive(reply(t, 3, rec("10.2.0.0/16", 10)), etr1)
	ended("10.2.0.9/32 miss 10.1.0.5 begun 0, 1 to 198.51.100.1 at 0, 3 to 198.51.100.2 at 1, map-reply of 10.2.0.0/16 from 203.0.113.7 to 1 at 1.5, answered at 1.5")
	r.until(4 * time.Second)
	ended("10.2.0.10/32 miss 10.1.0.5 begun 0, 2 to 198.51.100.2 at 0, 4 to 198.51.100.1 at 1, needless at 3")
	r.miss(addr("10.3.0.1"), hostA)
	r.until(2 * time.Minute)
	list := r.m.takeTraces()
	if len(list) != 1 || list[0].Outcome != ResolutionGivenUp || len(list[0].Requests) != 11 || list[0].Ended.Sub(list[0].Begun) != 71*time.Second {
		t.Errorf("given up: %v", list)
	}
	// A reply that comes while nothing is sent is used, and not told again.
	r.miss(addr("10.3.0.1"), hostA)
	r.until(3*time.Minute + 11*time.Second)
	if list := r.m.takeTraces(); len(list) != 1 {
		t.Fatalf("given up: %v", list)
	}
	last := r.out[len(r.out)-1]
	_, m := mapRequest(t, last.data)
	r.receive(reply(t, m.Nonce, rec("10.3.0.0/16", 10)), etr1)
	ended()
	if got := r.cached(); !slices.Contains(got, "10.3.0.0/16") {
		t.Errorf("cached %v", got)
	}
}

// TestResolutionsOff: nothing is kept for nobody.
func TestResolutionsOff(t *testing.T) {
	r := newRig(t, noRegister())
	r.learn(peer, rec("10.2.0.0/16", 10))
	if list := r.m.takeTraces(); list != nil {
		t.Errorf("kept %v", list)
	}
}

// TestResolutionEndsWithPlanes: a resolution has ended when OnCache has returned.
func TestResolutionEndsWithPlanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testnet.New(t, testnet.Path{Latency: 20 * time.Millisecond})
		cfg := noRegister()
		var planes time.Time
		told := make(chan *ResolutionTrace, 1)
		cfg.OnCache = func([]mapping.CacheChange) {
			time.Sleep(3 * time.Millisecond)
			planes = time.Now()
		}
		cfg.OnTraces = func(list []*ResolutionTrace) { told <- list[0] }
		s := startSite(t, n, cfg)
		resolver := n.MustListen(t, mr1.String())
		s.misses <- Miss{Dst: peer, Src: hostA}
		begun := time.Now()
		buf := make([]byte, 1500)
		size, _, _, err := resolver.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		_, m := mapRequest(t, buf[:size])
		if err := resolver.Write(reply(t, m.Nonce, rec("10.2.0.0/16", 10)), netip.AddrPort{}, local); err != nil {
			t.Fatal(err)
		}
		r := <-told
		if r.Begun != begun || r.Answered.Sub(begun) != 40*time.Millisecond || r.Ended != planes || r.Ended.Sub(r.Answered) != 3*time.Millisecond {
			t.Errorf("begun %v, answered after %v, planes after %v more", r.Begun, r.Answered.Sub(begun), r.Ended.Sub(r.Answered))
		}
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
}
