package layers

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// maxFrame is the longest frame that a capture may hold, in octets: libpcap's
// own limit. A larger length field is taken for damage, not for a buffer size.
const maxFrame = 256 << 10

// frame is one frame of a capture.
type frame struct {
	data   []byte
	time   time.Time
	length int // on the wire; data may be cut
	link   layers.LinkType
}

// frames reads a capture file frame by frame; io.EOF ends it.
type frames interface {
	next() (frame, error)
}

// openCapture recognises pcap and pcapng, both perhaps in gzip.
func openCapture(r io.Reader) (frames, error) {
	br := bufio.NewReader(r)
	magic, err := br.Peek(4)
	if err != nil {
		return nil, fmt.Errorf("not a capture file: %w", noEOF(err))
	}
	if magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("not a capture file: %w", noEOF(err))
		}
		br = bufio.NewReader(z)
		if magic, err = br.Peek(4); err != nil {
			return nil, fmt.Errorf("not a capture file in gzip: %w", noEOF(err))
		}
	}
	switch binary.BigEndian.Uint32(magic) {
	case 0x0a0d0d0a:
		return guarded(func() (frames, error) {
			ng, err := pcapgo.NewNgReader(&ngBlocks{r: br}, pcapgo.NgReaderOptions{WantMixedLinkType: true})
			return &ngFrames{ng}, err
		})
	case 0xa1b2c3d4, 0xd4c3b2a1, 0xa1b23c4d, 0x4d3cb2a1:
		return guarded(func() (frames, error) {
			p, err := pcapgo.NewReader(br)
			if err != nil {
				return nil, err
			}
			// Files exist whose snap length is 0 or nonsense; libpcap goes by
			// its own limit too.
			p.SetSnaplen(maxFrame)
			return &pcapFrames{p}, nil
		})
	}
	return nil, fmt.Errorf("not a capture file: it begins with %x, which is neither pcap nor pcapng", magic)
}

// guarded turns a panic of pcapgo, which trusts some fields of a file, into an
// error of the file.
func guarded[T any](f func() (T, error)) (v T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("damaged capture file: %v", r)
		}
	}()
	return f()
}

// noEOF returns err, with io.EOF made what it is inside a frame.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

type pcapFrames struct{ r *pcapgo.Reader }

func (p *pcapFrames) next() (frame, error) {
	return guarded(func() (frame, error) {
		data, ci, err := p.r.ReadPacketData()
		if err != nil && !ci.Timestamp.IsZero() { // after a frame's header
			err = noEOF(err)
		}
		return frame{data, ci.Timestamp, ci.Length, p.r.LinkType()}, err
	})
}

type ngFrames struct{ r *pcapgo.NgReader }

func (p *ngFrames) next() (frame, error) {
	return guarded(func() (frame, error) {
		data, ci, err := p.r.ReadPacketData()
		if err != nil {
			return frame{}, err
		}
		link, _ := ci.AncillaryData[0].(layers.LinkType)
		return frame{data, ci.Timestamp, ci.Length, link}, nil
	})
}

// ngBlocks passes a pcapng file through and stops at the first block whose
// lengths cannot be true, before pcapgo makes a buffer of them. It also tells
// the end of the file from an end inside a block.
type ngBlocks struct {
	r     *bufio.Reader
	order binary.ByteOrder
	left  int // octets of the block that have yet to pass
}

func (n *ngBlocks) Read(p []byte) (int, error) {
	if n.left == 0 {
		if err := n.begin(); err != nil {
			return 0, err
		}
	}
	got, err := n.r.Read(p[:min(len(p), n.left)])
	n.left -= got
	return got, noEOF(err)
}

// begin looks at the header of the next block.
func (n *ngBlocks) begin() error {
	const (
		section  = 0x0a0d0d0a
		obsolete = 2
		simple   = 3
		enhanced = 6
		maxBlock = 16 << 20
	)
	h, err := n.r.Peek(12)
	if len(h) == 0 {
		return err
	}
	if len(h) < 12 {
		return noEOF(err)
	}
	if binary.BigEndian.Uint32(h) == section {
		switch {
		case binary.BigEndian.Uint32(h[8:]) == 0x1a2b3c4d:
			n.order = binary.BigEndian
		case binary.LittleEndian.Uint32(h[8:]) == 0x1a2b3c4d:
			n.order = binary.LittleEndian
		default:
			return errors.New("damaged capture file: no byte order")
		}
	}
	total := n.order.Uint32(h[4:])
	if total < 12 || total > maxBlock || total%4 != 0 {
		return fmt.Errorf("damaged capture file: a block of %d octets", total)
	}
	switch n.order.Uint32(h) {
	case enhanced, obsolete:
		h, err := n.r.Peek(28)
		if err != nil {
			return noEOF(err)
		}
		if size := n.order.Uint32(h[20:]); size > maxFrame || total < 32 || size > total-32 {
			return fmt.Errorf("damaged capture file: a frame of %d octets in a block of %d", size, total)
		}
	case simple:
		if size := n.order.Uint32(h[8:]); size > maxFrame || total < 16 {
			return fmt.Errorf("damaged capture file: a frame of %d octets in a block of %d", size, total)
		}
	}
	n.left = int(total)
	return nil
}

// Link types that gopacket does not decode, from
// https://www.tcpdump.org/linktypes.html. pcapgo keeps eight bits of a link
// type, and nothing else has the number that is left of LINUX_SLL2.
const (
	linkTypeSLL2 layers.LinkType = 276 & 0xff // what tcpdump -i any writes
	linkTypeIPv4 layers.LinkType = 228
	linkTypeIPv6 layers.LinkType = 229
)

// packet returns the frame for gopacket to decode. It borrows the frame.
func (f frame) packet() gopacket.Packet {
	const sll2Header = 20
	data, first := f.data, gopacket.Decoder(f.link)
	switch {
	case f.link == linkTypeSLL2 && len(f.data) >= sll2Header: // begins with the EtherType
		data, first = f.data[sll2Header:], layers.EthernetType(binary.BigEndian.Uint16(f.data))
	case f.link == linkTypeIPv4 || f.link == linkTypeIPv6:
		first = layers.LinkTypeRaw
	}
	return gopacket.NewPacket(data, first, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
}
