package config

import (
	"fmt"
	"net/netip"
)

// NeedKind is a kind of Need.
type NeedKind uint8

const (
	NeedUplink    NeedKind = iota // Name is that of an interface whose addresses are locators
	NeedInterface                 // Name is that of an interface
	NeedDevice                    // Name is that of an interface to be made
	NeedLocator                   // Addr is a locator, of this xTR or of another
	NeedAddress                   // Addr is an address of this machine
	NeedTCP                       // Addr is listened on
	NeedUDP                       // Addr is listened on
	NeedKey                       // Name is the path of a file with a secret
	NeedDirectory                 // Name is the path of a directory to write to
	NeedSocket                    // Name is the path of a Unix socket to make
	NeedPlane                     // Name is that of a data plane
)

// A Need is something that a file wants of the machine.
type Need struct {
	Kind NeedKind
	Name string
	Addr netip.AddrPort // without a port for NeedLocator and NeedAddress
	at   value
}

// Errorf returns an error at the place where the file says what it needs.
func (n Need) Errorf(format string, args ...any) Error {
	return Error{n.at.r.file, n.at.at.Line, n.at.at.Column, n.at.name + ": " + fmt.Sprintf(format, args...)}
}

// Needs returns what a file of the given kind needs, in the order of its
// readers, and as far as its values can be understood. It fails when the file
// can't be read or parsed.
func Needs(path string, kind Kind) ([]Need, error) {
	r, root, err := readFile(path)
	if err != nil {
		return nil, err
	}
	switch kind { // what is wrong with the file is for Check to say
	case KindXTR:
		_, _ = readXTR(r, root)
	case KindMapServer:
		_, _ = readMapServer(r, root)
	default:
		return nil, fmt.Errorf("unknown kind of configuration %q", kind)
	}
	return r.needs, nil
}

// needs says that the machine must have what a value names.
func (v value) needs(kind NeedKind, name string) {
	if name != "" {
		v.r.needs = append(v.r.needs, Need{Kind: kind, Name: name, at: v})
	}
}

// needsAddr is needs for an address.
func (v value) needsAddr(kind NeedKind, a netip.AddrPort) {
	if a.Addr().IsValid() {
		v.r.needs = append(v.r.needs, Need{Kind: kind, Addr: a, at: v})
	}
}

// needsIP is needsAddr for an address without a port.
func (v value) needsIP(kind NeedKind, a netip.Addr) { v.needsAddr(kind, netip.AddrPortFrom(a, 0)) }
