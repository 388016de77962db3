package dptest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// A super-packet is one whose payload is that of several, with headers for all of
// them: hosts and planes leave it to the last device on the way to make packets of
// it, or to nobody.

// offload is what a kernel says of a super-packet beside its octets: where the
// transport header of the segments begins, where in it the checksum is, which is
// the sum of the pseudo-header, and how many octets of payload each segment has.
type offload struct{ start, sum, size int }

// announce makes a super-packet of a TCP or UDP packet with right checksums, as
// the kernel of its sender has it.
func announce(pkt []byte, size int) ([]byte, offload) {
	o := offload{start: 20, sum: 16, size: size}
	proto, src, dst := pkt[9], netip.AddrFrom4([4]byte(pkt[12:])), netip.AddrFrom4([4]byte(pkt[16:]))
	if pkt[0]>>4 == 6 {
		o.start, proto = 40, pkt[6]
		src, dst = netip.AddrFrom16([16]byte(pkt[8:])), netip.AddrFrom16([16]byte(pkt[24:]))
	}
	if proto == UDP {
		o.sum = 6
	}
	b, n := slices.Clone(pkt), len(pkt)-o.start
	pseudo := ^sum(src.AsSlice(), dst.AsSlice(), []byte{0, proto, byte(n >> 8), byte(n)})
	binary.BigEndian.PutUint16(b[o.start+o.sum:], pseudo)
	return b, o
}

// cut makes of a super-packet the packets that a device makes of it, be it that
// of a host or with a LISP header and outer headers before it. All lengths in it
// have to agree.
func (o offload) cut(b []byte) (list [][]byte, err error) {
	if o.size <= 0 {
		return nil, errors.New("a super-packet without a size")
	}
	var ips, udps []int
	for at := 0; at != o.start; {
		if len(b) < at+48 {
			return nil, errors.New("a super-packet that ends in its headers")
		}
		length, hlen, proto := int(binary.BigEndian.Uint16(b[at+2:])), int(b[at]&15)*4, b[at+9]
		if b[at]>>4 == 6 {
			length, hlen, proto = 40+int(binary.BigEndian.Uint16(b[at+4:])), 40, b[at+6]
		}
		if length != len(b)-at {
			return nil, fmt.Errorf("a super-packet of %d octets whose IP length at %d says %d", len(b), at, length)
		}
		ips = append(ips, at)
		at += hlen
		if proto == UDP {
			if n := int(binary.BigEndian.Uint16(b[at+4:])); n != len(b)-at {
				return nil, fmt.Errorf("a super-packet of %d octets whose UDP length at %d says %d", len(b), at, n)
			}
			udps = append(udps, at)
		}
		if at == o.start {
			break
		}
		if proto != UDP || binary.BigEndian.Uint16(b[at+2:]) != lispPort || at > o.start {
			return nil, fmt.Errorf("a super-packet with headers that end at %d and not at %d", at, o.start)
		}
		at += 16
	}
	headers := o.start + 8
	if o.sum == 16 {
		headers = o.start + int(b[o.start+12]>>4)*4
	}
	for at := headers; at < len(b); at += o.size {
		end := min(at+o.size, len(b))
		s := slices.Concat(b[:headers], b[at:end])
		for _, ip := range ips {
			if n := len(s) - ip; s[ip]>>4 == 6 {
				binary.BigEndian.PutUint16(s[ip+4:], uint16(n-40))
			} else {
				binary.BigEndian.PutUint16(s[ip+2:], uint16(n))
				binary.BigEndian.PutUint16(s[ip+4:], binary.BigEndian.Uint16(s[ip+4:])+uint16(len(list)))
				sumHeader(s[ip:])
			}
		}
		for _, udp := range udps {
			binary.BigEndian.PutUint16(s[udp+4:], uint16(len(s)-udp))
		}
		if t := s[o.start:]; o.sum == 16 {
			binary.BigEndian.PutUint32(t[4:], binary.BigEndian.Uint32(t[4:])+uint32(at-headers))
			if len(list) > 0 {
				t[13] &^= 0x80 // CWR
			}
			if end < len(b) {
				t[13] &^= 0x09 // FIN and PSH
			}
		}
		// The sum that is there is of the whole length.
		t := s[o.start:]
		was, is := len(b)-o.start, len(t)
		word := binary.BigEndian.Uint16(t[o.sum:])
		binary.BigEndian.PutUint16(t[o.sum:], ^sum([]byte{byte(word >> 8), byte(word), ^byte(was >> 8), ^byte(was), byte(is >> 8), byte(is)}))
		final := sum(t)
		if o.sum == 6 {
			final = nonzero(final)
		}
		binary.BigEndian.PutUint16(t[o.sum:], final)
		if len(ips) > 1 {
			if err := sumOuter(b[ips[0]:], s[ips[0]:], udps[0]-ips[0]); err != nil {
				return nil, err
			}
		}
		list = append(list, s)
	}
	return list, nil
}

// sumOuter computes the outer checksum of a segment, if the super-packet that it
// is of has one. There it is unfinished, as the inner one.
func sumOuter(whole, segment []byte, udp int) error {
	given := binary.BigEndian.Uint16(whole[udp+6:])
	if given == 0 {
		return nil
	}
	src, _ := source(whole)
	dst := netip.AddrFrom4([4]byte(whole[16:]))
	if src.Is6() {
		dst = netip.AddrFrom16([16]byte(whole[24:]))
	}
	n := len(whole) - udp
	if want := ^sum(src.AsSlice(), dst.AsSlice(), []byte{0, UDP, byte(n >> 8), byte(n)}); given != want {
		return fmt.Errorf("a super-packet whose outer checksum is %#x, want %#x for the pseudo-header", given, want)
	}
	u := segment[udp:]
	binary.BigEndian.PutUint16(u[6:], 0)
	binary.BigEndian.PutUint16(u[6:], nonzero(sumTransport(src, dst, UDP, u)))
	return nil
}

func nonzero(s uint16) uint16 {
	if s == 0 {
		return 0xffff
	}
	return s
}

// super returns a TCP or UDP packet of n octets of payload, and the packets of at
// most size octets each that its host would send without offloads.
func super(p Inner, n, size int) (whole []byte, segments [][]byte) {
	p.Payload = make([]byte, n)
	for i := range p.Payload {
		p.Payload[i] = byte(i*7 + i>>8)
	}
	if p.Proto == TCP && p.Flags == 0 {
		p.Flags = 0x99 // CWR, ACK, PSH, FIN
	}
	whole = p.Bytes()
	for at := 0; at < n; at += size {
		s := p
		s.Payload = p.Payload[at:min(at+size, n)]
		s.Seq += uint32(at)
		s.ID += uint16(at / size)
		if at > 0 {
			s.Flags &^= 0x80
		}
		if at+size < n {
			s.Flags &^= 0x09
		}
		segments = append(segments, s.Bytes())
	}
	return whole, segments
}
