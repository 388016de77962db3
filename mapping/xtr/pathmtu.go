package xtr

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// PathMTU says how large packets to a remote RLOC may be, outer headers
// included, in octets.
type PathMTU struct {
	Remote netip.Addr
	// MTU is what is in use, or what was found.
	MTU int
	// Limit is what the route allows. It is for XTR.PathMTUs only.
	Limit int
}

// Choices of our own.
const (
	// mtuSettle is how long a path is in use before it is measured; mtuRound is
	// the time between two measurements, less than the ten minutes after which
	// planes forget what was found. Where nobody answers, it grows to
	// mtuRoundMax.
	mtuSettle   = 2 * time.Second
	mtuRound    = 7 * time.Minute
	mtuRoundMax = 2 * time.Hour
	// mtuPace is the time between the beginnings of two measurements, and
	// mtuTries how many probes of a size have to be lost.
	mtuPace  = time.Second
	mtuTries = 3
	// mtuSpacing is the least time between two probes of a path: more often than
	// once a second an ETR does not answer, and takes them for a suspicion.
	mtuSpacing = 1200 * time.Millisecond
	// mtuBusy is how long a path that is suspect, or down, is left alone.
	mtuBusy = 3 * time.Second
	// mtuFloor4 and mtuFloor6 are what is never undercut, as in the planes.
	mtuFloor4 = 576
	mtuFloor6 = 1280
)

// plateaus are the sizes that are tried when the whole does not pass: those of
// RFC 1191 section 7.1 and of common tunnels.
var plateaus = [...]int{576, 1006, 1280, 1320, 1360, 1380, 1400, 1420, 1440, 1452, 1460, 1472, 1480, 1492, 1500, 2002, 4352, 8166, 9000}

// pathMTUs finds out where packets that are too big vanish without a message,
// because somebody filters ICMP. A probe of the size of the path MTU, padded
// behind its end, is sent on each path in use; when it is answered, all is well.
// When three are not, a small one tells whether the path is down, or the peer
// does not answer padded probes: then nothing follows. If it is answered, the
// largest size that passes is searched for, and then told to the planes: not one
// too small before, which hosts would remember for minutes.
type pathMTUs struct {
	part
	probes *prober
	tests  map[Path]*mtuTest
	nonces map[uint64]*mtuTest
	slot   time.Time // no beginning before
	wake   time.Time // when one of tests is due; zero if there is none
	found  []PathMTU
}

// mtuTest is the measurement of one path.
type mtuTest struct {
	path  Path
	at    time.Time // when it begins, or the probe has gone without a reply
	every time.Duration
	limit int // of the route
	use   int // what the planes use
	known int // what was found to pass, less than limit; 0 if there is no need

	slotted bool // at is a time to begin that nobody else has
	phase   mtuPhase
	size    int // that is tried; 0 when it does not run
	low     int // that passes
	high    int // that does not
	tries   int
	nonce   uint64
	eid     mapping.EID
	sent    time.Time
}

type mtuPhase uint8

const (
	mtuWhole  mtuPhase = iota // what should pass
	mtuAgain                  // what was found the last time
	mtuLowest                 // what passes if anything does
	mtuSearch                 // what is between
)

func newPathMTUs(c *core, probes *prober) *pathMTUs {
	return &pathMTUs{part: c.part(LogProbe), probes: probes, tests: make(map[Path]*mtuTest), nonces: make(map[uint64]*mtuTest)}
}

// inUse takes what the planes use now.
func (p *pathMTUs) inUse(now time.Time, list []PathMTU) {
	if p.cfg.RLOCProbing.Off {
		return
	}
	for path, t := range p.tests {
		if p.probes.paths[path] == nil {
			p.quiet(t)
			delete(p.tests, path)
		}
	}
	for _, m := range list {
		for _, r := range p.probes.remotes[m.Remote] {
			path := Path{r.local, r.addr}
			t := p.tests[path]
			if t == nil {
				t = &mtuTest{path: path, at: now.Add(mtuSettle), every: mtuRound}
				p.tests[path] = t
			}
			t.use, t.limit = m.MTU, m.Limit
		}
	}
	p.rest()
}

// rest computes when the next test is due.
func (p *pathMTUs) rest() {
	p.wake = time.Time{}
	if t := p.first(); t != nil {
		p.wake = t.at
	}
}

// first returns the test that is due first.
func (p *pathMTUs) first() (first *mtuTest) {
	for _, t := range p.tests {
		if first == nil || cmp.Or(t.at.Compare(first.at), t.path.Remote.Compare(first.path.Remote), t.path.Local.Compare(first.path.Local)) < 0 {
			first = t
		}
	}
	return first
}

func (p *pathMTUs) next() (t time.Time, ok bool) { return p.wake, !p.wake.IsZero() }

func (p *pathMTUs) advance(now time.Time) {
	for !p.wake.IsZero() && !p.wake.After(now) {
		p.fire(now, p.first())
		p.rest()
	}
}

func (p *pathMTUs) fire(now time.Time, t *mtuTest) {
	r := p.probes.paths[t.path]
	switch {
	case r == nil:
		p.quiet(t)
		delete(p.tests, t.path)
	case t.size == 0 && !t.slotted && p.slot.After(now):
		t.at, t.slotted = p.slot, true
		p.slot = p.slot.Add(mtuPace)
	case t.size == 0:
		if !t.slotted {
			p.slot = now.Add(mtuPace)
		}
		t.slotted = false
		if r.down || r.suspect || r.failures > 0 {
			t.at = now.Add(mtuBusy)
			return
		}
		if t.known >= t.limit {
			t.known = 0
		}
		if t.high = t.use; t.known > 0 {
			t.high = t.limit
		}
		if t.high <= t.floor() {
			p.end(now, t, mtuRound)
			return
		}
		p.try(now, t, mtuWhole, t.high)
	case t.tries < mtuTries:
		p.probe(now, t)
	default:
		p.result(now, t, false)
	}
}

func (t *mtuTest) floor() int {
	if t.path.Remote.Is4() {
		return mtuFloor4
	}
	return mtuFloor6
}

// try begins with probes of a size, when it is time.
func (p *pathMTUs) try(now time.Time, t *mtuTest, phase mtuPhase, size int) {
	t.phase, t.size, t.tries = phase, size, 0
	if t.at = t.sent.Add(mtuSpacing); !t.at.After(now) {
		p.probe(now, t)
	}
}

// quiet forgets the probe that is on its way.
func (p *pathMTUs) quiet(t *mtuTest) {
	if p.nonces[t.nonce] == t {
		delete(p.nonces, t.nonce)
	}
}

// end lets t rest.
func (p *pathMTUs) end(now time.Time, t *mtuTest, every time.Duration) {
	t.size, t.every, t.at = 0, every, now.Add(p.probes.jitter(every))
}

// probe sends one, as prober.probe does, of the size that is tried.
func (p *pathMTUs) probe(now time.Time, t *mtuTest) {
	p.quiet(t)
	t.tries++
	r := p.probes.paths[t.path]
	t.sent, t.at = now, now.Add(max(p.probes.patience(r), mtuSpacing))
	eid, ok := p.probes.eid(r)
	nonce, err := p.nonce()
	if !ok || err != nil || p.nonces[nonce] != nil {
		return
	}
	msg, ok := p.encode(&wire.MapRequest{
		Probe:    true,
		Nonce:    nonce,
		ITRRLOCs: []wire.Address{wire.IPAddress(t.path.Local)},
		EIDs:     []wire.RequestRecord{wire.NewRequestRecord(eid)},
	})
	if !ok {
		return
	}
	// A reader of the message stops at its end, and does not see the padding.
	msg = append(msg, make([]byte, max(t.size-onWire(len(msg), t.path.Remote), 0))...)
	t.nonce, t.eid = nonce, eid
	p.nonces[nonce] = t
	p.stats.inc(pathMTUProbesOut)
	p.send(netip.AddrPortFrom(t.path.Local, p.cfg.Port), netip.AddrPortFrom(t.path.Remote, wire.Port), msg)
}

// reply handles a Map-Reply, if its nonce is that of a probe.
func (p *pathMTUs) reply(now time.Time, msg []byte, from netip.AddrPort) (handled bool) {
	nonce, _ := wire.PeekNonce(msg)
	t := p.nonces[nonce]
	if t == nil {
		return false
	}
	p.stats.inc(mapRepliesIn)
	var m wire.MapReply
	if err := m.Decode(msg); err != nil {
		p.refuse(now, controlMalformed, from, err)
		return true
	}
	r := p.probes.paths[t.path]
	if r == nil {
		return true
	}
	if of, ok := p.probes.answered(outstandingProbe{r, t.eid, t.sent}, &m); !ok || of != r {
		p.stats.inc(rlocProbeRepliesRefused)
		return true
	}
	p.stats.inc(pathMTUProbesAnswered)
	p.result(now, t, true)
	p.rest()
	return true
}

// result goes on after a size was found to pass or not.
func (p *pathMTUs) result(now time.Time, t *mtuTest, passes bool) {
	p.quiet(t)
	switch {
	case t.phase == mtuWhole && passes:
		if t.known > 0 {
			t.known = 0
			p.log.Info("packets of full size pass again", "rloc", t.path.Remote, "from", t.path.Local, "mtu", t.size)
			p.tell(t)
		}
		p.end(now, t, mtuRound)
	case t.phase == mtuWhole && t.known > 0:
		p.try(now, t, mtuAgain, t.known)
	case t.phase == mtuWhole, t.phase == mtuAgain && !passes:
		p.try(now, t, mtuLowest, t.floor())
	case t.phase == mtuAgain:
		p.tell(t) // so that it is not forgotten
		p.end(now, t, mtuRound)
	case t.phase == mtuLowest && !passes:
		p.end(now, t, min(2*t.every, mtuRoundMax))
	default:
		if t.phase == mtuLowest {
			p.stats.inc(pathMTUsLowered)
			p.log.Warn("large packets vanish without an ICMP message", "rloc", t.path.Remote, "from", t.path.Local, "size", t.high)
		}
		if passes {
			t.low = t.size
		} else {
			t.high = t.size
		}
		if size := t.between(); size > 0 {
			p.try(now, t, mtuSearch, size)
			return
		}
		t.known = t.low
		p.tell(t)
		p.log.Info("path MTU found", "rloc", t.path.Remote, "from", t.path.Local, "mtu", t.known)
		p.end(now, t, mtuRound)
	}
}

// between returns the middle one of the sizes that are left to be tried; 0 when
// there is none.
func (t *mtuTest) between() int {
	low, high := 0, 0
	for high < len(plateaus) && plateaus[high] < t.high {
		high++
	}
	for low < high && plateaus[low] <= t.low {
		low++
	}
	if low == high {
		return 0
	}
	return plateaus[(low+high)/2]
}

// tell reports what passes on all paths to the remote end of t.
func (p *pathMTUs) tell(t *mtuTest) {
	mtu := t.limit
	for _, r := range p.probes.remotes[t.path.Remote] {
		if o := p.tests[Path{r.local, r.addr}]; o != nil && o.known > 0 {
			mtu = min(mtu, o.known)
		}
	}
	p.found = append(p.found, PathMTU{Remote: t.path.Remote, MTU: mtu})
}
