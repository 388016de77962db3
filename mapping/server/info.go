package server

import (
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// infoTTL is how long an xTR may rely on an Info-Reply, in minutes.
const infoTTL = 15

// info answers an Info-Request of the NAT-traversal drafts: an xTR asks what
// its address is here, and learns that packets come and go by the RLOC that it
// asked from. Others answer anybody; here it must be signed with a key of the
// site that its EID belongs to, so that the server is of no use to others. Like
// any answer it is within the limits for sources and for octets.
func (r *reader) info(now time.Time, msg []byte, src, dst netip.AddrPort) {
	s := r.s
	received := onWire(len(msg), src.Addr())
	var m wire.Info
	if err := m.Decode(msg); err != nil {
		s.malformed(now, err, src)
		return
	}
	if m.Reply { // for xTRs
		s.counters.inc(dropUnexpectedType)
		return
	}
	s.counters.inc(infoRequests)
	if !s.limiter.allow(s.age(now), src.Addr(), 1) {
		s.counters.inc(dropRateLimited)
		return
	}
	key, ok := r.infoKey(&m, msg)
	if !ok || src.Port() == 0 || checkRLOC(src.Addr(), src.Addr().IsLoopback()) != nil {
		s.counters.inc(dropInfoRefused)
		if s.mayLog(now) {
			s.log.Warn("message dropped", "reason", dropInfoRefused.String(), "src", src, "suppressed", s.suppressed.Swap(0))
		}
		return
	}
	var err error
	m.Reply, m.TTL, m.Auth = true, infoTTL, key.Template()
	m.Body, err = infoBody(src, dst)
	if err == nil {
		msg, err = m.AppendBinary(nil)
	}
	if err == nil {
		err = r.auth.Sign(msg, key)
	}
	if err != nil { // can't be: it is made of checked parts
		s.log.Error("info-reply could not be made", "err", err)
		return
	}
	if !s.credits.of(src.Addr()).spend(received, onWire(len(msg), src.Addr())) {
		s.counters.inc(dropAmplification)
		return
	}
	r.out = append(r.out, datagram{payload: msg, src: dst, dst: src})
	s.counters.inc(infoReplies)
}

// infoKey returns the key that an Info-Request is signed with.
func (r *reader) infoKey(m *wire.Info, msg []byte) (auth.Key, bool) {
	e, err := m.EID.EID(m.MaskLen)
	if err != nil {
		return auth.Key{}, false
	}
	p, why := r.s.sites.Load().admit(e)
	if why != 0 {
		return auth.Key{}, false
	}
	rules := p.site.rules.Load()
	keys := slices.Clone(rules.keys)
	for i := range keys {
		keys[i] = keys[i].ForInfo()
	}
	key, err := r.auth.Verify(msg, keys, min(rules.minimum, auth.SHA256))
	if err != nil {
		p.site.authFailures.Add(1)
		return auth.Key{}, false
	}
	return key, true
}

// infoBody returns how the server sees src, which sent to dst.
func infoBody(src, dst netip.AddrPort) (wire.Address, error) {
	b, err := wire.NAT{
		MSPort: dst.Port(), ETRPort: src.Port(),
		GlobalETR: wire.IPAddress(src.Addr()), MS: wire.IPAddress(dst.Addr()),
	}.AppendBinary(nil)
	if err != nil {
		return wire.Address{}, err
	}
	a, _, err := wire.DecodeAddress(b)
	return a, err
}
