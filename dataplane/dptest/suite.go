package dptest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// Plane is a data plane under test in one State. It belongs to one goroutine.
type Plane interface {
	// Encap gives the plane a packet that a host of the instance sent. With a
	// size it is a super-packet of TCP or UDP, which stands for packets of so
	// many octets of payload each.
	Encap(iid uint32, pkt []byte, size int) Outcome
	// Decap gives the plane an IP packet from the underlay, or with a size a
	// super-packet of UDP. What reaches the host side of the instance is looked
	// at.
	Decap(iid uint32, pkt []byte, size int) Outcome
	// Learn tells the plane of changes of the map-cache.
	Learn(changes ...mapping.CacheChange)
	// Rest lets some time go by, and returns what the plane did since the last
	// packet was played.
	Rest(iid uint32, d time.Duration) Outcome
	// Misses returns what the plane wanted mappings for since the last call.
	Misses() []dataplane.Miss
}

// Outcome is what became of one packet.
type Outcome struct {
	// Sent are the IP packets that went to the underlay, outer headers
	// included; Host those that went to the hosts, ICMP messages of the plane
	// among them.
	// Super-packets are here as what a device makes of them.
	Sent, Host [][]byte
	// SentFrames and HostFrames are in how many frames these came, where there
	// are frames.
	SentFrames, HostFrames int
	// Held is how many packets the plane keeps, until their mapping comes.
	Held uint64
	// Drops counts the reasons given, without those that are 0.
	Drops map[dataplane.DropReason]uint64
	// Passed says that the packet was left to the slow path, unchanged and
	// uncounted. Only a Factory with SlowPath may say so.
	Passed bool
	// Leaked are packets from EIDs of the site that went to the underlay
	// without a tunnel.
	Leaked [][]byte
	// Refused says that there is no way to give the plane such a packet, as
	// the kernel does not take it; with Routes or for what is Stopped only.
	Refused bool
	// Err says that the packet could not be played.
	Err error
}

// Factory makes planes for Run.
type Factory struct {
	// New returns a plane in the state. It ends with the test.
	New func(t testing.TB, s *State) Plane
	// SlowPath says that this is a part of a plane only, which may leave any
	// packet to another part. What it does not leave has to be right.
	SlowPath bool
	// Decides is how many cases such a part must not leave.
	Decides int
	// Unsummed is how many super-packets a plane must send without an outer
	// checksum: those that its part in the kernel forwards.
	Unsummed int
	// Routes says that packets come and go by way of a router, be it the
	// kernel or the plane itself: it takes 1 from the TTL on each way, and
	// refuses by itself what no router forwards (Case.Around).
	Routes bool
	// Wire says that the datagrams of Decap come with the outer headers and
	// the checksum that they have, by way of a kernel. Cases about these
	// (Case.Wire) are for such a plane only.
	Wire bool
	// Overtakes says that a packet which comes when its mapping is there may pass
	// those that were held, as it goes by a faster part.
	Overtakes bool
	// Noise says that hosts and kernels around send packets of their own, to
	// multicast groups and from link-local addresses.
	Noise bool
}

// Around says what becomes of a packet outside of the plane, where there is
// something.
type Around uint8

const (
	// Forwarded: nothing special.
	Forwarded Around = iota
	// Stopped: a router drops it, answers it, or sends it another way. From a
	// plane of a Factory with Routes nothing may come.
	Stopped
	// Changed: a router may edit more of it than the TTL, or send it another
	// way. What comes from a plane with Routes is not looked at.
	Changed
	// Trimmed: a router cuts off what is behind the packet. Sent is for a plane
	// of a Factory with Routes, Drop for another.
	Trimmed
	// Inside: a router gives it to another instance, and so it is not played
	// with Routes.
	Inside
	// Martian: a kernel drops it before a plane behind sockets sees it. From a
	// plane of a Factory with Wire nothing may come, and no reason need.
	Martian
)

// Case is one packet and what has to become of it.
type Case struct {
	Name  string
	State *State
	IID   uint32
	// Out is a packet from a host, In one from the underlay; one of them is
	// set.
	Out, In []byte
	// Size, if not 0, says that the packet is a super-packet; see Plane.
	Size int
	// segmented says that the link to the core takes no super-packets.
	segmented bool
	// Whole says that a plane between links that take super-packets sends one,
	// or hands one to the host.
	Whole bool
	// Sent is what has to reach the underlay, Host the hosts.
	Sent []Datagram
	Host [][]byte
	// Drop is the reason that has to be counted, for Count packets, of which 0
	// is 1.
	Drop  dataplane.DropReason
	Count uint64
	// MayDrop is a reason that may be counted besides.
	MayDrop dataplane.DropReason
	// Around is what a router does with the packet before or after the plane.
	Around Around
	// Wire says that the case is about what a kernel does before a plane sees
	// the packet.
	Wire bool
}

// Run plays every case of the corpus on planes of the factory, with SlowPath twice,
// as such a part may remember what it has decided. Those of the way in are played once
// more without an outer checksum (RFC 9300 section 5.3), where somebody might look at
// it.
func Run(t *testing.T, f Factory) {
	t.Helper()
	decided, unsummed, played := 0, 0, false
	for _, s := range States() {
		t.Run(s.Name, func(t *testing.T) {
			p := f.New(t, s)
			n := 0
			played = true
			for _, c := range Corpus() {
				if c.State != s || c.Wire && !f.Wire || c.Around == Inside && f.Routes {
					continue
				}
				n++
				play := func(t *testing.T) {
					o := c.run(t, f, p)
					if !o.Passed {
						decided++
					}
					if c.Size > 0 && len(o.Sent) > 0 && !slices.ContainsFunc(o.Sent, summed) {
						unsummed++
					}
				}
				t.Run(c.Name, play)
				if f.SlowPath {
					t.Run(c.Name+", again", func(t *testing.T) { c.run(t, f, p) }) // of what it remembers
				}
				if w, ok := p.(segmenter); ok && c.Out != nil && c.Size > 0 {
					if err := w.segmenting(true); err != nil {
						t.Fatal(err)
					}
					c.Whole, c.segmented = false, true
					t.Run(c.Name+", segmented on the way", play)
					if err := w.segmenting(false); err != nil {
						t.Fatal(err)
					}
				}
				if c.In != nil && !c.Wire && c.Size == 0 && (f.Wire || f.SlowPath) {
					c.In = withoutSum(c.In)
					t.Run(c.Name+", no outer checksum", play)
				}
			}
			if n == 0 {
				t.Error("no case is about this state")
			}
			if s == allStates().open {
				t.Run("flows", func(t *testing.T) { flows(t, f, p, s) })
			}
			if s.Config.Miss.Hold {
				t.Run("held", func(t *testing.T) { held(t, f, p, s) })
			}
		})
	}
	if !played { // the subtests say why
		return
	}
	if unsummed < f.Unsummed {
		t.Errorf("%d super-packets were sent without an outer checksum, want %d", unsummed, f.Unsummed)
	}
	if decided < f.Decides {
		t.Errorf("%d cases were decided, and not left to the slow path; want %d", decided, f.Decides)
	}
}

// segmenter is a Plane whose provider-facing link can be made one that takes no
// super-packets, as a wire.
type segmenter interface{ segmenting(on bool) error }

// withoutSum returns a datagram without a UDP checksum.
func withoutSum(pkt []byte) []byte {
	if pkt[0]>>4 == 4 {
		return patch(pkt, 20+6, 0, 0)
	}
	return patch(pkt, 40+6, 0, 0)
}

// flows tests what depends on the flow: a flow keeps its source port and its
// locator, which is the one that the core chooses, and flows spread over both
// (RFC 9300 sections 9 and 12).
func flows(t *testing.T, f Factory, p Plane, s *State) {
	now := time.Now()
	fib := dataplane.NewFIB()
	s.Tell(fib, now)
	ports, rlocs, passed := make(map[uint16]bool), make(map[netip.Addr]int), 0
	for i := range 48 {
		pkt := Flow(fmt.Sprintf("10.1.0.%d:%d", 1+i%5, 1000+i), "10.5.8.1:80", [...]uint8{UDP, TCP, 132, ICMP}[i%4], 20)
		if i%5 == 0 {
			pkt = pkt.with(func(p *Inner) { p.MF = true })
		}
		if i%3 == 0 {
			pkt = Flow(fmt.Sprintf("[2001:db8:1::%d]:%d", 1+i%5, 1000+i), "[2001:db8:5:8::1]:80", pkt.Proto, 20)
		}
		var flow encap.Flow
		if err := flow.Decode(pkt.Bytes()); err != nil {
			t.Fatal(err)
		}
		want := fib.Snapshot().Explain(0, flow.Key, now)
		var first Datagram
		for again := range 3 {
			o := p.Encap(0, pkt.Bytes(), 0)
			if o.Passed && f.SlowPath {
				passed++
				break
			}
			if len(o.Sent) != 1 || o.Err != nil {
				t.Fatalf("flow %d: %d packets sent, drops %v, error %v", i, len(o.Sent), o.Drops, o.Err)
			}
			d, err := ParseDatagram(o.Sent[0])
			switch {
			case err != nil:
				t.Fatalf("flow %d: %v", i, err)
			case d.Dst != want.RLOC.Addr():
				t.Errorf("flow %d went to %v, want %v", i, d.Dst, want.RLOC.Addr())
			case again > 0 && d.SrcPort != first.SrcPort:
				t.Errorf("flow %d changed its source port from %d to %d", i, first.SrcPort, d.SrcPort)
			}
			first = d
			ports[d.SrcPort], rlocs[d.Dst] = true, rlocs[d.Dst]+1
		}
	}
	if passed > 24 {
		t.Errorf("%d of 48 flows went to the slow path", passed)
	}
	if len(ports) < 6 || len(rlocs) != 3 {
		t.Errorf("%d source ports and locators %v", len(ports), rlocs)
	}
}

// summed reports whether a datagram has an outer checksum.
func summed(pkt []byte) bool {
	d, _ := ParseDatagram(pkt)
	return d.Sum != ZeroSum
}

// run plays the case.
func (c *Case) run(t *testing.T, f Factory, p Plane) (got Outcome) {
	if c.Out != nil {
		got = p.Encap(c.IID, slices.Clone(c.Out), c.Size)
	} else {
		got = p.Decap(c.IID, slices.Clone(c.In), c.Size)
	}
	if err := c.check(f, got); err != nil {
		t.Error(err)
	}
	return got
}

// check compares an outcome with what the case wants.
func (c *Case) check(f Factory, got Outcome) error {
	switch {
	case got.Err != nil:
		return got.Err
	case len(got.Leaked) > 0:
		return fmt.Errorf("a packet of the site leaked: %x", got.Leaked[0])
	case got.Refused && c.Around != Stopped:
		return errors.New("the kernel took no such packet")
	case got.Refused:
		return nil
	case got.Passed && !f.SlowPath:
		return errors.New("passed to a slow path that there is not")
	case got.Passed && len(got.Sent)+len(got.Host)+len(got.Drops) > 0:
		return fmt.Errorf("passed to the slow path, and yet %d sent, %d to the host, drops %v", len(got.Sent), len(got.Host), got.Drops)
	case got.Passed:
		return nil
	}
	var errs []string
	complain := func(format string, args ...any) { errs = append(errs, fmt.Sprintf(format, args...)) }
	want, sent := map[dataplane.DropReason]uint64{}, c.Sent
	switch {
	case c.Around == Trimmed && !f.Routes:
		sent = nil
		fallthrough
	case c.Around != Trimmed && c.Drop != dataplane.NotDropped:
		want[c.Drop] = max(1, c.Count)
	}
	if f.Routes && c.Around == Changed {
		return nil
	}
	stopped := f.Routes && c.Around == Stopped || f.Wire && c.Around == Martian
	for r, n := range got.Drops {
		noise := f.Noise && (r == dataplane.DropMulticast || r == dataplane.DropNotRoutable)
		if n != want[r] && !(noise && n > want[r]) && r != c.MayDrop {
			complain("drop_%v is %d, want %d", r, n, want[r])
		}
	}
	if stopped {
		if len(got.Sent) > 0 || c.In != nil && len(got.Host) > 0 {
			complain("%d packets sent and %d to the host, of one that no router forwards", len(got.Sent), len(got.Host))
		}
		return join(errs)
	}
	for r := range want {
		if got.Drops[r] == 0 {
			complain("not dropped as %v", r)
		}
	}
	if len(got.Sent) != len(sent) {
		complain("%d packets sent, want %d: %.100x", len(got.Sent), len(sent), got.Sent)
	}
	if got.Held > 0 {
		complain("%d packets held", got.Held)
	}
	if c.Whole && (got.SentFrames > 1 || got.HostFrames > 1) {
		complain("it became %d frames to the underlay, %d to the host", got.SentFrames, got.HostFrames)
	}
	if c.segmented && got.SentFrames < len(got.Sent) {
		complain("%d packets in %d frames, over a link that takes one in each", len(got.Sent), got.SentFrames)
	}
	for i := range min(len(got.Sent), len(sent)) {
		d := sent[i]
		if f.Routes {
			d.Inner = oneHop(d.Inner)
			d.TTL--
		}
		if err := d.same(got.Sent[i]); err != nil {
			complain("packet %d sent: %v", i, err)
		}
	}
	if len(got.Host) != len(c.Host) {
		complain("%d packets to the host, want %d: %.100x", len(got.Host), len(c.Host), got.Host)
	}
	for i := range min(len(got.Host), len(c.Host)) {
		w := c.Host[i]
		if f.Routes {
			w = oneHop(w)
			if c.Out != nil { // a message of the plane, which quotes what it got
				requote(w)
			}
		}
		if !bytes.Equal(got.Host[i], w) {
			complain("packet %d to the host\n%x\nwant\n%x", i, got.Host[i], w)
		}
	}
	return join(errs)
}

func join(errs []string) error {
	if errs == nil {
		return nil
	}
	return errors.New(strings.Join(errs, "; "))
}

// oneHop returns a copy of pkt as a router forwards it.
func oneHop(pkt []byte) []byte {
	b := slices.Clone(pkt)
	if b[0]>>4 == 4 {
		b[8]--
		sumHeader(b)
	} else {
		b[7]--
	}
	return b
}

// requote edits an ICMP error: the packet that it quotes was forwarded once.
func requote(b []byte) {
	h := 20
	if b[0]>>4 == 6 {
		h = 40
	}
	icmp := b[h:]
	copy(icmp[8:], oneHop(icmp[8:]))
	icmp[2], icmp[3] = 0, 0
	s := sum(icmp)
	if b[0]>>4 == 6 {
		s = sumTransport(netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), ICMPv6, icmp)
	}
	binary.BigEndian.PutUint16(icmp[2:], s)
}
