package alt

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping/bgp"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr  { return netip.MustParseAddr(s) }

func pfxs(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, pfx(s))
	}
	return out
}

// wire is a Sender that remembers, or fails.
type fake struct {
	fail error
	said []string
}

func (f *fake) Send(by Link, next netip.Addr, packet []byte) error {
	if f.fail == nil {
		f.said = append(f.said, fmt.Sprintf("%d %v %d", by, next, len(packet)))
	}
	return f.fail
}

// regional is a router between a root (tunnel 0) and two leaves (1 and 2).
func regional(t *testing.T, links Sender) *Router {
	t.Helper()
	r, err := New(Config{
		Tunnels: [][]netip.Prefix{pfxs("172.16.0.1/30", "fd00:0::1/64"), pfxs("172.16.1.1/30"), pfxs("172.16.2.1/30")},
		Aggregates: []Aggregate{
			{Prefix: pfx("10.1.0.0/16"), Components: pfxs("10.1.0.0/24", "10.1.128.0/24")},
			{Prefix: pfx("10.7.0.0/16"), Always: true},
			{Prefix: pfx("10.8.0.0/16")},
		},
		Own:  pfxs("10.8.1.0/24", "10.99.0.0/16"),
		Rate: 10, Burst: 2,
	}, links)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func route(p, next string) bgp.Received {
	return bgp.Received{Prefix: pfx(p), From: addr(next), NextHop: addr(next), OriginAS: 65001}
}

func gone(p string) bgp.Received { return bgp.Received{Prefix: pfx(p), Withdrawn: true} }

func (r *Router) stat(name string) uint64 {
	for n, v := range r.Stats() {
		if n == name {
			return v
		}
	}
	return 1 << 63
}

// The example of RFC 6836 section 4.2, and what goes up and down from there.
func TestLA3_Find(t *testing.T) {
	r := regional(t, &fake{})
	r.Update([]bgp.Received{route("0.0.0.0/0", "172.16.0.2"), route("10.1.0.0/24", "172.16.1.2"), route("10.1.192.0/24", "172.16.2.2"), route("2001:db8::/32", "fd00:0::2")})
	for _, c := range []struct{ ask, want, part string }{
		{"10.1.0.5", "forward 10.1.0.0/24 by 1 172.16.1.2", ""},
		{"10.1.192.5", "forward 10.1.192.0/24 by 2 172.16.2.2", ""},
		{"10.1.128.199", "down 10.1.128.0/24", "10.1.128.0/24"},
		{"10.1.77.88", "hole 10.1.0.0/16", "10.1.64.0/18"},
		{"10.7.1.1", "hole 10.7.0.0/16", "10.7.0.0/16"},
		{"10.2.0.1", "forward 0.0.0.0/0 by 0 172.16.0.2", ""},
		{"2001:db8::1", "forward 2001:db8::/32 by 0 fd00::2", ""},
		{"2001:db9::1", "unknown", "2001:db9::/32"},
	} {
		f, got := r.Find(addr(c.ask)), ""
		switch f.Kind {
		case Forward:
			got = fmt.Sprintf("forward %v by %d %v", f.Prefix, f.By, f.NextHop)
		case Down:
			got = fmt.Sprintf("down %v", f.Prefix)
		case Hole:
			got = fmt.Sprintf("hole %v", f.Prefix)
		default:
			got = "unknown"
			f.Prefix, _ = addr(c.ask).Prefix(0)
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.ask, got, c.want)
		}
		if c.part != "" {
			if part := r.Narrow(f.Prefix, addr(c.ask)); part != pfx(c.part) {
				t.Errorf("%s: the answer is for %v, want %s", c.ask, part, c.part)
			}
		}
	}
	// The component that was there goes down, and the one that was down comes.
	r.Update([]bgp.Received{gone("10.1.0.0/24"), route("10.1.128.0/24", "172.16.2.2"), gone("0.0.0.0/0"), gone("203.0.113.0/24")})
	if f := r.Find(addr("10.1.0.5")); f.Kind != Down || f.Prefix != pfx("10.1.0.0/24") {
		t.Errorf("%+v", f)
	}
	if f := r.Find(addr("10.1.128.199")); f.Kind != Forward || f.By != 2 {
		t.Errorf("%+v", f)
	}
	if f := r.Find(addr("10.2.0.1")); f.Kind != Unknown || f.Longer(-1) {
		t.Errorf("%+v", f)
	}
	// A neighbour that says our own aggregate does not get what is inside.
	r.Update([]bgp.Received{route("10.7.0.0/16", "172.16.0.2")})
	if f := r.Find(addr("10.7.1.1")); f.Kind != Hole {
		t.Errorf("%+v", f)
	}
	// A next hop that is nowhere, or ourselves.
	r.Update([]bgp.Received{route("10.6.0.0/16", "192.0.2.9"), route("10.5.0.0/16", "172.16.0.1")})
	if f := r.Find(addr("10.6.0.1")); f.Kind != Unknown || r.stat("drop_alt_next_hop") != 2 {
		t.Errorf("%+v, %d counted", f, r.stat("drop_alt_next_hop"))
	}
	if got := r.stat("alt_routes"); got != 4 {
		t.Errorf("%d routes", got)
	}
}

// An aggregate is announced while something is inside, or always.
func TestLA4_Aggregates(t *testing.T) {
	r := regional(t, &fake{})
	check := func(why string, wantUp, wantDown []netip.Prefix) {
		t.Helper()
		if up, down := r.Aggregates(); !slices.Equal(up, wantUp) || !slices.Equal(down, wantDown) {
			t.Errorf("%s: announce %v, withdraw %v", why, up, down)
		}
	}
	check("from the start, always or for a site of our own", pfxs("10.7.0.0/16", "10.8.0.0/16"), nil)
	r.Update([]bgp.Received{route("10.1.0.0/16", "172.16.0.2"), route("10.0.0.0/8", "172.16.0.2")})
	check("as large, or larger, is not inside", nil, nil)
	r.Update([]bgp.Received{route("10.1.5.0/24", "172.16.1.2"), route("10.1.6.0/24", "172.16.1.2")})
	check("the first", pfxs("10.1.0.0/16"), nil)
	r.Update([]bgp.Received{gone("10.1.5.0/24")})
	check("one of two went", nil, nil)
	r.Update([]bgp.Received{gone("10.1.6.0/24")})
	check("the last went", nil, pfxs("10.1.0.0/16"))
	var texts []string
	for x := range r.Routes() {
		texts = append(texts, fmt.Sprint(x.Prefix, x.Kind, x.NextHop, x.Aggregate, x.Announced))
	}
	want := []string{"10.0.0.0/8 1 172.16.0.2 false false", "10.1.0.0/16 2 invalid IP true false", "10.1.0.0/24 3 invalid IP false false",
		"10.1.128.0/24 3 invalid IP false false", "10.7.0.0/16 2 invalid IP true true", "10.8.0.0/16 2 invalid IP true true"}
	if !slices.Equal(texts, want) {
		t.Errorf("%q", texts)
	}
}

// Only Map-Requests come in, at a pace for each tunnel.
func TestLA2_Take(t *testing.T) {
	r := regional(t, &fake{})
	now := time.Unix(1000, 0)
	m := wire.MapRequest{Nonce: 7, ITRRLOCs: []wire.Address{wire.IPAddress(addr("192.0.2.1"))}}
	msg, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	packet := func(port uint16, msg []byte) []byte {
		p := wire.ECM{Src: netip.MustParseAddrPort("192.0.2.1:61000"), Dst: netip.AddrPortFrom(addr("10.1.0.5"), port), HopLimit: 9, Message: msg}
		b, err := p.AppendPacket(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := packet(4342, msg)
	r.Take(now, 1, good)
	clear(good) // it was borrowed
	select {
	case got := <-r.Requests():
		if got.By != 1 || got.HopLimit != 9 || got.Src.String() != "192.0.2.1:61000" || got.Dst.String() != "10.1.0.5:4342" || !slices.Equal(got.Message, msg) {
			t.Errorf("%+v", got)
		}
	default:
		t.Fatal("it was not taken")
	}
	good = packet(4342, msg)
	r.Take(now, 1, good[:len(good)-1])
	r.Take(now, 1, make([]byte, maxPacket+1))
	r.Take(now, 1, packet(4341, msg))
	r.Take(now, 1, packet(4342, []byte{0x20, 0, 0, 0}))
	for range 3 {
		r.Take(now, 1, good)
		r.Take(now, 2, good)
	}
	r.Take(now.Add(time.Second), 1, good)
	for name, want := range map[string]uint64{"alt_received": 12, "drop_alt_malformed": 2, "drop_alt_not_map_request": 2, "drop_alt_rate": 3, "drop_alt_queue_full": 0} {
		if got := r.stat(name); got != want {
			t.Errorf("%s %d, want %d", name, got, want)
		}
	}
	for i := range maxQueue {
		r.Take(now.Add(time.Duration(i+10)*time.Second), 0, good)
	}
	if got := r.stat("drop_alt_queue_full"); got != 4 {
		t.Errorf("%d found the queue full", got)
	}
}

func TestSend(t *testing.T) {
	f := &fake{}
	r := regional(t, f)
	r.Update([]bgp.Received{route("10.0.0.0/8", "172.16.2.2")})
	to := r.Find(addr("10.3.0.1"))
	if !r.Send(to, make([]byte, 30)) || !slices.Equal(f.said, []string{"2 172.16.2.2 30"}) {
		t.Errorf("%v", f.said)
	}
	for _, err := range []error{ErrNoNeighbour, errors.New("no buffers")} {
		if f.fail = err; r.Send(to, nil) {
			t.Errorf("sent, and %v", err)
		}
	}
	if r.stat("alt_sent") != 1 || r.stat("drop_alt_no_neighbour") != 1 || r.stat("alt_send_errors") != 1 {
		t.Errorf("counted %d, %d, %d", r.stat("alt_sent"), r.stat("drop_alt_no_neighbour"), r.stat("alt_send_errors"))
	}
}

func TestConfig(t *testing.T) {
	_, err := New(Config{Rate: -1, Aggregates: []Aggregate{
		{Prefix: pfx("10.0.0.0/8"), Components: pfxs("11.0.0.0/16", "10.0.0.0/8")}, {Prefix: pfx("10.0.0.0/8")}, {Prefix: pfx("10.1.0.0/8")}, {},
	}}, &fake{})
	for _, want := range []string{"a rate of -1", "11.0.0.0/16 is not inside", "10.0.0.0/8 is not inside", "is there twice", "10.1.0.0/8 is no EID-prefix", "invalid Prefix is no EID-prefix"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
}
