package encap

import "encoding/binary"

// TCP header fields (RFC 9293 section 3.1).
const (
	tcpLen       = 20
	tcpSYN       = 0x02
	optionEnd    = 0
	optionNop    = 1
	optionMSS    = 2
	optionMSSLen = 4
)

// tcpSyn returns where in pkt the TCP header of a SYN is, or 0.
func tcpSyn(pkt []byte) int {
	if len(pkt) < ipv4Len {
		return 0
	}
	at, proto := int(pkt[0]&0x0f)*4, pkt[9]
	if pkt[0]>>4 == 6 {
		if len(pkt) < ipv6Len {
			return 0
		}
		p, rest, fragment := walkExtensions(pkt[6], pkt[ipv6Len:])
		if fragment != nil {
			return 0
		}
		at, proto = len(pkt)-len(rest), p
	} else if binary.BigEndian.Uint16(pkt[6:])&ipv4Offset != 0 || at < ipv4Len {
		return 0
	}
	if proto != protoTCP || len(pkt) < at+tcpLen || pkt[at+13]&tcpSYN == 0 {
		return 0
	}
	return at
}

// IsSYN reports whether pkt, an IPv4 or IPv6 packet or its beginning, is one
// that opens a TCP connection or answers that.
func IsSYN(pkt []byte) bool { return tcpSyn(pkt) > 0 }

// ClampMSS lowers the maximum segment size that a TCP SYN announces to what
// fits into packets of room octets, and reports whether it did. The checksum
// is updated, not computed: a wrong one stays wrong (RFC 1624). With unfinished,
// one that is the sum of the pseudo-header, and so was left to others, stays that.
// pkt is an IPv4
// or IPv6 packet that passed Flow.Decode, or its beginning with all headers. A
// SYN without the option is left alone, as its sender takes 536 or 1220 at
// most (RFC 9293 section 3.7.1), and so are options that can't be parsed, from
// there on.
func ClampMSS(pkt []byte, room int, unfinished bool) bool {
	at := tcpSyn(pkt)
	if at == 0 {
		return false
	}
	mss, h := room-ipv4Len-tcpLen, pkt[at:]
	if pkt[0]>>4 == 6 {
		mss = room - ipv6Len - tcpLen
	}
	end := int(h[12]>>4) * 4
	if mss <= 0 || end > len(h) {
		return false
	}
	if unfinished {
		length := int(binary.BigEndian.Uint16(pkt[2:]))
		if pkt[0]>>4 == 6 {
			length = ipv6Len + int(binary.BigEndian.Uint16(pkt[4:]))
		}
		unfinished = binary.BigEndian.Uint16(h[16:]) == Fold(PseudoHeader(pkt, protoTCP, length-at))
	}
	clamped := false
	for i := tcpLen; i < end && h[i] != optionEnd; {
		if h[i] == optionNop {
			i++
			continue
		}
		if i+2 > end || h[i+1] < 2 || i+int(h[i+1]) > end {
			break
		}
		if h[i] == optionMSS && h[i+1] == optionMSSLen {
			if was := binary.BigEndian.Uint16(h[i+2:]); int(was) > mss {
				is := uint16(mss)
				binary.BigEndian.PutUint16(h[i+2:], is)
				if i%2 != 0 { // the value lies across two words of the sum
					was, is = was<<8|was>>8, is<<8|is>>8
				}
				if !unfinished {
					binary.BigEndian.PutUint16(h[16:], updateChecksum(binary.BigEndian.Uint16(h[16:]), was, is))
				}
				clamped = true
			}
		}
		i += int(h[i+1])
	}
	return clamped
}
