package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/eidolon-lisp/eidolon/lab/internal/runner"
)

// capture is the capture that runs in the core.
type capture struct {
	process  *runner.Process
	file     *os.File // the frames
	messages *os.File // what it says
}

// snap is how much of a frame is kept if nobody wants the file: all headers.
const snap = 256

func (d *demo) startCapture(ctx context.Context) (string, error) {
	c := &capture{}
	path := d.opts.Capture
	args := []string{applets + "capture", "-w", "-"}
	if path == "" {
		path = filepath.Join(d.lab.Dir, "core.pcap") // goes with the lab
		args = append(args, "-s", fmt.Sprint(snap))
	}
	d.capture = c
	var err error
	if c.file, err = os.Create(path); err != nil {
		return "", err
	}
	if c.messages, err = os.Create(filepath.Join(d.lab.Dir, "core.messages")); err != nil {
		return "", err
	}
	if c.process, err = d.lab.Start(core, args, nil, [3]*os.File{nil, c.file, c.messages}, false); err != nil {
		return "", err
	}
	for range 200 {
		if said := c.said(); strings.HasPrefix(said, "capturing") {
			return strings.TrimSpace(said), nil
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return c.said(), errors.New("it does not begin")
}

func (c *capture) said() string {
	b, err := os.ReadFile(c.messages.Name())
	if err != nil {
		return ""
	}
	return string(b)
}

// finish ends the capture and returns the frames' file, which the caller
// reads before it calls close.
func (c *capture) finish() (path string, err error) {
	if c == nil || c.process == nil {
		return "", errors.New("there is no capture")
	}
	if err := c.process.Signal(syscall.SIGTERM); err != nil {
		return "", err
	}
	status, err := c.process.Wait()
	if err == nil && status != 0 {
		err = fmt.Errorf("the capture ended with status %d: %s", status, c.said())
	}
	if err == nil && !strings.Contains(c.said(), " 0 dropped by the kernel") {
		err = fmt.Errorf("the capture is not complete: %s", c.said())
	}
	return c.file.Name(), err
}

func (c *capture) close() {
	c.file.Close()
	c.messages.Close()
}

// auditCapture ends the capture and looks at every frame.
func (d *demo) auditCapture(context.Context) (string, error) {
	path, err := d.capture.finish()
	if err != nil {
		return "", err
	}
	defer d.capture.close()
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	a := newAudit(d.rlocPrefixes(), d.rlocs(), append(siteA.eids[:2:2], siteB.eids...))
	if err := readPcap(f, a.frame); err != nil {
		return "", fmt.Errorf("read the capture: %w", err)
	}
	value := a.String()
	if d.opts.Capture != "" {
		value += "; kept in " + path
	}
	return value, a.verdict()
}

// rlocPrefixes are the networks of the core's links.
func (d *demo) rlocPrefixes() []netip.Prefix {
	var list []netip.Prefix
	for _, a := range d.top.Node(core).Addresses() {
		list = append(list, a.Prefix.Masked())
	}
	return list
}

// rlocs are the addresses of xTRs and map-server on the core's links.
func (d *demo) rlocs() []netip.Addr {
	var list []netip.Addr
	for _, node := range []string{siteA.xtr, siteB.xtr, mapServer} {
		for _, a := range d.top.Node(node).Addresses() {
			for _, p := range d.rlocPrefixes() {
				if p.Contains(a.Prefix.Addr()) {
					list = append(list, a.Prefix.Addr())
				}
			}
		}
	}
	return list
}
