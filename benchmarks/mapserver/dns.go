package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/rig"
	"github.com/eidolon-lisp/eidolon/internal/udp"
)

// names is how many names the zone has.
const names = 1_000_000

// dnsName returns a name of the zone "bench", as long as the others.
func dnsName(i uint64) string { return fmt.Sprintf("n%07d.bench.", i%names) }

// queries is the workload of DNS queries: type A, for a name of the zone, each
// for another one than the last.
type queries struct {
	port    uint16
	buffers [2 * burst][64]byte
	next    int
}

func (w *queries) nameOf(seq uint64) uint64 { return seq * 611_953 % names }

func (w *queries) request(seq uint64, m *udp.Message) {
	b := w.buffers[w.next][:0]
	w.next = (w.next + 1) % len(w.buffers)
	b = binary.BigEndian.AppendUint16(b, uint16(seq))
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) // one question
	b = append(b, 8, 'n')
	n := w.nameOf(seq)
	var digits [7]byte
	for i := len(digits) - 1; i >= 0; i-- {
		digits[i] = byte('0' + n%10)
		n /= 10
	}
	b = append(b, digits[:]...)
	b = append(b, "\x05bench\x00\x00\x01\x00\x01"...)
	m.Payload = b
	m.Src = netip.AddrPortFrom(sourceOf(seq), w.port)
}

func (w *queries) match(b []byte) (uint64, bool) {
	if len(b) < 12 {
		return 0, false
	}
	return uint64(binary.BigEndian.Uint16(b)), true
}

// addressOf is what the zone says of name n.
func addressOf(n uint64) [4]byte { return [4]byte{192, 0, 2, byte(1 + n%254)} }

func (w *queries) check(seq uint64, b []byte) error {
	const header, question = 12, 16 + 4
	const answer = header + question // with a compressed name: type, class, TTL, length, address
	if b[3]&0x0f != 0 || binary.BigEndian.Uint16(b[6:]) != 1 || len(b) < answer+16 {
		return fmt.Errorf("rcode %d, %d answers, %d octets", b[3]&0x0f, binary.BigEndian.Uint16(b[6:]), len(b))
	}
	if [4]byte(b[answer+12:]) != addressOf(w.nameOf(seq)) {
		return fmt.Errorf("a wrong address for %s", dnsName(w.nameOf(seq)))
	}
	return nil
}

// nsd is a running NSD.
type nsd struct {
	rig.Process
	addr    netip.AddrPort
	version string
}

// startNSD runs NSD, one process on one core, with a zone of a million names.
func startNSD(ctx context.Context, dir string, cpu int) (*nsd, error) {
	bin, err := exec.LookPath("nsd")
	if err != nil {
		if bin, err = exec.LookPath("/usr/sbin/nsd"); err != nil {
			return nil, errors.New("NSD is not installed (Debian: apt install nsd)")
		}
	}
	n := new(nsd)
	if n.addr, err = rig.FreePort(); err != nil {
		return nil, err
	}
	zone := filepath.Join(dir, "bench.zone")
	if err := writeZone(zone); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "nsd.conf")
	text := fmt.Sprintf(`server:
  server-count: 1
  ip-address: 127.0.0.1@%d
  username: ""
  database: ""
  pidfile: ""
  xfrdfile: %[2]s/xfrd.state
  zonelistfile: %[2]s/zone.list
  xfrdir: %[2]s
  zonesdir: %[2]s
  minimal-responses: yes
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: bench
  zonefile: %[3]s
`, n.addr.Port(), dir, zone)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if err := n.Start(exec.CommandContext(ctx, bin, "-d", "-c", config), cpu); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, bin, "-v").CombinedOutput(); err == nil {
		n.version, _, _ = strings.Cut(string(out), "\n")
	}
	return n, n.wait(ctx)
}

// wait returns when NSD answers.
func (n *nsd) wait(ctx context.Context) error {
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(n.addr))
	if err != nil {
		return err
	}
	defer c.Close()
	var m udp.Message
	new(queries).request(0, &m)
	buf := make([]byte, 512)
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline) && ctx.Err() == nil; {
		if err := n.Running(); err != nil {
			return err
		}
		c.Write(m.Payload)
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if k, err := c.Read(buf); err == nil && new(queries).check(0, buf[:k]) == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("NSD does not answer")
}

func writeZone(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	fmt.Fprint(w, "$ORIGIN bench.\n$TTL 86400\n@ SOA ns hostmaster 1 3600 600 86400 300\n@ NS ns\nns A 192.0.2.1\n")
	for i := range uint64(names) {
		a := addressOf(i)
		fmt.Fprintf(w, "n%07d A %v\n", i, netip.AddrFrom4(a))
	}
	return w.Flush()
}
