package xtr

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/testnet"
	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

var ligLocal = netip.MustParseAddrPort("192.0.2.50:40000")

// ligServer answers the requests that reply returns something for.
func ligServer(t *testing.T, c *testnet.Conn, reply func(n int, e wire.ECM, m wire.MapRequest) [][]byte) {
	go func() {
		buf := make([]byte, 65536)
		for n := 1; ; n++ {
			k, src, dst, err := c.Read(buf)
			if err != nil {
				return
			}
			e, m := mapRequest(t, buf[:k])
			if e.Src.Port() != src.Port() {
				t.Errorf("replies would go to port %d, sent from %d", e.Src.Port(), src.Port())
			}
			for _, b := range reply(n, e, m) {
				c.Write(b, dst, src)
			}
		}
	}()
	t.Cleanup(func() { c.Close() })
}

func TestLig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testnet.New(t, testnet.Path{Latency: 15 * time.Millisecond})
		ligServer(t, n.MustListen(t, mr1.String()), func(i int, e wire.ECM, m wire.MapRequest) [][]byte {
			if i == 1 {
				return nil // lost
			}
			if asked(t, m) != eid("10.2.0.9") || e.Dst != netip.MustParseAddrPort("10.2.0.9:4342") {
				t.Errorf("asked for %v at %v", asked(t, m), e.Dst)
			}
			if src, _ := hostEID(m.SourceEID); src != eid("10.1.0.5") {
				t.Errorf("source EID %v", src)
			}
			return [][]byte{
				{0x20, 0, 0, 9}, // cut
				reply(t, m.Nonce+1, rec("10.2.0.0/16", 10)), // wrong nonce
				reply(t, m.Nonce, rec("10.3.0.0/16", 10)),   // wrong EID
				reply(t, m.Nonce, rec("10.2.0.0/16", 10), rec("10.2.3.0/24", 10)),
			}
		})
		conn := n.MustListen(t, ligLocal.String())
		start := time.Now()
		res, err := Lig(t.Context(), conn, LigQuery{
			Resolver: netip.AddrPortFrom(mr1.Addr(), 0), EID: eid("10.2.0.9"), Source: hostA, Local: []netip.AddrPort{ligLocal},
		})
		if err != nil {
			t.Fatal(err)
		}
		if time.Since(start) != 2*time.Second+30*time.Millisecond || res.RTT != 30*time.Millisecond || res.Sent != 2 || res.From != mr1 {
			t.Errorf("after %v: %+v", time.Since(start), res)
		}
		if len(res.Records) != 2 || !res.Records[0].Equal(rec("10.2.0.0/16", 10)) {
			t.Errorf("records %v", res.Records)
		}
		if slices.Contains(n.Addrs(), ligLocal) {
			t.Error("the connection is still open")
		}
	})
}

// busyConn is the socket of a process that does not run for a while once it has
// sent.
type busyConn struct{ udp.Conn }

func (c busyConn) Write(b []byte, src, dst netip.AddrPort) error {
	err := c.Conn.Write(b, src, dst)
	time.Sleep(80 * time.Millisecond)
	return err
}

// TestLigRoundTrip: the round-trip time is that of the way, also when the reply is
// there before the sender has gone on.
func TestLigRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testnet.New(t, testnet.Path{Latency: 15 * time.Millisecond})
		ligServer(t, n.MustListen(t, mr1.String()), func(_ int, _ wire.ECM, m wire.MapRequest) [][]byte {
			return [][]byte{reply(t, m.Nonce, rec("10.2.0.0/16", 10))}
		})
		res, err := Lig(t.Context(), busyConn{n.MustListen(t, ligLocal.String())}, LigQuery{Resolver: mr1, EID: eid("10.2.0.9"), Local: []netip.AddrPort{ligLocal}})
		if err != nil || res.RTT != 30*time.Millisecond {
			t.Errorf("round trip %v, want 30ms; %v", res.RTT, err)
		}
	})
}

// TestLigLate: the reply to the first request comes after the second was sent,
// and its round-trip time is its own.
func TestLigLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testnet.New(t, testnet.Path{Latency: 1500 * time.Millisecond})
		ligServer(t, n.MustListen(t, mr1.String()), func(i int, e wire.ECM, m wire.MapRequest) [][]byte {
			return [][]byte{reply(t, m.Nonce, mapping.NegativeRecord(eid("10.0.0.0/8"), mapping.NativelyForward, 15))}
		})
		res, err := Lig(t.Context(), n.MustListen(t, ligLocal.String()), LigQuery{Resolver: mr1, EID: eid("10.2.0.9"), Local: []netip.AddrPort{ligLocal}})
		if err != nil || res.RTT != 3*time.Second || res.Sent != 2 || !res.Records[0].Negative() {
			t.Errorf("%+v, %v", res, err)
		}
	})
}

func TestLigNoReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testnet.New(t, testnet.Path{})
		start := time.Now()
		res, err := Lig(t.Context(), n.MustListen(t, ligLocal.String()),
			LigQuery{Resolver: mr1, EID: eid("10.2.0.9"), Local: []netip.AddrPort{ligLocal}, Count: 5, Timeout: time.Second})
		if !errors.Is(err, ErrNoReply) || res.Sent != 5 || time.Since(start) != 5*time.Second {
			t.Errorf("%+v, %v after %v", res, err, time.Since(start))
		}
		if got := times(datagrams(n, start)); !slices.Equal(got, seconds(0, 1, 2, 3, 4)) {
			t.Errorf("sent at %v", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		start = time.Now()
		_, err = Lig(ctx, n.MustListen(t, ligLocal.String()), LigQuery{Resolver: mr1, EID: eid("10.2.0.9"), Local: []netip.AddrPort{ligLocal}})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 300*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func datagrams(n *testnet.Network, start time.Time) []sent {
	var out []sent
	for _, d := range n.Datagrams() {
		out = append(out, sent{at: d.At.Sub(start)})
	}
	return out
}

func TestLigErrors(t *testing.T) {
	good := LigQuery{Resolver: mr1, EID: eid("10.2.0.9"), Local: []netip.AddrPort{ligLocal}}
	for _, c := range []struct {
		change func(*LigQuery)
		want   string
	}{
		{func(q *LigQuery) { q.EID = mapping.EID{} }, "no EID given"},
		{func(q *LigQuery) { q.Resolver = netip.AddrPort{} }, "no map-resolver given"},
		{func(q *LigQuery) { q.Resolver = ms6 }, "no local address of the family of 2001:db8:ffff::53"},
		{func(q *LigQuery) { q.Count = 6 }, "count 6: expected 1 to 5"},
		{func(q *LigQuery) { q.Timeout = -1 }, "negative"},
		{func(q *LigQuery) { q.Rand = brokenRand{} }, "no entropy"},
	} {
		q := good
		c.change(&q)
		n := testnet.New(t, testnet.Path{})
		_, err := Lig(t.Context(), n.MustListen(t, ligLocal.String()), q)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
		if len(n.Addrs()) != 0 {
			t.Error("the connection is still open")
		}
	}
}

// TestLigDial goes over real sockets on the loopback interface.
func TestLigDial(t *testing.T) {
	for _, ip := range []string{"127.0.0.1:0", "[::1]:0"} {
		s, err := udp.Listen([]netip.AddrPort{netip.MustParseAddrPort(ip)})
		if err != nil {
			if strings.HasPrefix(ip, "[") {
				t.Logf("no IPv6 here: %v", err)
				continue
			}
			t.Fatal(err)
		}
		defer s.Close()
		go func() {
			buf := make([]byte, 65536)
			n, src, dst, err := s.Read(buf)
			if err != nil {
				return
			}
			_, m := mapRequest(t, buf[:n])
			if rloc, _ := m.ITRRLOCs[0].IP(); rloc != src.Addr() {
				t.Errorf("ITR-RLOC %v, sent from %v", rloc, src)
			}
			s.Write(reply(t, m.Nonce, rec("[7]2001:db8:2::/48", 10)), dst, src)
		}()
		res, err := LigDial(t.Context(), LigQuery{Resolver: s.Addrs()[0], EID: eid("[7]2001:db8:2::9")})
		if err != nil || res.From != s.Addrs()[0] || res.Records[0].EID != eid("[7]2001:db8:2::/48") {
			t.Errorf("%+v, %v", res, err)
		}
	}
}
