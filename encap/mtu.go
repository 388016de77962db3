package encap

import (
	"encoding/binary"
	"errors"
)

// Path MTU limits of the underlay, in octets.
const (
	// MinMTU4 is the smallest path MTU that is believed of an IPv4 path: the
	// datagram that every host must accept (RFC 791). A lower one in an ICMP
	// message is more likely a forgery.
	MinMTU4 = 576
	// MinMTU6 is the smallest MTU of an IPv6 link (RFC 8200 section 5).
	MinMTU6 = 1280
	// DefaultMTU is assumed where nothing is known (L of RFC 9300 section 7.1).
	DefaultMTU = 1500
)

// Bits of the IPv4 fragment word.
const (
	ipv4DF     = 0x4000
	ipv4MF     = 0x2000
	ipv4Offset = 0x1fff
)

// Errors of NewFragmenter.
var (
	ErrDontFragment = errors.New("encap: fragment: the packet has DF set or is not IPv4")
	ErrOffset       = errors.New("encap: fragment: the packet is a fragment that ends beyond the largest datagram")
	ErrMTU          = errors.New("encap: fragment: the size leaves no room for 8 octets of payload")
)

// Fragmenter splits one inner IPv4 packet with DF=0 into fragments that are
// encapsulated each by itself (RFC 9300 section 7.1). It borrows the packet
// until the last call of Next.
type Fragmenter struct {
	pkt     []byte
	hlen    int
	payload int // octets left, from off
	off     int // where in pkt the next fragment's payload starts
	step    int // payload octets of all fragments but the last
}

// NewFragmenter prepares to split pkt, which must have passed Flow.Decode and
// be cut to its Length, into pieces of about equal size of at most size octets.
// It fails with ErrDontFragment, ErrMTU, or ErrOffset: no offset can say where the
// later pieces of such a packet are, and nobody could put them together.
func NewFragmenter(pkt []byte, size int) (Fragmenter, error) {
	if pkt[0]>>4 != 4 || binary.BigEndian.Uint16(pkt[6:])&ipv4DF != 0 {
		return Fragmenter{}, ErrDontFragment
	}
	f := Fragmenter{pkt: pkt, hlen: int(pkt[0]&0x0f) * 4}
	f.off, f.payload = f.hlen, len(pkt)-f.hlen
	if int(binary.BigEndian.Uint16(pkt[6:])&ipv4Offset)*8+f.payload > 65535 {
		return Fragmenter{}, ErrOffset
	}
	room := (size - f.hlen) &^ 7
	if room < 8 {
		return Fragmenter{}, ErrMTU
	}
	n := (f.payload + room - 1) / room
	if n == 0 {
		n = 1
	}
	f.step = min(((f.payload+n-1)/n+7)&^7, room)
	return f, nil
}

// Next appends the next fragment to b and reports whether there was one.
func (f *Fragmenter) Next(b []byte) ([]byte, bool) {
	first := f.off == f.hlen
	if f.payload <= 0 && !first || f.pkt == nil {
		return b, false
	}
	n := min(f.step, f.payload)
	start := len(b)
	b = append(b, f.pkt[:ipv4Len]...)
	if first {
		b = append(b, f.pkt[ipv4Len:f.hlen]...)
	} else {
		b = appendCopiedOptions(b, f.pkt[ipv4Len:f.hlen])
	}
	hlen := len(b) - start
	b = append(b, f.pkt[f.off:f.off+n]...)
	h := b[start:]

	// The packet may be a fragment itself: its offset is where ours begin, and
	// its MF stays on our last one (RFC 791 section 3.2).
	word := binary.BigEndian.Uint16(h[6:])
	offset := int(word&ipv4Offset) + (f.off-f.hlen)/8
	f.off += n
	f.payload -= n
	if f.payload > 0 {
		word |= ipv4MF
	}
	h[0] = 4<<4 | uint8(hlen/4)
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)))
	binary.BigEndian.PutUint16(h[6:], word&^ipv4Offset|uint16(offset))
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], Checksum(h[:hlen]))
	if f.payload == 0 {
		f.pkt = nil
	}
	return b, true
}

// appendCopiedOptions appends the options that go into every fragment, those
// with the copied flag, padded to 32 bits (RFC 791 section 3.1). Options that
// can't be parsed are left out from there on.
func appendCopiedOptions(b, opts []byte) []byte {
	start := len(b)
	for len(opts) > 0 && opts[0] != 0 { // 0: end of option list
		n := 1 // 1: no operation, a single octet
		if opts[0] != 1 {
			if len(opts) < 2 || opts[1] < 2 || int(opts[1]) > len(opts) {
				break
			}
			n = int(opts[1])
		}
		if opts[0]&0x80 != 0 {
			b = append(b, opts[:n]...)
		}
		opts = opts[n:]
	}
	for (len(b)-start)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
