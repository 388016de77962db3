package applet

import (
	"bufio"
	"context"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const chunk = 256 << 10 // octets of a write or read of TCP data

// sendFlows runs the TCP flows of a transfer and adds them up.
func sendFlows(ctx context.Context, o ttcpOptions, target netip.AddrPort) (TTCPReport, error) {
	reports := make([]TTCPReport, o.flows)
	errs := make([]error, o.flows)
	var wg sync.WaitGroup
	for i := range o.flows {
		wg.Go(func() { reports[i], errs[i] = sendTCP(ctx, o, target) })
	}
	wg.Wait()
	sum := reports[0]
	sum.Flows = o.flows
	for _, r := range reports[1:] {
		sum.OctetsSent += r.OctetsSent
		sum.Octets += r.Octets
		sum.Seconds = max(sum.Seconds, r.Seconds)
		sum.BitsPerSecond += r.BitsPerSecond
		sum.Retransmits += r.Retransmits
		sum.Stall = max(sum.Stall, r.Stall)
		sum.MSS = min(sum.MSS, r.MSS)
	}
	return sum, errors.Join(errs...)
}

func sendTCP(ctx context.Context, o ttcpOptions, target netip.AddrPort) (TTCPReport, error) {
	hashing := o.octets > 0 || o.rate > 0
	c, err := dialTTCP(ctx, o, target, ttcpHello{Hash: hashing})
	if err != nil {
		return TTCPReport{}, err
	}
	defer c.Close()
	// What was sent before a signal may still arrive, and be acknowledged.
	done := make(chan struct{})
	defer close(done)
	defer context.AfterFunc(ctx, func() {
		select {
		case <-done:
		case <-time.After(ttcpLeave):
			c.Close()
		}
	})()
	r := TTCPReport{Mode: "tcp", Source: c.LocalAddr().String(), Destination: c.RemoteAddr().String(), Flows: 1}
	content, err := newContent()
	if err != nil {
		return r, err
	}
	buf := make([]byte, o.piece())
	content.Read(buf)
	sum := sha256.New()
	start := time.Now()
	end := start.Add(time.Duration(o.seconds * float64(time.Second)))
	for ctx.Err() == nil {
		b := buf
		if o.octets > 0 {
			b = buf[:min(int64(len(buf)), o.octets-r.OctetsSent)]
		} else if time.Now().After(end) {
			break
		}
		if hashing {
			content.Read(b)
			sum.Write(b)
		}
		c.SetWriteDeadline(time.Now().Add(ttcpPatient))
		n, err := c.Write(b)
		r.OctetsSent += int64(n)
		if err != nil {
			return r, err
		}
		if o.octets > 0 && r.OctetsSent == o.octets {
			break
		}
		if o.rate > 0 {
			o.pace(ctx, start, r.OctetsSent)
		}
	}
	if err := c.CloseWrite(); err != nil {
		return r, err
	}
	var arrived ttcpArrived
	if err := answerLine(c, bufio.NewReader(c), &arrived); err != nil {
		return r, err
	}
	r.take(arrived)
	if hashing {
		r.SentSHA256 = hex.EncodeToString(sum.Sum(nil))
	}
	if info, err := tcpInfo(c); err == nil {
		r.Retransmits, r.MSS = int64(info.Total_retrans), int(info.Snd_mss)
	}
	return r, nil
}

// piece is how many octets of TCP data are written at once: of a rate, those of
// 10 ms, but no less than a line of text.
func (o ttcpOptions) piece() int {
	if o.rate == 0 {
		return chunk
	}
	return int(min(max(o.rate/8/100, 64), chunk))
}

// pace waits until more may be sent after so many octets since the start.
func (o ttcpOptions) pace(ctx context.Context, start time.Time, octets int64) {
	due := time.Duration(float64(octets) * 8 / o.rate * float64(time.Second))
	select {
	case <-ctx.Done():
	case <-time.After(due - time.Since(start)):
	}
}

func (r *TTCPReport) take(a ttcpArrived) {
	r.Octets, r.Seconds, r.Stall, r.SHA256, r.Packets, r.Late = a.Octets, a.Seconds, a.Stall, a.SHA256, a.Packets, a.Late
	if a.Seconds > 0 {
		r.BitsPerSecond = 8 * float64(a.Octets) / a.Seconds
	}
}

// newContent is a stream of random octets that no compression shortens.
func newContent() (*rand.ChaCha8, error) {
	var seed [32]byte
	if _, err := cryptorand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("seed the content: %w", err)
	}
	return rand.NewChaCha8(seed), nil
}

func tcpInfo(c *net.TCPConn) (*unix.TCPInfo, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var info *unix.TCPInfo
	var ierr error
	if err := raw.Control(func(fd uintptr) {
		info, ierr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); err != nil {
		return nil, err
	}
	return info, ierr
}

func sendUDP(ctx context.Context, o ttcpOptions, target netip.AddrPort) (TTCPReport, error) {
	c, err := dialTTCP(ctx, o, target, ttcpHello{UDP: true})
	if err != nil {
		return TTCPReport{}, err
	}
	defer c.Close()
	answers := bufio.NewReader(c)
	var ready ttcpReady
	if err := answerLine(c, answers, &ready); err != nil {
		return TTCPReport{}, err
	}
	d := net.Dialer{}
	if o.local.IsValid() {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(o.local, 0))
	}
	u, err := d.DialContext(ctx, "udp", netip.AddrPortFrom(target.Addr(), ready.Port).String())
	if err != nil {
		return TTCPReport{}, err
	}
	defer u.Close()
	r := TTCPReport{Mode: "udp", Source: u.LocalAddr().String(), Destination: u.RemoteAddr().String(), Flows: 1}
	b := make([]byte, o.length)
	start := time.Now()
	end := start.Add(time.Duration(o.seconds * float64(time.Second)))
	for now := start; now.Before(end) && ctx.Err() == nil; now = time.Now() {
		if o.rate > 0 {
			due := time.Duration(float64(r.OctetsSent) * 8 / o.rate * float64(time.Second))
			if wait := due - now.Sub(start); wait > 100*time.Microsecond {
				time.Sleep(min(wait, 10*time.Millisecond))
				continue
			}
		}
		binary.BigEndian.PutUint64(b, uint64(r.PacketsSent))
		if _, err := u.Write(b); err != nil {
			if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ECONNREFUSED) {
				continue
			}
			return r, err
		}
		r.PacketsSent++
		r.OctetsSent += int64(len(b))
	}
	if err := c.CloseWrite(); err != nil {
		return r, err
	}
	var arrived ttcpArrived
	if err := answerLine(c, answers, &arrived); err != nil {
		return r, err
	}
	r.take(arrived)
	return r, nil
}

// receiveTTCP is the receiver's side of one conversation.
func receiveTTCP(c *net.TCPConn) error {
	c.SetReadDeadline(time.Now().Add(ttcpPatient))
	br := bufio.NewReaderSize(c, 4096)
	line, err := br.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read the hello: %w", err)
	}
	var hello ttcpHello
	if err := json.Unmarshal(line, &hello); err != nil {
		return fmt.Errorf("read the hello: %w", err)
	}
	var arrived ttcpArrived
	if hello.UDP {
		arrived, err = receiveUDP(c, br)
	} else {
		arrived, err = receiveTCP(c, br, hello.Hash)
	}
	if err != nil {
		return err
	}
	c.SetWriteDeadline(time.Now().Add(ttcpPatient))
	return json.NewEncoder(c).Encode(arrived)
}

func receiveTCP(c *net.TCPConn, br *bufio.Reader, hashing bool) (ttcpArrived, error) {
	var a ttcpArrived
	var sum hash.Hash
	if hashing {
		sum = sha256.New()
	}
	buf := make([]byte, chunk)
	var first, last time.Time
	for {
		c.SetReadDeadline(time.Now().Add(ttcpPatient))
		n, err := br.Read(buf) // a large buffer bypasses the reader's own
		if n > 0 {
			now := time.Now()
			if first.IsZero() {
				first, last = now, now
			}
			a.Stall = max(a.Stall, now.Sub(last).Seconds())
			last = now
			a.Octets += int64(n)
			if sum != nil {
				sum.Write(buf[:n])
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return a, fmt.Errorf("receive: %w", err)
		}
	}
	a.Seconds = last.Sub(first).Seconds()
	if sum != nil {
		a.SHA256 = hex.EncodeToString(sum.Sum(nil))
	}
	return a, nil
}

func receiveUDP(c *net.TCPConn, br *bufio.Reader) (ttcpArrived, error) {
	var a ttcpArrived
	local := c.LocalAddr().(*net.TCPAddr).AddrPort()
	u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local.Addr(), 0)))
	if err != nil {
		return a, err
	}
	defer u.Close()
	// Only what the machine allows is had; a smaller buffer loses more.
	u.SetReadBuffer(8 << 20)
	port := u.LocalAddr().(*net.UDPAddr).Port
	if err := json.NewEncoder(c).Encode(ttcpReady{Port: uint16(port)}); err != nil {
		return a, err
	}
	// The sender closes its direction when it has sent all; what is under way
	// then has a moment to arrive.
	sent := make(chan error, 1)
	go func() {
		c.SetReadDeadline(time.Time{})
		_, err := br.ReadByte()
		u.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		sent <- err
	}()
	buf := make([]byte, 65536)
	var first, last time.Time
	next := uint64(0)
	for {
		n, _, err := u.ReadFromUDPAddrPort(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			c.Close()
			return a, errors.Join(err, <-sent)
		}
		if n < 8 {
			continue
		}
		last = time.Now()
		if first.IsZero() {
			first = last
		}
		a.Packets++
		a.Octets += int64(n)
		if seq := binary.BigEndian.Uint64(buf); seq < next {
			a.Late++
		} else {
			next = seq + 1
		}
	}
	if err := <-sent; err != io.EOF {
		return a, fmt.Errorf("the sender left: %w", err)
	}
	a.Seconds = last.Sub(first).Seconds()
	return a, nil
}
