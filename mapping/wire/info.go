package wire

import "encoding/binary"

// Info is the Info-Request and, with Reply, the Info-Reply of the LISP
// NAT-traversal drafts, as deployed implementations agree on them.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------+-+-----------------------------------------------------+
//	|Type=7 |R|                      Reserved                       |
//	+-------+-+-----------------------------------------------------+
//	|                         Nonce, 64 bits                        |
//	|                                                               |
//	+---------------------------------------------------------------+
//	|               Authentication, see Authentication              |
//	+---------------------------------------------------------------+
//	|                              TTL                              |
//	+---------------+---------------+-------------------------------+
//	|   Reserved    | EID mask-len  |        EID-Prefix-AFI         |
//	+---------------+---------------+-------------------------------+
//	|                         EID-Prefix  ...                       |
//	+-------------------------------+-------------------------------+
//	|              AFI              |           Body  ...           |
//	+-------------------------------+-------------------------------+
type Info struct {
	Reply bool // R

	Nonce   uint64
	Auth    Authentication
	TTL     uint32 // minutes; 0 in a request
	MaskLen uint8
	EID     Address
	// Body is no address or a name in a request, and a NAT-Traversal LCAF in
	// a reply.
	Body Address
}

// Decode reads an Info-Request or an Info-Reply, which m then borrows.
func (m *Info) Decode(b []byte) error {
	*m = Info{}
	c := start(b, TypeInfo)
	h := c.take(4, "header")
	if c.err != nil {
		return c.err
	}
	m.Reply = h[0]&0x08 != 0
	m.Nonce = c.u64("nonce")
	m.Auth = c.authentication()
	m.TTL = c.u32("ttl")
	c.u8("reserved")
	m.MaskLen = c.u8("eid_mask_len")
	m.EID = c.prefix("eid", m.MaskLen)
	m.Body = c.address("body")
	return c.err
}

// AppendBinary appends the message with the authentication data as it is.
func (m *Info) AppendBinary(b []byte) ([]byte, error) {
	at := len(b)
	b = append(b, byte(TypeInfo)<<4|bit(m.Reply, 0x08), 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, m.Nonce)
	b, err := appendAuthentication(b, m.Auth, TypeInfo)
	b = binary.BigEndian.AppendUint32(b, m.TTL)
	b = append(b, 0, m.MaskLen)
	b = append(b, m.EID.Bytes()...)
	b = append(b, m.Body.Bytes()...)
	return finish(b, at, TypeInfo, err)
}
