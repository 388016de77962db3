package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/rig"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// checker asks the map-resolver over UDP and compares each answer with a slow
// table that knows nothing of how the server works.
type checker struct {
	table                       []netip.Prefix
	slow                        slowTable
	sorted                      bounds
	checked, positive, negative int
}

func newChecker(table []netip.Prefix) *checker {
	return &checker{table: table, slow: newSlowTable(table), sorted: sorted(table)}
}

// outstanding is how many requests are under way at once.
const outstanding = 64

// sample resolves n addresses, half of them inside a random prefix of the
// table and half anywhere, and checks every answer.
func (c *checker) sample(ctx context.Context, server netip.AddrPort, n int, rng *rand.Rand) error {
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		return err
	}
	defer conn.Close()
	type question struct {
		a    netip.Addr
		sent time.Time
	}
	open := map[uint64]question{}
	asked, retries, buf := 0, 0, make([]byte, 65536)
	for asked < n || len(open) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		for asked < n && len(open) < outstanding {
			a := rig.RandomIn(netip.MustParsePrefix([]string{"0.0.0.0/1", "128.0.0.0/2", "2000::/3"}[rng.IntN(3)]), rng)
			if rng.IntN(2) == 0 {
				a = rig.RandomIn(c.table[rng.IntN(len(c.table))], rng)
			}
			nonce := rng.Uint64()
			open[nonce] = question{a, time.Now()}
			if err := ask(conn, nonce, a); err != nil {
				return err
			}
			asked++
		}
		conn.SetReadDeadline(time.Now().Add(time.Second))
		m, err := conn.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// UDP may lose packets; a server that never answers may not.
			if retries++; retries > 10 {
				return fmt.Errorf("%d requests have no answer after %d seconds, one is for %v", len(open), retries, anyOf(open).a)
			}
			for nonce, q := range open {
				if err := ask(conn, nonce, q.a); err != nil {
					return err
				}
			}
			continue
		}
		if err != nil {
			return err
		}
		var reply wire.MapReply
		if err := reply.Decode(buf[:m]); err != nil {
			return fmt.Errorf("the answer does not decode: %w", err)
		}
		q, ok := open[reply.Nonce]
		if !ok {
			continue // the answer to a repeated request
		}
		delete(open, reply.Nonce)
		if err := c.check(q.a, &reply); err != nil {
			return fmt.Errorf("wrong answer for %v: %w", q.a, err)
		}
	}
	return nil
}

func anyOf[K comparable, V any](m map[K]V) (v V) {
	for _, v = range m {
		break
	}
	return v
}

// first asks for one address until the server answers, and checks it.
func (c *checker) first(ctx context.Context, server netip.AddrPort, a netip.Addr, limit time.Duration) error {
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		return err
	}
	defer conn.Close()
	buf := make([]byte, 65536)
	for end := time.Now().Add(limit); time.Now().Before(end) && ctx.Err() == nil; {
		if err := ask(conn, 1, a); err != nil {
			continue // refused: the server is not up yet
		}
		conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		n, err := conn.Read(buf)
		if err != nil {
			continue
		}
		var reply wire.MapReply
		if err := reply.Decode(buf[:n]); err != nil {
			return err
		}
		return c.check(a, &reply)
	}
	return errors.New("no answer after the restart")
}

func ask(conn *net.UDPConn, nonce uint64, a netip.Addr) error {
	local := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	req := wire.MapRequest{
		Nonce:    nonce,
		ITRRLOCs: []wire.Address{wire.IPAddress(local.Addr())},
		EIDs:     []wire.RequestRecord{{MaskLen: uint8(a.BitLen()), EID: wire.IPAddress(a)}},
	}
	msg, err := req.AppendBinary(nil)
	if err != nil {
		return err
	}
	// The inner header goes to the EID; its source is of the same family.
	src := local.Addr()
	if a.Is6() {
		src = netip.MustParseAddr("2001:db8::1")
	}
	ecm := wire.ECM{Src: netip.AddrPortFrom(src, local.Port()), Dst: netip.AddrPortFrom(a, wire.Port), HopLimit: 64, Message: msg}
	if msg, err = ecm.AppendBinary(nil); err != nil {
		return err
	}
	_, err = conn.Write(msg)
	return err
}

// check compares one answer with the slow table: the record that holds the
// address must be the longest match with its locator, or narrowed inside it; no
// prefix of the table may lie inside what the answer claims unless the answer
// names it too; and a negative answer must not overlap the table at all.
func (c *checker) check(a netip.Addr, reply *wire.MapReply) error {
	c.checked++
	var best *mapping.Record
	var recs []*mapping.Record
	for r := range reply.Records.All() {
		rec, err := r.Mapping()
		if err != nil {
			return err
		}
		recs = append(recs, rec)
		if rec.EID.Prefix.Contains(a) && (best == nil || rec.EID.Prefix.Bits() > best.EID.Prefix.Bits()) {
			best = rec
		}
	}
	if best == nil {
		return fmt.Errorf("none of %d records holds the address", len(recs))
	}
	p := best.EID.Prefix
	want, known := c.slow.longest(a)
	if !known {
		c.negative++
		if !best.Negative() || best.Action != mapping.NativelyForward || best.TTL != mapping.NegativeTTL {
			return fmt.Errorf("not in the table, but the answer is %v", best)
		}
		if c.slow[p] {
			return fmt.Errorf("the hole %v is in the table", p)
		}
		for q := range c.sorted.inside(p) {
			return fmt.Errorf("the hole %v overlaps %v", p, q)
		}
		return nil
	}
	c.positive++
	if p.Bits() < want.Bits() {
		return fmt.Errorf("the longest match is %v, the answer is %v", want, best)
	}
	if p != want && len(recs) > 1 {
		return fmt.Errorf("the longest match is %v, the answer narrows it to %v among %d records", want, p, len(recs))
	}
	if len(best.Locators) != 1 || best.Locators[0].Addr.String() != locatorOf(want) {
		return fmt.Errorf("%v should be at %s, the answer is %v", want, locatorOf(want), best)
	}
	if len(recs) == 1 {
		for q := range c.sorted.inside(p) {
			return fmt.Errorf("the answer %v hides %v", p, q)
		}
		return nil
	}
	named := map[netip.Prefix]bool{}
	for _, r := range recs {
		named[r.EID.Prefix] = true
		if len(r.Locators) != 1 || !c.slow[r.EID.Prefix] || r.Locators[0].Addr.String() != locatorOf(r.EID.Prefix) {
			return fmt.Errorf("the answer has %v, which the table has not", r)
		}
	}
	for q := range c.sorted.inside(p) {
		if !named[q] {
			return fmt.Errorf("the answer for %v does not name %v inside it", p, q)
		}
	}
	return nil
}

// locatorOf is the locator that lispctl import documents for a prefix: FNV-1a
// of its text form, modulo the number of locators.
func locatorOf(p netip.Prefix) string {
	h := fnv.New32a()
	h.Write([]byte(p.String()))
	return locators[h.Sum32()%uint32(len(locators))]
}
