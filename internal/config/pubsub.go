package config

import (
	"net/netip"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

// PubSub says who may subscribe to mappings (RFC 9437). Without subscribers
// nobody may.
type PubSub struct {
	Subscribers []Subscriber
	// MaxPerXTR bounds the subscriptions of one xTR.
	MaxPerXTR int
	// Rate is in new Map-Notifies a second.
	Rate int
}

// Subscriber is an xTR that may subscribe.
type Subscriber struct {
	XTRID  mapping.XTRID
	SiteID uint64
	// Key is shared with the xTR; without a secret its subscriptions are
	// refused.
	Key auth.Key `json:"-"`
	// ITRRLOCs are the prefixes that its locators must be in; none: any.
	ITRRLOCs []netip.Prefix
}

func (c *MapServer) readPubSub(v value) {
	c.PubSub.MaxPerXTR, c.PubSub.Rate = 16384, 2000
	o, ok := v.object()
	if !ok {
		return
	}
	c.PubSub.MaxPerXTR = int(o.get("max_subscriptions_per_xtr").integer(1, 1_000_000, 16384))
	c.PubSub.Rate = int(o.get("rate").integer(1, 1_000_000, 2000))
	seen := make(names[mapping.XTRID])
	for _, item := range o.get("subscribers").list("xTRs, each with xtr_id and authentication_key") {
		x, ok := item.object()
		if !ok {
			continue
		}
		at := x.need("xtr_id", "the xTR-ID, 32 hexadecimal digits")
		s := Subscriber{XTRID: at.xtrID(), SiteID: x.get("site_id").siteID()}
		if key := x.get("authentication_key"); key.given() {
			s.Key, _ = key.authenticationKey()
		}
		for _, p := range x.get("itr_rlocs").list("prefixes that its locators are in, such as 192.0.2.0/24") {
			if prefix, ok := p.prefix(); ok {
				s.ITRRLOCs = append(s.ITRRLOCs, prefix)
			}
		}
		x.end()
		if seen.add(s.XTRID, at, "xTR-ID") {
			c.PubSub.Subscribers = append(c.PubSub.Subscribers, s)
		}
	}
	o.end()
}
