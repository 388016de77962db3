package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// watch is a capture at an interface, whose frames are looked at.
type watch struct {
	process process
	frames  *output
	said    *output // "capturing" first, and the counts at the end
	sources sources
}

// sources counts the frames of a capture by where their packets say that they
// come from: by the outermost header.
type sources struct {
	from   []netip.Prefix
	frames int
	of     int    // frames whose source is in from
	first  string // of those
	err    error  // the capture could not be read
}

// headers is as much of a frame as has the outermost addresses, with room for
// a VLAN tag.
const headers = 14 + 4 + 40

func (p *play) startWatch(ctx context.Context, s Statement) error {
	w := &watch{sources: sources{from: s.From}}
	begun := make(chan struct{})
	text := &strings.Builder{}
	var err error
	if w.frames, err = collect(w.sources.read); err != nil {
		return err
	}
	w.said, err = collect(func(r io.Reader) {
		var b [1]byte
		if n, _ := r.Read(b[:]); n == 1 {
			text.WriteByte(b[0])
			close(begun)
		}
		io.Copy(text, r)
	})
	if err != nil {
		w.frames.writer.Close()
		return err
	}
	w.said.text = text
	w.process, err = p.lab.Start(s.Node, []string{applets + "capture", "-i", s.Interface, "-s", fmt.Sprint(headers), "-w", "-"},
		w.frames.writer, w.said.writer)
	w.frames.writer.Close()
	w.said.writer.Close()
	if err != nil {
		return err
	}
	p.watches[s.Flow] = w
	select {
	case <-begun:
		return nil
	case <-w.said.done:
		return errors.New("the capture ended at once")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// read looks at the frames of a capture, to its end.
func (s *sources) read(r io.Reader) {
	defer io.Copy(io.Discard, r) // so that who writes comes to an end
	frames, err := pcapgo.NewReader(r)
	for err == nil {
		var frame []byte
		if frame, _, err = frames.ReadPacketData(); err == nil {
			s.frame(frame)
		}
	}
	if err != io.EOF {
		s.err = fmt.Errorf("read the capture: %w", err)
	}
}

func (s *sources) frame(b []byte) {
	s.frames++
	net := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Lazy).NetworkLayer()
	if net == nil {
		return // ARP, say
	}
	flow := net.NetworkFlow()
	src, ok := netip.AddrFromSlice(flow.Src().Raw())
	if ok && slices.ContainsFunc(s.from, func(p netip.Prefix) bool { return p.Contains(src) }) {
		if s.of++; s.of == 1 {
			s.first = flow.String()
		}
	}
}

// seen ends a watch and judges what it saw.
func (p *play) seen(s Statement) (string, error) {
	w := p.watches[s.Flow]
	if w == nil || w.process == nil {
		return "", errors.New("it does not run")
	}
	if err := w.process.Signal(syscall.SIGTERM); err != nil {
		return "", fmt.Errorf("it ended before: %w", err)
	}
	exit, err := w.process.Wait()
	w.process = nil
	<-w.frames.done
	<-w.said.done
	switch said := w.said.text.String(); {
	case err != nil:
		return "", err
	case exit != 0:
		return "", fmt.Errorf("the capture ended with status %d: %s", exit, said)
	case !strings.Contains(said, " 0 dropped by the kernel"):
		return "", fmt.Errorf("the capture is not complete: %s", said)
	}
	return w.sources.verdict(s.Some)
}

func (s *sources) verdict(some bool) (string, error) {
	said := fmt.Sprintf("%d of %d frames from %s", s.of, s.frames, strings.Trim(fmt.Sprint(s.from), "[]"))
	switch {
	case s.err != nil:
		return said, s.err
	case s.frames == 0:
		return said, errors.New("nothing at all was seen, which shows nothing")
	case some && s.of == 0:
		return said, errors.New("expected some")
	case !some && s.of > 0:
		return said, fmt.Errorf("expected none; the first: %s", s.first)
	}
	return said, nil
}

// kill ends the command of a node as a crash does.
func (p *play) kill(ctx context.Context, s Statement) (string, error) {
	st, err := p.lab.Status(s.Node)
	if err != nil {
		return "", err
	}
	if !st.Running {
		return "", fmt.Errorf("%s %s", strings.Join(st.Command, " "), st)
	}
	p.act()
	res, err := p.run(ctx, s.Node, []string{"sh", "-c", fmt.Sprintf("kill -9 %d", st.PID)})
	if err != nil || res.Exit != 0 {
		return "", errors.Join(err, fmt.Errorf("status %d: %s", res.Exit, words(res)))
	}
	for st.Running {
		if err := sleep(ctx, retryEvery); err != nil {
			return "", err
		}
		if st, err = p.lab.Status(s.Node); err != nil {
			return "", err
		}
	}
	return st.String(), nil
}

// begin starts the command of a node again.
func (p *play) begin(s Statement) error {
	st, err := p.lab.Status(s.Node)
	if err == nil && st.Running {
		err = fmt.Errorf("%s runs", strings.Join(st.Command, " "))
	}
	if err != nil {
		return err
	}
	p.act()
	if st, err = p.lab.StartCommand(s.Node); err == nil && !st.Running {
		err = fmt.Errorf("%s %s", strings.Join(st.Command, " "), st)
	}
	return err
}
