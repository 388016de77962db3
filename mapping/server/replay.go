package server

import (
	"bytes"
	"crypto/sha256"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// nonceKey says whose Map-Register nonce it is (RFC 9301 section 5.6). The zero
// by stands for all xTRs that were forgotten.
type nonceKey struct {
	site string
	by   mapping.Registrant
	key  uint8
}

// anonymous reports whether the xTR has no xTR-ID.
func (k nonceKey) anonymous() bool { return k.by.XTRID == (mapping.XTRID{}) && k.by.RLOC.IsValid() }

// heard notes that an xTR has used this nonce.
func (s *Server) heard(k nonceKey, nonce uint64) {
	if k.anonymous() {
		all := nonceKey{site: k.site, key: k.key}
		s.anonymous[all] = max(s.anonymous[all], nonce)
	}
}

func (k nonceKey) item(nonce uint64) mapping.Item {
	return mapping.Item{Kind: mapping.ItemNonce, Site: k.site, By: k.by, KeyID: k.key, Nonce: nonce}
}

// nonceState is the last Map-Register that was accepted.
type nonceState struct {
	nonce uint64
	// digest is its authentication data, which no other message has; size 0
	// after a restart, when only the nonce is known.
	digest [sha256.Size]byte
	size   int
	seen   age
}

func (st *nonceState) remember(nonce uint64, digest []byte, now age) {
	*st = nonceState{nonce: nonce, size: copy(st.digest[:], digest), seen: now}
	copy(st.digest[:], digest)
}

// repeats reports whether the message with this nonce and authentication data
// is the one that st remembers.
func (st *nonceState) repeats(nonce uint64, digest []byte) bool {
	return st.nonce == nonce && st.size > 0 && bytes.Equal(st.digest[:st.size], digest)
}

// stale reports whether a Map-Register of k with this nonce is a replay. An
// xTR that is not known must be above the nonces of all that were forgotten, or
// their Map-Registers could be replayed.
//
// An xTR without an xTR-ID is known by its source address only, which anybody
// can forge. So one that was not heard for a while, or never, must be above the
// nonces of all of them, or a Map-Register of one could be replayed as
// another's.
func (s *Server) stale(k nonceKey, nonce uint64, now age) bool {
	st := s.nonces[k]
	if k.anonymous() && (st == nil || st.size == 0 || now-st.seen > age(registrationTimeout)) {
		if highest, ok := s.anonymous[nonceKey{site: k.site, key: k.key}]; ok && nonce <= highest {
			return true
		}
	}
	if st == nil {
		st = s.nonces[nonceKey{site: k.site, key: k.key}]
	}
	return st != nil && nonce <= st.nonce
}

// superseded reports whether the xTR of k was heard with another key since, and
// with a nonce that is not below this one. Nonces are counted for each key, as
// an xTR that lost its nonce begins anew with a new key (RFC 9301 section 5.6);
// but what somebody held back of the old key must not win over the new one's
// after a rollover. A key that the xTR has not used yet is not superseded.
func (s *Server) superseded(owner *site, k nonceKey, nonce uint64) bool {
	st := s.nonces[k]
	if st == nil {
		return false
	}
	for _, key := range owner.rules.Load().keys {
		o := s.nonces[nonceKey{site: k.site, by: k.by, key: key.ID}]
		if o != nil && o.seen > st.seen && nonce <= o.nonce {
			return true
		}
	}
	return false
}

// accept remembers the Map-Register as the last one of k. durable says that the
// store must have it before the Map-Notify goes out; else it may be late.
func (s *Server) accept(owner *site, k nonceKey, nonce uint64, digest []byte, now age, durable bool) {
	st := s.nonces[k]
	if st == nil {
		if len(owner.xtrs) >= maxRegistrants {
			s.forgetOldest(owner)
		}
		st = new(nonceState)
		s.nonces[k] = st
		owner.xtrs = append(owner.xtrs, k)
	}
	st.remember(nonce, digest, now)
	s.heard(k, nonce)
	if durable {
		s.put(k.item(nonce))
		delete(s.late, k)
	} else {
		s.late[k] = nonce
	}
}

// forgetOldest makes room for one more xTR of a site: of some, the one that was
// not heard for longest goes, and raises the floor.
func (s *Server) forgetOldest(owner *site) {
	const some = 32 // a look at all would let a flood of xTR-IDs stop the writer
	oldest := -1
	for i := range min(some, len(owner.xtrs)) {
		at := (owner.hand + i) % len(owner.xtrs)
		if oldest < 0 || s.nonces[owner.xtrs[at]].seen < s.nonces[owner.xtrs[oldest]].seen {
			oldest = at
		}
	}
	owner.hand = (owner.hand + some) % len(owner.xtrs)
	k, last := owner.xtrs[oldest], len(owner.xtrs)-1
	nonce := s.nonces[k].nonce
	owner.xtrs[oldest] = owner.xtrs[last]
	owner.xtrs = owner.xtrs[:last]
	delete(s.nonces, k)
	delete(s.late, k)
	s.remove(k.item(0))
	all := nonceKey{site: k.site, key: k.key}
	if floor := s.nonces[all]; floor == nil {
		s.nonces[all] = &nonceState{nonce: nonce}
	} else {
		floor.nonce = max(floor.nonce, nonce)
	}
	s.put(all.item(s.nonces[all].nonce))
}
