package wire

import "encoding/binary"

// MapReply is the Map-Reply (RFC 9301 section 5.4).
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------+-+-+-+-+-------------------------------+---------------+
//	|Type=2 |P|E|S|R|           Reserved            | Record Count  |
//	+-------+-+-+-+-+-------------------------------+---------------+
//	|                         Nonce, 64 bits                        |
//	|                                                               |
//	+---------------------------------------------------------------+
//	|             EID-records, Record Count  ...  see Record        |
//	+---------------+-----------------------------------------------+
//	|    AD Type    |  S: LISP-SEC authentication data  ...         |
//	+---------------+-----------------------------------------------+
type MapReply struct {
	Probe     bool // P: answers an RLOC-probe
	EchoNonce bool // E: the site can echo nonces
	Security  bool // S: SecurityData is there

	Nonce   uint64 // that of the Map-Request
	Records Records
	// SecurityData is all that follows the records when S is set, from the
	// AD Type (RFC 9303 section 6.2); nil without S.
	SecurityData []byte
}

// Decode reads a Map-Reply, which m then borrows.
func (m *MapReply) Decode(b []byte) error {
	*m = MapReply{}
	c := start(b, TypeMapReply)
	h := c.take(4, "header")
	if c.err != nil {
		return c.err
	}
	m.Probe = h[0]&0x08 != 0
	m.EchoNonce = h[0]&0x04 != 0
	m.Security = h[0]&0x02 != 0
	m.Nonce = c.u64("nonce")
	m.Records = c.records(h[3])
	if m.Security && c.err == nil {
		if c.left() < securityHeader {
			c.fail("security_data", ErrTruncated)
		}
		m.SecurityData = c.take(c.left(), "security_data")
	}
	return c.err
}

// securityHeader is the shortest authentication data: AD Type and 24 bits.
const securityHeader = 4

// AppendBinary appends the Map-Reply. It fails with ErrInvalid when Security
// and SecurityData do not go together.
func (m *MapReply) AppendBinary(b []byte) ([]byte, error) {
	at := len(b)
	switch {
	case m.Security && len(m.SecurityData) < securityHeader:
		return b, invalid(TypeMapReply, "security data of %d octets", len(m.SecurityData))
	case !m.Security && len(m.SecurityData) > 0:
		return b, invalid(TypeMapReply, "security data without the S bit")
	}
	b = append(b, byte(TypeMapReply)<<4|bit(m.Probe, 0x08)|bit(m.EchoNonce, 0x04)|bit(m.Security, 0x02), 0, 0, uint8(m.Records.Len()))
	b = binary.BigEndian.AppendUint64(b, m.Nonce)
	b, err := m.Records.AppendBinary(b)
	b = append(b, m.SecurityData...)
	return finish(b, at, TypeMapReply, err)
}
