package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/eidolon-lisp/eidolon/benchmarks/rig"
	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// itrRLOCs is how many ITR-RLOCs ask: addresses of 127.64.0.0/10.
const itrRLOCs = 1 << 17

// sources is how many addresses the requests are sent from, as if so many
// routers sent them: a map-server limits what one may ask.
const sources = 256

// sourceOf returns the address that request seq is sent from, of 127.32.0.0/16.
func sourceOf(seq uint64) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 32, byte(seq >> 8 % (sources / 256)), byte(seq)})
}

// questions is how many different EIDs are asked for. It is odd, so that all
// pairs of EID and ITR-RLOC come up.
const questions = 200_001

// protectedQuestions is the same where LISP-SEC protects the requests: their
// one-time keys are wrapped beforehand, each for its own nonce.
const protectedQuestions = ringSize

// requests is the workload of Map-Requests: encapsulated, each from another
// ITR-RLOC, for random addresses of random prefixes of a table.
type requests struct {
	port     uint16
	base     uint64 // the nonce of request 0
	eids     []netip.Addr
	messages [][]byte
	sums     []uint32 // of the inner UDP datagram without nonce and ITR-RLOC
	offsets  []offsets
	buffers  [2 * burst][256]byte
	next     int
	locators []netip.Addr // that answers must have one of; empty: any
	reply    wire.MapReply

	// With LISP-SEC: the one-time key of all requests.
	protected bool
	itr, ms   auth.OneTimeKey
}

// offsets is where in a message what changes is.
type offsets struct{ nonce, rloc, checksum int }

// newRequests makes the workload. With a key, which is shared with the server,
// the requests are protected by LISP-SEC.
func newRequests(table []netip.Prefix, locators []netip.Addr, key *auth.WrapKey, port uint16, rng *rand.Rand) (*requests, error) {
	w := &requests{port: port, base: rng.Uint64(), locators: locators, protected: key != nil}
	n := questions
	if w.protected {
		n = protectedQuestions
		for i := range w.itr {
			w.itr[i] = byte(rng.Uint32())
		}
		var err error
		if w.ms, err = w.itr.Derive(auth.KDFSHA256); err != nil {
			return nil, err
		}
	}
	for i := range n {
		a := rig.RandomIn(table[rng.IntN(len(table))], rng)
		var security []byte
		if w.protected {
			var err error
			if security, err = protection(*key, w.base+uint64(i), w.itr); err != nil {
				return nil, err
			}
		}
		msg, at, err := question(a, security, port)
		if err != nil {
			return nil, err
		}
		w.eids = append(w.eids, a)
		w.messages = append(w.messages, msg)
		w.sums = append(w.sums, ^uint32(binary.BigEndian.Uint16(msg[at.checksum:]))&0xffff)
		w.offsets = append(w.offsets, at)
	}
	return w, nil
}

// question encodes an encapsulated Map-Request for a, with nonce 0 and an
// ITR-RLOC of 0.0.0.0 for request to fill in.
func question(a netip.Addr, security []byte, port uint16) ([]byte, offsets, error) {
	m := wire.MapRequest{
		ITRRLOCs: []wire.Address{wire.IPAddress(netip.IPv4Unspecified())},
		EIDs:     []wire.RequestRecord{wire.NewRequestRecord(mapping.HostEID(0, a))},
	}
	inner, err := m.AppendBinary(nil)
	if err != nil {
		return nil, offsets{}, err
	}
	src := netip.MustParseAddr("127.0.0.1")
	if a.Is6() {
		src = netip.IPv6Loopback()
	}
	e := wire.ECM{Security: security != nil, SecurityData: security, Src: netip.AddrPortFrom(src, port), Dst: netip.AddrPortFrom(a, wire.Port), Message: inner}
	msg, err := e.AppendBinary(nil)
	at := len(msg) - len(inner)
	// Nonce; source EID of AFI 0; AFI and address of the ITR-RLOC.
	return msg, offsets{nonce: at + 4, rloc: at + 4 + 8 + 2 + 2, checksum: at - 2}, err
}

// protection returns the authentication data of an ECM (RFC 9303 section 6.1).
func protection(key auth.WrapKey, nonce uint64, otk auth.OneTimeKey) ([]byte, error) {
	s := wire.ECMSecurity{RequestedHMAC: uint16(auth.HMACSHA256), KeyID: key.ID, Wrapping: uint8(auth.WrapAES)}
	var err error
	if s.Key, err = key.Wrap(nonce, otk); err != nil {
		return nil, err
	}
	if s.EIDAuth, err = (&wire.EIDAuth{KDF: uint16(auth.KDFSHA256)}).AppendBinary(nil); err != nil {
		return nil, err
	}
	return s.AppendBinary(nil)
}

// rloc returns the ITR-RLOC of request seq. Each time that all EIDs were asked
// for, each is asked for from another one.
func (w *requests) rloc(seq uint64) uint32 {
	n := uint64(len(w.eids))
	return 127<<24 | 64<<16 + uint32((seq+seq/n*7919)%itrRLOCs)
}

// index returns which question request seq is, and its nonce.
func (w *requests) index(seq uint64) (i, nonce uint64) {
	i = seq % uint64(len(w.eids))
	if w.protected {
		return i, w.base + i
	}
	return i, w.base + seq
}

func (w *requests) request(seq uint64, m *udp.Message) {
	i, nonce := w.index(seq)
	b := w.buffers[w.next][:len(w.messages[i])]
	w.next = (w.next + 1) % len(w.buffers)
	copy(b, w.messages[i])
	at, rloc := w.offsets[i], w.rloc(seq)
	binary.BigEndian.PutUint64(b[at.nonce:], nonce)
	binary.BigEndian.PutUint32(b[at.rloc:], rloc)
	sum := w.sums[i]
	for _, v := range [...]uint32{uint32(nonce >> 32), uint32(nonce), rloc} {
		sum += v>>16 + v&0xffff
	}
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	check := ^uint16(sum)
	if check == 0 {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(b[at.checksum:], check)
	m.Payload = b
	m.Src = netip.AddrPortFrom(sourceOf(seq), w.port)
}

func (w *requests) match(b []byte) (uint64, bool) {
	if len(b) < 12 || wire.Type(b[0]>>4) != wire.TypeMapReply {
		return 0, false
	}
	return binary.BigEndian.Uint64(b[4:]) - w.base, true
}

func (w *requests) check(seq uint64, b []byte) error {
	i, _ := w.index(seq)
	a := w.eids[i]
	if err := w.reply.Decode(b); err != nil {
		return err
	}
	if w.reply.Security != w.protected {
		return fmt.Errorf("the answer for %v: protected %v, expected %v", a, w.reply.Security, w.protected)
	}
	if w.protected && seq%16 == 0 {
		if err := w.verify(b); err != nil {
			return fmt.Errorf("the answer for %v: %w", a, err)
		}
	}
	for rec := range w.reply.Records.All() {
		e, err := rec.EID.EID(rec.MaskLen)
		if err != nil {
			return err
		}
		if !e.Contains(0, a) {
			return fmt.Errorf("the answer for %v is about %v", a, e)
		}
		if len(w.locators) == 0 {
			return nil
		}
		for l := range rec.Locators() {
			if ip, ok := l.Address.IP(); !ok || !slices.Contains(w.locators, ip) {
				return fmt.Errorf("the answer for %v has the locator %v", a, l.Address)
			}
			return nil
		}
		return fmt.Errorf("the answer for %v has no locator", a)
	}
	return errors.New("an answer without a record")
}

// verify checks the authentication of a Map-Reply (RFC 9303 section 6.9).
func (w *requests) verify(b []byte) error {
	var s wire.ReplySecurity
	var e wire.EIDAuth
	if err := s.Decode(w.reply.SecurityData); err != nil {
		return err
	}
	if err := w.itr.VerifyEIDAuth(s.EIDAuth, &e); err != nil {
		return err
	}
	return w.ms.VerifyReply(b, &w.reply, &s)
}
