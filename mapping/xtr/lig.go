package xtr

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// Defaults and bounds of a lig query (RFC 6835 section 4.2).
const (
	ligCount    = 3
	ligMaxCount = 5
	ligTimeout  = 2 * time.Second
)

// LigQuery is a question to a map-resolver (RFC 6835).
type LigQuery struct {
	// Resolver is the map-resolver to ask; port 0 means wire.Port.
	Resolver netip.AddrPort
	// EID is what is asked for: a host, or a prefix as it is.
	EID mapping.EID
	// Source is the source EID to name in the Map-Request; it may be left out.
	// It is of EID's instance.
	Source netip.Addr
	// Local are the local addresses and ports that a Map-Reply can come to, at
	// most one for each address family: the ITR-RLOCs. All have one port. Lig
	// sends from the one of the resolver's family. LigDial fills it in.
	Local []netip.AddrPort
	// Count is how many Map-Requests are sent at most, 1 to 5; 3 by default.
	// The first Map-Reply ends the query.
	Count int
	// Timeout is how long each of them waits for its Map-Reply; 2 s by default.
	Timeout time.Duration
	// Key, if it has a secret, is shared with the map-resolver: the
	// Map-Requests are protected by LISP-SEC (RFC 9303), and a Map-Reply that
	// is not, or does not verify, is none.
	Key auth.WrapKey
	// Rand is the source of nonces and one-time keys; crypto/rand by default.
	Rand io.Reader
}

// ligRequest is a Map-Request that was sent.
type ligRequest struct {
	at     time.Time   // before it was sent
	secure *protection // nil: without LISP-SEC
}

// ligReply is a Map-Reply that has come.
type ligReply struct {
	msg  []byte
	from netip.AddrPort
	at   time.Time // when it was read from the socket
}

// LigResult is the Map-Reply to a LigQuery.
type LigResult struct {
	// Records are those of the Map-Reply, as they came; the one that covers
	// the EID is among them.
	Records []*mapping.Record
	// From is who replied: an ETR, a map-server or the map-resolver.
	From netip.AddrPort
	// RTT is the time from the Map-Request that was answered to the reply, from
	// socket to socket: never less than the way took.
	RTT time.Duration
	// Sent is how many Map-Requests were sent.
	Sent  int
	Nonce uint64
}

// ErrNoReply is returned by Lig when none of the Map-Requests was answered.
var ErrNoReply = errors.New("no map-reply")

// Lig asks a map-resolver for an EID and returns the Map-Reply. conn is the
// caller's; Lig closes it when it returns, because that is what ends its
// reader. It stops early when ctx ends.
func Lig(ctx context.Context, conn udp.Conn, q LigQuery) (LigResult, error) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close()
	q, src, err := q.withDefaults()
	if err != nil {
		return LigResult{}, fmt.Errorf("lig: %w", err)
	}
	replies := make(chan ligReply, 16)
	stop := make(chan struct{})
	defer close(stop)
	wg.Go(func() {
		buf := make([]byte, wire.MaxMessage)
		for {
			n, from, _, err := conn.Read(buf)
			at := time.Now()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if t, terr := wire.PeekType(buf[:n]); err != nil || terr != nil || t != wire.TypeMapReply {
				continue
			}
			select {
			case replies <- ligReply{slices.Clone(buf[:n]), from, at}:
			case <-stop:
				return
			}
		}
	})

	sent := make(map[uint64]ligRequest)
	for range q.Count {
		nonce, request, err := q.send(conn, src)
		if err != nil {
			return LigResult{Sent: len(sent)}, fmt.Errorf("lig: %w", err)
		}
		sent[nonce] = request
		timeout := time.NewTimer(q.Timeout)
		defer timeout.Stop()
	wait:
		for {
			select {
			case p := <-replies:
				nonce, _ := wire.PeekNonce(p.msg)
				asked, ours := sent[nonce]
				if !ours {
					continue
				}
				res, ok := q.read(p.msg, asked.secure)
				if !ok {
					continue
				}
				res.From, res.RTT, res.Sent = p.from, p.at.Sub(asked.at), len(sent)
				return res, nil
			case <-timeout.C:
				break wait
			case <-ctx.Done():
				return LigResult{Sent: len(sent)}, fmt.Errorf("lig: %w", context.Cause(ctx))
			}
		}
	}
	return LigResult{Sent: len(sent)}, fmt.Errorf("lig: %w from %v for %v after %d map-requests", ErrNoReply, q.Resolver, q.EID, len(sent))
}

// LigDial is Lig over a socket of its own, bound to the local address of the
// route to the resolver and to a free port.
func LigDial(ctx context.Context, q LigQuery) (LigResult, error) {
	resolver := netip.AddrPortFrom(q.Resolver.Addr().Unmap(), q.Resolver.Port())
	a, err := localAddress(resolver)
	if err != nil {
		return LigResult{}, fmt.Errorf("lig: %w", err)
	}
	conn, err := udp.Listen([]netip.AddrPort{netip.AddrPortFrom(a, 0)})
	if err != nil {
		return LigResult{}, fmt.Errorf("lig: %w", err)
	}
	q.Local = conn.Addrs()
	return Lig(ctx, conn, q)
}

// localAddress returns the address that packets to a host leave from. Nothing
// is sent.
func localAddress(to netip.AddrPort) (netip.Addr, error) {
	if to.Port() == 0 {
		to = netip.AddrPortFrom(to.Addr(), wire.Port)
	}
	if !to.IsValid() {
		return netip.Addr{}, errors.New("no map-resolver given")
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the local address toward %v: %w", to.Addr(), err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// withDefaults returns the query with its defaults and the address to send it
// from.
func (q LigQuery) withDefaults() (_ LigQuery, src netip.AddrPort, err error) {
	if !q.EID.IsValid() || q.EID.Source.IsValid() {
		return q, src, errors.New("no EID given, or one with a source")
	}
	if !q.Resolver.Addr().IsValid() {
		return q, src, errors.New("no map-resolver given")
	}
	port := q.Resolver.Port()
	if port == 0 {
		port = wire.Port
	}
	q.Resolver = netip.AddrPortFrom(q.Resolver.Addr().Unmap(), port)
	for _, l := range q.Local {
		if l.Addr().Is4() == q.Resolver.Addr().Is4() {
			src = l
		}
	}
	if !src.IsValid() {
		return q, src, fmt.Errorf("no local address of the family of %v", q.Resolver.Addr())
	}
	if q.Count == 0 {
		q.Count = ligCount
	}
	if q.Count < 1 || q.Count > ligMaxCount {
		return q, src, fmt.Errorf("count %d: expected 1 to %d", q.Count, ligMaxCount)
	}
	if q.Timeout == 0 {
		q.Timeout = ligTimeout
	}
	if q.Timeout < 0 {
		return q, src, fmt.Errorf("timeout %v is negative", q.Timeout)
	}
	if q.Rand == nil {
		q.Rand = rand.Reader
	}
	return q, src, nil
}

// send sends one Map-Request and returns its nonce and what is known of it.
func (q *LigQuery) send(conn udp.Conn, src netip.AddrPort) (nonce uint64, sent ligRequest, err error) {
	var b [8]byte
	if _, err := io.ReadFull(q.Rand, b[:]); err != nil {
		return 0, sent, fmt.Errorf("read a nonce: %w", err)
	}
	req := wire.MapRequest{
		Nonce: binary.BigEndian.Uint64(b[:]),
		EIDs:  []wire.RequestRecord{wire.NewRequestRecord(q.EID)},
	}
	if q.Source.IsValid() {
		req.SourceEID = wire.EIDAddress(q.EID.IID, q.Source.Unmap())
	}
	for _, l := range q.Local {
		req.ITRRLOCs = append(req.ITRRLOCs, wire.IPAddress(l.Addr()))
	}
	msg, err := req.AppendBinary(nil)
	if err != nil {
		return 0, sent, err
	}
	dst := q.EID.Prefix.Addr()
	inner := netip.IPv6Unspecified()
	if dst.Is4() {
		inner = netip.IPv4Unspecified()
	}
	for _, a := range append([]netip.Addr{q.Source.Unmap()}, addrs(q.Local)...) {
		if a.IsValid() && a.Is4() == dst.Is4() {
			inner = a
		}
	}
	ecm := wire.ECM{Src: netip.AddrPortFrom(inner, src.Port()), Dst: netip.AddrPortFrom(dst, wire.Port), Message: msg}
	if len(q.Key.Secret) > 0 {
		ecm.Security = true
		if sent.secure, ecm.SecurityData, err = newProtection(q.Rand, q.Key, req.Nonce, algorithms[0].hmac, algorithms[0].kdf); err != nil {
			return 0, sent, err
		}
	}
	if msg, err = ecm.AppendBinary(nil); err != nil {
		return 0, sent, err
	}
	// The reply may be here before the kernel returns.
	sent.at = time.Now()
	if err := conn.Write(msg, src, q.Resolver); err != nil {
		return 0, sent, fmt.Errorf("send to %v: %w", q.Resolver, err)
	}
	return req.Nonce, sent, nil
}

func addrs(aps []netip.AddrPort) []netip.Addr {
	out := make([]netip.Addr, len(aps))
	for i, ap := range aps {
		out[i] = ap.Addr()
	}
	return out
}

// read returns the nonce and the records of a Map-Reply; ok is false when it
// cannot be read or verified, or no record covers the EID. Records that the
// map-server did not authorise are left out.
func (q *LigQuery) read(msg []byte, secure *protection) (res LigResult, ok bool) {
	var m wire.MapReply
	if m.Decode(msg) != nil || m.Probe {
		return res, false
	}
	var authorised []mapping.EID
	if secure != nil {
		e, err := secure.verify(msg, &m)
		if err != nil {
			return res, false
		}
		authorised = named(e)
	}
	res.Nonce = m.Nonce
	for r := range m.Records.All() {
		rec, err := r.Mapping()
		if err != nil || authorised != nil && !slices.ContainsFunc(authorised, func(e mapping.EID) bool { return e.Covers(rec.EID) }) {
			continue
		}
		ok = ok || answers(rec.EID, q.EID)
		res.Records = append(res.Records, rec)
	}
	return res, ok
}
