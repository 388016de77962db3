// Package mrt reads what a collector recorded of BGP (RFC 6396) and says what of it
// a mapping system would have heard.
package mrt

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"github.com/osrg/gobgp/v3/pkg/packet/mrt"
)

// Peer is a router that tells the collector its routes.
type Peer struct {
	AS   uint32
	Addr netip.Addr
}

// Update is an UPDATE message that a collector got.
type Update struct {
	Time   time.Time
	Peer   Peer
	Octets int // of the message, headers of BGP included
	// Withdrawn and Announced are the prefixes of IPv4 unicast.
	Withdrawn, Announced []netip.Prefix
	// Others is how many prefixes of other families are in it.
	Others int
	// Path is the AS path of what is announced, without sets, and each AS once.
	Path []uint32
	// Attributes are those of what is announced, but for the next hop and those of
	// other families, in the order of their types and with four octets for each AS.
	Attributes []bgp.PathAttributeInterface
	nextHop    string // as it was
}

// Origin is who announces the prefixes; 0 if that is not known.
func (u *Update) Origin() uint32 {
	if len(u.Path) == 0 {
		return 0
	}
	return u.Path[len(u.Path)-1]
}

// Upstream is the neighbour of the origin that the path goes over; the peer itself
// where it is the origin's neighbour or the origin.
func (u *Update) Upstream() uint32 {
	if len(u.Path) < 2 {
		return u.Peer.AS
	}
	return u.Path[len(u.Path)-2]
}

// AppendAttributes appends the attributes as they are on the wire, with a next hop.
func (u *Update) AppendAttributes(b []byte, nextHop netip.Addr) ([]byte, error) {
	put := func(a bgp.PathAttributeInterface) error {
		x, err := a.Serialize()
		b = append(b, x...)
		return err
	}
	hop := bgp.NewPathAttributeNextHop(nextHop.String())
	said := false
	for _, a := range u.Attributes {
		if !said && a.GetType() > bgp.BGP_ATTR_TYPE_NEXT_HOP {
			said = true
			if err := put(hop); err != nil {
				return b, err
			}
		}
		if err := put(a); err != nil {
			return b, err
		}
	}
	if !said {
		return b, put(hop)
	}
	return b, nil
}

// File is what a file holds.
type File struct {
	Name    string // without the directory
	Updates []Update
	// States is how many changes of the state of a session were recorded, and
	// Messages how many messages that are no UPDATE.
	States, Messages int
	// Malformed counts records that could not be read: a collector writes down what
	// it gets.
	Malformed int
}

// Limits of what is read.
const (
	maxRecord  = 1 << 16 // octets: a message has at most 4,096, or 65,535
	maxUpdates = 1 << 21 // in a file
)

// recordHeader is the header of a record (RFC 6396 section 2).
const recordHeader = mrt.MRT_COMMON_HEADER_LEN

// Types of records (RFC 6396 section 4).
const (
	typeBGP4MP   = uint16(mrt.BGP4MP)
	typeBGP4MPET = uint16(mrt.BGP4MP_ET) // with microseconds behind the header
)

// ReadFile reads a file of BGP4MP records, which gzip may have compressed.
func ReadFile(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<16)
	var r io.Reader = in
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		defer z.Close()
		r = z
	}
	out, err := Read(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	out.Name = filepath.Base(path)
	return out, nil
}

// Read reads BGP4MP records. A record that says how long it is and is not
// understood is counted; a file that ends within a record, has records of another
// type, or more than a million or two of UPDATEs, is an error.
func Read(in io.Reader) (*File, error) {
	f := new(File)
	var head [recordHeader]byte
	for n := 0; ; n++ {
		if _, err := io.ReadFull(in, head[:]); errors.Is(err, io.EOF) {
			return f, nil
		} else if err != nil {
			return nil, fmt.Errorf("record %d: %w", n+1, err)
		}
		kind, length := binary.BigEndian.Uint16(head[4:]), binary.BigEndian.Uint32(head[8:])
		if length > maxRecord {
			return nil, fmt.Errorf("record %d has %d octets, the limit is %d: is this an MRT file?", n+1, length, maxRecord)
		}
		if kind != typeBGP4MP && kind != typeBGP4MPET {
			return nil, fmt.Errorf("record %d is of type %d, expected %d or %d: messages (files of updates), no tables", n+1, kind, typeBGP4MP, typeBGP4MPET)
		}
		body := make([]byte, length)
		if _, err := io.ReadFull(in, body); err != nil {
			return nil, fmt.Errorf("record %d: %w", n+1, err)
		}
		if len(f.Updates) == maxUpdates {
			return nil, fmt.Errorf("more than %d UPDATEs: take a shorter file", maxUpdates)
		}
		if !f.record(head[:], body) {
			f.Malformed++
		}
	}
}

// record takes one in, and reports whether it understood it.
func (f *File) record(head, body []byte) (ok bool) {
	// What a router sent to a collector is not known to be well-formed, and the
	// decoder not to be prepared for all of it.
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	var h mrt.MRTHeader
	if h.DecodeFromBytes(head) != nil {
		return false
	}
	at := time.Unix(int64(h.Timestamp), 0)
	if h.Type == mrt.BGP4MP_ET {
		if len(body) < 4 {
			return false
		}
		at = at.Add(time.Duration(binary.BigEndian.Uint32(body)) * time.Microsecond)
		body = body[4:]
		h.Type, h.Len = mrt.BGP4MP, h.Len-4
	}
	m, err := mrt.ParseMRTBody(&h, body)
	if err != nil {
		return false
	}
	switch b := m.Body.(type) {
	case *mrt.BGP4MPStateChange:
		f.States++
		return true
	case *mrt.BGP4MPMessage:
		u, isUpdate := b.BGPMessage.Body.(*bgp.BGPUpdate)
		if !isUpdate {
			f.Messages++
			return true
		}
		peer, valid := netip.AddrFromSlice(b.PeerIpAddress)
		if !valid {
			return false
		}
		x := Update{Time: at.UTC(), Peer: Peer{b.PeerAS, peer.Unmap()}, Octets: int(b.BGPMessage.Header.Len)}
		if !x.read(u) {
			return false
		}
		f.Updates = append(f.Updates, x)
		return true
	}
	return false
}

// read takes in what an UPDATE says.
func (u *Update) read(m *bgp.BGPUpdate) bool {
	for _, w := range m.WithdrawnRoutes {
		p, ok := prefix(w)
		if !ok {
			return false
		}
		u.Withdrawn = append(u.Withdrawn, p)
	}
	for _, n := range m.NLRI {
		p, ok := prefix(n)
		if !ok {
			return false
		}
		u.Announced = append(u.Announced, p)
	}
	var path, path4 []bgp.AsPathParamInterface
	for _, a := range m.PathAttributes {
		switch a := a.(type) {
		case *bgp.PathAttributeNextHop:
			u.nextHop = a.Value.String()
		case *bgp.PathAttributeMpReachNLRI:
			u.Others += len(a.Value)
		case *bgp.PathAttributeMpUnreachNLRI:
			u.Others += len(a.Value)
		case *bgp.PathAttributeAsPath:
			path = a.Value
		case *bgp.PathAttributeAs4Path:
			for _, p := range a.Value {
				path4 = append(path4, p)
			}
		case *bgp.PathAttributeAs4Aggregator, *bgp.PathAttributeUnknown:
		case *bgp.PathAttributeAggregator:
			// An AS of two octets takes its four in the attribute, too.
			u.Attributes = append(u.Attributes, bgp.NewPathAttributeAggregator(a.Value.AS, a.Value.Address.String()))
		default:
			u.Attributes = append(u.Attributes, a)
		}
	}
	if len(u.Announced) == 0 {
		return true
	}
	segments := merge(path, path4)
	if len(segments) == 0 || u.nextHop == "" {
		return false
	}
	u.Attributes = append(u.Attributes, bgp.NewPathAttributeAsPath(segments))
	for _, s := range segments {
		if s.GetType() != bgp.BGP_ASPATH_ATTR_TYPE_SEQ {
			continue
		}
		for _, as := range s.GetAS() {
			if len(u.Path) == 0 || u.Path[len(u.Path)-1] != as {
				u.Path = append(u.Path, as)
			}
		}
	}
	sortAttributes(u.Attributes)
	return true
}

func sortAttributes(list []bgp.PathAttributeInterface) {
	slices.SortStableFunc(list, func(a, b bgp.PathAttributeInterface) int { return int(a.GetType()) - int(b.GetType()) })
}

// merge returns a path with four octets for each AS: that of AS_PATH, or, where a
// router on the way knew only two of them, what AS4_PATH has of it (RFC 6793 section
// 4.2.3).
func merge(path, path4 []bgp.AsPathParamInterface) (out []bgp.AsPathParamInterface) {
	lead := length(path)
	if n := length(path4); n > 0 && n <= lead {
		lead -= n
	} else {
		path4 = nil
	}
	for _, s := range path {
		as := s.GetAS()
		if lead == 0 || len(as) == 0 {
			break
		}
		if s.GetType() == bgp.BGP_ASPATH_ATTR_TYPE_SEQ {
			as = as[:min(lead, len(as))]
			lead -= len(as)
		} else {
			lead--
		}
		out = append(out, bgp.NewAs4PathParam(s.GetType(), as))
	}
	return append(out, path4...)
}

// length is how many ASes a path has; a set counts as one (RFC 4271 section 9.1.2.2).
func length(path []bgp.AsPathParamInterface) (n int) {
	for _, s := range path {
		if s.GetType() == bgp.BGP_ASPATH_ATTR_TYPE_SEQ {
			n += len(s.GetAS())
		} else if len(s.GetAS()) > 0 {
			n++
		}
	}
	return n
}

func prefix(n *bgp.IPAddrPrefix) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(n.Prefix.To4())
	if !ok || n.Length > 32 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, int(n.Length)).Masked(), true
}
