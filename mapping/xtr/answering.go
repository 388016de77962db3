package xtr

import (
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// answering finds out whether the mapping system answers this xTR, for who
// attracts packets only while it can find out where they have to go. What real
// questions get shows it too. When nothing was answered for answerInterval, each
// map-resolver is asked for an address that nobody wants, drawn at random out of
// the EID-prefixes, so that a site that is silent is not taken for the mapping
// system; any Map-Reply will do, and goes nowhere. Three rounds without one, a
// second apart, or no uplink to ask by, end it: so it is known after 13 s at most.
// It is over when there were answers for some time, longer with each end.
type answering struct {
	part
	itr      *itr
	now      bool // the verdict
	known    bool // there was one
	changed  bool // it is to be told
	since    time.Time
	heard    time.Time // the last answer
	at       time.Time // when to do something
	waiting  bool      // for answers to a round
	rounds   int       // in a row without an answer
	held     time.Time // not to be over before, zero if it is not held
	losses   int       // in a row, each within answerFlap of the last
	turn     int       // which EID-prefix
	question map[uint64]*question
}

// question is a Map-Request that no packet waits for.
type question struct {
	resolver *resolver
	at       time.Time
	late     bool // counted as one without an answer
	secure   *protection
}

func newAnswering(c *core, i *itr) *answering {
	return &answering{part: c.part(LogResolve), itr: i, question: make(map[uint64]*question)}
}

// on reports whether anybody wants to know.
func (a *answering) on() bool { return a.cfg.OnAnswering != nil && len(a.cfg.MapResolvers) > 0 }

func (a *answering) next() (time.Time, bool) {
	t := a.at
	if a.now && a.isolated() {
		t = time.Time{}
	}
	if !a.held.IsZero() && a.held.Before(t) {
		t = a.held
	}
	return t, a.on()
}

// isolated reports whether there is no uplink to ask by.
func (a *answering) isolated() bool { return !slices.ContainsFunc(a.locals.list, (*localRLOC).alive) }

func (a *answering) advance(now time.Time) {
	if !a.on() {
		return
	}
	if a.now && a.isolated() {
		a.lose(now, "no uplink works")
	}
	if !a.held.IsZero() && !now.Before(a.held) {
		a.held = time.Time{}
		a.gain(now)
	}
	if now.Before(a.at) {
		return
	}
	for _, q := range a.question {
		if !q.late {
			q.late = true
			q.resolver.unanswered(now)
		}
	}
	if a.waiting {
		a.waiting = false
		a.stats.inc(answeringRoundsLost)
		if a.rounds++; a.rounds >= answerRounds {
			a.rounds = 0
			a.lose(now, "no map-resolver answers")
			a.at = now.Add(answerInterval - answerRounds*answerRetry)
			return
		}
	}
	a.waiting = true
	a.ask(now)
	a.at = now.Add(answerRetry)
}

// heardOf notes an answer of the mapping system to anything.
func (a *answering) heardOf(now time.Time) {
	if !a.on() {
		return
	}
	a.heard, a.rounds, a.at = now, 0, now.Add(answerInterval)
	a.waiting = false
	switch {
	case a.now || !a.held.IsZero():
	case !a.known:
		a.gain(now)
	default:
		a.held = now.Add(min(answerHold<<(a.losses-1), answerHoldMax))
		a.log.Info("the mapping system answers again", "used_at", a.held)
	}
}

func (a *answering) gain(now time.Time) {
	a.now, a.known, a.changed, a.since = true, true, true, now
	a.log.Info("the mapping system answers")
}

func (a *answering) lose(now time.Time, why string) {
	a.held = time.Time{}
	if a.known && !a.now {
		return
	}
	if a.known && now.Sub(a.since) > answerFlap {
		a.losses = 0
	}
	a.losses = min(a.losses+1, 16)
	if a.now {
		a.stats.inc(answeringLost)
	}
	a.now, a.known, a.changed, a.since = false, true, true, now
	a.log.Warn("the mapping system does not answer", "why", why, "last_answer", a.heard)
}

// ask puts a question to each map-resolver.
func (a *answering) ask(now time.Time) {
	if a.rounds == 0 { // a new test; late answers to this one count
		clear(a.question)
	}
	eid, err := a.draw()
	if err != nil {
		a.stats.inc(sendErrors)
		a.log.Error("the mapping system is not asked", "err", err)
		return
	}
	for _, r := range a.itr.resolvers.list {
		nonce, err := a.nonce()
		q := &question{resolver: r, at: now}
		var security []byte
		if key := a.cfg.LISPSec.ResolverKeys[r.addr]; err == nil && a.cfg.LISPSec.policy(eid.IID) == auth.SecurityRequired {
			q.secure, security, err = newProtection(a.cfg.Rand, key, nonce, algorithms[0].hmac, algorithms[0].kdf)
		}
		if err != nil {
			a.stats.inc(sendErrors)
			a.log.Error("the mapping system is not asked", "map_resolver", r.addr, "err", err)
			continue
		}
		a.question[nonce] = q
		req := wire.MapRequest{
			Nonce: nonce, ITRRLOCs: a.itrRLOCs, EIDs: []wire.RequestRecord{wire.NewRequestRecord(eid)},
			PITR: len(a.cfg.ProxyITR) > 0,
		}
		dst := eid.Prefix.Addr()
		src := netip.AddrPortFrom(a.itr.innerSource(&query{eid: eid}, dst), a.cfg.Port)
		if a.itr.sendRequest(&req, r, a.rounds, src, netip.AddrPortFrom(dst, wire.Port), security) {
			a.stats.inc(answeringQuestionsOut)
		}
	}
}

// draw returns an address of one of the EID-prefixes, of each in turn.
func (a *answering) draw() (mapping.EID, error) {
	list := a.cfg.ProxyITR
	if len(list) == 0 {
		list = a.cfg.elsewhere()
	}
	e := list[a.turn%len(list)]
	a.turn++
	var chance [16]byte
	if _, err := io.ReadFull(a.cfg.Rand, chance[:]); err != nil {
		return mapping.EID{}, err
	}
	host := e.Prefix.Addr().AsSlice()
	for i := range host {
		kept := min(max(e.Prefix.Bits()-8*i, 0), 8)
		host[i] |= chance[i] & (0xff >> kept)
	}
	addr, _ := netip.AddrFromSlice(host)
	return mapping.HostEID(e.IID, addr), nil
}

// elsewhere returns prefixes of EIDs that are likely not of the site, one for each
// of its instances and address families: it is no matter whose they are.
func (c *Config) elsewhere() (list []mapping.EID) {
	for _, d := range c.Databases {
		e := mapping.EID{IID: d.EID.IID, Prefix: netip.MustParsePrefix("2000::/3")}
		if d.EID.Prefix.Addr().Is4() {
			e.Prefix = netip.MustParsePrefix("64.0.0.0/2")
		}
		if !slices.Contains(list, e) {
			list = append(list, e)
		}
	}
	if len(list) == 0 {
		list = []mapping.EID{{Prefix: netip.MustParsePrefix("2000::/3")}}
	}
	return list
}

// reply takes a Map-Reply to a question; ours is false for one to anything else.
func (a *answering) reply(now time.Time, msg []byte, from netip.AddrPort) (ours bool) {
	nonce, _ := wire.PeekNonce(msg)
	q, ours := a.question[nonce]
	if !ours {
		return false
	}
	a.stats.inc(mapRepliesIn)
	var m wire.MapReply
	if err := m.Decode(msg); err != nil {
		a.refuse(now, controlMalformed, from, err)
		return true
	}
	if q.secure != nil { // what nobody signed could be from anybody
		if _, err := q.secure.verify(msg, &m); err != nil && err != errAlgorithms {
			a.refuse(now, mapRepliesForged, from, err)
			return true
		}
	}
	delete(a.question, nonce)
	q.resolver.answered(now, now.Sub(q.at))
	a.heardOf(now)
	return true
}

// take returns the verdict if it is to be told.
func (a *answering) take() (now, changed bool) {
	changed, a.changed = a.changed, false
	return a.now, changed
}

// Answering says whether the mapping system answers this xTR.
type Answering struct {
	// Watched is false where nobody wants to know; then the rest is zero.
	Watched bool
	// Now is the verdict, false while there is none, and Since when it came.
	Now   bool
	Since time.Time
	// LastAnswer is when a map-resolver was last heard of; zero if never.
	LastAnswer time.Time
	// Held is when answers that came again are believed; zero if there is nothing
	// to wait for.
	Held time.Time
}

// Answering returns whether the mapping system answers.
func (x *XTR) Answering() Answering {
	x.mu.Lock()
	defer x.mu.Unlock()
	a := x.m.answers
	if !a.on() {
		return Answering{}
	}
	return Answering{Watched: true, Now: a.now, Since: a.since, LastAnswer: a.heard, Held: a.held}
}
