package server

import (
	"bytes"
	"errors"
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// register is an authenticated Map-Register of one site, which owns all that
// it holds.
type register struct {
	site     *site
	sites    *sites // those that it was checked by
	key      auth.Key
	raw      []byte
	msg      wire.MapRegister // borrows raw
	by       mapping.Registrant
	flags    mapping.RegisterFlags
	records  []*mapping.Record // normalised
	src, dst netip.AddrPort
	octets   int  // of the packet that it came in
	reduced  bool // its Map-Notify does not have all locators
}

func (reg *register) nonceKey() nonceKey {
	return nonceKey{site: reg.site.name, by: reg.by, key: reg.key.ID}
}

// register checks a Map-Register as far as it needs no lock: whose it is, its
// authentication, what it wants to register (RFC 9301 sections 5.6 and 8.2).
// It returns nil for one that is refused, and for one that was processed
// already, as it changes nothing.
func (r *reader) register(now time.Time, msg []byte, src, dst netip.AddrPort) *register {
	s := r.s
	s.counters.inc(mapRegisters)
	if r.refresh(now, msg, src, dst) {
		return nil
	}
	m := &r.reg
	if err := m.Decode(msg); err != nil {
		s.malformed(now, err, src)
		return nil
	}
	ss := s.sites.Load()
	owner, why := ss.owner(m.Records)
	if why != 0 {
		s.refuse(now, owner, why, src)
		return nil
	}
	rules := owner.rules.Load()
	key, err := r.auth.Verify(msg, rules.keys, rules.minimum)
	if err != nil {
		owner.authFailures.Add(1)
		s.refuse(now, owner, authCounter(err), src)
		return nil
	}
	// From here on the sender is one that the site trusts.
	reg := &register{site: owner, sites: ss, key: key, raw: bytes.Clone(msg), src: src, dst: dst, octets: onWire(len(msg), src.Addr())}
	if err := reg.msg.Decode(reg.raw); err != nil {
		s.counters.inc(dropMalformed) // can't be: it was decoded before
		return nil
	}
	reg.by = mapping.Registrant{RLOC: src.Addr()}
	if m.HasXTRID && m.XTRID != (mapping.XTRID{}) {
		reg.by = mapping.Registrant{XTRID: m.XTRID, SiteID: m.SiteID}
	}
	if !rules.knows(reg.by.XTRID) {
		s.refuse(now, owner, refusedXTRID, src)
		return nil
	}
	for _, f := range []struct {
		set  bool
		flag mapping.RegisterFlags
	}{{m.ProxyReply, mapping.ProxyReply}, {m.Merge, mapping.MergeSet}, {m.TTLFromRegister, mapping.TTLFromReg}, {m.Security, mapping.SecurityCap}} {
		if f.set {
			reg.flags |= f.flag
		}
	}
	for w := range reg.msg.Records.All() {
		rec, err := w.Mapping()
		if err != nil {
			s.refuse(now, owner, refusedNotIPEID, src)
			return nil
		}
		for _, l := range rec.Locators {
			if l.Addr.IsValid() && checkRLOC(l.Addr, src.Addr().IsLoopback()) != nil {
				s.refuse(now, owner, refusedLocator, src)
				return nil
			}
		}
		normalise(rec)
		reg.records = append(reg.records, rec)
	}
	return reg
}

// owner returns the one site that all records belong to, or why there is none.
func (ss *sites) owner(recs wire.Records) (owner *site, why counter) {
	for rec := range recs.All() {
		e, err := rec.EID.EID(rec.MaskLen)
		if err != nil {
			return owner, refusedNotIPEID
		}
		p, why := ss.admit(e)
		if why != 0 {
			return owner, why
		}
		if owner != nil && p.site != owner {
			return owner, refusedSeveralSites
		}
		owner = p.site
	}
	if owner == nil {
		return nil, refusedNoRecords
	}
	return owner, 0
}

// revised checks again what a reader found out about reg if the sites have
// changed since.
func (s *Server) revised(reg *register) (why counter) {
	ss := s.sites.Load()
	if ss == reg.sites {
		return 0
	}
	reg.sites = ss
	now := reg.site.rules.Load()
	switch owner, why := ss.owner(reg.msg.Records); {
	case why != 0:
		return why
	case owner != reg.site:
		return refusedNoSite
	case reg.key.Algorithm < now.minimum:
		return refusedAlgorithm
	case !now.has(reg.key):
		return refusedUnknownKey
	case !now.knows(reg.by.XTRID):
		return refusedXTRID
	}
	return 0
}

func authCounter(err error) counter {
	switch {
	case errors.Is(err, auth.ErrUnknownKey):
		return refusedUnknownKey
	case errors.Is(err, auth.ErrAlgorithm), errors.Is(err, auth.ErrLength):
		return refusedAlgorithm
	}
	return refusedDigest
}

// refuse counts a Map-Register that is not taken, and logs some of them: a
// flood must not fill the disk. owner may be nil.
func (s *Server) refuse(now time.Time, owner *site, why counter, src netip.AddrPort) {
	s.counters.inc(why)
	name := ""
	if owner != nil {
		owner.refused.Add(1)
		name = owner.name
	}
	if s.mayLog(now) {
		suppressed := s.suppressed.Swap(0)
		s.log.Warn("registration refused", "reason", why.String(), "src", src, "site", name, "suppressed", suppressed)
		s.events.Publish(Event{Time: now, Kind: EventRefused, Site: name, Peer: src, Reason: why.String(), Suppressed: suppressed})
	}
}

// mayLog reports whether one more line about what anybody can send may be
// logged, and counts it if not.
func (s *Server) mayLog(now time.Time) bool {
	if s.refusals.AllowN(now, 1) {
		return true
	}
	s.suppressed.Add(1)
	return false
}

// notify builds the Map-Notify that acknowledges reg: its fields copied, its
// records as they are registered now where others' sets were merged in (RFC
// 9301 sections 5.6 and 5.7). Where that would be too much for the length of
// the Map-Register, whose source can be a forged one, its records are copied.
func (s *Server) notify(t *table, reg *register) (datagram, error) {
	recs := reg.msg.Records
	if reg.flags&mapping.MergeSet != 0 {
		merged, err := reg.merged(t)
		if err != nil {
			return datagram{}, err
		}
		recs = merged
	}
	to := reg.notifyTo()
	b, err := reg.sign(recs)
	if err != nil {
		return datagram{}, err
	}
	account := s.credits.of(to.Addr())
	if !account.spend(reg.octets, onWire(len(b), to.Addr())) {
		s.counters.inc(reducedMapNotifies)
		reg.reduced = true
		if b, err = reg.sign(reg.msg.Records); err != nil {
			return datagram{}, err
		}
		account.spend(0, onWire(len(b), to.Addr()))
	}
	return datagram{payload: b, src: reg.dst, dst: to}, nil
}

// merged returns the records of reg as they are registered now, with the sets
// of other xTRs.
func (reg *register) merged(t *table) (wire.Records, error) {
	recs := make([]*mapping.Record, len(reg.records))
	for i, rec := range reg.records {
		recs[i] = rec
		v, _ := t.Get(rec.EID)
		if n, ok := v.(*node); ok && n.registered != nil {
			recs[i] = n.registered
		}
	}
	return wire.NewRecords(recs...)
}

// sign returns the Map-Notify to reg with these records.
func (reg *register) sign(recs wire.Records) ([]byte, error) {
	m := wire.MapNotify{
		Nonce:    reg.msg.Nonce,
		Auth:     wire.Authentication{KeyID: reg.key.ID, Algorithm: uint8(reg.key.Algorithm), Data: make([]byte, len(reg.msg.Auth.Data))},
		Records:  recs,
		HasXTRID: reg.msg.HasXTRID,
		XTRID:    reg.msg.XTRID,
		SiteID:   reg.msg.SiteID,
	}
	b, err := m.AppendBinary(nil)
	if err != nil {
		return nil, err
	}
	return b, auth.Sign(b, reg.key)
}

// notifyTo is where the Map-Notify goes; the package documentation has the
// reasons.
func (reg *register) notifyTo() netip.AddrPort {
	for _, rec := range reg.records {
		for _, l := range rec.Locators {
			if l.Addr == reg.src.Addr() {
				return netip.AddrPortFrom(reg.src.Addr(), wire.Port)
			}
		}
	}
	return reg.src
}
