package wire

import (
	"encoding/binary"
	"fmt"
)

// Multicast is the LCAF of a multicast EID: a source and a group, as prefixes,
// in an instance (RFC 8060 section 4.5). A record's own mask length means
// nothing then.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|   Type = 9    |     Rsvd2     |            Length             |
//	+---------------+---------------+---------------+---------------+
//	|                          Instance ID                          |
//	+-------------------------------+---------------+---------------+
//	|           Reserved            | Source MaskLen| Group MaskLen |
//	+-------------------------------+---------------+---------------+
//	|              AFI              |   Source/Subnet Address  ...  |
//	+-------------------------------+-------------------------------+
//	|              AFI              |       Group Address  ...      |
//	+-------------------------------+-------------------------------+
type Multicast struct {
	IID                         uint32
	SourceMaskLen, GroupMaskLen uint8
	// Source is an address with mask length 0 where any source is meant.
	Source, Group Address
}

// Decode reads the payload of an LCAF of type LCAFMulticast, which it borrows.
// Octets after the second address are ignored.
func (m *Multicast) Decode(l LCAF) error {
	c := lcafCursor(l, LCAFMulticast)
	*m = Multicast{IID: c.u32("instance_id")}
	c.u16("reserved")
	m.SourceMaskLen, m.GroupMaskLen = c.u8("source_mask_len"), c.u8("group_mask_len")
	m.Source = c.prefix("source", m.SourceMaskLen)
	m.Group = c.prefix("group", m.GroupMaskLen)
	return c.err
}

// AppendBinary appends the LCAF with its AFI.
func (m Multicast) AppendBinary(b []byte) ([]byte, error) {
	return appendLCAF(b, LCAFMulticast, 0, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, m.IID)
		b = append(b, 0, 0, m.SourceMaskLen, m.GroupMaskLen)
		b = append(b, m.Source.Bytes()...)
		return append(b, m.Group.Bytes()...)
	})
}

// String returns "multicast-info([7], 192.0.2.0/24, 233.252.0.1/32)".
func (m Multicast) String() string {
	return lcafText(LCAFMulticast, fmt.Sprintf("[%d]", m.IID),
		fmt.Sprintf("%v/%d", m.Source, m.SourceMaskLen), fmt.Sprintf("%v/%d", m.Group, m.GroupMaskLen))
}
