package wire

import (
	"encoding/binary"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// MapNotify is the Map-Notify and, with Ack, the Map-Notify-Ack (RFC 9301
// section 5.7).
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------+-+-------------------------------------+---------------+
//	|Type4/5|I|              Reserved               | Record Count  |
//	+-------+-+-------------------------------------+---------------+
//	|                         Nonce, 64 bits                        |
//	|                                                               |
//	+---------------------------------------------------------------+
//	|               Authentication, see Authentication              |
//	+---------------------------------------------------------------+
//	|             EID-records, Record Count  ...  see Record        |
//	+---------------------------------------------------------------+
//	|                 I: xTR-ID, 128 bits; Site-ID, 64 bits         |
//	+---------------------------------------------------------------+
//
// RFC 9301 has the I bit of the Map-Register reserved here and says that its
// fields are copied; deployed map-servers copy the IDs too, with and without
// setting the bit.
type MapNotify struct {
	Ack bool // type 5

	Nonce   uint64
	Auth    Authentication
	Records Records

	HasXTRID bool // XTRID and SiteID are there
	XTRID    mapping.XTRID
	SiteID   uint64
}

// Decode reads a Map-Notify or a Map-Notify-Ack, which m then borrows. The
// IDs are there when the I bit is set and octets follow the records, and when
// exactly their 24 octets follow without the bit. The bit with nothing behind
// it is a reserved bit, and ignored.
func (m *MapNotify) Decode(b []byte) error {
	*m = MapNotify{}
	c := startAny(b, TypeMapNotify, TypeMapNotifyAck)
	h := c.take(4, "header")
	if c.err != nil {
		return c.err
	}
	m.Ack = Type(h[0]>>4) == TypeMapNotifyAck
	m.Nonce = c.u64("nonce")
	m.Auth = c.authentication()
	m.Records = c.records(h[3])
	if c.err != nil {
		return c.err
	}
	if n := c.left(); n == siteIDs || n > 0 && h[0]&0x08 != 0 {
		m.HasXTRID = true
		m.XTRID, m.SiteID = c.ids()
	}
	return c.err
}

// AppendBinary appends the message with the authentication data as it is. The
// I bit is set when the IDs follow.
func (m *MapNotify) AppendBinary(b []byte) ([]byte, error) {
	at, t := len(b), TypeMapNotify
	if m.Ack {
		t = TypeMapNotifyAck
	}
	b = append(b, byte(t)<<4|bit(m.HasXTRID, 0x08), 0, 0, uint8(m.Records.Len()))
	b = binary.BigEndian.AppendUint64(b, m.Nonce)
	b, err := appendAuthentication(b, m.Auth, t)
	if err == nil {
		b, err = m.Records.AppendBinary(b)
	}
	if m.HasXTRID {
		b = appendIDs(b, m.XTRID, m.SiteID)
	}
	return finish(b, at, t, err)
}
