package bgp

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Defaults of Learning.
const (
	DefaultMaxLearned    = 100
	DefaultWithdrawDelay = 30 * time.Second
	// maxRefused bounds what is remembered, to be shown, of refused prefixes.
	maxRefused = 1000
)

// Rule says which prefixes of the site's neighbours are EID-prefixes.
type Rule struct {
	// Prefix holds what is accepted, which is MinBits to MaxBits long.
	Prefix           netip.Prefix
	MinBits, MaxBits int
	// Max is how many prefixes the rule accepts; 0 is DefaultMaxLearned.
	Max int
}

// Refusal says why a prefix is no EID-prefix.
type Refusal uint8

const (
	Accepted Refusal = iota
	// RefusedDefault: a default route holds everybody's addresses.
	RefusedDefault
	// RefusedFilter: it is in no rule.
	RefusedFilter
	// RefusedLength: it is in a rule, and shorter or longer than that allows.
	RefusedLength
	// RefusedUnderlay: it holds an address of the underlay, of this router or of
	// a server that it needs (RFC 9301 section 8.1).
	RefusedUnderlay
	// RefusedConfigured: it is one of those that are configured.
	RefusedConfigured
	// RefusedTooMany: the rule has accepted as many as it may.
	RefusedTooMany
	numRefusals
)

var refusals = [...]string{"accepted", "default_route", "outside_filter", "length", "underlay", "configured", "too_many"}

// String returns the stable name of counters and of the API.
func (r Refusal) String() string {
	if int(r) < len(refusals) {
		return refusals[r]
	}
	return "unknown"
}

// Refusals are all reasons, but for Accepted.
func Refusals() (list []Refusal) {
	for r := Accepted + 1; r < numRefusals; r++ {
		list = append(list, r)
	}
	return list
}

// LearnConfig is what a Learner needs.
type LearnConfig struct {
	Rules []Rule
	// Underlay are addresses that no EID-prefix may hold, and Configured prefixes
	// that none may be.
	Underlay   []netip.Addr
	Configured []netip.Prefix
	// WithdrawDelay is how long a prefix stays an EID-prefix after its neighbours
	// have withdrawn it, because the session broke or a router began anew.
	WithdrawDelay time.Duration
}

// Learned is a prefix that neighbours announce.
type Learned struct {
	Prefix   netip.Prefix
	From     netip.Addr // the neighbour of the best route
	OriginAS uint32
	Rule     int // index of the rule that accepts it; -1 when none does
	Refusal  Refusal
	Since    time.Time // it was first announced
	// Leaving is when it is given up, since it is withdrawn; zero if it is not.
	Leaving time.Time
}

// Learner makes EID-prefixes of what the neighbours announce. It is a pure
// machine: time comes in. It is not safe for concurrent use.
type Learner struct {
	cfg     LearnConfig
	known   map[netip.Prefix]*Learned // accepted, and refused up to maxRefused
	counts  []int                     // accepted by rule
	refused [numRefusals]uint64
}

// NewLearner returns a learner that knows nothing. Rules come in the order in
// which they are tried; the most specific that holds a prefix is used.
func NewLearner(cfg LearnConfig) *Learner {
	return &Learner{cfg: cfg, known: make(map[netip.Prefix]*Learned), counts: make([]int, len(cfg.Rules))}
}

// Routes takes what the speaker has received, and reports whether the accepted
// prefixes are others than before.
func (l *Learner) Routes(now time.Time, list []Received) (changed bool) {
	for _, r := range list {
		if r.Withdrawn {
			l.withdrawn(now, r.Prefix)
		} else if l.announced(now, r) {
			changed = true
		}
	}
	return l.Advance(now) || changed
}

func (l *Learner) announced(now time.Time, r Received) (accepted bool) {
	if x := l.known[r.Prefix]; x != nil {
		x.From, x.OriginAS, x.Leaving = r.From, r.OriginAS, time.Time{}
		return x.Refusal != Accepted && l.again(x)
	}
	x := &Learned{Prefix: r.Prefix, From: r.From, OriginAS: r.OriginAS, Since: now}
	x.Rule, x.Refusal = l.judge(r.Prefix)
	if x.Refusal == Accepted {
		l.counts[x.Rule]++
		l.known[r.Prefix] = x
		return true
	}
	l.refused[x.Refusal]++
	if len(l.known)-l.accepted() < maxRefused {
		l.known[r.Prefix] = x
	}
	return false
}

func (l *Learner) withdrawn(now time.Time, p netip.Prefix) {
	x := l.known[p]
	switch {
	case x == nil:
	case x.Refusal != Accepted:
		delete(l.known, p)
	case x.Leaving.IsZero():
		x.Leaving = now.Add(l.cfg.WithdrawDelay)
	}
}

// judge finds the rule of a prefix, or the reason why it is none of the site.
func (l *Learner) judge(p netip.Prefix) (rule int, why Refusal) {
	if p.Bits() == 0 {
		return -1, RefusedDefault
	}
	rule, why = -1, RefusedFilter
	for i, r := range l.cfg.Rules {
		if r.Prefix.Bits() > p.Bits() || !r.Prefix.Contains(p.Addr()) {
			continue
		}
		if p.Bits() < r.MinBits || p.Bits() > r.MaxBits {
			if rule < 0 {
				why = RefusedLength
			}
			continue
		}
		if rule < 0 || r.Prefix.Bits() > l.cfg.Rules[rule].Prefix.Bits() {
			rule = i
		}
	}
	if rule < 0 {
		return -1, why
	}
	switch {
	case slices.ContainsFunc(l.cfg.Underlay, p.Contains):
		return -1, RefusedUnderlay
	case slices.Contains(l.cfg.Configured, p):
		return -1, RefusedConfigured
	case l.counts[rule] >= cmp.Or(l.cfg.Rules[rule].Max, DefaultMaxLearned):
		return -1, RefusedTooMany
	}
	return rule, Accepted
}

// Advance gives up prefixes whose time is over, and accepts in their place what
// there was no room for; it reports whether the accepted prefixes are others
// than before.
func (l *Learner) Advance(now time.Time) (changed bool) {
	for p, x := range l.known {
		if !x.Leaving.IsZero() && !now.Before(x.Leaving) {
			l.counts[x.Rule]--
			delete(l.known, p)
			changed = true
		}
	}
	if changed {
		l.admit()
	}
	return changed
}

// admit judges what was refused anew, in order, as there may be room for it now.
func (l *Learner) admit() (changed bool) {
	for _, x := range l.List() {
		if x.Refusal == RefusedTooMany || x.Refusal == RefusedUnderlay || x.Refusal == RefusedConfigured {
			changed = l.again(l.known[x.Prefix]) || changed
		}
	}
	return changed
}

// again judges a prefix that was refused, and reports whether it is accepted.
func (l *Learner) again(x *Learned) bool {
	rule, why := l.judge(x.Prefix)
	x.Rule, x.Refusal = rule, why
	if why == Accepted {
		l.counts[rule]++
	}
	return why == Accepted
}

// Next is when Advance has something to do; zero if nothing is waited for.
func (l *Learner) Next() (next time.Time) {
	for _, x := range l.known {
		if !x.Leaving.IsZero() && (next.IsZero() || x.Leaving.Before(next)) {
			next = x.Leaving
		}
	}
	return next
}

// SetUnderlay replaces LearnConfig.Underlay, and reports whether the accepted
// prefixes are others than before: what holds one of the addresses is given up, and
// what was refused for others, or for want of room, may be accepted now.
func (l *Learner) SetUnderlay(addrs []netip.Addr) (changed bool) {
	l.cfg.Underlay = slices.Clone(addrs)
	return l.giveUp(RefusedUnderlay, func(p netip.Prefix) bool { return slices.ContainsFunc(l.cfg.Underlay, p.Contains) })
}

// SetConfigured replaces LearnConfig.Configured, as SetUnderlay does with Underlay.
func (l *Learner) SetConfigured(prefixes []netip.Prefix) (changed bool) {
	l.cfg.Configured = slices.Clone(prefixes)
	return l.giveUp(RefusedConfigured, func(p netip.Prefix) bool { return slices.Contains(l.cfg.Configured, p) })
}

// giveUp refuses what was accepted and can't be any more, judges anew what was
// refused, and reports whether the accepted prefixes are others than before.
func (l *Learner) giveUp(why Refusal, gone func(netip.Prefix) bool) (changed bool) {
	for _, x := range l.known {
		if x.Refusal == Accepted && gone(x.Prefix) {
			l.counts[x.Rule]--
			x.Rule, x.Refusal, x.Leaving = -1, why, time.Time{}
			l.refused[why]++
			changed = true
		}
	}
	return l.admit() || changed
}

func (l *Learner) accepted() (n int) {
	for _, c := range l.counts {
		n += c
	}
	return n
}

// Accepted returns the EID-prefixes, in order, each with its rule.
func (l *Learner) Accepted() []Learned {
	return slices.DeleteFunc(l.List(), func(x Learned) bool { return x.Refusal != Accepted })
}

// List returns what is known, in order; of what was refused, up to 1000
// prefixes.
func (l *Learner) List() []Learned {
	list := make([]Learned, 0, len(l.known))
	for _, x := range l.known {
		list = append(list, *x)
	}
	slices.SortFunc(list, func(a, b Learned) int { return a.Prefix.Compare(b.Prefix) })
	return list
}

// Refused is how many announcements were refused for a reason.
func (l *Learner) Refused(r Refusal) uint64 { return l.refused[r] }
