package server

import (
	"net/netip"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// infoRequest is one as the xTR sends it.
func infoRequest(t testing.TB, e string, k auth.Key, body wire.Address) []byte {
	t.Helper()
	m := wire.Info{Nonce: 77, Auth: k.Template(), Body: body}
	m.EID, m.MaskLen = wire.PrefixAddress(eid(e))
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := auth.Sign(b, k); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestInfoRequest: an xTR of a site learns how it is seen, in an answer that is
// signed and no longer than what any answer may be.
func TestInfoRequest(t *testing.T) {
	name, _, err := wire.DecodeAddress([]byte("\x00\x11xtr\x00"))
	if err != nil {
		t.Fatal(err)
	}
	for what, at := range map[string]struct{ from, to string }{
		"IPv4":         {"192.0.2.1:4342", "198.51.100.1:4342"},
		"IPv6":         {"[2001:db8:ffff::1]:4342", "[2001:db8:ffff::53]:4342"},
		"behind a NAT": {"192.0.2.200:61001", "198.51.100.1:4342"},
	} {
		b := newBench(t, twoSites(), nil)
		b.strict = true
		from, to := netip.MustParseAddrPort(at.from), netip.MustParseAddrPort(at.to)
		k := leftKey.ForInfo()
		out := b.deliver(infoRequest(t, "[7]10.1.0.0/16", k, name), from, to)
		if len(out) != 1 || out[0].src != to || out[0].dst != from {
			t.Fatalf("%s: %d datagrams: %+v, refused %d, too long %d", what, len(out), out, b.count(dropInfoRefused), b.count(dropAmplification))
		}
		if _, err := auth.Verify(out[0].payload, []auth.Key{k}, auth.SHA256); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		var m wire.Info
		if err := m.Decode(out[0].payload); err != nil || !m.Reply || m.Nonce != 77 || m.TTL != infoTTL {
			t.Fatalf("%s: %v, %+v", what, err, m)
		}
		l, _ := m.Body.LCAF()
		var nat wire.NAT
		if err := nat.Decode(l); err != nil || nat.ETRPort != from.Port() || nat.MSPort != to.Port() ||
			nat.GlobalETR.String() != from.Addr().String() || nat.MS.String() != to.Addr().String() {
			t.Errorf("%s: %v, %v", what, err, nat)
		}
	}
}

// TestAbuse_InfoRequest: who has no key of the site, or asks too often, is not
// answered.
func TestAbuse_InfoRequest(t *testing.T) {
	cfg := twoSites()
	cfg.RequestRate = RequestRate{PerSource: 10, Burst: 5}
	b := newBench(t, cfg, nil)
	b.strict = true
	k := leftKey.ForInfo()
	good := infoRequest(t, "10.1.0.0/16", k, wire.Address{})
	other := k
	other.Secret = []byte("another")
	reply := func() []byte { return b.deliver(good, etr1, netip.MustParseAddrPort("198.51.100.1:4342"))[0].payload }()
	for what, c := range map[string]struct {
		msg  []byte
		drop counter
	}{
		"another secret":    {infoRequest(t, "10.1.0.0/16", other, wire.Address{}), dropInfoRefused},
		"a key of another":  {infoRequest(t, "10.1.0.0/16", rightKey.ForInfo(), wire.Address{}), dropInfoRefused},
		"nobody's EID":      {infoRequest(t, "172.16.0.0/16", k, wire.Address{}), dropInfoRefused},
		"an Info-Reply":     {reply, dropUnexpectedType},
		"a cut one":         {good[:len(good)-1], dropMalformed},
		"no authentication": {append(append([]byte{}, good[:12]...), make([]byte, 16)...), dropInfoRefused},
	} {
		b.pass(10 * time.Second)
		before := b.count(c.drop)
		if out := b.deliver(c.msg, etr1, netip.MustParseAddrPort("198.51.100.1:4342")); len(out) != 0 || b.count(c.drop) != before+1 {
			t.Errorf("%s: %d datagrams, %s %d", what, len(out), c.drop, b.count(c.drop)-before)
		}
	}
	b.pass(10 * time.Second)
	answered := 0
	for range 100 {
		answered += len(b.deliver(good, etr1, netip.MustParseAddrPort("198.51.100.1:4342")))
	}
	if answered != 5 || b.count(dropRateLimited) != 95 {
		t.Errorf("%d of 100 answered at once, %d limited", answered, b.count(dropRateLimited))
	}
}
