package xtr

import (
	"crypto/rand"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// answeringRig is a proxy-ITR between two map-resolvers.
type answeringRig struct {
	*rig
	silent   map[netip.AddrPort]bool
	delay    time.Duration
	asked    []sent
	verdicts []time.Duration // when it changed, beginning with true
	now      bool
	waiting  []func()
	due      []time.Duration
}

func newAnsweringRig(t *testing.T, change func(*Config)) *answeringRig {
	cfg := noRegister()
	cfg.Databases, cfg.ProxyITR = nil, []mapping.EID{eid("10.0.0.0/8"), eid("[7]10.64.0.0/12")}
	cfg.MapResolvers = []netip.AddrPort{mr1, mr2}
	cfg.OnAnswering = func(bool) {}
	if change != nil {
		change(&cfg)
	}
	return &answeringRig{rig: newRig(t, cfg), silent: make(map[netip.AddrPort]bool)}
}

// run lets d pass; whoever is not silent answers after the delay.
func (r *answeringRig) run(d time.Duration) {
	const step = 50 * time.Millisecond
	for end := r.clock().Add(d); r.clock().Before(end); {
		r.until(r.clock().Sub(zeroTime) + step)
		for _, s := range r.take() {
			r.asked = append(r.asked, s)
			if !r.silent[s.dst] {
				_, m := mapRequest(r.t, s.data)
				e, err := m.EIDs[0].EID.EID(m.EIDs[0].MaskLen)
				if err != nil {
					r.t.Fatal(err)
				}
				msg := reply(r.t, m.Nonce, mapping.NegativeRecord(e, mapping.NativelyForward, 15))
				r.due, r.waiting = append(r.due, s.at+r.delay), append(r.waiting, func() { r.receive(msg, s.dst) })
			}
		}
		for len(r.due) > 0 && r.due[0] <= r.rig.now.Sub(zeroTime) {
			r.waiting[0]()
			r.due, r.waiting = r.due[1:], r.waiting[1:]
		}
		if now, changed := r.m.answers.take(); changed {
			if now == r.now && len(r.verdicts) > 0 {
				r.t.Errorf("the verdict %v twice", now)
			}
			r.now = now
			r.verdicts = append(r.verdicts, r.rig.now.Sub(zeroTime))
		}
	}
}

func (r *answeringRig) clock() time.Time { return r.rig.now }

// The mapping system answers as soon as one map-resolver does, for as long as one
// does, and is missed within 13 s. What is asked for is an address out of the
// EID-prefixes, another each time, and leaves nothing in the map-cache.
func TestAnswering(t *testing.T) {
	r := newAnsweringRig(t, func(c *Config) { c.Rand = rand.Reader })
	r.delay = 30 * time.Millisecond
	r.start()
	r.run(time.Second)
	if !r.now || len(r.verdicts) != 1 || len(r.asked) != 2 {
		t.Fatalf("at the start: %v at %v, %d questions", r.now, r.verdicts, len(r.asked))
	}
	r.silent[mr1] = true
	r.run(5 * time.Minute)
	if !r.now || len(r.verdicts) != 1 {
		t.Fatalf("one map-resolver answers: %v at %v", r.now, r.verdicts)
	}
	var eids []mapping.EID
	for _, s := range r.asked {
		_, m := mapRequest(t, s.data)
		e := asked(t, m)
		if !m.PITR || m.SourceEID.AFI() != 0 || !e.IsHost() || !slices.ContainsFunc(r.m.cfg.ProxyITR, func(p mapping.EID) bool { return p.Covers(e) }) {
			t.Errorf("asked for %v: %+v", e, m)
		}
		eids = append(eids, e)
	}
	slices.SortFunc(eids, mapping.EID.Compare)
	if n := len(slices.Compact(eids)); n < len(r.asked)/2-1 || len(r.asked) < 60 || len(r.asked) > 64 {
		t.Errorf("%d questions for %d addresses in 5 minutes", len(r.asked), n)
	}
	if got := r.cached(); len(got) > 0 {
		t.Errorf("map-cache %v", got)
	}
	if st := r.m.itr.resolvers.status(); st[0].Up || !st[1].Up {
		t.Errorf("map-resolvers %+v", st)
	}
	heard := r.m.answers.heard
	r.silent[mr2] = true
	r.run(time.Minute)
	if r.now || len(r.verdicts) != 2 {
		t.Fatalf("none answers: %v at %v", r.now, r.verdicts)
	}
	if after := zeroTime.Add(r.verdicts[1]).Sub(heard); after < answerInterval || after > 13*time.Second+50*time.Millisecond {
		t.Errorf("missed after %v", after)
	}
	n := len(r.asked)
	r.run(5 * time.Minute)
	if n := len(r.asked) - n; n > 200 {
		t.Errorf("%d questions to silence in 5 minutes", n)
	}
	r.check()
}

// After a loss answers are believed when there were some for a while, longer with
// each loss.
func TestAnsweringDamped(t *testing.T) {
	r := newAnsweringRig(t, nil)
	r.start()
	r.run(time.Second)
	var before time.Duration
	for i := range 4 {
		r.silent[mr1], r.silent[mr2] = true, true
		r.run(time.Minute)
		if r.now {
			t.Fatal("not lost")
		}
		r.silent = map[netip.AddrPort]bool{}
		r.run(5 * time.Minute)
		if !r.now {
			t.Fatal("not back")
		}
		hold := zeroTime.Add(r.verdicts[len(r.verdicts)-1]).Sub(zeroTime.Add(r.verdicts[len(r.verdicts)-2]))
		if i > 0 && hold < before+answerHold {
			t.Errorf("loss %d: back after %v, the time before after %v", i, hold, before)
		}
		before = hold
	}
	r.run(30 * time.Minute)
	r.silent[mr1], r.silent[mr2] = true, true
	r.run(time.Minute)
	r.silent = map[netip.AddrPort]bool{}
	n := len(r.verdicts)
	r.run(30 * time.Second)
	if len(r.verdicts) != n+1 {
		t.Error("a loss after long is damped by those before")
	}
	// Answers that end while they are held are no answers.
	r.silent[mr1], r.silent[mr2] = true, true
	r.run(time.Minute)
	r.silent = map[netip.AddrPort]bool{}
	r.run(10 * time.Second)
	r.silent[mr1], r.silent[mr2] = true, true
	n = len(r.verdicts)
	r.run(5 * time.Minute)
	if r.now || len(r.verdicts) != n {
		t.Errorf("a few answers: %v", r.now)
	}
}

// Answers that take longer than the spacing of the rounds are answers; so are those
// to what hosts ask, and no question is put then.
func TestAnsweringOtherEvidence(t *testing.T) {
	r := newAnsweringRig(t, nil)
	r.delay = 2500 * time.Millisecond
	r.start()
	r.run(time.Minute)
	if !r.now || len(r.verdicts) != 1 {
		t.Errorf("slow answers: %v at %v", r.now, r.verdicts)
	}
	r.delay = 0
	n := r.stat(answeringQuestionsOut)
	for i := range 20 {
		r.miss(netip.AddrFrom4([4]byte{10, 9, byte(i), 1}), internet)
		r.run(5 * time.Second)
	}
	if got := r.stat(answeringQuestionsOut) - n; got > 4 {
		t.Errorf("%d questions while there is traffic", got)
	}
}

// Without an uplink that works nothing is served, and that is known at once.
func TestAnsweringWithoutUplink(t *testing.T) {
	r := newAnsweringRig(t, func(c *Config) {
		c.RLOCs, c.Uplinks = nil, []Uplink{{Name: "a", Up: true, Addrs: []netip.Addr{own4}}}
	})
	r.start()
	r.run(time.Second)
	if !r.now {
		t.Fatal("no answer")
	}
	if err := r.m.setUplinks(r.rig.now, []Uplink{{Name: "a", Addrs: []netip.Addr{own4}}}); err != nil {
		t.Fatal(err)
	}
	r.until(r.clock().Sub(zeroTime))
	if now, changed := r.m.answers.take(); now || !changed {
		t.Error("without a carrier the mapping system is said to answer")
	}
}

// Where LISP-SEC is required, a reply that nobody signed is no answer.
func TestAnsweringProtected(t *testing.T) {
	r := newAnsweringRig(t, func(c *Config) {
		key := auth.WrapKey{ID: 1, Secret: []byte("shared with the map-resolver")}
		c.LISPSec = LISPSec{Policy: auth.SecurityRequired, ResolverKeys: map[netip.AddrPort]auth.WrapKey{mr1: key, mr2: key}}
	})
	r.start()
	r.run(time.Minute)
	if r.now || len(r.verdicts) != 1 || r.stat(mapRepliesForged) == 0 {
		t.Errorf("%v at %v, %d replies refused", r.now, r.verdicts, r.stat(mapRepliesForged))
	}
	for _, s := range r.asked {
		var e wire.ECM
		if err := e.Decode(s.data); err != nil || !e.Security {
			t.Fatalf("a question without protection: %v", err)
		}
	}
}

// Nobody who does not want to know causes Map-Requests.
func TestAnsweringOff(t *testing.T) {
	r := newAnsweringRig(t, func(c *Config) { c.OnAnswering = nil })
	r.start()
	r.run(5 * time.Minute)
	if len(r.asked) != 0 || len(r.verdicts) != 0 {
		t.Errorf("%d questions", len(r.asked))
	}
}
