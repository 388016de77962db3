package config

import "github.com/eidolon-lisp/eidolon/mapping/auth"

// XTRPubSub is how an xTR subscribes to mappings (RFC 9437).
type XTRPubSub struct {
	// Key is shared with the mapping system.
	Key auth.Key `json:"-"`
	// AcceptUnsolicited takes publications that the xTR did not subscribe to.
	AcceptUnsolicited bool
}

// readPubSub reads pubsub of an xTR, which needs an xtr_id.
func (c *XTR) readPubSub(v value, id value) {
	o, ok := v.object()
	if !ok {
		return
	}
	key, keyOK := o.need("authentication_key", wantKey).authenticationKey()
	p := &XTRPubSub{Key: key, AcceptUnsolicited: o.get("accept_unsolicited").boolean(false)}
	o.end()
	if !id.given() {
		v.fail("found without an xtr_id, by which a map-server knows its subscribers; expected xtr_id: 32 hexadecimal digits")
	}
	if keyOK {
		c.PubSub = p
	}
}
