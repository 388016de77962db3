package wire

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// Record is an EID-record with its RLOC-records (RFC 9301 section 5.4), a view
// of the octets it was decoded from.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+---------------------------------------------------------------+
//	|                          Record TTL                           |
//	+---------------+---------------+-----+-+-----------------------+
//	| Locator Count | EID mask-len  | ACT |A|       Reserved        |
//	+-------+-------+---------------+-----+-+-----------------------+
//	| Rsvd  |  Map-Version Number   |        EID-Prefix-AFI         |
//	+-------+-----------------------+-------------------------------+
//	|                          EID-Prefix  ...                      |
//	+---------------------------------------------------------------+
//	|                  RLOC-records, Locator Count  ...             |
//	+---------------------------------------------------------------+
type Record struct {
	// TTL is in minutes; 0 withdraws the record, mapping.TTLReceiver leaves
	// the choice to the receiver.
	TTL uint32
	// Action matters when there are no locators. It may be an unassigned
	// value, up to mapping.MaxAction.
	Action        mapping.Action
	Authoritative bool
	Version       uint16 // 12 bits, RFC 9302
	// MaskLen counts the bits of the address inside an Instance-ID. Bits of
	// EID beyond it may be set: Address.EID clears them.
	MaskLen uint8
	EID     Address

	n        int    // number of locators
	locators []byte // checked
}

const (
	recordHeader  = 10 // before the EID-Prefix-AFI
	locatorHeader = 6  // before the Loc-AFI
	locatorFlags  = uint8(mapping.Local | mapping.Probed | mapping.Reachable)
)

// Locator is an RLOC-record (RFC 9301 section 5.4).
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+---------------+---------------+---------------+---------------+
//	|   Priority    |    Weight     |  M Priority   |   M Weight    |
//	+---------------+---------+-+-+-+---------------+---------------+
//	|      Unused Flags       |L|p|R|            Loc-AFI            |
//	+-------------------------+-+-+-+-------------------------------+
//	|                            Locator  ...                       |
//	+---------------------------------------------------------------+
type Locator struct {
	Priority, Weight, MPriority, MWeight uint8
	Flags                                mapping.LocatorFlags
	Address                              Address
}

// NewRecord returns r in wire form. It fails like AppendRecord.
func NewRecord(r *mapping.Record) (Record, error) {
	b, err := AppendRecord(nil, r)
	if err != nil {
		return Record{}, err
	}
	c := cursor{b: b}
	return c.record(), c.err
}

// record reads one EID-record and checks all its locators.
func (c *cursor) record() Record {
	r := Record{TTL: c.u32("record_ttl")}
	n := c.u8("locator_count")
	r.MaskLen = c.u8("eid_mask_len")
	flags := c.u16("action")
	r.Action = mapping.Action(flags >> 13)
	r.Authoritative = flags&0x1000 != 0
	r.Version = c.u16("map_version") & 0x0fff
	r.EID = c.prefix("eid", r.MaskLen)
	if c.err != nil {
		return Record{}
	}
	from := c.off
	for i := range int(n) {
		c.locator()
		if c.err != nil {
			c.within(fmt.Sprintf("locator %d", i))
			return Record{}
		}
	}
	r.n, r.locators = int(n), c.b[from:c.off:c.off]
	return r
}

func (c *cursor) locator() Locator {
	h := c.take(locatorHeader, "header")
	a := c.address("address")
	if c.err != nil {
		return Locator{}
	}
	return Locator{
		Priority: h[0], Weight: h[1], MPriority: h[2], MWeight: h[3],
		Flags: mapping.LocatorFlags(h[5] & locatorFlags), Address: a,
	}
}

// NumLocators returns the number of locators.
func (r Record) NumLocators() int { return r.n }

// Locators walks the locators in the order of the message. They borrow what
// the record borrows.
func (r Record) Locators() iter.Seq[Locator] {
	return func(yield func(Locator) bool) {
		c := cursor{b: r.locators}
		for range r.n {
			l := c.locator()
			if c.err != nil || !yield(l) {
				return
			}
		}
	}
}

// Mapping returns the record as the model has it: a copy, bits of the EID
// beyond the mask cleared, locators sorted, and every locator that is not a
// plain IPv4 or IPv6 address kept as Opaque, beside the address in it. It fails with ErrNotIPEID or
// ErrBadMaskLen as Address.EID does.
func (r Record) Mapping() (*mapping.Record, error) {
	e, err := r.EID.EID(r.MaskLen)
	if err != nil {
		return nil, err
	}
	m := &mapping.Record{EID: e, TTL: r.TTL, Action: r.Action, Authoritative: r.Authoritative, Version: r.Version}
	if r.n > 0 {
		m.Locators = make([]mapping.Locator, 0, r.n)
	}
	for l := range r.Locators() {
		ml := mapping.Locator{Priority: l.Priority, Weight: l.Weight, MPriority: l.MPriority, MWeight: l.MWeight, Flags: l.Flags}
		ml.Addr, _ = l.Address.RLOC()
		if _, plain := l.Address.IP(); !plain {
			ml.Opaque = string(l.Address.Bytes())
		}
		m.Locators = append(m.Locators, ml)
	}
	// Stable: two RLOC-records of one address keep their order.
	slices.SortStableFunc(m.Locators, mapping.Locator.Compare)
	return m, nil
}

// AppendBinary appends the record, reserved bits cleared. It fails with
// ErrInvalid when a field is out of range.
func (r Record) AppendBinary(b []byte) ([]byte, error) {
	start := len(b)
	b, err := appendRecordHeader(b, r.TTL, r.n, r.MaskLen, r.Action, r.Authoritative, r.Version)
	if err != nil {
		return b, err
	}
	b = append(b, r.EID.Bytes()...)
	b = append(b, r.locators...)
	clearReserved(b[start:], 1)
	return b, nil
}

// AppendRecord appends a record of the model. It sorts nothing: the locators
// go out in the order they have, which the caller has made that of
// mapping.Locator.Compare (RFC 9301 section 5.5). Opaque locators are written
// as they were received. It fails with ErrInvalid when the record has no valid
// EID, a field is out of range or a locator is not an address, and then
// returns b as it was.
func AppendRecord(b []byte, r *mapping.Record) ([]byte, error) {
	if !r.EID.IsValid() {
		return b, fmt.Errorf("record: %w: it has no EID", ErrInvalid)
	}
	start := len(b)
	b, err := appendRecordHeader(b, r.TTL, len(r.Locators), uint8(r.EID.Prefix.Bits()), r.Action, r.Authoritative, r.Version)
	if err != nil {
		return b, fmt.Errorf("record of %v: %w", r.EID, err)
	}
	if !r.EID.Source.IsValid() {
		b = appendEID(b, r.EID.IID, r.EID.Prefix.Addr())
	} else {
		a, _ := PrefixAddress(r.EID)
		b = append(b, a.Bytes()...)
	}
	for _, l := range r.Locators {
		b = append(b, l.Priority, l.Weight, l.MPriority, l.MWeight, 0, uint8(l.Flags)&locatorFlags)
		if b, err = appendLocatorAddress(b, l.Addr, l.Opaque); err != nil {
			return b[:start], fmt.Errorf("record of %v: %w", r.EID, err)
		}
	}
	return b, nil
}

func appendRecordHeader(b []byte, ttl uint32, locators int, maskLen uint8, act mapping.Action, auth bool, version uint16) ([]byte, error) {
	switch {
	case locators > MaxRecords:
		return b, fmt.Errorf("%w: %d locators, at most %d can be counted", ErrInvalid, locators, MaxRecords)
	case act > mapping.MaxAction:
		return b, fmt.Errorf("%w: action %d has more than 3 bits", ErrInvalid, uint8(act))
	case version > 0x0fff:
		return b, fmt.Errorf("%w: map-version %d has more than 12 bits", ErrInvalid, version)
	}
	b = binary.BigEndian.AppendUint32(b, ttl)
	b = append(b, uint8(locators), maskLen, uint8(act)<<5|bit(auth, 0x10), 0)
	return binary.BigEndian.AppendUint16(b, version), nil
}

func appendLocatorAddress(b []byte, ip netip.Addr, opaque string) ([]byte, error) {
	switch {
	case ip.Zone() != "":
		return b, fmt.Errorf("%w: locator %v has a zone", ErrInvalid, ip)
	case opaque == "" && ip.IsValid():
		return appendIP(b, ip), nil
	}
	from := len(b)
	b = append(b, opaque...)
	n, _, err := checkAddress(b[from:], 0)
	if err != nil {
		return b, fmt.Errorf("%w: opaque locator: %w", ErrInvalid, err)
	} else if n != len(opaque) {
		return b, fmt.Errorf("%w: opaque locator: %w, %d octets too many", ErrInvalid, ErrBadLength, len(opaque)-n)
	}
	if has, _ := (Address{b[from:]}).RLOC(); has != ip {
		return b, fmt.Errorf("%w: locator %v in octets with address %v", ErrInvalid, ip, has)
	}
	return b, nil
}

// Records are the EID-records of one message: their number and their octets,
// checked.
type Records struct {
	n int
	b []byte
}

// NewRecords returns records in wire form. It fails like AppendRecord, and
// with ErrInvalid for more than MaxRecords.
func NewRecords(recs ...*mapping.Record) (Records, error) {
	if len(recs) > MaxRecords {
		return Records{}, fmt.Errorf("records: %w: %d, at most %d can be counted", ErrInvalid, len(recs), MaxRecords)
	}
	rs := Records{n: len(recs)}
	for _, r := range recs {
		var err error
		if rs.b, err = AppendRecord(rs.b, r); err != nil {
			return Records{}, err
		}
	}
	return rs, nil
}

// Len returns the number of records.
func (rs Records) Len() int { return rs.n }

// Size returns the number of octets that the records take in a message.
func (rs Records) Size() int { return len(rs.b) }

// All walks the records in the order of the message. They borrow what the
// Records borrow.
func (rs Records) All() iter.Seq[Record] {
	return func(yield func(Record) bool) {
		c := cursor{b: rs.b}
		for range rs.n {
			r := c.record()
			if c.err != nil || !yield(r) {
				return
			}
		}
	}
}

// AppendBinary appends all records, reserved bits cleared.
func (rs Records) AppendBinary(b []byte) ([]byte, error) {
	start := len(b)
	b = append(b, rs.b...)
	clearReserved(b[start:], rs.n)
	return b, nil
}

// records reads n EID-records.
func (c *cursor) records(n uint8) Records {
	if c.err != nil {
		return Records{}
	}
	from := c.off
	for i := range int(n) {
		c.record()
		if c.err != nil {
			c.within(fmt.Sprintf("record %d", i))
			return Records{}
		}
	}
	return Records{n: int(n), b: c.b[from:c.off:c.off]}
}

// clearReserved zeroes the bits that a sender must leave zero in the n checked
// records of b (RFC 9301 section 5.4). Addresses stay as they are.
func clearReserved(b []byte, n int) {
	c := cursor{b: b}
	for range n {
		h := c.take(recordHeader, "record")
		c.address("eid")
		if c.err != nil {
			return
		}
		h[6] &= 0xf0
		h[7] = 0
		h[8] &= 0x0f
		for range h[4] {
			l := c.take(locatorHeader, "locator")
			c.address("locator")
			if c.err != nil {
				return
			}
			l[4], l[5] = 0, l[5]&locatorFlags
		}
	}
}
