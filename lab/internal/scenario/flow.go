package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/eidolon-lisp/eidolon/lab/internal/applet"
)

// flow is a ping or stream that runs.
type flow struct {
	name    string
	process process // of the ping, or the sender
	server  process // of a stream
	pings   *pings  // of a ping
	out     *output
	ended   bool
}

// output takes what a process says on a pipe of its own.
type output struct {
	writer *os.File
	done   chan struct{}
	text   *strings.Builder // what was said, of a stream; after done
}

func collect(take func(io.Reader)) (*output, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	o := &output{writer: w, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		defer r.Close()
		take(r)
	}()
	return o, nil
}

func (p *play) startPing(s Statement) error {
	f := &flow{name: s.Flow, pings: &pings{}}
	var err error
	if f.out, err = collect(f.pings.read); err != nil {
		return err
	}
	f.process, err = p.lab.Start(s.Node, []string{applets + "ping", "-D", "-n", "-i", fmt.Sprint(pingEvery.Seconds()), s.Dst.String()},
		f.out.writer, f.out.writer)
	f.out.writer.Close()
	if err == nil {
		p.flows[s.Flow] = f
	}
	return err
}

// firstPort is that of the first stream; each has its own.
const firstPort = 5001

func (p *play) startStream(ctx context.Context, s Statement) error {
	f := &flow{name: s.Flow}
	port := strconv.Itoa(firstPort + len(p.flows))
	listening := make(chan struct{})
	heard, err := collect(func(r io.Reader) {
		var b [1]byte
		if n, _ := r.Read(b[:]); n == 1 { // it says that it listens
			close(listening)
		}
		io.Copy(io.Discard, r)
	})
	if err != nil {
		return err
	}
	f.server, err = p.lab.Start(s.To, []string{applets + "ttcp", "serve", "-p", port}, nil, heard.writer)
	heard.writer.Close()
	if err != nil {
		return err
	}
	p.flows[s.Flow] = f
	select {
	case <-listening:
	case <-heard.done:
		return errors.New("the receiver ended at once")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	said := &strings.Builder{}
	f.out, err = collect(func(r io.Reader) { io.Copy(said, r) })
	if err != nil {
		return err
	}
	f.process, err = p.lab.Start(s.Node, []string{applets + "ttcp", "send", "--json", "-p", port, "-t", "3600", "-r", s.Rate, s.Dst.String()},
		f.out.writer, f.out.writer)
	f.out.writer.Close()
	f.out.text = said
	return err
}

// end stops a flow and says how it went.
func (f *flow) end(ctx context.Context) (string, error) {
	if f == nil || f.process == nil || f.ended {
		return "", errors.New("it does not run")
	}
	f.ended = true
	if err := f.process.Signal(syscall.SIGINT); err != nil {
		return "", fmt.Errorf("it ended before: %w", err)
	}
	exit, err := f.process.Wait()
	f.process = nil
	<-f.out.done
	if err != nil {
		return "", err
	}
	if f.pings != nil {
		v := f.pings.since(time.Time{}, time.Time{})
		return v.String(), nil
	}
	var r applet.TTCPReport
	if exit != 0 {
		return "", fmt.Errorf("the connection did not live: status %d: %s", exit, f.out.text)
	}
	if err := json.Unmarshal([]byte(f.out.text.String()), &r); err != nil {
		return "", err
	}
	said := fmt.Sprintf("one connection, %d octets in %.1f s, SHA-256 %.8s..., longest stall %.2f s, %d segments retransmitted",
		r.Octets, r.Seconds, r.SHA256, r.Stall, r.Retransmits)
	if r.Octets == 0 || r.Octets != r.OctetsSent || r.SHA256 == "" || r.SHA256 != r.SentSHA256 {
		return said, errors.New("what arrived differs from what was sent")
	}
	return said, nil
}

// abandon ends what is left of a flow.
func (f *flow) abandon() {
	for _, p := range []process{f.process, f.server} {
		if p != nil {
			p.Close()
		}
	}
}
