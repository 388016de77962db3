package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane/bpf"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest/sites"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/bgp/bgptest"
)

// reloadedFile has what a reload changes in capitals: the plane, the RLOCs of both
// families with their weights, and the EID-prefixes.
const reloadedFile = `
plane: {kind: PLANE, unfinished_checksums: true}
locator_sets: [{name: site, locators: [{address: RLOC4, priority: 1, weight: WEIGHT4}, {address: "RLOC6", priority: 1, weight: WEIGHT6}]}]
database_mappings:
EIDS
map_servers: [{address: 198.51.100.2, authentication_key: {key_id: 1, algorithm: hmac-sha-256-128-hkdf, key: an example key of enough octets}, want_map_notify: true, proxy_reply: true}]
map_resolvers: [198.51.100.2]
api: {socket: xtr.sock}
log: {level: warn}
`

// reloadedXTR returns what reloadedFile is for a site; w and 100-w are the weights.
func reloadedXTR(plane string, rlocs [2]netip.Addr, w int, eids ...string) string {
	var list strings.Builder
	for _, e := range eids {
		fmt.Fprintf(&list, "  - {eid: %q, locator_set: site}\n", e)
	}
	return strings.NewReplacer("PLANE", plane, "RLOC4", rlocs[0].String(), "RLOC6", rlocs[1].String(), "WEIGHT4", fmt.Sprint(w), "WEIGHT6", fmt.Sprint(100-w),
		"EIDS\n", list.String()).Replace(reloadedFile)
}

// datagrams is a flow of numbered UDP datagrams, one each two milliseconds.
type datagrams struct {
	name    string
	sent    uint64
	arrived []bool // by number
	stop    atomic.Bool
	done    chan error
}

// sendDatagrams sends until stop is set; end follows.
func sendDatagrams(t *testing.T, from *netns.NS, src netip.Addr, to *netns.NS, dst netip.Addr) *datagrams {
	t.Helper()
	d := &datagrams{name: fmt.Sprintf("%v to %v", src, dst), done: make(chan error, 2)}
	rx, tx := sites.UDPSocket(t, to, dst, false), sites.UDPSocket(t, from, src, false)
	rc, err := rx.SyscallConn()
	sites.Check(t, err)
	rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) })
	sites.Check(t, err)
	go func() {
		pace := time.NewTicker(2 * time.Millisecond)
		defer pace.Stop()
		for ; !d.stop.Load(); <-pace.C {
			if _, err := tx.WriteTo(binary.BigEndian.AppendUint64(nil, d.sent), rx.LocalAddr()); err != nil {
				d.done <- err
				return
			}
			d.sent++
		}
		rx.SetReadDeadline(time.Now().Add(time.Second)) // for what is on the way
		d.done <- nil
	}()
	go func() {
		var b [64]byte
		for {
			n, err := rx.Read(b[:])
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = nil
			} else if err == nil && n == 8 {
				i := binary.BigEndian.Uint64(b[:])
				for uint64(len(d.arrived)) <= i {
					d.arrived = append(d.arrived, false)
				}
				d.arrived[i] = true
				continue
			}
			d.done <- err
			return
		}
	}()
	return d
}

// end waits for a flow that stops, and tells what has not arrived.
func (d *datagrams) end(t *testing.T) {
	t.Helper()
	sites.Check(t, errors.Join(<-d.done, <-d.done))
	var lost []int
	for i := range int(d.sent) {
		if i >= len(d.arrived) || !d.arrived[i] {
			lost = append(lost, i)
		}
	}
	if len(lost) > 0 {
		t.Errorf("%s: of %d datagrams are lost %v", d.name, d.sent, lost)
	}
	t.Logf("%s: %d datagrams", d.name, d.sent)
}

// TestReloadLosesNothing: under traffic of both families both ways, weights change
// and EID-prefixes come and go with SIGHUP, a bad file is refused, and every
// datagram arrives, whichever plane forwards it.
func TestReloadLosesNothing(t *testing.T) {
	for _, kind := range []string{"tun", "bpf"} {
		t.Run(kind, func(t *testing.T) {
			tp := sites.New(t)
			ms, stopServer := startMapServer(t, tp.Core, netip.MustParseAddrPort("198.51.100.2:4342"))
			defer stopServer()
			rlocsA, rlocsB := [2]netip.Addr{sites.RLOCA4, sites.RLOCA6}, [2]netip.Addr{sites.RLOCB4, sites.RLOCB6}
			path := filepath.Join(t.TempDir(), "xtr.yml")
			write := func(path, text string) { sites.Check(t, os.WriteFile(path, []byte(text), 0o600)) }
			old := reloadedXTR(kind, rlocsA, 70, sites.EIDA4.String(), sites.EIDA6.String())
			write(path, old)
			other := filepath.Join(t.TempDir(), "xtr.yml")
			write(other, reloadedXTR(kind, rlocsB, 50, sites.EIDB4.String(), sites.EIDB6.String()))
			daemon := startDaemon(t, tp.XTRA, path)
			peer := startDaemon(t, tp.XTRB, other)
			t.Cleanup(func() { // what killed ones would leave
				for _, ns := range []*netns.NS{tp.XTRA, tp.XTRB} {
					if err := ns.Do(bpf.Cleanup); err != nil {
						t.Error(err)
					}
				}
			})
			// registered has the EID-prefixes of the sites with the weights of their IPv4 RLOCs.
			registered := func() (list []string) {
				for _, under := range []string{"10.0.0.0/8", "2001:db8::/32"} {
					for st := range ms.Database(mapping.MustParseEID(under)) {
						for _, l := range st.Record.Locators {
							if l.Addr == sites.RLOCA4 || l.Addr == sites.RLOCB4 {
								list = append(list, fmt.Sprintf("%v %d", st.Record.EID, l.Weight))
							}
						}
					}
				}
				return list
			}
			become := func(what string, want []string) {
				t.Helper()
				bgptest.Eventually(t, 30*time.Second, what, func() bool { return slices.Equal(registered(), want) })
			}
			before := []string{"10.1.0.0/24 70", "10.2.0.0/24 50", "2001:db8:a::/64 70", "2001:db8:b::/64 50"}
			after := []string{"10.1.0.0/24 20", "10.2.0.0/24 50", "10.3.0.0/24 20", "2001:db8:a::/64 20", "2001:db8:b::/64 50"}
			become("the sites are registered", before)
			for _, p := range [][2]netip.Addr{{sites.HostA4, sites.HostB4}, {sites.HostA6, sites.HostB6}} {
				bgptest.Eventually(t, 30*time.Second, "the sites reach each other", func() bool {
					out, _ := sites.Datagrams(t, tp.HostA, p[0], tp.HostB, p[1], false, 100)
					back, _ := sites.Datagrams(t, tp.HostB, p[1], tp.HostA, p[0], false, 100)
					return len(out)+len(back) == 2
				})
			}
			bytes := throughTUN(t, tp.XTRA, true)
			throughTUN(t, tp.XTRB, true)

			flows := []*datagrams{
				sendDatagrams(t, tp.HostA, sites.HostA4, tp.HostB, sites.HostB4), sendDatagrams(t, tp.HostA, sites.HostA6, tp.HostB, sites.HostB6),
				sendDatagrams(t, tp.HostB, sites.HostB4, tp.HostA, sites.HostA4), sendDatagrams(t, tp.HostB, sites.HostB6, tp.HostA, sites.HostA6),
			}
			reload := func(text string) {
				t.Helper()
				write(path, text)
				sites.Check(t, daemon.Process.Signal(syscall.SIGHUP))
			}
			next := reloadedXTR(kind, rlocsA, 20, sites.EIDA4.String(), sites.EIDA6.String(), "10.3.0.0/24")
			for range 5 {
				reload(next)
				become("the changes are registered", after)
				time.Sleep(100 * time.Millisecond) // of traffic with it
				reload(old)
				become("they are taken back", before)
				time.Sleep(100 * time.Millisecond)
			}
			reload(strings.Replace(next, "weight: 20", "weight: 2000", 1))
			time.Sleep(500 * time.Millisecond)
			become("a bad file changes nothing", before)
			reload(next)
			become("a good one does after that", after)
			time.Sleep(100 * time.Millisecond)
			for _, f := range flows {
				f.stop.Store(true)
			}
			for _, f := range flows {
				f.end(t)
			}
			share := float64(throughTUN(t, tp.XTRA, false)-bytes) / float64(flows[0].sent+flows[1].sent)
			t.Logf("%.2f packets of the TUN device for each that was sent", share)
			if (share < 0.1) != (kind == "bpf") {
				t.Errorf("so it was not the plane %s", kind)
			}
			for _, d := range []*os.Process{daemon.Process, peer.Process} {
				sites.Check(t, d.Signal(syscall.SIGTERM))
			}
			if err := errors.Join(daemon.Wait(), peer.Wait()); err != nil {
				t.Error(err)
			}
		})
	}
}

// throughTUN returns how many packets the TUN device of an xTR has taken of the
// kernel. If patient, the kernel then keeps more of them for an xTR that has to wait
// for a CPU.
func throughTUN(t *testing.T, ns *netns.NS, patient bool) (packets uint64) {
	t.Helper()
	sites.Check(t, ns.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Type() != "tuntap" {
				continue
			}
			packets += l.Attrs().Statistics.TxPackets
			if patient {
				err = errors.Join(err, netlink.LinkSetTxQLen(l, 10000))
			}
		}
		return err
	}))
	return packets
}
