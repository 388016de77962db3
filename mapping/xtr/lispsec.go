package xtr

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// LISPSec is how Map-Requests and Map-Replies are protected (RFC 9303). The
// zero value protects none.
type LISPSec struct {
	// Policy is that of all instances but those in Instances. The ETR side is
	// on when one of them is not off: it registers as one that signs, and
	// signs where it is asked to, in every instance.
	Policy    auth.SecurityPolicy
	Instances map[uint32]auth.SecurityPolicy
	// ResolverKeys are shared with map-resolvers, by their address; a port of
	// 0 means wire.Port. A Map-Request to one without a key is not protected.
	// None may have the secret of a map-server (RFC 9303 section 6.5).
	ResolverKeys map[netip.AddrPort]auth.WrapKey
}

func (l *LISPSec) policy(iid uint32) auth.SecurityPolicy {
	if p, ok := l.Instances[iid]; ok {
		return p
	}
	return l.Policy
}

// strictest returns the strictest of the policies.
func (l *LISPSec) strictest() auth.SecurityPolicy {
	p := l.Policy
	for _, q := range l.Instances {
		p = max(p, q)
	}
	return p
}

// signs reports whether the ETR signs.
func (l *LISPSec) signs() bool { return l.strictest() != auth.SecurityOff }

// checkLISPSec gives the keys of the map-resolvers the ports of these. It runs
// after checkPeers.
func (c *Config) checkLISPSec(bad func(string, ...any)) {
	l := &c.LISPSec
	keys := make(map[netip.AddrPort]auth.WrapKey)
	for a, k := range l.ResolverKeys {
		port := a.Port()
		if port == 0 {
			port = wire.Port
		}
		keys[netip.AddrPortFrom(a.Addr().Unmap(), port)] = k
		if len(k.Secret) == 0 {
			bad("map_resolver %v: lisp_sec_key: the secret is empty", a)
		}
	}
	l.ResolverKeys = keys
	for i := range c.MapServers {
		l.checkIndependent(&c.MapServers[i], bad)
	}
	for iid, p := range l.Instances {
		if p > auth.SecurityRequired || iid > mapping.MaxIID {
			bad("lisp_sec: instance-ID %d: unknown %v", iid, p)
		}
	}
	if l.Policy > auth.SecurityRequired {
		bad("lisp_sec: unknown %v", l.Policy)
	}
	if l.strictest() == auth.SecurityRequired {
		for _, a := range c.MapResolvers {
			if _, ok := keys[a]; !ok {
				bad("map_resolver %v: no lisp_sec_key, and lisp_sec is required", a)
			}
		}
	}
}

// checkIndependent refuses a key for a map-resolver that is one of m too (RFC
// 9303 section 6.5).
func (l *LISPSec) checkIndependent(m *MapServer, bad func(string, ...any)) {
	for a, k := range l.ResolverKeys {
		if slices.ContainsFunc(m.keys(), func(x auth.Key) bool { return bytes.Equal(x.Secret, k.Secret) }) {
			bad("map_resolver %v: lisp_sec_key: it is an authentication_key of map_server %v: the two must be independent", a, m.Addr)
		}
	}
}

// algorithms are what an ITR asks for, best first (RFC 9303 section 6.9).
var algorithms = [...]struct {
	hmac auth.HMACID
	kdf  auth.KDFID
}{
	{auth.HMACSHA256, auth.KDFSHA256},
	{auth.HMACSHA1, auth.KDFSHA256},
	{auth.HMACSHA256, auth.KDFSHA1},
	{auth.HMACSHA1, auth.KDFSHA1},
}

// protection is what an ITR keeps of a protected Map-Request until its reply
// was processed (RFC 9303 section 6.4).
type protection struct {
	otk  auth.OneTimeKey
	hmac auth.HMACID
	kdf  auth.KDFID
}

// protect decides whether the next transmission of q, to a map-resolver, is
// protected. It returns the authentication data then, and what to keep; nil,
// nil for a transmission without protection.
//
// Where protection is preferred, two things make q go on without: the
// map-server said that no ETR can sign, and securityTries transmissions or all
// algorithms without a usable reply.
func (i *itr) protect(q *query, resolver netip.AddrPort, nonce uint64) (p *protection, data []byte, err error) {
	policy := i.cfg.LISPSec.policy(q.eid.IID)
	key, ok := i.cfg.LISPSec.ResolverKeys[resolver]
	if policy == auth.SecurityOff || !ok {
		return nil, nil, nil
	}
	if policy == auth.SecurityPreferred && (q.cantSign || q.protected >= securityTries || q.algorithm >= len(algorithms)) {
		i.stats.inc(mapRequestsDowngraded)
		return nil, nil, nil
	}
	a := algorithms[q.algorithm%len(algorithms)]
	if p, data, err = newProtection(i.cfg.Rand, key, nonce, a.hmac, a.kdf); err != nil {
		return nil, nil, err
	}
	q.protected++
	i.stats.inc(mapRequestsProtected)
	return p, data, nil
}

// newProtection draws a one-time key for the Map-Request with this nonce, and
// returns the authentication data that carries it to a map-resolver.
func newProtection(chance io.Reader, key auth.WrapKey, nonce uint64, hmac auth.HMACID, kdf auth.KDFID) (p *protection, data []byte, err error) {
	p = &protection{hmac: hmac, kdf: kdf}
	if p.otk, err = auth.NewOneTimeKey(chance); err != nil {
		return nil, nil, err
	}
	s := wire.ECMSecurity{RequestedHMAC: uint16(p.hmac), KeyID: key.ID, Wrapping: uint8(auth.WrapAES)}
	if s.Key, err = key.Wrap(nonce, p.otk); err != nil {
		return nil, nil, err
	}
	if s.EIDAuth, err = (&wire.EIDAuth{KDF: uint16(p.kdf)}).AppendBinary(nil); err != nil {
		return nil, nil, err
	}
	data, err = s.AppendBinary(nil)
	return p, data, err
}

// errUnprotected and errAlgorithms are reasons to discard a reply to a
// protected Map-Request.
var (
	errUnprotected = errors.New("no authentication data in the reply to a protected map-request")
	errAlgorithms  = errors.New("other algorithms than those asked for")
)

// verify checks a reply to the Map-Request that p protects, and returns its
// EID-AD (RFC 9303 section 6.9). The error is errAlgorithms when everything is
// right but that the algorithms are not those that were asked for, and wraps
// auth.ErrAlgorithm when there are some that are not known here.
func (p *protection) verify(msg []byte, m *wire.MapReply) (e wire.EIDAuth, err error) {
	if !m.Security {
		return e, errUnprotected
	}
	var s wire.ReplySecurity
	if err := s.Decode(m.SecurityData); err != nil {
		return e, err
	}
	if err := p.otk.VerifyEIDAuth(s.EIDAuth, &e); err != nil {
		return e, err
	}
	ms, err := p.otk.Derive(auth.KDFID(e.KDF))
	if err != nil {
		return e, err
	}
	if err := ms.VerifyReply(msg, m, &s); err != nil {
		return e, err
	}
	if auth.HMACID(s.HMACID) != p.hmac || auth.KDFID(e.KDF) != p.kdf {
		return e, errAlgorithms
	}
	return e, nil
}

// authorised checks a Map-Reply to a protected transmission of a query. It
// returns the EID-prefixes that the map-server lets it answer for, or false
// when nothing is to be taken from it: it is discarded, and the query goes on.
func (i *itr) authorised(now time.Time, o outstanding, msg []byte, m *wire.MapReply, from netip.AddrPort) (eids []mapping.EID, ok bool) {
	q, a := o.q, &o.q.attempts[o.n]
	e, err := a.secure.verify(msg, m)
	switch {
	case errors.Is(err, errUnprotected):
		i.refuse(now, mapRepliesUnprotected, from, err)
		return nil, false
	case errors.Is(err, errAlgorithms):
		// Processed: what comes next is a Map-Request that asks for others.
		i.refuse(now, mapRepliesAlgorithm, from, err)
		q.algorithm++
		i.again(now, o)
		return nil, false
	case errors.Is(err, auth.ErrAlgorithm):
		// It can't be told from a forged one, so the real reply may still
		// come; if it does not, others are asked for.
		i.refuse(now, mapRepliesAlgorithm, from, err)
		if !a.unknown {
			a.unknown = true
			q.algorithm++
		}
		return nil, false
	case err != nil:
		i.refuse(now, mapRepliesForged, from, err)
		return nil, false
	}
	eids = named(e)
	if e.CantSign && negative(m) && i.cfg.LISPSec.policy(q.eid.IID) == auth.SecurityPreferred {
		q.cantSign = true
		i.again(now, o)
		return nil, false
	}
	i.stats.inc(mapRepliesVerified)
	return eids, true
}

// named returns the EID-prefixes of an EID-AD; it is never nil.
func named(e wire.EIDAuth) []mapping.EID {
	eids := make([]mapping.EID, 0, len(e.Prefixes))
	for _, p := range e.Prefixes {
		if x, err := p.EID.EID(p.MaskLen); err == nil {
			eids = append(eids, x)
		}
	}
	return eids
}

// negative reports whether no record of m has a locator.
func negative(m *wire.MapReply) bool {
	for r := range m.Records.All() {
		if r.NumLocators() > 0 {
			return false
		}
	}
	return true
}

// again ends one transmission of a query, whose reply was no answer, and has
// the next one sent as soon as the spacing allows.
func (i *itr) again(now time.Time, o outstanding) {
	q, a := o.q, o.q.attempts[o.n]
	a.resolver.answered(now, now.Sub(a.at))
	a.forget()
	delete(i.nonces, a.nonce)
	q.attempts = slices.Delete(q.attempts, o.n, o.n+1)
	for n := o.n; n < len(q.attempts); n++ {
		i.nonces[q.attempts[n].nonce] = outstanding{q, n}
	}
	if q.paused || o.n < len(q.attempts) {
		return // a later transmission is under way
	}
	q.replied = true
	at := a.at.Add(requestSpacing)
	if at.Before(now) {
		at = now
	}
	i.schedule(q, at)
}

// forget deletes the one-time key (RFC 9303 section 6.9).
func (a *attempt) forget() {
	if a.secure != nil {
		*a.secure = protection{}
	}
}

// signature is what an ETR needs to sign the reply to a protected Map-Request.
type signature struct {
	otk     auth.OneTimeKey
	hmac    auth.HMACID
	eidAuth []byte // borrowed from the ECM
}

// size is what the signature adds to a Map-Reply, in octets.
func (s *signature) size() int { return 4 + len(s.eidAuth) + 4 + s.hmac.Size() }

// open unwraps the MS-OTK of a protected Map-Request (RFC 9303 section 6.8).
// ok is false for one that is dropped.
func (e *etr) open(now time.Time, m *wire.MapRequest, how arrival) (s signature, ok bool) {
	if !e.cfg.LISPSec.signs() {
		e.refuse(now, mapRequestsSecurityOff, how.from, nil)
		return s, false
	}
	var x wire.ECMSecurity
	if err := x.Decode(how.security); err != nil {
		e.refuse(now, controlMalformed, how.from, err)
		return s, false
	}
	var keys []auth.WrapKey
	for _, m := range e.cfg.MapServers {
		for _, k := range m.keys() {
			keys = append(keys, auth.WrapKey{ID: k.ID, Secret: k.Secret})
		}
	}
	otk, err := auth.Unwrap(&x, m.Nonce, keys, false)
	if err != nil {
		e.refuse(now, mapRequestsSecurityRefused, how.from, err)
		return s, false
	}
	s = signature{otk: otk, hmac: auth.HMACID(x.RequestedHMAC), eidAuth: x.EIDAuth}
	if s.hmac.Size() == 0 {
		s.hmac = auth.HMACSHA256
	}
	return s, true
}
