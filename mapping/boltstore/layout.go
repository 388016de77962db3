package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// The layout of the file. There is one bucket for each kind of item:
//
//	layout         "version" -> 4, one octet; 3: there are no sites; 2: nor revisions; 1: nor
//	               subscriptions
//	mappings       EID -> record, revision 64 (nothing: none was noted)
//	registrations  EID, registrant -> flags 8, at 64 (seconds since 1970), length of site 16, site, record
//	nonces         length of site 16, site, key-id 8, registrant -> nonce 64
//	subscriptions  EID, registrant -> nonce 64, number of ITR-RLOCs 8, ITR-RLOCs (family 8, address)
//	revision       "database" -> revision 64, digest of the configuration 64
//	sites          name -> revision 64, what the server says of it
//
//	EID         IID 32, family 8 (4 or 6), address, prefix length 8,
//	            source family 8 (0: any source), source address, length 8
//	registrant  xTR-ID 128, Site-ID 64, family 8 (0: none), RLOC
//	record      an EID-record (RFC 9301 section 5.4) whose EID-prefix is that
//	            of the key, without instance-ID and source
//
// Integers are big-endian, so that keys sort as EID.Compare does. Each value
// begins with the CRC-32C of key and value: bbolt checks its own pages only in
// part.
const layoutVersion = 4

var (
	layoutBucket = []byte("layout")
	versionKey   = []byte("version")
	revisionKey  = []byte("database")
)

// buckets holds, for each kind of item, the name of its bucket.
var buckets = [...][]byte{
	mapping.ItemMapping:      []byte("mappings"),
	mapping.ItemRegistration: []byte("registrations"),
	mapping.ItemNonce:        []byte("nonces"),
	mapping.ItemSubscription: []byte("subscriptions"),
	mapping.ItemRevision:     []byte("revision"),
	mapping.ItemSite:         []byte("sites"),
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const crcSize = 4

var errShort = errors.New("it is too short")

// appendKey appends the key of it to b, and fails when it has none.
func appendKey(b []byte, it *mapping.Item) ([]byte, error) {
	switch it.Kind {
	case mapping.ItemMapping:
		return appendEID(b, it.EID)
	case mapping.ItemRegistration:
		b, err := appendEID(b, it.EID)
		if err != nil {
			return b, err
		}
		return appendRegistrant(b, it.By)
	case mapping.ItemSubscription:
		b, err := appendEID(b, it.EID)
		if err != nil {
			return b, err
		}
		return appendRegistrant(b, it.By)
	case mapping.ItemNonce:
		b, err := appendSite(b, it.Site)
		if err != nil {
			return b, err
		}
		return appendRegistrant(append(b, it.KeyID), it.By)
	case mapping.ItemRevision:
		return append(b, revisionKey...), nil
	case mapping.ItemSite:
		return appendSite(b, it.Site)
	}
	return b, fmt.Errorf("kind of item %d is not known", it.Kind)
}

// appendValue appends the value of it to b.
func appendValue(b []byte, key []byte, it *mapping.Item) ([]byte, error) {
	start := len(b)
	b = append(b, make([]byte, crcSize)...)
	var err error
	switch it.Kind {
	case mapping.ItemMapping:
		if b, err = appendRecord(b, it); err == nil && it.Revision > 0 {
			b = binary.BigEndian.AppendUint64(b, it.Revision)
		}
	case mapping.ItemRegistration:
		b = append(b, byte(it.Flags))
		b = binary.BigEndian.AppendUint64(b, uint64(it.At.Unix()))
		if b, err = appendSite(b, it.Site); err == nil {
			b, err = appendRecord(b, it)
		}
	case mapping.ItemNonce:
		b = binary.BigEndian.AppendUint64(b, it.Nonce)
	case mapping.ItemSubscription:
		b = binary.BigEndian.AppendUint64(b, it.Nonce)
		b, err = appendAddrs(b, it.RLOCs)
	case mapping.ItemRevision:
		b = binary.BigEndian.AppendUint64(b, it.Revision)
		b = binary.BigEndian.AppendUint64(b, it.Digest)
	case mapping.ItemSite:
		b = binary.BigEndian.AppendUint64(b, it.Revision)
		b = append(b, it.Value...)
	}
	if err != nil {
		return b, err
	}
	binary.BigEndian.PutUint32(b[start:], checksum(key, b[start+crcSize:]))
	return b, nil
}

func checksum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

func appendEID(b []byte, e mapping.EID) ([]byte, error) {
	if !e.IsValid() || e.Prefix != e.Prefix.Masked() || e.Source.IsValid() && e.Source != e.Source.Masked() {
		return b, fmt.Errorf("%w: %v from %v", mapping.ErrBadEID, e.Prefix, e.Source)
	}
	if _, err := mapping.MakeEID(e.IID, e.Prefix); err != nil {
		return b, err
	}
	b = binary.BigEndian.AppendUint32(b, e.IID)
	b = appendPrefix(b, e.Prefix)
	if !e.Source.IsValid() {
		return append(b, 0), nil
	}
	return appendPrefix(b, e.Source), nil
}

func appendPrefix(b []byte, p netip.Prefix) []byte {
	return append(appendAddr(b, p.Addr()), byte(p.Bits()))
}

// appendAddr appends family and address; the family of the zero Addr is 0.
func appendAddr(b []byte, a netip.Addr) []byte {
	switch {
	case a.Is4():
		return append(append(b, 4), a.AsSlice()...)
	case a.Is6():
		x := a.As16()
		return append(append(b, 6), x[:]...)
	}
	return append(b, 0)
}

func appendAddrs(b []byte, addrs []netip.Addr) ([]byte, error) {
	if len(addrs) > math.MaxUint8 {
		return b, fmt.Errorf("%d addresses, the limit is %d", len(addrs), math.MaxUint8)
	}
	b = append(b, byte(len(addrs)))
	for _, a := range addrs {
		if !a.IsValid() || a.Zone() != "" {
			return b, fmt.Errorf("%v is not a plain address", a)
		}
		b = appendAddr(b, a)
	}
	return b, nil
}

func appendRegistrant(b []byte, r mapping.Registrant) ([]byte, error) {
	if r.RLOC.Zone() != "" {
		return b, fmt.Errorf("registrant %v has a zone", r)
	}
	b = append(b, r.XTRID[:]...)
	b = binary.BigEndian.AppendUint64(b, r.SiteID)
	return appendAddr(b, r.RLOC), nil
}

func appendSite(b []byte, site string) ([]byte, error) {
	if len(site) > math.MaxUint8 {
		return b, fmt.Errorf("the name of site %.20q... has %d octets, the limit is %d", site, len(site), math.MaxUint8)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(site)))
	return append(b, site...), nil
}

func appendRecord(b []byte, it *mapping.Item) ([]byte, error) {
	if it.Record == nil {
		return b, errors.New("it has no record")
	}
	if it.Record.EID != it.EID {
		return b, fmt.Errorf("its record is of %v", it.Record.EID)
	}
	r := *it.Record
	r.EID = mapping.EID{Prefix: r.EID.Prefix}
	start := len(b)
	b, err := wire.AppendRecord(b, &r)
	if n := len(b) - start; err == nil && n > maxRecord {
		return b, fmt.Errorf("its record has %d octets, the limit is %d", n, maxRecord)
	}
	return b, err
}

// reader takes a key or a value apart; its first error sticks.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || len(r.b) < n {
		r.err = errors.Join(r.err, errShort)
		return make([]byte, n)
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func (r *reader) u8() uint8   { return r.take(1)[0] }
func (r *reader) u16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

func (r *reader) site() string { return string(r.take(int(r.u16()))) }

// addr returns the zero Addr for family 0.
func (r *reader) addr() netip.Addr {
	switch f := r.u8(); f {
	case 0:
		return netip.Addr{}
	case 4:
		return netip.AddrFrom4([4]byte(r.take(4)))
	case 6:
		return netip.AddrFrom16([16]byte(r.take(16)))
	default:
		r.fail("address family %d is not known", f)
	}
	return netip.Addr{}
}

// prefix returns the zero Prefix for family 0.
func (r *reader) prefix() netip.Prefix {
	a := r.addr()
	if !a.IsValid() {
		return netip.Prefix{}
	}
	p := netip.PrefixFrom(a, int(r.u8()))
	if !p.IsValid() {
		r.fail("%v is not a prefix", p)
	}
	return p
}

func (r *reader) eid() mapping.EID {
	iid := r.u32()
	e, err := mapping.MakeEID(iid, r.prefix())
	if err != nil {
		r.fail("%w", err)
	}
	e.Source = r.prefix()
	return e
}

func (r *reader) registrant() (g mapping.Registrant) {
	copy(g.XTRID[:], r.take(len(g.XTRID)))
	g.SiteID = r.u64()
	g.RLOC = r.addr()
	return g
}

// record reads the rest of r.
func (r *reader) record(e mapping.EID) *mapping.Record {
	if r.err != nil {
		return nil
	}
	rec, n, err := decodeRecord(r.b)
	if err != nil {
		r.fail("%w", err)
		return nil
	}
	if rec.EID.Prefix != e.Prefix {
		r.fail("its record is of %v", rec.EID)
	}
	rec.EID = e
	r.b = r.b[n:]
	return rec
}

// mapReplyHeader begins a Map-Reply with one record: package wire decodes
// records in messages only.
const mapReplyHeader = "\x20\x00\x00\x01" + "\x00\x00\x00\x00\x00\x00\x00\x00"

// maxRecord is the largest record that decodeRecord reads.
const maxRecord = wire.MaxMessage - len(mapReplyHeader)

// decodeRecord reads the record that b begins with and returns its length.
func decodeRecord(b []byte) (*mapping.Record, int, error) {
	var m wire.MapReply
	msg := append(append(make([]byte, 0, 256), mapReplyHeader...), b...)
	if err := m.Decode(msg); err != nil {
		return nil, 0, err
	}
	for r := range m.Records.All() {
		rec, err := r.Mapping()
		return rec, m.Records.Size(), err
	}
	return nil, 0, errShort
}

func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("it has %d octets too many", len(r.b))
	}
	return r.err
}

// decodeItem rebuilds an item, which borrows neither key nor value.
func decodeItem(kind mapping.ItemKind, key, value []byte) (mapping.Item, error) {
	it := mapping.Item{Kind: kind}
	k, v := reader{b: key}, reader{b: value}
	sum := v.u32()
	if v.err == nil && sum != checksum(key, v.b) {
		return it, errors.New("its checksum is wrong")
	}
	switch kind {
	case mapping.ItemMapping:
		it.EID = k.eid()
		if it.Record = v.record(it.EID); v.err == nil && len(v.b) > 0 {
			it.Revision = v.u64()
		}
	case mapping.ItemRegistration:
		it.EID = k.eid()
		it.By = k.registrant()
		it.Flags = mapping.RegisterFlags(v.u8())
		it.At = time.Unix(int64(v.u64()), 0)
		it.Site = v.site()
		it.Record = v.record(it.EID)
	case mapping.ItemSubscription:
		it.EID = k.eid()
		it.By = k.registrant()
		it.Nonce = v.u64()
		for range v.u8() {
			a := v.addr()
			if !a.IsValid() {
				v.fail("an ITR-RLOC is missing")
				break
			}
			it.RLOCs = append(it.RLOCs, a)
		}
	case mapping.ItemNonce:
		it.Site = k.site()
		it.KeyID = k.u8()
		it.By = k.registrant()
		it.Nonce = v.u64()
	case mapping.ItemRevision:
		k.b = bytes.TrimPrefix(k.b, revisionKey)
		it.Revision, it.Digest = v.u64(), v.u64()
	case mapping.ItemSite:
		it.Site = k.site()
		it.Revision = v.u64()
		it.Value = bytes.Clone(v.take(len(v.b)))
	}
	if err := k.end(); err != nil {
		return it, fmt.Errorf("key: %w", err)
	}
	if err := v.end(); err != nil {
		return it, fmt.Errorf("value: %w", err)
	}
	return it, nil
}
