package wire

import (
	"encoding/binary"
	"fmt"
)

// InstanceID is the LCAF that puts an address into an instance (RFC 8060
// section 4.1).
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|   Type = 2    | IID mask-len  |            Length             |
//	+---------------+---------------+---------------+---------------+
//	|                          Instance ID                          |
//	+-------------------------------+-------------------------------+
//	|              AFI              |          Address  ...
//	+-------------------------------+-------------------------------+
type InstanceID struct {
	// MaskLen makes a range of instances when Address is AFI 0. With any
	// other address it means nothing; implementations send 0 or 32.
	MaskLen uint8
	// IID has 32 bits here; the data header carries the low 24.
	IID     uint32
	Address Address
}

// Decode reads the payload of an LCAF of type LCAFInstanceID, which it
// borrows. Octets after the address are ignored.
func (i *InstanceID) Decode(l LCAF) error {
	c := lcafCursor(l, LCAFInstanceID)
	*i = InstanceID{MaskLen: l.Rsvd2, IID: c.u32("instance_id"), Address: c.address("address")}
	return c.err
}

// AppendBinary appends the LCAF with its AFI.
func (i InstanceID) AppendBinary(b []byte) ([]byte, error) {
	return appendLCAF(b, LCAFInstanceID, i.MaskLen, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, i.IID)
		return append(b, i.Address.Bytes()...)
	})
}

// String returns "[IID]address", or "[IID/mask-len]" for a range of instances.
func (i InstanceID) String() string {
	if i.Address.IsZero() {
		return fmt.Sprintf("[%d/%d]", i.IID, i.MaskLen)
	}
	return fmt.Sprintf("[%d]%v", i.IID, i.Address)
}
