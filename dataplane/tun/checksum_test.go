package tun

import (
	"encoding/binary"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest/sites"
	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// rawUDP returns a raw socket for UDP in the namespace of the calling thread,
// bound to a: it takes UDP headers as they are, checksum included.
func rawUDP(a netip.Addr) (fd int, err error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: a.As16()})
	if a.Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Addr: a.As4()}
	}
	if fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP); err != nil {
		return -1, err
	}
	return fd, unix.Bind(fd, sa)
}

// datagram is a UDP datagram from a to a; sum makes the checksum out of the
// right one.
func datagram(a netip.Addr, payload string, sum func(uint16) uint16) []byte {
	d := dptest.Inner{Src: a, Dst: a, SrcPort: 50000, DstPort: 4341, Payload: []byte(payload)}.Bytes()
	if d = d[20:]; !a.Is4() {
		d = d[20:]
	}
	binary.BigEndian.PutUint16(d[6:], sum(binary.BigEndian.Uint16(d[6:])))
	return d
}

// RFC 9300 section 5.3: of received datagrams those with the right UDP checksum
// and with none are accepted; one that is wrong is dropped, and nobody hears of
// it.
func TestDP3_ZeroChecksumIsAccepted(t *testing.T) { receivedChecksums(t) }
func TestDP5_WrongChecksumIsDropped(t *testing.T) { receivedChecksums(t) }

func receivedChecksums(t *testing.T) {
	t.Helper()
	for _, a := range loopbacks {
		w := newWire(t, a, 1)
		var fd int
		sites.Check(t, w.ns.Do(func() (err error) {
			fd, err = rawUDP(a)
			return err
		}))
		defer unix.Close(fd)
		to := unix.Sockaddr(&unix.SockaddrInet6{Addr: a.As16()})
		if a.Is4() {
			to = &unix.SockaddrInet4{Addr: a.As4()}
		}
		for _, d := range [][]byte{
			datagram(a, "wrong checksum", func(s uint16) uint16 { return s ^ 0x0100 }),
			datagram(a, "right checksum", func(s uint16) uint16 { return s }),
			datagram(a, "zero  checksum", func(uint16) uint16 { return 0 }),
			datagram(a, "wrong again", func(s uint16) uint16 { return s ^ 1 }),
			datagram(a, "last", func(s uint16) uint16 { return s }),
		} {
			sites.Check(t, unix.Sendto(fd, d, 0, to))
		}
		var got []string
		for _, p := range w.receive(3) {
			got = append(got, string(p.Data))
		}
		if got[0] != "right checksum" || got[1] != "zero  checksum" || got[2] != "last" {
			t.Errorf("%v: received %q", a, got)
		}
		sites.Check(t, w.ns.Do(func() error {
			for file, name := range map[string]string{"snmp": "OutDestUnreachs", "snmp6": "Icmp6OutErrors"} {
				b, err := os.ReadFile("/proc/thread-self/net/" + file)
				if err != nil {
					return err
				}
				if n := counter(string(b), name); n != "0" {
					t.Errorf("%v: %s is %q", a, name, n)
				}
			}
			return nil
		}))
	}
}

// counter finds a counter of /proc/net/snmp, which has names in one line and
// values in the next, or of snmp6, which has both in one.
func counter(table, name string) string {
	lines := strings.Split(table, "\n")
	for i, l := range lines {
		f := strings.Fields(l)
		for j, word := range f {
			switch {
			case word != name:
			case j == 0 && len(f) == 2:
				return f[1]
			case i+1 < len(lines):
				return strings.Fields(lines[i+1])[j]
			}
		}
	}
	return ""
}

// RFC 9300 section 5.3: a UDP checksum that is sent is right, and datagrams go
// to port 4341, alone and in runs that the kernel divides.
func TestDP2_PortOfDataPackets(t *testing.T)   { sentDatagrams(t) }
func TestDP4_SentChecksumIsRight(t *testing.T) { sentDatagrams(t) }

func sentDatagrams(t *testing.T) {
	t.Helper()
	nss := netns.Fresh(t, 2)
	sites.Check(t, netns.Veth(nss[0], "a", nss[1], "b", 1500))
	for _, p := range []struct{ from, to string }{{"192.0.2.1/24", "192.0.2.2/24"}, {"2001:db8::1/64", "2001:db8::2/64"}} {
		from, to := netip.MustParsePrefix(p.from), netip.MustParsePrefix(p.to)
		sites.Check(t, nss[0].AddAddress("a", from))
		sites.Check(t, nss[1].AddAddress("b", to))
		var pl *pool
		sites.Check(t, nss[0].SetOffload("a", unix.ETHTOOL_STXCSUM, false))
		sites.Check(t, nss[0].Do(func() (err error) {
			pl, err = openPool(from.Addr(), false)
			return err
		}))
		defer pl.close()
		var fd int
		sites.Check(t, nss[1].Do(func() (err error) {
			fd, err = rawUDP(to.Addr())
			return err
		}))
		defer unix.Close(fd)
		sites.Check(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
		pools := new(atomic.Pointer[[]*pool])
		pools.Store(&[]*pool{pl})
		fwd := dataplane.NewForwarder(dataplane.NewFIB(), dataplane.Config{})
		s := newSender(pools, fwd)
		s.c = fwd.Counters()
		var batch []dataplane.Packet
		for i, size := range []int{100, 1000, 1000, 1000, 77} {
			data := make([]byte, size)
			for j := range data {
				data[j] = byte(i*31 + j)
			}
			batch = append(batch, dataplane.Packet{Data: data, Src: from.Addr(), Dst: to.Addr(), Hash: uint32(size) << 8, TTL: 64})
		}
		s.Send(batch)
		for i, p := range batch {
			if p.Drop != dataplane.NotDropped {
				t.Fatalf("packet %d: %v", i, p.Drop)
			}
			buf := make([]byte, 65536)
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				t.Fatalf("after %d datagrams: %v", i, err)
			}
			d := buf[:n]
			if from.Addr().Is4() { // the socket has the IP header too
				d = d[20:]
			}
			src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
			sum := encap.Sum(d, encap.Sum(dst, encap.Sum(src, uint64(unix.IPPROTO_UDP+len(d)))))
			if port := binary.BigEndian.Uint16(d[2:]); port != 4341 {
				t.Errorf("to port %d", port)
			}
			if binary.BigEndian.Uint16(d[6:]) == 0 || encap.Fold(sum) != 0xffff {
				t.Errorf("a datagram of %d octets has the checksum %x", len(d), d[6:8])
			}
		}
	}
}
