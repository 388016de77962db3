package wire

import "encoding/binary"

// Authentication is the authentication data of Map-Register, Map-Notify,
// Map-Notify-Ack and of the Info messages (RFC 9301 section 5.6). In all four
// it stands at the same place: the key-id is octet 12 of the message, Data
// begins at octet AuthenticationOffset.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+---------------+---------------+-------------------------------+
//	|    Key ID     | Algorithm ID  |  Authentication Data Length   |
//	+---------------+---------------+-------------------------------+
//	|                    Authentication Data  ...                   |
//	+---------------------------------------------------------------+
//
// The 16-bit Key ID of RFC 6830 is read as key-id 0 and its number as the
// algorithm, which is what RFC 9301 made of it.
type Authentication struct {
	KeyID, Algorithm uint8
	// Data is the MAC, of any length here. Package auth computes it.
	Data []byte
}

// AuthenticationOffset is where Authentication.Data begins in a message.
const AuthenticationOffset = 16

func (c *cursor) authentication() Authentication {
	a := Authentication{KeyID: c.u8("key_id"), Algorithm: c.u8("algorithm_id")}
	a.Data = c.take(int(c.u16("authentication_length")), "authentication_data")
	return a
}

func appendAuthentication(b []byte, a Authentication, t Type) ([]byte, error) {
	if len(a.Data) > MaxMessage {
		return b, invalid(t, "authentication data of %d octets", len(a.Data))
	}
	b = append(b, a.KeyID, a.Algorithm)
	b = binary.BigEndian.AppendUint16(b, uint16(len(a.Data)))
	return append(b, a.Data...), nil
}
