package layers

import (
	"io"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// Interface is where frames of a capture come from.
type Interface struct {
	Name string
	// Raw says that its frames begin with the IP header, and else with that of
	// Ethernet.
	Raw bool
	// Filter says in words which frames were taken.
	Filter string
}

func (i Interface) link() layers.LinkType {
	if i.Raw {
		return layers.LinkTypeRaw
	}
	return layers.LinkTypeEthernet
}

// Decode decodes a frame as Packets does one of a file: n is its number, and
// length what it had on the wire, of which frame may be the beginning. It borrows
// frame until it returns.
func (i Interface) Decode(n int, at time.Time, frameData []byte, length int) *Packet {
	return newPacket(n, frame{data: frameData, time: at, length: length, link: i.link()})
}

// Recorder writes a capture file in the pcapng format. It is for one goroutine.
type Recorder struct {
	w *pcapgo.NgWriter
}

// NewRecorder writes the head of a capture of interfaces, at least one.
// application says who writes.
func NewRecorder(w io.Writer, application string, interfaces []Interface) (*Recorder, error) {
	options := pcapgo.DefaultNgWriterOptions
	options.SectionInfo.Application = application
	var r Recorder
	for n, i := range interfaces {
		ng := pcapgo.NgInterface{Name: i.Name, Filter: i.Filter, LinkType: i.link(), SnapLength: maxFrame, TimestampResolution: 9}
		var err error
		if n == 0 {
			r.w, err = pcapgo.NewNgWriterInterface(w, ng, options)
		} else {
			_, err = r.w.AddInterface(ng)
		}
		if err != nil {
			return nil, err
		}
	}
	return &r, r.w.Flush()
}

// Write adds a frame of the interface with this index; length is what it had on
// the wire.
func (r *Recorder) Write(i int, at time.Time, frame []byte, length int) error {
	return r.w.WritePacket(gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(frame), Length: length, InterfaceIndex: i}, frame)
}

// Flush hands over what is buffered.
func (r *Recorder) Flush() error { return r.w.Flush() }
