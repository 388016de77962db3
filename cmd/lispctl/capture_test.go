package main

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"

	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// capturing is a capture or a trace under way.
type capturing struct {
	cmd         *exec.Cmd
	out, errors bytes.Buffer
	read        chan struct{} // closed when errors is whole
}

// begin starts lispctl, in the namespace if there is one, and returns when it
// captures or traces: begin lispctl capture.
func begin(ts *testscript.TestScript, neg bool, args []string) {
	h := ts.Value(hostKey{}).(*host)
	c := &capturing{cmd: exec.Command(args[0], args[1:]...), read: make(chan struct{})}
	c.cmd.Dir, c.cmd.Stdout = ts.MkAbs("."), &c.out
	said, err := c.cmd.StderrPipe()
	ts.Check(err)
	if h.ns != nil {
		ts.Check(h.ns.Do(c.cmd.Start))
	} else {
		ts.Check(c.cmd.Start())
	}
	guard := time.AfterFunc(time.Minute, func() { c.cmd.Process.Kill() })
	ts.Defer(func() { guard.Stop() })
	lines := bufio.NewReader(said)
	first, err := lines.ReadString('\n')
	c.errors.WriteString(first)
	go func() {
		defer close(c.read)
		io.Copy(&c.errors, lines)
	}()
	if err != nil {
		ts.Fatalf("%v: %s", err, first)
	}
	h.capture = c
}

// ended waits until the capture has ended, interrupts it first with "now", and puts
// what it printed into the files out and err.
func ended(ts *testscript.TestScript, neg bool, args []string) {
	c := ts.Value(hostKey{}).(*host).capture
	if len(args) > 0 {
		ts.Check(c.cmd.Process.Signal(os.Interrupt))
	}
	<-c.read
	if err := c.cmd.Wait(); err != nil {
		ts.Fatalf("%v: %s", err, &c.errors)
	}
	ts.Check(os.WriteFile(ts.MkAbs("out"), c.out.Bytes(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("err"), c.errors.Bytes(), 0o600))
}

// send has packets go out of eth2 in the namespace, one of each kind: data, data7
// (of instance-ID 7), data6 (over IPv6), control, other.
func send(ts *testscript.TestScript, neg bool, kinds []string) {
	h := ts.Value(hostKey{}).(*host)
	inner := dptest.Flow("10.1.0.5:1000", "10.2.0.9:2000", 17, 100)
	request, err := (&wire.MapRequest{Nonce: 1, ITRRLOCs: []wire.Address{wire.IPAddress(netip.MustParseAddr("192.0.2.1"))}, EIDs: []wire.RequestRecord{wire.NewRequestRecord(mapping.MustParseEID("10.3.0.0/16"))}}).AppendBinary(nil)
	ts.Check(err)
	ts.Check(h.ns.Do(func() error {
		l, err := netlink.LinkByName("eth2")
		if err != nil {
			return err
		}
		for _, a := range []string{"192.0.2.99", "2001:db8::99"} {
			hw := net.HardwareAddr{2, 0, 0, 0, 0, 99}
			if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(a), HardwareAddr: hw}); err != nil {
				return err
			}
		}
		for _, k := range kinds {
			to, payload := "192.0.2.99:4341", inner.Lisp(0, "192.0.2.1", "192.0.2.99").Data
			switch k {
			case "data7":
				payload = inner.Lisp(7, "192.0.2.1", "192.0.2.99").Data
			case "data6":
				to = "[2001:db8::99]:4341"
			case "control":
				to, payload = "192.0.2.99:4342", request
			case "other":
				to, payload = "192.0.2.99:53", []byte(strings.Repeat("x", 100))
			}
			c, err := net.Dial("udp", to)
			if err != nil {
				return err
			}
			_, err = c.Write(payload)
			c.Close()
			if err != nil {
				return err
			}
		}
		return nil
	}))
}
