package layers

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// Packet is one packet of a capture, decoded as far as LISP goes. It borrows
// nothing. Programs read its JSON form, people its Text.
type Packet struct {
	// Number counts the packets of the capture from 1.
	Number int `json:"number"`
	// Time is the zero time where the file's is beyond the year 9999, which no
	// text form has.
	Time time.Time `json:"time"`
	// Source and Destination are those of the outer header; they are zero in
	// a packet that is not UDP over IP.
	Source      netip.AddrPort `json:"source,omitzero"`
	Destination netip.AddrPort `json:"destination,omitzero"`
	// Length is the number of octets of UDP payload that were captured.
	Length int `json:"length"`
	// Missing is the number of octets on the wire that the capture left out.
	Missing int `json:"missing,omitempty"`
	// One of Control, Data and Other is set.
	Control *ControlSummary `json:"control,omitempty"`
	Data    *DataSummary    `json:"data,omitempty"`
	// Other says what a packet is that is not LISP.
	Other string `json:"other,omitempty"`
}

// Failure says why, and where, something does not decode.
type Failure struct {
	Message string `json:"message"`
	// Field and Offset, in octets from the start of the message, are set when
	// the decoder knows them.
	Field  string `json:"field,omitempty"`
	Offset int    `json:"offset,omitempty"`
}

func failure(err error) *Failure {
	f := &Failure{Message: err.Error()}
	if de := (*wire.DecodeError)(nil); errors.As(err, &de) {
		f.Field, f.Offset = de.Field, de.Offset
	}
	return f
}

// DataSummary is a data packet.
type DataSummary struct {
	// Flags are the set bits of the header by their letters, P among them.
	Flags      string `json:"flags,omitempty"`
	Nonce      string `json:"nonce,omitempty"`
	SrcVersion uint16 `json:"source_map_version,omitempty"`
	DstVersion uint16 `json:"destination_map_version,omitempty"`
	InstanceID uint32 `json:"instance_id"`
	Status     string `json:"locator_status_bits,omitempty"`
	// KeyID is not 0 when the packet is encrypted; there is no Inner then.
	KeyID        uint8  `json:"key_id,omitempty"`
	NextProtocol uint8  `json:"next_protocol,omitempty"`
	Inner        *Inner `json:"inner,omitempty"`
	// Payload is the number of octets after the header.
	Payload int      `json:"payload"`
	Error   *Failure `json:"error,omitempty"`
}

// Inner is the packet inside a data packet.
type Inner struct {
	Source      netip.Addr `json:"source"`
	Destination netip.Addr `json:"destination"`
	Protocol    string     `json:"protocol"`
	// The ports are nil where the packet has none or they cannot be seen.
	SourcePort      *uint16 `json:"source_port,omitempty"`
	DestinationPort *uint16 `json:"destination_port,omitempty"`
	TTL             uint8   `json:"ttl"`
	Length          int     `json:"length"`
}

// Packets reads a capture, pcap or pcapng, and yields its packets in order. A
// file that is damaged or cut short yields an error after the packets before
// the damage; it is the last thing that is yielded.
func Packets(r io.Reader) iter.Seq2[*Packet, error] {
	return func(yield func(*Packet, error) bool) {
		file, err := openCapture(r)
		if err != nil {
			yield(nil, err)
			return
		}
		for n := 1; ; n++ {
			f, err := file.next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, fmt.Errorf("packet %d: %w", n, err))
				return
			}
			if !yield(newPacket(n, f), nil) {
				return
			}
		}
	}
}

func newPacket(n int, f frame) *Packet {
	if y := f.time.Year(); y < 1 || y > 9999 {
		f.time = time.Time{}
	}
	p := &Packet{Number: n, Time: f.time, Missing: max(0, f.length-len(f.data))}
	g := f.packet()
	udp, _ := g.Layer(layers.LayerTypeUDP).(*layers.UDP)
	var src, dst netip.Addr
	last := gopacket.LayerType(0)
	for _, l := range g.Layers() {
		switch l := l.(type) {
		case *layers.IPv4:
			src, _ = netip.AddrFromSlice(l.SrcIP)
			dst, _ = netip.AddrFromSlice(l.DstIP)
		case *layers.IPv6:
			src, _ = netip.AddrFromSlice(l.SrcIP)
			dst, _ = netip.AddrFromSlice(l.DstIP)
		}
		last = l.LayerType()
		if last == layers.LayerTypeUDP {
			break
		}
	}
	if udp == nil {
		p.Other = last.String()
		if e := g.ErrorLayer(); e != nil {
			p.Other = fmt.Sprintf("undecodable: %v", e.Error())
		}
		if src.IsValid() {
			p.Other += fmt.Sprintf(" %v > %v", src, dst)
		}
		return p
	}
	p.Source, p.Destination = netip.AddrPortFrom(src, uint16(udp.SrcPort)), netip.AddrPortFrom(dst, uint16(udp.DstPort))
	p.Length = len(udp.Payload)
	switch port(udp.SrcPort, udp.DstPort) {
	case encap.Port:
		p.Data = newData(udp.Payload)
	case wire.Port:
		p.Control = newControl(udp.Payload, 0)
	default:
		p.Other = "UDP"
	}
	return p
}

func newData(b []byte) *DataSummary {
	var d Data
	if err := d.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
		return &DataSummary{Error: failure(err)}
	}
	s := &DataSummary{
		SrcVersion: d.SrcVersion, DstVersion: d.DstVersion, InstanceID: d.IID,
		KeyID: d.KeyID, NextProtocol: uint8(d.Next), Payload: len(d.Payload),
	}
	s.Flags = letters("NLEVIP", d.HasNonce, d.HasStatus, d.EchoNonce, d.HasVersions, d.HasInstance, d.GPE)
	if d.HasNonce {
		s.Nonce = fmt.Sprintf("%06x", d.Nonce)
	}
	switch {
	case d.HasStatus && d.HasInstance:
		s.Status = fmt.Sprintf("%08b", d.Status)
	case d.HasStatus:
		s.Status = fmt.Sprintf("%032b", d.Status)
	}
	if next := d.NextLayerType(); next == layers.LayerTypeIPv4 || next == layers.LayerTypeIPv6 || d.KeyID == 0 && !d.GPE {
		var f encap.Flow
		if err := f.Decode(d.Payload); err != nil {
			s.Error = failure(err)
			return s
		}
		s.Inner = newInner(&f, d.Payload)
	}
	return s
}

func newInner(f *encap.Flow, b []byte) *Inner {
	in := &Inner{Source: f.Src, Destination: f.Dst, TTL: f.TTL, Length: f.Length}
	protocol := f.Protocol
	switch {
	case f.HasPorts:
		src, dst := uint16(f.Ports>>16), uint16(f.Ports)
		in.SourcePort, in.DestinationPort = &src, &dst
	case f.Src.Is4():
		protocol = b[9]
	default:
		protocol = b[6] // perhaps an extension header
	}
	in.Protocol = layers.IPProtocol(protocol).String()
	if f.Fragment {
		in.Protocol += " fragment"
	}
	return in
}

// letters returns the letters of the flags that are set.
func letters(names string, set ...bool) string {
	s := ""
	for i, on := range set {
		if on {
			s += names[i : i+1]
		}
	}
	return s
}
