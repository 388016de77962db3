package tun

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest/sites"
	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// wire is a sender and receivers on the loopback interface of a namespace.
type wire struct {
	t     testing.TB
	ns    *netns.NS
	fwd   *dataplane.Forwarder
	send  *sender
	recvs []*receiver
	pool  *pool
	local netip.Addr
}

func newWire(t testing.TB, local netip.Addr, receivers int) *wire {
	t.Helper()
	ns := netns.Fresh(t, 1)[0]
	w := &wire{t: t, ns: ns, fwd: dataplane.NewForwarder(dataplane.NewFIB(), dataplane.Config{}), local: local}
	sites.Check(t, ns.Do(func() (err error) {
		if w.recvs, err = openReceivers(local, receivers, w.fwd.Counters); err != nil {
			return err
		}
		w.pool, err = openPool(local, false)
		return err
	}))
	t.Cleanup(func() {
		w.pool.close()
		for _, r := range w.recvs {
			r.close()
		}
	})
	pools := new(atomic.Pointer[[]*pool])
	pools.Store(&[]*pool{w.pool})
	w.send = newSender(pools, w.fwd)
	w.send.c = w.fwd.Counters()
	return w
}

// packet is a LISP packet to the receiver, in two parts when it is long.
func (w *wire) packet(hash uint32, payload []byte) dataplane.Packet {
	p := dataplane.Packet{Data: payload, Src: w.local, Dst: w.local, Hash: hash, TTL: 77, TOS: 0xb9}
	if len(payload) > 60 {
		p.Data, p.Body = payload[:60], payload[60:]
	}
	return p
}

// receive returns n packets, by source port in order, with copied data.
func (w *wire) receive(n int) (got []dataplane.Packet) {
	w.t.Helper()
	r := w.recvs[0]
	timer := time.AfterFunc(5*time.Second, r.close)
	defer timer.Stop()
	buf := make([]dataplane.Packet, 20)
	for len(got) < n {
		k, err := r.Receive(buf)
		if err != nil {
			w.t.Fatalf("after %d of %d packets: %v", len(got), n, err)
		}
		for _, p := range buf[:k] {
			p.Data = slices.Clone(p.Data)
			got = append(got, p)
		}
	}
	return got
}

var loopbacks = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}

func TestSendReceive(t *testing.T) {
	for _, a := range loopbacks {
		w := newWire(t, a, 1)
		r := rand.New(rand.NewPCG(7, 7))
		var batch []dataplane.Packet
		want := make(map[uint32][][]byte) // by flow
		for range 300 {
			hash, size := uint32(r.IntN(3))<<8, 1000
			switch r.IntN(8) {
			case 0:
				size = 1 + r.IntN(1500)
			case 1:
				size = 20000
			}
			data := random(r, size)
			data[0] = byte(hash >> 8)
			batch = append(batch, w.packet(hash, data))
			want[hash] = append(want[hash], data)
		}
		w.send.Send(batch)
		for i, p := range batch {
			if p.Drop != 0 {
				t.Fatalf("packet %d: %v", i, p.Drop)
			}
		}
		for _, p := range w.receive(300) {
			if p.Drop != 0 || p.Src != a || p.Dst != a || p.TTL != 77 || p.TOS != 0xb9 {
				t.Fatalf("%v: received %v from %v to %v, TTL %d, TOS %#x", a, p.Drop, p.Src, p.Dst, p.TTL, p.TOS)
			}
			flow := uint32(p.Data[0]) << 8
			if !bytes.Equal(p.Data, want[flow][0]) {
				t.Fatalf("%v: a packet of flow %d is not the next one", a, flow>>8)
			}
			want[flow] = want[flow][1:]
		}
	}
}

// A bulk flow goes out in runs: few system calls, and few in.
func TestRuns(t *testing.T) {
	for _, a := range loopbacks {
		w := newWire(t, a, 1)
		var batch []dataplane.Packet
		for i := range 129 {
			batch = append(batch, w.packet(0, bytes.Repeat([]byte{byte(i)}, 1480)))
		}
		w.send.Send(batch)
		for i, p := range w.receive(129) {
			if len(p.Data) != 1480 || p.Data[9] != byte(i) {
				t.Fatalf("packet %d: %d octets of %d", i, len(p.Data), p.Data[9])
			}
		}
		if s, r := w.fwd.Count(dataplane.SendCalls), w.fwd.Count(dataplane.ReceiveCalls); s > 4 || r > 4 {
			t.Errorf("%v: %d calls to send, %d to receive", a, s, r)
		}
	}
}

// The segments of super-packets go out in order, however many, beside other
// packets, and each that is lost counts.
func TestSendSuper(t *testing.T) {
	for _, a := range loopbacks {
		w := newWire(t, a, 1)
		super := func(i, n int) dataplane.Packet {
			in := flow(false, protoTCP, 1, bytes.Repeat([]byte{byte(i)}, n))
			pkt, v := whole(in.Bytes(), 300)
			s, _ := v.super(pkt)
			p := w.packet(0, append([]byte{0, 0, 0, 0, 0, 0, 0, byte(i)}, pkt...))
			p.Data, p.Body, p.Super = append(p.Data, p.Body...), nil, s
			return p
		}
		small := w.packet(0, []byte("smaller than a header"))
		batch := []dataplane.Packet{super(1, 45000), small, super(2, 45000), super(3, 200)}
		w.send.Send(batch)
		got := w.receive(302)
		if len(got) != 302 {
			t.Fatalf("%v: %d packets", a, len(got))
		}
		for i, want := range []int{150, 1, 150, 1} {
			mine := got[:want]
			got = got[want:]
			for k, p := range mine {
				if i == 1 {
					if string(p.Data) != string(small.Data) {
						t.Fatalf("%v: not the small packet: %q", a, p.Data)
					}
					continue
				}
				id := byte(i + 1 - i/2)
				seq := int(binary.BigEndian.Uint32(p.Data[8+24:]))
				if p.Data[7] != id || p.Data[len(p.Data)-1] != id || seq != 300*k {
					t.Fatalf("%v: segment %d of packet %d is of %d and begins at %d", a, k, i, p.Data[7], seq)
				}
			}
		}
		for i, p := range batch {
			if p.Drop != 0 || p.Lost != 0 {
				t.Errorf("%v: packet %d: %v, %d lost", a, i, p.Drop, p.Lost)
			}
		}
		w.pool.close()
		w.send.Send(batch)
		for i, want := range []int{150, 1, 150, 1} {
			if p := batch[i]; p.Drop != dataplane.DropSendNoSocket || p.Lost != want {
				t.Errorf("%v: packet %d: %v, %d lost, want %d", a, i, p.Drop, p.Lost, want)
			}
		}
	}
}

// What is before a super-packet leaves before it does in one piece, and what is
// behind it after that.
func TestWholeKeepsItsPlace(t *testing.T) {
	w := newWire(t, loopbacks[0], 1)
	null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	sites.Check(t, err)
	defer null.Close()
	o := &outlet{mac: make(net.HardwareAddr, 6)}
	o.open4.Store(true)
	o.rc, err = null.SyscallConn()
	sites.Check(t, err)
	w.send.exit = newExit(o)
	write, before := w.send.exit.write, uint64(0)
	w.send.exit.write = func(fd uintptr) {
		before = w.fwd.Count(dataplane.SendCalls)
		write(fd)
	}
	pkt, v := whole(flow(false, protoTCP, 1, make([]byte, 5000)).Bytes(), 1000)
	super := dataplane.Packet{Data: append(make([]byte, 8), pkt...), Src: w.local, Dst: w.local, TTL: 77}
	super.Super, _ = v.super(pkt)
	w.send.Send([]dataplane.Packet{w.packet(0, []byte("before it")), super, w.packet(0, []byte("behind it"))})
	if n := w.fwd.Count(dataplane.Whole); n != 1 || before != 1 || w.fwd.Count(dataplane.SendCalls) != 3 {
		t.Errorf("%d super-packets in one piece, after %d of %d calls", n, before, w.fwd.Count(dataplane.SendCalls))
	}
	if got := w.receive(2); string(got[0].Data) != "before it" || string(got[1].Data) != "behind it" {
		t.Errorf("received %q and %q", got[0].Data, got[1].Data)
	}
}

func TestRunLength(t *testing.T) {
	w := &wire{local: loopbacks[0]}
	p := func(hash uint32, n int) dataplane.Packet { return w.packet(hash, make([]byte, n)) }
	frag, ttl := p(1, 100), p(1, 100)
	frag.Fragmentable, ttl.TTL = true, 5
	for _, c := range []struct {
		name string
		pkts []dataplane.Packet
		want int
	}{
		{"one", []dataplane.Packet{p(1, 100)}, 1},
		{"equal", []dataplane.Packet{p(1, 100), p(1, 100), p(1, 100)}, 3},
		{"shorter last", []dataplane.Packet{p(1, 100), p(1, 99), p(1, 99)}, 2},
		{"longer", []dataplane.Packet{p(1, 100), p(1, 101)}, 1},
		{"other flow", []dataplane.Packet{p(1, 100), p(2, 100)}, 1},
		{"other TTL", []dataplane.Packet{p(1, 100), ttl}, 1},
		{"fragmentable", []dataplane.Packet{p(1, 100), frag}, 1},
		{"64 KiB", slices.Repeat([]dataplane.Packet{p(1, 30000)}, 4), 2},
		{"segments", slices.Repeat([]dataplane.Packet{p(1, 10)}, 100), 64},
	} {
		var list []piece
		for i := range c.pkts {
			list = append(list, piece{c.pkts[i].Data, c.pkts[i].Body, &c.pkts[i]})
		}
		if got := runLength(list); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// A kernel or device that refuses segmentation costs no packet, and is not
// asked again.
func TestSegmentationRefused(t *testing.T) {
	w := newWire(t, loopbacks[0], 1)
	for _, s := range w.pool.sockets() { // makes the kernel answer EINVAL
		sites.Check(t, s.use(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) }))
	}
	batch := slices.Repeat([]dataplane.Packet{w.packet(0, make([]byte, 1000))}, 50)
	batch = append(batch, w.packet(1<<8, make([]byte, 1000)))
	w.send.Send(batch)
	if got := w.receive(51); len(got) != 51 {
		t.Errorf("%d received", len(got))
	}
	if !w.pool.noSegmentation.Load() {
		t.Error("the refusal was not remembered")
	}
	for _, p := range batch {
		if p.Drop != 0 {
			t.Fatalf("a packet was dropped: %v", p.Drop)
		}
	}
	w.send.Send(batch)
	w.receive(51)
}

// An ICMP error about one packet comes back on the socket in place of sending
// the next; that one must go out all the same.
func TestForeignErrorsLoseNothing(t *testing.T) {
	w := newWire(t, loopbacks[0], 1)
	for range 20 {
		nobody := w.packet(0, []byte("to a closed port"))
		nobody.Dst = netip.MustParseAddr("127.0.0.9")
		batch := []dataplane.Packet{nobody, w.packet(0, []byte("a")), nobody, w.packet(0, []byte("b"))}
		w.send.Send(batch)
		for i, p := range batch {
			if p.Drop != 0 {
				t.Fatalf("packet %d: %v", i, p.Drop)
			}
		}
		got := w.receive(2)
		if string(got[0].Data) != "a" || string(got[1].Data) != "b" {
			t.Fatalf("received %q, %q", got[0].Data, got[1].Data)
		}
	}
}

func TestSendErrorsAreNamed(t *testing.T) {
	w := newWire(t, loopbacks[0], 1)
	far := w.packet(0, []byte("x"))
	far.Dst = netip.MustParseAddr("192.0.2.1") // no route
	other := w.packet(0, []byte("x"))
	other.Src = netip.MustParseAddr("192.0.2.2") // no socket
	big := w.packet(0, make([]byte, 65530))
	good := w.packet(0, []byte("good"))
	run := slices.Repeat([]dataplane.Packet{far}, 5)
	batch := slices.Concat([]dataplane.Packet{far, good, other, good, big, good}, run, []dataplane.Packet{good})
	w.send.Send(batch)
	var got []dataplane.DropReason
	for _, p := range batch {
		got = append(got, p.Drop)
	}
	u := dataplane.DropSendUnreachable
	if want := []dataplane.DropReason{u, 0, dataplane.DropSendNoSocket, 0, dataplane.DropSendTooBig, 0, u, u, u, u, u, 0}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if n := len(w.receive(4)); n != 4 {
		t.Errorf("%d received", n)
	}
	if w.pool.noSegmentation.Load() {
		t.Error("an unreachable destination was taken for a refusal of segmentation")
	}
	if p := <-w.fwd.Unreachable(); p != (dataplane.Path{Local: w.local, Remote: far.Dst}) || len(w.fwd.Unreachable()) != 0 {
		t.Errorf("told of %v and %d more", p, len(w.fwd.Unreachable()))
	}
	for errno, want := range map[unix.Errno]dataplane.DropReason{
		unix.EPERM: dataplane.DropSendDenied, unix.ENOBUFS: dataplane.DropSendBuffer, unix.EIO: dataplane.DropSendError,
	} {
		if got := dropOf(errno); got != want {
			t.Errorf("%v: %v", errno, got)
		}
	}
}

// IPv6 datagrams without checksum are accepted from an ordinary socket too, and
// an empty datagram is dropped by name.
func TestZeroChecksumAndEmpty(t *testing.T) {
	w := newWire(t, loopbacks[1], 1)
	sites.Check(t, w.pool.ports[0].use(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_TX, 1)
		to := &unix.SockaddrInet6{Port: encap.Port, Addr: netip.IPv6Loopback().As16()}
		unix.Sendto(int(fd), []byte("no checksum"), 0, to)
		unix.Sendto(int(fd), nil, 0, to)
	}))
	got := w.receive(2)
	if string(got[0].Data) != "no checksum" || got[1].Drop != dataplane.DropOuterTruncated {
		t.Errorf("received %+v", got)
	}
}

// What a full socket buffer cost is known.
func TestReceiveDropsAreCounted(t *testing.T) {
	w := newWire(t, loopbacks[0], 1)
	sites.Check(t, w.recvs[0].use(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) }))
	for range 50 {
		w.send.Send([]dataplane.Packet{w.packet(0, make([]byte, 1000))})
	}
	if n := w.recvs[0].drops(); n < 40 || n >= 50 {
		t.Errorf("%d of 50 drops counted", n)
	}
}

// Ports are the pool's own, and flows spread over them and over receivers.
func TestSourcePorts(t *testing.T) {
	w := newWire(t, loopbacks[0], 3)
	ports := make(map[int]bool)
	for _, s := range w.pool.sockets() {
		sites.Check(t, s.use(func(fd uintptr) {
			if sa, err := unix.Getsockname(int(fd)); err == nil {
				ports[sa.(*unix.SockaddrInet4).Port] = true
			}
		}))
	}
	if len(ports) != sourcePorts+1 {
		t.Errorf("%d ports", len(ports))
	}
	for p := range ports {
		if p < firstPort || p > lastPort {
			t.Errorf("port %d is not of the dynamic range", p)
		}
	}
	var batch []dataplane.Packet
	for i := range 64 {
		batch = append(batch, w.packet(uint32(i)<<8, []byte{byte(i % 16)}))
	}
	w.send.Send(batch)
	seen := 0
	flows := make(map[byte]int)
	for i, r := range w.recvs {
		timer := time.AfterFunc(200*time.Millisecond, r.close)
		buf := make([]dataplane.Packet, 64)
		n := 0
		for {
			k, err := r.Receive(buf)
			if err != nil {
				break
			}
			for _, p := range buf[:k] {
				if was, ok := flows[p.Data[0]]; ok && was != i {
					t.Errorf("flow %d came to receivers %d and %d", p.Data[0], was, i)
				}
				flows[p.Data[0]] = i
			}
			n += k
		}
		timer.Stop()
		if n > 0 {
			seen++
		}
	}
	if len(flows) != 16 || seen < 2 {
		t.Errorf("%d flows at %d receivers", len(flows), seen)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	ns := netns.Fresh(t, 1)[0]
	count := func() *dataplane.Counters { return new(dataplane.Counters) }
	sites.Check(t, ns.Do(func() error {
		rs, err := openReceivers(loopbacks[0], 2, count)
		if err != nil {
			return err
		}
		defer func() {
			for _, r := range rs {
				r.close()
			}
		}()
		if _, err := openReceivers(loopbacks[0], 2, count); err == nil {
			t.Error("two planes share the port")
		}
		_, err = openReceivers(netip.MustParseAddr("192.0.2.1"), 1, count)
		if err == nil {
			t.Error("an address that is not there was bound")
		}
		return nil
	}))
}

func TestReceiverClose(t *testing.T) {
	w := newWire(t, loopbacks[0], 1)
	done := make(chan error)
	go func() {
		_, err := w.recvs[0].Receive(make([]dataplane.Packet, 1))
		done <- err
	}()
	time.Sleep(20 * time.Millisecond)
	w.recvs[0].close()
	if err := <-done; err != net.ErrClosed {
		t.Error(err)
	}
}

func TestSocketsDoNotAllocate(t *testing.T) {
	for _, a := range loopbacks {
		w := newWire(t, a, 1)
		batch := slices.Repeat([]dataplane.Packet{w.packet(0, make([]byte, 1000))}, 40)
		batch = append(batch, w.packet(1<<8, make([]byte, 100)), w.packet(2<<8, make([]byte, 100)))
		buf := make([]dataplane.Packet, 64)
		round := func() {
			w.send.Send(batch)
			for n := 0; n < len(batch); {
				k, err := w.recvs[0].Receive(buf)
				if err != nil {
					t.Fatal(err)
				}
				n += k
			}
		}
		round()
		if n := testing.AllocsPerRun(50, round); n != 0 {
			t.Errorf("%v: %v allocations", a, n)
		}
	}
}

// What the error queue says is taken apart as the kernel lays it out, and
// refused when it is about something else.
func TestErrorQueueParse(t *testing.T) {
	message := func(level, typ int32, errno uint32, origin byte, mtu uint32) []byte {
		var c control
		c.add(level, typ, 0, 16)
		b := c.buf[:c.n]
		d := b[unix.CmsgLen(0):]
		for i := range 4 {
			d[i], d[8+i] = byte(errno>>(8*i)), byte(mtu>>(8*i))
		}
		d[4] = origin
		return b
	}
	size := uint32(unix.EMSGSIZE)
	for _, c := range []struct {
		name string
		ctl  []byte
		want socketError
		ok   bool
	}{
		{"ICMP", message(unix.IPPROTO_IP, unix.IP_RECVERR, size, unix.SO_EE_ORIGIN_ICMP, 1400), socketError{mtu: 1400}, true},
		{"ICMPv6", message(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, size, unix.SO_EE_ORIGIN_ICMP6, 1300), socketError{mtu: 1300}, true},
		{"kernel", message(unix.IPPROTO_IP, unix.IP_RECVERR, size, unix.SO_EE_ORIGIN_LOCAL, 1500), socketError{1500, true}, true},
		{"refused", message(unix.IPPROTO_IP, unix.IP_RECVERR, uint32(unix.ECONNREFUSED), unix.SO_EE_ORIGIN_ICMP, 9), socketError{}, false},
		{"timestamp", message(unix.IPPROTO_IP, unix.IP_RECVERR, size, unix.SO_EE_ORIGIN_TIMESTAMPING, 9), socketError{}, false},
		{"something else", message(unix.IPPROTO_IP, unix.IP_TTL, size, unix.SO_EE_ORIGIN_ICMP, 9), socketError{}, false},
		{"nothing", nil, socketError{}, false},
		{"cut off", message(unix.IPPROTO_IP, unix.IP_RECVERR, size, unix.SO_EE_ORIGIN_ICMP, 1400)[:24], socketError{}, false},
	} {
		if got, ok := parseError(c.ctl); got != c.want || ok != c.ok {
			t.Errorf("%s: %+v, %v", c.name, got, ok)
		}
	}
	rloc := netip.MustParseAddr("192.0.2.1")
	if validTarget(socketError{}, rloc, 53) || validTarget(socketError{}, rloc, 0) || !validTarget(socketError{}, rloc, 4341) ||
		!validTarget(socketError{local: true}, rloc, 0) || validTarget(socketError{}, netip.Addr{}, 4341) {
		t.Error("messages about other packets are believed")
	}
}
