package server

import (
	"bytes"
	"errors"
	"hash/maphash"
	"net/netip"
	"slices"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// LISPSec is how Map-Requests are protected (RFC 9303). The zero value drops
// those that are, and answers the others.
type LISPSec struct {
	// Policy is that of all instances but those in Instances.
	Policy    auth.SecurityPolicy
	Instances map[uint32]auth.SecurityPolicy
	// Keys are shared with ITRs, to unwrap their one-time keys, and told
	// apart by their ID. None may have the secret of a site (RFC 9303 section
	// 6.5).
	Keys []auth.WrapKey
	// AcceptUnwrappedFrom are the map-resolvers whose one-time keys need not
	// be wrapped. Something else must protect the path from them: whoever is
	// on it reads the keys, and anybody can forge the source address.
	AcceptUnwrappedFrom []netip.Prefix
}

// validate reports what is wrong with l, for a server with these sites.
func (l *LISPSec) validate(sites []Site, fail func(format string, args ...any)) {
	on := l.Policy != auth.SecurityOff
	if l.Policy > auth.SecurityRequired {
		fail("lisp_sec: unknown %v", l.Policy)
	}
	for iid, p := range l.Instances {
		on = on || p != auth.SecurityOff
		if p > auth.SecurityRequired || iid > mapping.MaxIID {
			fail("lisp_sec: instance-ID %d: unknown %v", iid, p)
		}
	}
	if on && len(l.Keys) == 0 && len(l.AcceptUnwrappedFrom) == 0 {
		fail("lisp_sec: there is no key to unwrap the keys of ITRs with")
	}
	ids := make(map[uint8]bool)
	for _, k := range l.Keys {
		if len(k.Secret) == 0 {
			fail("lisp_sec: %v is empty", k)
		}
		if ids[k.ID] {
			fail("lisp_sec: key-id %d is there twice", k.ID)
		}
		ids[k.ID] = true
		for _, s := range sites {
			if slices.ContainsFunc(s.Keys, func(x auth.Key) bool { return bytes.Equal(x.Secret, k.Secret) }) {
				fail("lisp_sec: %v is an authentication_key of site %s: keys of ITRs and of ETRs must be independent", k, s.Name)
			}
		}
	}
	for _, p := range l.AcceptUnwrappedFrom {
		if !p.IsValid() {
			fail("lisp_sec: accept_unwrapped_from: %v is no prefix", p)
		}
	}
}

// security is LISPSec as the readers use it; it does not change.
type security struct {
	LISPSec
	demanding bool // some instance requires protection
}

func newSecurity(l LISPSec) security {
	s := security{LISPSec: l, demanding: l.Policy == auth.SecurityRequired}
	for _, p := range l.Instances {
		s.demanding = s.demanding || p == auth.SecurityRequired
	}
	return s
}

func (s *security) policy(iid uint32) auth.SecurityPolicy {
	if p, ok := s.Instances[iid]; ok {
		return p
	}
	return s.Policy
}

// exchange is what is known of the protected Map-Request that a reader is at.
type exchange struct {
	ecm      wire.ECMSecurity
	eids     wire.EIDAuth // reused
	itr, ms  auth.OneTimeKey
	hmac     auth.HMACID
	kdf      auth.KDFID
	cantSign bool
	ad       []byte // reused: an EID-AD
	data     []byte // reused: the data of an ECM
}

// open unwraps the one-time key of the Map-Request in r.req (RFC 9303 section
// 6.6), and derives that of the map-server. It reports false for one that is
// dropped.
func (r *reader) open(q *request) bool {
	s, x, m := r.s, &r.secure, &r.req
	drop := func(why counter, err error) bool {
		s.counters.inc(why)
		if s.mayLog(q.now) {
			s.log.Warn("message dropped", "reason", why.String(), "err", err, "src", q.from, "suppressed", s.suppressed.Swap(0))
		}
		return false
	}
	// One EID-prefix, as ITRs send it (RFC 9301 section 5.2): there is one
	// EID-AD, and one answer.
	if len(m.EIDs) > 1 {
		return drop(dropTooManyRecords, nil)
	}
	e, err := m.EIDs[0].EID.EID(m.EIDs[0].MaskLen)
	if err != nil {
		return drop(dropNotIPEID, err)
	}
	if s.security.policy(e.IID) == auth.SecurityOff {
		return drop(dropSecurityOff, nil)
	}
	if err := x.ecm.Decode(r.ecm.SecurityData); err != nil {
		return drop(dropMalformed, err)
	}
	if err := x.eids.Decode(x.ecm.EIDAuth); err != nil {
		return drop(dropMalformed, err)
	}
	from := q.from.Addr()
	open := slices.ContainsFunc(s.security.AcceptUnwrappedFrom, func(p netip.Prefix) bool { return p.Contains(from) })
	if x.itr, err = auth.Unwrap(&x.ecm, m.Nonce, s.security.Keys, open); err != nil {
		switch {
		case errors.Is(err, auth.ErrWrapping):
			return drop(dropSecurityWrapping, err)
		case errors.Is(err, auth.ErrUnknownKey):
			return drop(dropSecurityUnknownKey, err)
		}
		return drop(dropSecurityUnwrap, err)
	}
	// What the ITR prefers, if it is known here (RFC 9303 section 6.7.1).
	if x.hmac = auth.HMACID(x.ecm.RequestedHMAC); x.hmac.Size() == 0 {
		x.hmac = auth.HMACSHA256
	}
	if x.kdf = auth.KDFID(x.eids.KDF); !x.kdf.Known() {
		x.kdf = auth.KDFSHA256
	}
	if x.ms, err = x.itr.Derive(x.kdf); err != nil {
		return drop(dropSecurityUnwrap, err)
	}
	x.cantSign = false
	if !r.ordinary {
		s.counters.inc(protectedMapRequests)
	}
	return true
}

// securityRoom is what the authentication data of a Map-Reply takes at most:
// its headers, one EID-prefix with an instance and a source, two HMACs.
const securityRoom = 4 + 8 + (2 + 2 + iidHeader + sourceHeader + 2*16) + 16 + 4 + 16

// answer is resolve with the rules of LISP-SEC, of which the order matters (RFC
// 9303 section 6.7): a proxy reply where that is what the site wants; else one
// of its ETRs that can sign; else a negative reply that says that none can.
func (r *reader) answer(t *table, e mapping.EID, q *request, limit int) (forward *node) {
	r.beyond = false
	if !q.secured {
		if r.s.security.demanding && r.s.security.policy(e.IID) == auth.SecurityRequired {
			r.s.counters.inc(deniedUnprotected)
			denied := mapping.NegativeRecord(mapping.EID{IID: e.IID, Prefix: e.Prefix}, mapping.DropPolicy, mapping.NotRegisteredTTL)
			r.found = append(r.found[:0], denied)
			return nil
		}
		return r.resolve(t, e, r.req.Authoritative, limit)
	}
	n := r.resolve(t, e, false, limit-securityRoom)
	if n == nil || slices.ContainsFunc(n.regs, signs) {
		return n
	}
	r.s.counters.inc(cantSignReplies)
	r.secure.cantSign = true
	r.found = append(r.found[:0], mapping.NegativeRecord(n.key, mapping.DropAuth, mapping.NotRegisteredTTL))
	return nil
}

// signs reports whether the ETR of a registration does LISP-SEC.
func signs(x *registration) bool { return x.flags&mapping.SecurityCap != 0 }

// secureFor picks an ETR of n that can sign, and returns the authentication
// data that it gets: the EID-prefix that it registered, under the ITR-OTK, and
// the MS-OTK wrapped with a key of its site. An etr that is not valid: there
// is none that can be sent to.
func (r *reader) secureFor(n *node, local netip.Addr) (etr netip.Addr, data []byte, err error) {
	x, count := &r.secure, 0
	var by *registration
	h := maphash.Comparable(r.s.seed, r.req.Nonce)
	for _, reg := range n.regs {
		if !signs(reg) {
			x.cantSign = true // and the answer may be another's
			continue
		}
		for _, l := range reg.record.Locators {
			if !l.Usable() || l.Addr == local || !r.s.canSend(l.Addr) {
				continue
			}
			// Each of the candidates so far is as likely as the others.
			if count++; h%uint64(count) == 0 {
				etr, by = l.Addr, reg
			}
			h = h*6364136223846793005 + 1442695040888963407
		}
	}
	if by == nil {
		return netip.Addr{}, nil, nil
	}
	if x.ad, err = r.signEIDAuth(n.key); err != nil {
		return etr, nil, err
	}
	key := by.key()
	out := wire.ECMSecurity{RequestedHMAC: x.ecm.RequestedHMAC, KeyID: key.ID, Wrapping: uint8(auth.WrapAES), EIDAuth: x.ad}
	if out.Key, err = key.Wrap(r.req.Nonce, x.ms); err != nil {
		return etr, nil, err
	}
	x.data, err = out.AppendBinary(x.data[:0])
	return etr, x.data, err
}

// key returns the key that x was registered with; after a restart, until its
// next Map-Register, the first of the site.
func (x *registration) key() auth.WrapKey {
	id, keys := x.keyID.Load(), x.site.rules.Load().keys
	for _, k := range keys {
		if uint32(k.ID)+1 == id {
			return auth.WrapKey{ID: k.ID, Secret: k.Secret}
		}
	}
	if len(keys) == 0 {
		return auth.WrapKey{} // the site has just gone
	}
	return auth.WrapKey{ID: keys[0].ID, Secret: keys[0].Secret}
}

// signEIDAuth returns the EID-AD for e, valid until the next call.
func (r *reader) signEIDAuth(e mapping.EID) ([]byte, error) {
	x := &r.secure
	x.eids.Prefixes = append(x.eids.Prefixes[:0], wire.NewEIDAuthPrefix(e))
	x.eids.KDF, x.eids.HMACID, x.eids.CantSign = uint16(x.kdf), uint16(x.hmac), x.cantSign
	return x.itr.SignEIDAuth(x.ad[:0], x.eids)
}

// protect makes msg, a whole Map-Reply whose first record answers e, a
// protected one (RFC 9303 section 6.7.2).
func (r *reader) protect(msg []byte, e mapping.EID) (_ []byte, err error) {
	x := &r.secure
	if x.ad, err = r.signEIDAuth(e); err != nil {
		return msg, err
	}
	return x.ms.SignReply(msg, x.ad, x.hmac)
}
