package wire

import (
	"encoding/binary"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// MapRegister is the Map-Register (RFC 9301 section 5.6).
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------+-+-+-+-----------------------+-+-+-+-+-+---------------+
//	|Type=3 |P|S|I|       Reserved        |E|T|a|R|M| Record Count  |
//	+-------+-+-+-+-----------------------+-+-+-+-+-+---------------+
//	|                         Nonce, 64 bits                        |
//	|                                                               |
//	+---------------------------------------------------------------+
//	|               Authentication, see Authentication              |
//	+---------------------------------------------------------------+
//	|             EID-records, Record Count  ...  see Record        |
//	+---------------------------------------------------------------+
//	|                 I: xTR-ID, 128 bits; Site-ID, 64 bits         |
//	+---------------------------------------------------------------+
type MapRegister struct {
	ProxyReply      bool // P: the map-server is to reply
	Security        bool // S: the ETR speaks LISP-SEC
	EIDNotify       bool // E: a first-hop router found a dynamic EID
	TTLFromRegister bool // T: Record TTL is the registration timeout
	Merge           bool // a: merge with what other xTRs registered
	WantNotify      bool // M: a Map-Notify is wanted

	Nonce   uint64
	Auth    Authentication
	Records Records

	HasXTRID bool // I: XTRID and SiteID are there
	XTRID    mapping.XTRID
	SiteID   uint64
}

// Decode reads a Map-Register, which m then borrows.
func (m *MapRegister) Decode(b []byte) error {
	*m = MapRegister{}
	c := start(b, TypeMapRegister)
	h := c.take(4, "header")
	if c.err != nil {
		return c.err
	}
	m.ProxyReply = h[0]&0x08 != 0
	m.Security = h[0]&0x04 != 0
	m.HasXTRID = h[0]&0x02 != 0
	m.EIDNotify = h[2]&0x10 != 0
	m.TTLFromRegister = h[2]&0x08 != 0
	m.Merge = h[2]&0x04 != 0
	m.WantNotify = h[2]&0x01 != 0
	m.Nonce = c.u64("nonce")
	m.Auth = c.authentication()
	m.Records = c.records(h[3])
	if m.HasXTRID {
		m.XTRID, m.SiteID = c.ids()
	}
	return c.err
}

// AppendBinary appends the Map-Register with the authentication data as it is.
func (m *MapRegister) AppendBinary(b []byte) ([]byte, error) {
	at := len(b)
	b = append(b,
		byte(TypeMapRegister)<<4|bit(m.ProxyReply, 0x08)|bit(m.Security, 0x04)|bit(m.HasXTRID, 0x02),
		0,
		bit(m.EIDNotify, 0x10)|bit(m.TTLFromRegister, 0x08)|bit(m.Merge, 0x04)|bit(m.WantNotify, 0x01),
		uint8(m.Records.Len()))
	b = binary.BigEndian.AppendUint64(b, m.Nonce)
	b, err := appendAuthentication(b, m.Auth, TypeMapRegister)
	if err == nil {
		b, err = m.Records.AppendBinary(b)
	}
	if m.HasXTRID {
		b = appendIDs(b, m.XTRID, m.SiteID)
	}
	return finish(b, at, TypeMapRegister, err)
}
