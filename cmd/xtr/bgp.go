package main

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"github.com/eidolon-lisp/eidolon/api"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
	"github.com/eidolon-lisp/eidolon/mapping/bgp/speaker"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// bgpSpeaker announces what the proxy-ITR attracts, and to the site what it
// reaches by this router, while the mapping system tells where it has to go. It
// is nil for an xTR that speaks no BGP.
type bgpSpeaker struct {
	*speaker.Speaker
	cfg *config.BGP
	log *slog.Logger

	mu      sync.Mutex
	answers bool
	mapped  map[netip.Prefix]bool // of the map-cache, with locators
	waiting map[netip.Prefix]bool // the same, for which there is no room
}

// newSpeaker returns the speaker, which tells routes what it hears.
func newSpeaker(cfg *config.XTR, routes func([]bgp.Received), log *slog.Logger) (*bgpSpeaker, error) {
	if cfg.BGP == nil {
		return nil, nil
	}
	c := cfg.BGP.Config
	c.Logger = log
	if len(cfg.Learned) > 0 {
		c.OnRoutes = routes
	}
	s, err := speaker.New(c)
	if err != nil {
		return nil, err
	}
	b := &bgpSpeaker{Speaker: s, cfg: cfg.BGP, log: log, mapped: make(map[netip.Prefix]bool), waiting: make(map[netip.Prefix]bool)}
	if len(b.fixed()) == 0 {
		s.Ready()
	}
	return b, nil
}

// fixed is what is announced while the mapping system answers.
func (s *bgpSpeaker) fixed() []bgp.Route { return slices.Concat(s.cfg.Announce, s.cfg.Originate) }

// wanted is all that is to be announced while the mapping system answers, with s.mu
// held.
func (s *bgpSpeaker) wanted() []bgp.Route {
	list := s.fixed()
	for p := range s.mapped {
		list = append(list, s.mappedRoute(p))
	}
	return list
}

func (s *bgpSpeaker) mappedRoute(p netip.Prefix) bgp.Route {
	r := *s.cfg.OriginateMapped
	r.Prefix = p
	return r
}

// answering announces or withdraws as the mapping system answers or does not.
func (s *bgpSpeaker) answering(answers bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = answers
	list := s.wanted()
	if !answers {
		prefixes := make([]netip.Prefix, len(list))
		for i, r := range list {
			prefixes[i] = r.Prefix
		}
		s.Withdraw(prefixes)
		return
	}
	if err := s.Announce(list); err != nil {
		s.log.Error("nothing is announced in bgp", "err", err)
	}
	s.Ready()
}

// cached takes changes of the map-cache: an EID-prefix that has locators is
// announced to the site, if that is configured, and withdrawn when it has none
// any more. What is announced anyway stays as it is; what there is no room for waits
// until there is, and the site follows a shorter prefix.
func (s *bgpSpeaker) cached(changes []mapping.CacheChange) {
	if s == nil || s.cfg.OriginateMapped == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fixed := s.fixed()
	var fresh []bgp.Route
	var gone []netip.Prefix
	for _, c := range changes {
		p := c.EID.Prefix
		if c.EID.IID != 0 || c.EID.Source.IsValid() || slices.ContainsFunc(fixed, func(r bgp.Route) bool { return r.Prefix == p }) {
			continue
		}
		switch has := c.Record != nil && len(c.Record.Locators) > 0; {
		case has && !s.mapped[p]:
			s.waiting[p] = true
		case !has && s.mapped[p]:
			delete(s.mapped, p)
			gone = append(gone, p)
		case !has:
			delete(s.waiting, p)
		}
	}
	for p := range s.waiting {
		if len(s.mapped) >= s.cfg.MaxMapped {
			break
		}
		delete(s.waiting, p)
		s.mapped[p] = true
		fresh = append(fresh, s.mappedRoute(p))
	}
	if !s.answers {
		return
	}
	if len(gone) > 0 {
		s.Withdraw(gone)
	}
	if len(fresh) > 0 {
		if err := s.Announce(fresh); err != nil {
			s.log.Error("mapped EID-prefixes are not announced in bgp", "err", err)
		}
	}
}

// run has the sessions until ctx ends.
func (s *bgpSpeaker) run(ctx context.Context) error {
	if s == nil {
		return nil
	}
	return s.Run(ctx)
}

// neighbours is what metrics ask; nil without BGP.
func (s *bgpSpeaker) neighbours() func() ([]bgp.NeighbourStatus, error) {
	if s == nil {
		return nil
	}
	return s.Neighbours
}

// view is what the API shows; nil without BGP.
func (s *bgpSpeaker) view(x *xtr.XTR, learned func() []bgp.Learned) *api.BGPView {
	if s == nil {
		return nil
	}
	return &api.BGPView{
		AS: s.cfg.Config.AS, RouterID: s.cfg.Config.RouterID, Announced: s.Announced,
		Announce: func() []bgp.Route {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.wanted()
		},
		Neighbours: s.Neighbours, Answering: x.Answering, Learned: learned,
	}
}
