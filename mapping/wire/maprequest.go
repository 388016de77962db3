package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// MaxITRRLOCs is the largest number of ITR-RLOCs in a Map-Request: IRC, one
// less than their number, has five bits (RFC 9301 section 5.2).
const MaxITRRLOCs = 32

// MapRequest is the Map-Request (RFC 9301 section 5.2; N and I bits, xTR-ID
// and Site-ID RFC 9437 section 4). The roles that receive it decide which
// flags may stand together.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------+-+-+-+-+-+-+-+-+-------+-+-+-+---------+---------------+
//	|Type=1 |A|M|P|S|p|s|R|I|  Rsvd |R|L|D|   IRC   | Record Count  |
//	+-------+-+-+-+-+-+-+-+-+-------+-+-+-+---------+---------------+
//	|                         Nonce, 64 bits                        |
//	|                                                               |
//	+-------------------------------+-------------------------------+
//	|         Source-EID-AFI        |   Source EID Address  ...     |
//	+-------------------------------+-------------------------------+
//	|         ITR-RLOC-AFI 1        |    ITR-RLOC Address 1  ...    |
//	+-------------------------------+-------------------------------+
//	|                              ...                              |
//	+-+-------------+---------------+-------------------------------+
//	|N|  Reserved   | EID mask-len  |        EID-Prefix-AFI         | \ Record
//	+-+-------------+---------------+-------------------------------+  > Count
//	|                       EID-Prefix  ...                         | / times
//	+---------------------------------------------------------------+
//	|                 M: one EID-record, see Record                 |
//	+---------------------------------------------------------------+
//	|                 I: xTR-ID, 128 bits; Site-ID, 64 bits         |
//	+---------------------------------------------------------------+
type MapRequest struct {
	Authoritative bool // A: the answer is wanted from the ETR
	Probe         bool // P: RLOC-probe
	SMR           bool // S: solicit-map-request
	PITR          bool // p: sent by a PITR
	SMRInvoked    bool // s: caused by an SMR
	LocalXTR      bool // L: the sender is in the locator-set of its site
	NoReply       bool // D: no reply is wanted

	Nonce uint64
	// SourceEID is AFI 0 in refreshes and probes.
	SourceEID Address
	// ITRRLOCs has 1 to MaxITRRLOCs entries. A decoded one can be AFI 0, to
	// which no reply can be sent.
	ITRRLOCs []Address
	// EIDs has at most MaxRecords entries; a sender makes it one.
	EIDs []RequestRecord

	HasMapData bool   // M: MapData is there
	MapData    Record // the sender's own mapping

	HasXTRID bool // I: XTRID and SiteID are there
	XTRID    mapping.XTRID
	SiteID   uint64
}

// RequestRecord is an EID-prefix that a Map-Request asks for.
type RequestRecord struct {
	Subscribe bool // N: notify the requester of changes (RFC 9437)
	MaskLen   uint8
	EID       Address
}

// NewRequestRecord returns the record that asks for e.
func NewRequestRecord(e mapping.EID) RequestRecord {
	a, n := PrefixAddress(e)
	return RequestRecord{MaskLen: n, EID: a}
}

// Decode reads a Map-Request, which m then borrows. The octets that M and I
// announce must be there (RFC 9437 section 4).
func (m *MapRequest) Decode(b []byte) error {
	*m = MapRequest{ITRRLOCs: m.ITRRLOCs[:0], EIDs: m.EIDs[:0]}
	c := start(b, TypeMapRequest)
	h := c.take(4, "header")
	if c.err != nil {
		return c.err
	}
	m.Authoritative = h[0]&0x08 != 0
	m.HasMapData = h[0]&0x04 != 0
	m.Probe = h[0]&0x02 != 0
	m.SMR = h[0]&0x01 != 0
	m.PITR = h[1]&0x80 != 0
	m.SMRInvoked = h[1]&0x40 != 0
	m.HasXTRID = h[1]&0x10 != 0
	m.LocalXTR = h[2]&0x40 != 0
	m.NoReply = h[2]&0x20 != 0
	m.Nonce = c.u64("nonce")
	m.SourceEID = c.address("source_eid")
	for i := range int(h[2]&0x1f) + 1 {
		a := c.address("address")
		if c.err != nil {
			c.within(fmt.Sprintf("itr_rloc %d", i))
			return c.err
		}
		m.ITRRLOCs = append(m.ITRRLOCs, a)
	}
	for i := range int(h[3]) {
		r := RequestRecord{Subscribe: c.u8("flags")&0x80 != 0, MaskLen: c.u8("eid_mask_len")}
		r.EID = c.prefix("eid", r.MaskLen)
		if c.err != nil {
			c.within(fmt.Sprintf("record %d", i))
			return c.err
		}
		m.EIDs = append(m.EIDs, r)
	}
	if m.HasMapData {
		m.MapData = c.record()
		if c.err != nil {
			c.within("map_data")
		}
	}
	if m.HasXTRID {
		m.XTRID, m.SiteID = c.ids()
	}
	return c.err
}

// AppendBinary appends the Map-Request. It fails with ErrInvalid without an
// ITR-RLOC, for more than MaxITRRLOCs or MaxRecords, and for a MapData that
// was not made by NewRecord or Decode.
func (m *MapRequest) AppendBinary(b []byte) ([]byte, error) {
	at := len(b)
	switch {
	case len(m.ITRRLOCs) == 0 || len(m.ITRRLOCs) > MaxITRRLOCs:
		return b, invalid(TypeMapRequest, "%d ITR-RLOCs, 1 to %d are possible", len(m.ITRRLOCs), MaxITRRLOCs)
	case len(m.EIDs) > MaxRecords:
		return b, invalid(TypeMapRequest, "%d records, at most %d are possible", len(m.EIDs), MaxRecords)
	}
	b = append(b,
		byte(TypeMapRequest)<<4|bit(m.Authoritative, 0x08)|bit(m.HasMapData, 0x04)|bit(m.Probe, 0x02)|bit(m.SMR, 0x01),
		bit(m.PITR, 0x80)|bit(m.SMRInvoked, 0x40)|bit(m.HasXTRID, 0x10),
		bit(m.LocalXTR, 0x40)|bit(m.NoReply, 0x20)|uint8(len(m.ITRRLOCs)-1),
		uint8(len(m.EIDs)))
	b = binary.BigEndian.AppendUint64(b, m.Nonce)
	b = append(b, m.SourceEID.Bytes()...)
	for _, a := range m.ITRRLOCs {
		b = append(b, a.Bytes()...)
	}
	for _, r := range m.EIDs {
		b = append(b, bit(r.Subscribe, 0x80), r.MaskLen)
		b = append(b, r.EID.Bytes()...)
	}
	var err error
	if m.HasMapData {
		b, err = m.MapData.AppendBinary(b)
	}
	if m.HasXTRID {
		b = appendIDs(b, m.XTRID, m.SiteID)
	}
	return finish(b, at, TypeMapRequest, err)
}
