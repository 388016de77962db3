package wire

import (
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// String returns a text form for people: "192.0.2.1", "[7]2001:db8::1", a MAC
// address, a quoted name, "afi-list(...)", "none". An LCAF of an unknown type
// is its type and its payload in hex, shortened.
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
	if k := &lcafKinds[l.Type]; k.body != nil {
		if v := k.body(); v.Decode(l) == nil {
			return v.String()
		}
	}
	return lcafText(l.Type, hexText(l.Payload))
}

// lcafText returns "type(part, part)" of the parts that are not empty.
func lcafText(t LCAFType, parts ...string) string {
	parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
	return fmt.Sprintf("%v(%s)", t, strings.Join(parts, ", "))
}

// inside returns the text form of the address in an LCAF, "" for no address.
func inside(a Address) string {
	if a.IsZero() {
		return ""
	}
	return a.String()
}

// hexText returns b in hex, shortened.
func hexText(b []byte) string {
	const shown = 32
	if n := len(b); n > shown {
		return fmt.Sprintf("%s... %d octets", hex.EncodeToString(b[:shown]), n)
	}
	return hex.EncodeToString(b)
}

// PrefixString returns the text form of a with the mask length of its record:
// that of a mapping.EID where a is one, a name alone where the mask holds all
// of it, with or without the NUL, else "address/mask-len".
func (a Address) PrefixString(maskLen uint8) string {
	if e, err := a.EID(maskLen); err == nil {
		return e.String()
	}
	inner := a
	if l, ok := a.LCAF(); ok && l.Type == LCAFInstanceID {
		var i InstanceID
		if i.Decode(l) == nil {
			inner = i.Address
		}
	}
	if name, ok := inner.Name(); ok && int(maskLen) >= 8*len(name) {
		return a.String()
	}
	return fmt.Sprintf("%v/%d", a, maskLen)
}
