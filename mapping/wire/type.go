package wire

import (
	"encoding/binary"
	"fmt"
)

// Port is the UDP port of LISP control messages (RFC 9301 section 12.1).
const Port = 4342

// MaxMessage is the largest control message in octets: what fits in one UDP
// datagram over IPv4. Longer input is refused with ErrTooLarge, and so is
// what would encode to more.
const MaxMessage = 65507

// MaxRecords is the largest number of records in one message, and of locators
// in one record: both are counted by one octet.
const MaxRecords = 255

// Type is the message type, the high four bits of a message's first octet
// (RFC 9301 section 5.1).
type Type uint8

// The message types that are assigned, and type 7, which the NAT-traversal
// drafts and all implementations of them use.
const (
	TypeMapRequest      Type = 1
	TypeMapReply        Type = 2
	TypeMapRegister     Type = 3
	TypeMapNotify       Type = 4
	TypeMapNotifyAck    Type = 5
	TypeMapReferral     Type = 6 // RFC 8111
	TypeInfo            Type = 7 // Info-Request and Info-Reply
	TypeECM             Type = 8
	TypeSharedExtension Type = 15 // RFC 9304
)

// typeNames also says which types are known.
var typeNames = [16]string{
	TypeMapRequest:      "map-request",
	TypeMapReply:        "map-reply",
	TypeMapRegister:     "map-register",
	TypeMapNotify:       "map-notify",
	TypeMapNotifyAck:    "map-notify-ack",
	TypeMapReferral:     "map-referral",
	TypeInfo:            "info",
	TypeECM:             "encapsulated-control-message",
	TypeSharedExtension: "shared-extension",
}

// String returns the name of the type, such as "map-request".
func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return fmt.Sprintf("type-%d", uint8(t))
}

// PeekType returns the type of a message without decoding it. It fails with
// ErrTruncated for an empty message, and with ErrUnknownType, besides the
// type, for one that is not assigned.
func PeekType(msg []byte) (Type, error) {
	if len(msg) == 0 {
		return 0, &DecodeError{Message: "message", Field: "type", Err: ErrTruncated}
	}
	t := Type(msg[0] >> 4)
	if typeNames[t] == "" {
		return t, &DecodeError{Message: "message", Field: "type", Err: fmt.Errorf("%w %d", ErrUnknownType, uint8(t))}
	}
	return t, nil
}

// PeekNonce returns the nonce of a message, which all types but the
// Encapsulated Control Message and the shared extension carry in octets 4 to
// 11. ok is false for those two and for a message too short to have one.
func PeekNonce(msg []byte) (nonce uint64, ok bool) {
	if len(msg) < 12 {
		return 0, false
	}
	switch Type(msg[0] >> 4) {
	case TypeMapRequest, TypeMapReply, TypeMapRegister, TypeMapNotify, TypeMapNotifyAck, TypeMapReferral, TypeInfo:
		return binary.BigEndian.Uint64(msg[4:]), true
	}
	return 0, false
}

// bit returns mask when on, else 0.
func bit(on bool, mask uint8) uint8 {
	if on {
		return mask
	}
	return 0
}
