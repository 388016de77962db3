package bpf

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest/sites"
)

// What is tagged belongs to a VLAN that is not the site's: the program, which
// forwards the same packet without the tag, leaves it alone.
func TestTaggedFrames(t *testing.T) {
	tp := sites.New(t)
	a, _ := tp.Start(t, false)
	router, host := dptest.MAC(t, tp.XTRA, "site"), dptest.MAC(t, tp.HostA, "eth0")
	send := func(tags ...uint16) {
		t.Helper()
		frame := append(append([]byte(nil), router...), host...)
		for _, tag := range tags {
			frame = binary.BigEndian.AppendUint16(frame, tag)
			frame = binary.BigEndian.AppendUint16(frame, 7)
		}
		frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_IP)
		frame = append(frame, dptest.Flow(sites.HostA4.String()+":7", sites.HostB4.String()+":7", unix.IPPROTO_UDP, 100).Bytes()...)
		sites.Check(t, tp.HostA.Do(func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index, Halen: 6})
		}))
	}
	sent := func() uint64 { return a.State().Stats["encap_packets"] }
	forwarded := func(what string) {
		t.Helper()
		was, begin := sent(), time.Now()
		for send(); sent() == was; time.Sleep(10 * time.Millisecond) {
			if time.Since(begin) > 5*time.Second {
				t.Fatalf("%s, a frame without a tag is not forwarded", what)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	forwarded("before others")
	was := sent()
	send(unix.ETH_P_8021Q)
	send(unix.ETH_P_8021AD)
	send(unix.ETH_P_8021AD, unix.ETH_P_8021Q)
	forwarded("after others")
	if n := sent() - was; n != 1 {
		t.Errorf("%d of 3 tagged frames and one without a tag were forwarded, want that one", n)
	}
}
