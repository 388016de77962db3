package main

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/eidolon-lisp/eidolon/api"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/mapping/bgp/speaker"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// bgpSpeaker announces what the proxy-ITR attracts, while the mapping system tells
// where it has to go. It is nil for an xTR that speaks no BGP.
type bgpSpeaker struct {
	*speaker.Speaker
	cfg *config.BGP
	log *slog.Logger
}

func newSpeaker(cfg *config.XTR, log *slog.Logger) (*bgpSpeaker, error) {
	if cfg.BGP == nil {
		return nil, nil
	}
	c := cfg.BGP.Config
	c.Logger = log
	s, err := speaker.New(c)
	if err != nil {
		return nil, err
	}
	if len(cfg.BGP.Announce) == 0 {
		s.Ready()
	}
	return &bgpSpeaker{s, cfg.BGP, log}, nil
}

// answering announces or withdraws as the mapping system answers or does not.
func (s *bgpSpeaker) answering(answers bool) {
	if !answers {
		prefixes := make([]netip.Prefix, len(s.cfg.Announce))
		for i, r := range s.cfg.Announce {
			prefixes[i] = r.Prefix
		}
		s.Withdraw(prefixes)
		return
	}
	if err := s.Announce(s.cfg.Announce); err != nil {
		s.log.Error("nothing is announced in bgp", "err", err)
	}
	s.Ready()
}

// run has the sessions until ctx ends.
func (s *bgpSpeaker) run(ctx context.Context) error {
	if s == nil {
		return nil
	}
	return s.Run(ctx)
}

// view is what the API shows; nil without BGP.
func (s *bgpSpeaker) view(x *xtr.XTR) *api.BGPView {
	if s == nil {
		return nil
	}
	return &api.BGPView{
		AS: s.cfg.Config.AS, RouterID: s.cfg.Config.RouterID, Announce: s.cfg.Announce,
		Announced: s.Announced, Neighbours: s.Neighbours, Answering: x.Answering,
	}
}
