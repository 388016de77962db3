package wire

import (
	"encoding/hex"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// String returns a text form for people: "192.0.2.1", "[7]2001:db8::1", a MAC
// address, a quoted name, "afi-list(...)", "none". An LCAF that this package
// does not look into is its type and its payload in hex, shortened.
func (a Address) String() string {
	if ip, ok := a.IP(); ok {
		return ip.String()
	}
	if mac, ok := a.MAC(); ok {
		return net.HardwareAddr(mac[:]).String()
	}
	if name, ok := a.Name(); ok {
		return strconv.Quote(name)
	}
	if l, ok := a.LCAF(); ok {
		return l.String()
	}
	return a.AFI().String()
}

// String returns the text form that an Address of this LCAF has.
func (l LCAF) String() string {
	switch l.Type {
	case LCAFInstanceID:
		var i InstanceID
		if i.Decode(l) == nil {
			return i.String()
		}
	case LCAFAFIList:
		var list AFIList
		if list.Decode(l) == nil {
			return list.String()
		}
	case LCAFSourceDest:
		var sd SourceDest
		if sd.Decode(l) == nil {
			return sd.String()
		}
	}
	const shown = 32
	if n := len(l.Payload); n > shown {
		return fmt.Sprintf("%v(%s... %d octets)", l.Type, hex.EncodeToString(l.Payload[:shown]), n)
	}
	return fmt.Sprintf("%v(%s)", l.Type, hex.EncodeToString(l.Payload))
}

// String returns "[IID]address", or "[IID/mask-len]" for a range of instances.
func (i InstanceID) String() string {
	if i.Address.IsZero() {
		return fmt.Sprintf("[%d/%d]", i.IID, i.MaskLen)
	}
	return fmt.Sprintf("[%d]%v", i.IID, i.Address)
}

// String returns "afi-list(address, address)".
func (l AFIList) String() string {
	var s []string
	for a := range l.All() {
		s = append(s, a.String())
	}
	return fmt.Sprintf("%v(%s)", LCAFAFIList, strings.Join(s, ", "))
}

// String returns "destination/mask-len from source/mask-len".
func (s SourceDest) String() string {
	return fmt.Sprintf("%v/%d from %v/%d", s.Dest, s.DestMaskLen, s.Source, s.SourceMaskLen)
}

// PrefixString returns the text form of a with the mask length of its record:
// that of a mapping.EID where a is one, else "address/mask-len".
func (a Address) PrefixString(maskLen uint8) string {
	if e, err := a.EID(maskLen); err == nil {
		return e.String()
	}
	return fmt.Sprintf("%v/%d", a, maskLen)
}
