package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// Most Map-Registers say what the last one of their xTR said. A reader finds
// that out from their octets, and refreshes the registrations itself: nothing
// is decoded, copied or queued, and nothing has to be durable first.

const (
	// standingSlots bounds how many Map-Registers are remembered: one for each
	// of a great many xTRs.
	standingSlots = 1 << 16
	// maxStanding is the longest one that is remembered. Longer ones, of some
	// twenty records, take the long way.
	maxStanding = 1024
)

// Offsets in a Map-Register and a Map-Notify (RFC 9301 sections 5.6 and 5.7).
const (
	nonceOffset  = 4
	keyOffset    = 12
	lengthOffset = 14
)

// standing is an accepted Map-Register all of whose records are registered. It
// is not changed any more.
type standing struct {
	site   *site
	rules  *rules
	keys   []auth.Key // the one that it was signed with
	nonces nonceKey
	src    netip.AddrPort
	msg    []byte // its nonce and authentication data do not matter
	// nodes and regs are the entries of its EID-prefixes, and what it
	// registered there. While the table has the same nodes, nothing of it has
	// changed.
	nodes []*node
	regs  []*registration
	// notify is the Map-Notify but for its nonce and authentication data; nil
	// where none is wanted. to is where it goes.
	notify []byte
	to     netip.AddrPort
}

// standings is a table that Map-Registers are hashed to. One that finds another
// in its slot takes it over.
type standings struct {
	seed  maphash.Seed
	slots [standingSlots]atomic.Pointer[standing]
}

func newStandings() *standings { return &standings{seed: maphash.MakeSeed()} }

// slot returns the place of a Map-Register, and where its records begin; nil
// for one that is malformed or not remembered.
func (ss *standings) slot(msg []byte, src netip.AddrPort) (slot *atomic.Pointer[standing], records int) {
	if len(msg) < wire.AuthenticationOffset || len(msg) > maxStanding {
		return nil, 0
	}
	records = wire.AuthenticationOffset + int(binary.BigEndian.Uint16(msg[lengthOffset:]))
	if records > len(msg) {
		return nil, 0
	}
	h := maphash.Bytes(ss.seed, msg[records:]) ^ maphash.Comparable(ss.seed, src)
	return &ss.slots[h%standingSlots], records
}

// find returns what is remembered of a Map-Register that says the same, from
// the same source; nil if nothing is.
func (ss *standings) find(msg []byte, src netip.AddrPort) *standing {
	slot, records := ss.slot(msg, src)
	if slot == nil {
		return nil
	}
	e := slot.Load()
	if e == nil || e.src != src || len(e.msg) != len(msg) || !bytes.Equal(e.msg[records:], msg[records:]) ||
		!bytes.Equal(e.msg[:nonceOffset], msg[:nonceOffset]) || !bytes.Equal(e.msg[keyOffset:wire.AuthenticationOffset], msg[keyOffset:wire.AuthenticationOffset]) {
		return nil
	}
	return e
}

// remember notes reg, which is accepted, registered in t, durable, and
// acknowledged with notify, if it wanted that.
func (s *Server) remember(t *table, reg *register, notify *datagram) {
	slot, _ := s.standings.slot(reg.raw, reg.src)
	if slot == nil || reg.reduced {
		return
	}
	e := &standing{site: reg.site, rules: reg.site.rules.Load(), keys: []auth.Key{reg.key}, nonces: reg.nonceKey(), src: reg.src, msg: reg.raw}
	for _, rec := range reg.records {
		v, _ := t.Get(rec.EID)
		n, ok := v.(*node)
		if !ok || rec.TTL == 0 {
			return
		}
		i := own(n, reg.by)
		if i < 0 || !n.regs[i].same(reg, rec) {
			return
		}
		e.nodes, e.regs = append(e.nodes, n), append(e.regs, n.regs[i])
	}
	if notify != nil {
		e.notify, e.to = slices.Clip(notify.payload), notify.dst
	}
	slot.Store(e)
}

// stands reports whether all that e registered is in t as it was.
func (e *standing) stands(t *table) bool {
	for _, n := range e.nodes {
		v, _ := t.Get(n.key)
		if now, ok := v.(*node); !ok || now != n {
			return false
		}
	}
	return true
}

// refresh processes a Map-Register that says nothing new, and reports whether
// it was one. All others go the long way, those too that are to be refused, and
// those that come while the writer is busy. The outcome is the same.
func (r *reader) refresh(now time.Time, msg []byte, src, dst netip.AddrPort) bool {
	s := r.s
	e := s.standings.find(msg, src)
	if e == nil || e.rules != e.site.rules.Load() || s.log.Enabled(context.Background(), slog.LevelDebug) {
		return false
	}
	if _, err := r.auth.Verify(msg, e.keys, e.rules.minimum); err != nil {
		return false
	}
	if !s.renew(now, e, msg) {
		return false
	}
	if e.notify == nil {
		return true
	}
	start := len(r.buf)
	r.buf = append(r.buf, e.notify...)
	b := r.buf[start:len(r.buf):len(r.buf)]
	copy(b[nonceOffset:keyOffset], msg[nonceOffset:])
	if r.auth.Sign(b, e.keys[0]) != nil {
		return true // can't be: it was signed with this key before
	}
	r.out = append(r.out, datagram{payload: b, src: dst, dst: e.to})
	s.counters.inc(mapNotifies)
	return true
}

// renew does for e and a Map-Register like it what apply does, if it can.
func (s *Server) renew(now time.Time, e *standing, msg []byte) bool {
	// Readers wait for each other, as it takes no time, but not for the writer,
	// which holds mu while the store commits.
	s.renewing.Lock()
	defer s.renewing.Unlock()
	// What waits in the queue must not be overtaken: its nonces are lower.
	if !s.mu.TryLock() {
		return false
	}
	defer s.mu.Unlock()
	if e.rules != e.site.rules.Load() || e.site.queued.Load() > 0 || len(s.pending) > 0 || !e.stands(s.table.Load()) {
		return false
	}
	nonce, digest := binary.BigEndian.Uint64(msg[nonceOffset:]), msg[wire.AuthenticationOffset:]
	digest = digest[:binary.BigEndian.Uint16(msg[lengthOffset:])]
	at := s.age(now)
	if s.nonces[e.nonces] == nil || s.stale(e.nonces, nonce, at) || s.superseded(e.site, e.nonces, nonce) {
		return false
	}
	if e.notify != nil {
		account, received, sent := s.credits.of(e.to.Addr()), onWire(len(msg), e.src.Addr()), onWire(len(e.notify), e.to.Addr())
		if account.available(received) < sent {
			return false
		}
		account.spend(received, sent)
	}
	for _, x := range e.regs {
		s.refresh(x, e.keys[0].ID, e.src, now)
	}
	s.accept(e.site, e.nonces, nonce, digest, at, false)
	s.accepted(e.site, at)
	return true
}

// accepted counts a Map-Register.
func (s *Server) accepted(x *site, now age) {
	s.counters.inc(acceptedMapRegisters)
	x.accepted.Add(1)
	x.lastAccepted.Store(now)
}
