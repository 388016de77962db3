package dfz

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// Edge is a session of sites with a speaker: of one site, in which case it is the
// site's own, or of all those that have no session of their own, whose routes come
// over one. It packs prefixes with equal attributes into one UPDATE, and hears
// nothing but a default: the speaker tells it no routes.
type Edge struct {
	zone   *Zone
	Router int
	AS     uint32
	local  netip.Addr

	mu   sync.Mutex
	conn net.Conn
	done chan struct{} // closed when the session has ended
	err  error
}

// Edge timers, in seconds (RFC 4271 section 10).
const (
	edgeHold      = 90
	edgeKeepalive = 30 * time.Second
	openTimeout   = 20 * time.Second
)

// Open brings the session up, and tries again while the speaker is idle.
func (e *Edge) Open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	for {
		err := e.open(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("session of AS %d with speaker %d: %w", e.AS, e.Router, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (e *Edge) open(ctx context.Context) error {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(e.local, 0))}
	conn, err := d.DialContext(ctx, "tcp4", e.zone.addrPort(e.Router).String())
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	in := bufio.NewReader(conn)
	err = e.handshake(conn, in)
	if !stop() {
		err = errors.Join(err, ctx.Err())
	}
	if err != nil {
		conn.Close()
		return err
	}
	done := make(chan struct{})
	e.mu.Lock()
	e.conn, e.done, e.err = conn, done, nil
	e.mu.Unlock()
	go func() {
		defer close(done)
		err := e.listen(in)
		e.mu.Lock()
		e.err = err
		e.mu.Unlock()
		conn.Close()
	}()
	go e.keepAlive(conn, done)
	return nil
}

// handshake exchanges OPEN and the first KEEPALIVE.
func (e *Edge) handshake(conn net.Conn, in io.Reader) error {
	caps := bgp.NewOptionParameterCapability([]bgp.ParameterCapabilityInterface{
		bgp.NewCapMultiProtocol(bgp.RF_IPv4_UC), bgp.NewCapFourOctetASNumber(e.AS),
	})
	as := uint16(bgp.AS_TRANS)
	if e.AS < 1<<16 {
		as = uint16(e.AS)
	}
	open, err := bgp.NewBGPOpenMessage(as, edgeHold, e.local.String(), []bgp.OptionParameterInterface{caps}).Serialize()
	if err != nil {
		return err
	}
	if _, err := conn.Write(open); err != nil {
		return err
	}
	var buf []byte
	for _, want := range []byte{bgp.BGP_MSG_OPEN, bgp.BGP_MSG_KEEPALIVE} {
		if buf, err = readMessage(in, buf); err != nil {
			return err
		}
		if buf[18] != want {
			return fmt.Errorf("a message of type %d, expected %d", buf[18], want)
		}
		if want == bgp.BGP_MSG_OPEN {
			if _, err := conn.Write(keepalive[:]); err != nil {
				return err
			}
		}
	}
	return nil
}

var keepalive = func() (b [headerLen]byte) {
	copy(b[:], marker[:])
	b[17], b[18] = headerLen, bgp.BGP_MSG_KEEPALIVE
	return b
}()

// listen reads until the session ends.
func (e *Edge) listen(in io.Reader) error {
	var buf []byte
	var err error
	for {
		if buf, err = readMessage(in, buf); err != nil {
			return err
		}
		if buf[18] == bgp.BGP_MSG_NOTIFICATION {
			return fmt.Errorf("NOTIFICATION %d/%d", buf[headerLen], buf[headerLen+1])
		}
	}
}

func (e *Edge) keepAlive(conn net.Conn, done <-chan struct{}) {
	t := time.NewTicker(edgeKeepalive)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			conn.Write(keepalive[:])
		case <-done:
			return
		}
	}
}

// Announce announces prefixes with an AS path. A session of a site has the site's
// AS as the first.
func (e *Edge) Announce(path []uint32, list []netip.Prefix) error {
	attrs, err := attributes(path, e.local)
	if err != nil {
		return err
	}
	return e.send(attrs, list)
}

// Withdraw ends that.
func (e *Edge) Withdraw(list []netip.Prefix) error { return e.send(nil, list) }

func (e *Edge) send(attrs []byte, list []netip.Prefix) error {
	if len(list) == 0 {
		return nil
	}
	b, sizes := appendUpdates(nil, attrs, list)
	return e.write(b, list, sizes)
}

// write sends messages that are about list, of the given sizes in prefixes.
func (e *Edge) write(b []byte, list []netip.Prefix, sizes []int) error {
	e.mu.Lock()
	conn, err := e.conn, e.err
	e.mu.Unlock()
	if conn == nil {
		return errors.Join(fmt.Errorf("AS %d has no session with speaker %d", e.AS, e.Router), err)
	}
	e.zone.tracker.edge(list, sizes, len(b))
	if _, err := conn.Write(b); err != nil {
		return fmt.Errorf("AS %d to speaker %d: %w", e.AS, e.Router, err)
	}
	return nil
}

// Replay sends what somebody else has said: withdrawn and announced prefixes in one
// message if they fit in it. The attributes are those on the wire of what is
// announced, with Local as the next hop; the session is that of the AS which is the
// first of the path.
func (e *Edge) Replay(withdrawn []netip.Prefix, attrs []byte, announced []netip.Prefix) error {
	size := headerLen + 4 + len(attrs)
	for _, p := range withdrawn {
		size += prefixLen(p)
	}
	for _, p := range announced {
		size += prefixLen(p)
	}
	if len(withdrawn) == 0 || len(announced) == 0 || size > maxMessage {
		if err := e.send(nil, withdrawn); err != nil {
			return err
		}
		return e.send(attrs, announced)
	}
	b := append(make([]byte, 0, size), marker[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	b = append(b, bgp.BGP_MSG_UPDATE, 0, 0)
	for _, p := range withdrawn {
		b = appendPrefix(b, p)
	}
	binary.BigEndian.PutUint16(b[headerLen:], uint16(len(b)-headerLen-2))
	b = binary.BigEndian.AppendUint16(b, uint16(len(attrs)))
	b = append(b, attrs...)
	for _, p := range announced {
		b = appendPrefix(b, p)
	}
	list := slices.Concat(withdrawn, announced)
	return e.write(b, list, []int{len(list)})
}

// Local is the address of the session's end here.
func (e *Edge) Local() netip.Addr { return e.local }

// Close ends the session without a word, as when the line is cut. Open brings it
// back.
func (e *Edge) Close() {
	e.mu.Lock()
	conn, done := e.conn, e.done
	e.conn = nil
	e.mu.Unlock()
	if conn != nil {
		conn.Close()
		<-done
	}
}

// isEnd reports whether err says that the other end closed a connection.
func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || isReset(err)
}
