package xtr

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

func isInfo(s sent) bool {
	t, err := wire.PeekType(s.data)
	return err == nil && t == wire.TypeInfo
}

// infoReply answers an Info-Request as a map-server does.
func infoReply(t testing.TB, s sent) []byte {
	t.Helper()
	var m wire.Info
	if err := m.Decode(s.data); err != nil {
		t.Fatal(err)
	}
	k := key.ForInfo()
	if _, err := auth.Verify(s.data, []auth.Key{k}, auth.SHA256); err != nil || m.Reply || m.TTL != 0 {
		t.Fatalf("%v, %+v", err, m)
	}
	b := mustEncode(t, wire.NAT{MSPort: 4342, ETRPort: s.src.Port(), GlobalETR: wire.IPAddress(s.src.Addr()), MS: wire.IPAddress(s.dst.Addr())})
	body, _, err := wire.DecodeAddress(b)
	if err != nil {
		t.Fatal(err)
	}
	m.Reply, m.TTL, m.Body = true, 15, body
	out := mustEncode(t, &m)
	if err := auth.Sign(out, k); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestInfo: an idle site asks the map-server over each uplink every 10 s, which
// is all that it sends besides registrations; one over which no answer comes is
// found while the other has some, and found again when it is back.
func TestInfo(t *testing.T) {
	r := newPathRig(t, nil)
	r.pass(time.Minute)
	r.infos, r.control = nil, 0
	r.pass(11 * time.Minute)
	per := map[netip.Addr]int{}
	for _, s := range r.infos {
		per[s.src.Addr()]++
	}
	for _, a := range []netip.Addr{up1a, up2a} {
		if n := per[a]; n < 48 || n > 80 {
			t.Errorf("%d Info-Requests from %v in 10 minutes, want about 60", n, a)
		}
	}
	if r.control > 2*80+20 {
		t.Errorf("%d control messages in 10 minutes from an idle site", r.control)
	}
	if s := r.m.locals.get(up1a).info.seen; s != netip.AddrPortFrom(up1a, 4342) {
		t.Errorf("seen as %v", s)
	}

	r.lost = func(from, to netip.Addr) bool { return from == up1a }
	start := r.now
	for len(r.sends()) != 1 && r.now.Sub(start) < time.Minute {
		r.pass(r.now.Sub(zeroTime) + 100*time.Millisecond)
	}
	if took := r.now.Sub(start); took > 16*time.Second || !slices.Equal(r.sends(), []netip.Addr{up2a}) {
		t.Errorf("after %v: sources %v", took, r.sends())
	}
	r.lost = func(from, to netip.Addr) bool { return false }
	start = r.now
	for len(r.sends()) != 2 && r.now.Sub(start) < time.Minute {
		r.pass(r.now.Sub(zeroTime) + 100*time.Millisecond)
	}
	if took := r.now.Sub(start); took > 13*time.Second {
		t.Errorf("back after %v", took)
	}
}

// TestInfoSilent: a map-server that answers none is asked more rarely, and
// proves nothing.
func TestInfoSilent(t *testing.T) {
	r := newPathRig(t, nil)
	r.lost = func(from, to netip.Addr) bool { return true }
	r.pass(5 * time.Minute)
	r.infos = nil
	r.pass(15 * time.Minute)
	if len(r.infos) < 18 || len(r.infos) > 24 {
		t.Errorf("%d Info-Requests in 10 minutes, want 20", len(r.infos))
	}
	if len(r.sources) != 2 || r.stat(uplinksDown) != 0 {
		t.Errorf("sources %v", r.sources)
	}
}

// TestInfoSavesUplink: where the only path from an uplink is down and the
// map-server answers there, the path is avoided and the uplink is not blamed.
func TestInfoSavesUplink(t *testing.T) {
	r := newPathRig(t, nil)
	r.pass(5 * time.Second)
	r.m.clear(r.now, eid("10.2.0.0/16"))
	r.learn(peer, rec("10.2.0.0/16", 1440))
	r.stream(20*time.Second, always(true))
	r.lost = func(from, to netip.Addr) bool { return from == up1a && to != ms1.Addr() }
	r.converge(always(false), func() bool { return len(r.down) > 0 && r.down[0].Local == up1a })
	r.stream(r.now.Sub(zeroTime)+time.Minute, always(true))
	if !slices.Equal(r.sends(), []netip.Addr{up1a, up2a}) || r.stat(uplinksDown) != 0 {
		t.Errorf("sources %v, %d uplinks down", r.sends(), r.stat(uplinksDown))
	}
}

// TestAbuse_InfoReply: only the answer to what was asked, from who has the key,
// to where it was asked from, says that an uplink works.
func TestAbuse_InfoReply(t *testing.T) {
	r := newPathRig(t, func(c *Config) { c.MapServers[0].WantNotify = true })
	r.lost = func(from, to netip.Addr) bool { return true }
	r.pass(time.Second)
	if len(r.infos) == 0 {
		t.Fatal("nothing was asked")
	}
	s := r.infos[len(r.infos)-1]
	good := infoReply(t, s)
	to := netip.AddrPortFrom(up1a, 4342)
	if s.src == to {
		to = netip.AddrPortFrom(up2a, 4342)
	}
	forged := slices.Clone(good)
	forged[wire.AuthenticationOffset] ^= 1
	other := slices.Clone(good)
	other[4] ^= 1
	for what, c := range map[string]struct {
		msg []byte
		to  netip.AddrPort
		why counter
	}{
		"a forged one":           {forged, s.src, infoRepliesAuthFailed},
		"another nonce":          {other, s.src, infoRepliesUnmatched},
		"to another RLOC":        {good, to, infoRepliesUnmatched},
		"a request":              {s.data, s.src, controlUnexpected},
		"to an address not here": {good, local6(), controlUnexpected},
		"cut":                    {good[:20], s.src, controlMalformed},
	} {
		before := r.stat(c.why)
		r.m.receive(r.now, c.msg, ms1, c.to)
		if r.stat(c.why) != before+1 || r.stat(infoRepliesIn) != 0 {
			t.Errorf("%s: counted %d, taken %d", what, r.stat(c.why)-before, r.stat(infoRepliesIn))
		}
	}
	r.m.receive(r.now, good, ms1, s.src)
	if r.stat(infoRepliesIn) != 1 {
		t.Error("the right one was not taken")
	}
}

func local6() netip.AddrPort { return netip.MustParseAddrPort("[2001:db8:ffff::1]:4342") }
