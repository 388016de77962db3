package dfz

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// Sizes of RFC 4271 section 4.
const (
	headerLen  = 19
	maxMessage = 4096
)

// readMessage reads a BGP message, header included, into buf, which it returns
// grown if need be.
func readMessage(in io.Reader, buf []byte) ([]byte, error) {
	buf = slices.Grow(buf[:0], maxMessage)[:headerLen]
	if _, err := io.ReadFull(in, buf); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(buf[16:]))
	if n < headerLen || n > maxMessage {
		return nil, fmt.Errorf("a BGP message of %d octets", n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(in, buf[headerLen:]); err != nil {
		return nil, err
	}
	return buf, nil
}

// update is an UPDATE message of IPv4 unicast (RFC 4271 section 4.3).
type update struct {
	withdrawn, announced []netip.Prefix
	attrs                []byte // of what is announced, as they are on the wire
}

var errUpdate = errors.New("malformed UPDATE")

// decode reads a message of type UPDATE. The attributes are those of msg; the
// slices of u are used again.
func (u *update) decode(msg []byte) error {
	b := msg[headerLen:]
	part := func() ([]byte, bool) {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return nil, false
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		p := b[2:n]
		b = b[n:]
		return p, true
	}
	withdrawn, ok := part()
	if ok {
		u.attrs, ok = part()
	}
	if !ok {
		return errUpdate
	}
	var err error
	if u.withdrawn, err = prefixes(u.withdrawn[:0], withdrawn); err != nil {
		return err
	}
	u.announced, err = prefixes(u.announced[:0], b)
	return err
}

// prefixes appends what is in b to list.
func prefixes(list []netip.Prefix, b []byte) ([]netip.Prefix, error) {
	for len(b) > 0 {
		bits := int(b[0])
		n := 1 + (bits+7)/8
		if bits > 32 || len(b) < n {
			return list, errUpdate
		}
		var a [4]byte
		copy(a[:], b[1:n])
		list = append(list, netip.PrefixFrom(netip.AddrFrom4(a), bits).Masked())
		b = b[n:]
	}
	return list, nil
}

func prefixLen(p netip.Prefix) int { return 1 + (p.Bits()+7)/8 }

func appendPrefix(b []byte, p netip.Prefix) []byte {
	a := p.Addr().As4()
	return append(append(b, byte(p.Bits())), a[:prefixLen(p)-1]...)
}

// appendUpdates appends as few messages as say that all of list is withdrawn, if
// attrs is nil, or else announced with them, and returns how many prefixes are in
// each.
func appendUpdates(b []byte, attrs []byte, list []netip.Prefix) ([]byte, []int) {
	var counts []int
	for len(list) > 0 {
		start := len(b)
		b = append(b, marker[:]...)
		b = append(b, 0, 0, bgp.BGP_MSG_UPDATE, 0, 0)
		if attrs != nil {
			b = binary.BigEndian.AppendUint16(b, uint16(len(attrs)))
			b = append(b, attrs...)
		}
		room := maxMessage
		if attrs == nil {
			room -= 2 // the length of the attributes comes behind
		}
		n := 0
		for n < len(list) && len(b)-start+prefixLen(list[n]) <= room {
			b = appendPrefix(b, list[n])
			n++
		}
		if n == 0 {
			panic("dfz: attributes that leave no room for a prefix")
		}
		if attrs == nil {
			binary.BigEndian.PutUint16(b[start+headerLen:], uint16(len(b)-start-headerLen-2))
			b = append(b, 0, 0)
		}
		binary.BigEndian.PutUint16(b[start+16:], uint16(len(b)-start))
		list = list[n:]
		counts = append(counts, n)
	}
	return b, counts
}

var marker = [16]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// attributes encodes those of a route that a customer announces.
func attributes(path []uint32, nextHop netip.Addr) ([]byte, error) {
	var b []byte
	for _, a := range []bgp.PathAttributeInterface{
		bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP),
		bgp.NewPathAttributeAsPath([]bgp.AsPathParamInterface{bgp.NewAs4PathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, path)}),
		bgp.NewPathAttributeNextHop(nextHop.String()),
	} {
		x, err := a.Serialize()
		if err != nil {
			return nil, err
		}
		b = append(b, x...)
	}
	return b, nil
}

// hasAS reports whether the AS_PATH in attrs, of four octets for each AS, has as.
func hasAS(attrs []byte, as uint32) bool {
	for len(attrs) >= 3 {
		flags, kind, n, head := attrs[0], attrs[1], int(attrs[2]), 3
		if flags&byte(bgp.BGP_ATTR_FLAG_EXTENDED_LENGTH) != 0 {
			if len(attrs) < 4 {
				return false
			}
			n, head = int(binary.BigEndian.Uint16(attrs[2:])), 4
		}
		if len(attrs) < head+n {
			return false
		}
		value := attrs[head : head+n]
		attrs = attrs[head+n:]
		if bgp.BGPAttrType(kind) != bgp.BGP_ATTR_TYPE_AS_PATH {
			continue
		}
		for len(value) >= 2 {
			count := int(value[1])
			value = value[2:]
			for ; count > 0 && len(value) >= 4; count-- {
				if binary.BigEndian.Uint32(value) == as {
					return true
				}
				value = value[4:]
			}
		}
	}
	return false
}
