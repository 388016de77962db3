package xtr

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// pathRig is a site with two uplinks that talks to one with two locators, in
// simulated time: datagrams take rtt/2 each way, and lost says which are lost.
type pathRig struct {
	*rig
	rtt time.Duration
	// lost reports whether what goes from a to b is lost; one of them is a local
	// RLOC.
	lost func(from, to netip.Addr) bool
	// fits, if not 0, is the largest packet that passes, in octets.
	fits int
	// lostSize, if set, reports whether a packet of so many octets is lost.
	lostSize func(from netip.Addr, n int) bool
	pending  []delivery
	probes   []sent
	control  int // datagrams sent, probes and all
	regs     []sent
	smrs     []sent
	infos    []sent

	sources []Source
	down    []Path
}

type delivery struct {
	at  time.Time
	msg []byte
	src netip.AddrPort
	dst netip.AddrPort
}

func newPathRig(t testing.TB, edit func(*Config)) *pathRig {
	cfg := multihomed()
	cfg.RLOCProbing.Off = false
	if edit != nil {
		edit(&cfg)
	}
	r := &pathRig{rig: newRig(t, cfg), rtt: 20 * time.Millisecond, lost: func(a, b netip.Addr) bool { return false }}
	r.start()
	r.learn(peer, twoLocators("10.2.0.0/16"))
	r.changes = nil
	r.pass(0)
	return r
}

// pass carries what the machine has sent, and what was under way, up to d after
// the start. The peer answers probes, the map-server registrations.
func (r *pathRig) pass(d time.Duration) {
	r.t.Helper()
	end := zeroTime.Add(d)
	for range 100_000 {
		r.ship()
		next := end
		if len(r.pending) > 0 && r.pending[0].at.Before(next) {
			next = r.pending[0].at
		}
		if at, ok := r.m.next(); ok && at.Before(next) {
			next = at
		}
		if next.After(r.now) {
			r.now = next
		}
		if len(r.pending) > 0 && !r.pending[0].at.After(r.now) {
			p := r.pending[0]
			r.pending = r.pending[1:]
			r.m.receive(r.now, p.msg, p.src, p.dst)
		} else {
			r.m.advance(r.now)
		}
		r.collect()
		if s, down, changed := r.m.takeSources(); changed {
			r.sources, r.down = s, down
		}
		if at, ok := r.m.next(); !r.now.Before(end) && len(r.out) == 0 && (len(r.pending) == 0 || r.pending[0].at.After(end)) && (!ok || at.After(end)) {
			return
		}
	}
	r.t.Fatal("the machine does not come to rest")
}

// ship puts answers to what was sent under way.
func (r *pathRig) ship() {
	for _, s := range r.take() {
		r.control++
		ty, err := wire.PeekType(s.data)
		if err != nil {
			r.t.Fatal(err)
		}
		var answer []byte
		switch {
		case ty == wire.TypeMapRegister:
			r.regs = append(r.regs, s)
			answer = notify(r.t, s.data, key)
		case ty == wire.TypeMapRequest:
			var m wire.MapRequest
			if err := m.Decode(s.data); err != nil {
				r.t.Fatal(err)
			}
			if m.SMR {
				r.smrs = append(r.smrs, s)
				continue
			}
			r.probes = append(r.probes, s)
			if a, _ := m.ITRRLOCs[0].IP(); len(m.ITRRLOCs) != 1 || a != s.src.Addr() {
				r.t.Fatalf("a probe from %v asks to reply to %v", s.src, m.ITRRLOCs)
			}
			answer = probeReply(r.t, m.Nonce, s.dst.Addr(), twoLocators(asked(r.t, m).String()))
		case ty == wire.TypeInfo:
			r.infos = append(r.infos, s)
			answer = infoReply(r.t, s)
		default:
			continue
		}
		n := onWire(len(s.data), s.dst.Addr())
		if r.fits > 0 && n > r.fits || r.lostSize != nil && r.lostSize(s.src.Addr(), n) {
			continue
		}
		if r.lost(s.src.Addr(), s.dst.Addr()) || r.lost(s.dst.Addr(), s.src.Addr()) {
			continue
		}
		r.pending = append(r.pending, delivery{zeroTime.Add(s.at).Add(r.rtt), answer, s.dst, s.src})
	}
	slices.SortStableFunc(r.pending, func(a, b delivery) int { return a.at.Compare(b.at) })
}

// stream has the data plane report traffic each 50 ms, up to d after the start:
// in says whether packets come in.
func (r *pathRig) stream(d time.Duration, in func() bool) {
	r.t.Helper()
	for r.now.Sub(zeroTime) < d {
		at := r.now.Sub(zeroTime).Truncate(50*time.Millisecond) + 50*time.Millisecond
		r.pass(at)
		if at%(5*time.Second) == 0 {
			r.used("10.2.0.0/16")
		}
		tr := Traffic{EID: eid("10.2.0.0/16"), Sent: 50}
		if in() {
			tr.Received = 50
		}
		r.m.traffic(r.now, []Traffic{tr})
		r.collect()
		r.pass(at)
	}
}

func (r *pathRig) sends() []netip.Addr {
	var out []netip.Addr
	for _, s := range r.sources {
		out = append(out, s.Addr)
	}
	return out
}

func always(v bool) func() bool { return func() bool { return v } }

// converge streams until cond holds and returns how long that took.
func (r *pathRig) converge(in func() bool, cond func() bool) time.Duration {
	r.t.Helper()
	start := r.now
	for !cond() {
		if r.now.Sub(start) > 30*time.Second {
			r.t.Fatalf("not after 30 s: sources %v, down %v", r.sources, r.down)
		}
		r.stream(r.now.Sub(zeroTime)+50*time.Millisecond, in)
	}
	return r.now.Sub(start)
}

// TestDeadProvider: the provider of an uplink dies behind a live carrier. The
// paths are found to be down within a second and two round-trip times, the
// uplink is blamed, and it all is registered and said to the peer by the other.
func TestDeadProvider(t *testing.T) {
	for _, rtt := range []time.Duration{time.Millisecond, 80 * time.Millisecond} {
		t.Run(fmt.Sprint(rtt), func(t *testing.T) {
			r := newPathRig(t, nil)
			r.rtt = rtt
			r.stream(20*time.Second, always(true))
			if !slices.Equal(r.sends(), []netip.Addr{up1a, up2a}) || len(r.down) != 0 {
				t.Fatalf("sources %v, down %v", r.sends(), r.down)
			}
			r.lost = func(from, to netip.Addr) bool { return from == up1a || to == up1a }
			r.regs, r.smrs = nil, nil
			took := r.converge(always(false), func() bool { return slices.Equal(r.sends(), []netip.Addr{up2a}) })
			if took > time.Second+2*rtt {
				t.Errorf("took %v", took)
			}
			t.Logf("took %v", took)
			r.stream(r.now.Sub(zeroTime)+time.Second, always(true))
			if len(r.regs) == 0 || len(r.smrs) == 0 {
				t.Fatalf("%d registrations, %d SMRs", len(r.regs), len(r.smrs))
			}
			for _, s := range append(r.regs, r.smrs...) {
				if s.src.Addr() != up2a {
					t.Errorf("sent from %v", s.src)
				}
			}
			if got := register(t, r.regs[len(r.regs)-1].data); got.Records.Len() != 1 {
				t.Fatal("no record")
			}
			// It is not forgotten: it comes back and is used again.
			r.lost = func(from, to netip.Addr) bool { return false }
			back := r.converge(always(true), func() bool { return len(r.sources) == 2 })
			if back > 12*time.Second {
				t.Errorf("back after %v", back)
			}
		})
	}
}

// TestDeadProviderTestedOften: a path that was tested so often lately that it
// may not be tested again for a while does not keep its uplink from being blamed.
func TestDeadProviderTestedOften(t *testing.T) {
	r := newPathRig(t, nil)
	r.stream(20*time.Second, always(true))
	spent := Path{up1a, etr1.Addr()}
	for range 3 {
		r.m.probes.each.take(r.now, spent)
	}
	r.lost = func(from, to netip.Addr) bool { return from == up1a || to == up1a }
	took := r.converge(always(false), func() bool { return slices.Equal(r.sends(), []netip.Addr{up2a}) })
	if took > time.Second+2*r.rtt {
		t.Errorf("took %v", took)
	}
}

// TestDeadProviderOthersTestedOften: that the paths over the other uplink were
// tested so often lately does not keep them from telling that it works, without
// which the dead one is not blamed.
func TestDeadProviderOthersTestedOften(t *testing.T) {
	r := newPathRig(t, nil)
	r.stream(20*time.Second, always(true))
	for path := range r.m.probes.paths {
		for path.Local == up2a && !r.m.probes.each.readyAt(path).After(r.now.Add(5*time.Second)) {
			r.m.probes.each.take(r.now, path)
		}
	}
	r.lost = func(from, to netip.Addr) bool { return from == up1a || to == up1a }
	took := r.converge(always(false), func() bool { return r.stat(uplinksDown) > 0 })
	if took > 1500*time.Millisecond+2*r.rtt {
		t.Errorf("took %v", took)
	}
}

// TestMTUProbesAreNoHint: a peer that measures the path MTU repeats its probes,
// and suspects nothing.
func TestMTUProbesAreNoHint(t *testing.T) {
	r := newPathRig(t, nil)
	r.stream(20*time.Second, always(true))
	probe := func(padding int) {
		b := mustEncode(t, &wire.MapRequest{Probe: true, Nonce: 1, ITRRLOCs: []wire.Address{wire.IPAddress(etr1.Addr())},
			EIDs: []wire.RequestRecord{wire.NewRequestRecord(eid("10.1.0.0/16"))}})
		r.m.receive(r.now, append(b, make([]byte, padding)...), etr1, netip.AddrPortFrom(up1a, 4342))
		r.stream(r.now.Sub(zeroTime)+200*time.Millisecond, always(true))
	}
	for range 3 {
		probe(1400)
	}
	if n := r.stat(suspicionsPeer); n != 0 {
		t.Errorf("%d suspicions", n)
	}
	for range 2 {
		probe(0)
	}
	if n := r.stat(suspicionsPeer); n == 0 {
		t.Error("two probes in 200 ms, and no suspicion")
	}
}

// TestOneWay: packets are lost in one direction of one uplink only. Where they
// are those that go out, the peer's probes tell.
func TestOneWay(t *testing.T) {
	t.Run("in", func(t *testing.T) {
		r := newPathRig(t, nil)
		r.stream(20*time.Second, always(true))
		r.lost = func(from, to netip.Addr) bool { return to == up1a }
		if took := r.converge(always(false), func() bool { return slices.Equal(r.sends(), []netip.Addr{up2a}) }); took > time.Second {
			t.Errorf("took %v", took)
		}
	})
	t.Run("out", func(t *testing.T) {
		r := newPathRig(t, nil)
		r.stream(20*time.Second, always(true))
		r.lost = func(from, to netip.Addr) bool { return from == up1a }
		n := uint64(0)
		took := r.converge(func() bool {
			if n++; n%2 == 0 && n <= 8 { // the peer probes each 100 ms, in vain
				b := mustEncode(t, &wire.MapRequest{Probe: true, Nonce: n, ITRRLOCs: []wire.Address{wire.IPAddress(etr1.Addr())},
					EIDs: []wire.RequestRecord{wire.NewRequestRecord(eid("10.1.0.0/16"))}})
				r.m.receive(r.now, b, etr1, netip.AddrPortFrom(up1a, 4342))
				r.collect()
			}
			return true
		}, func() bool { return slices.Equal(r.sends(), []netip.Addr{up2a}) })
		if took > time.Second {
			t.Errorf("took %v", took)
		}
		if r.stat(suspicionsPeer) == 0 {
			t.Error("nothing was suspected for the peer's probes")
		}
	})
}

// TestOnePath: one path is down and others of the uplink work: only it is
// avoided, the uplink is not blamed.
func TestOnePath(t *testing.T) {
	r := newPathRig(t, nil)
	r.stream(20*time.Second, always(true))
	bad := Path{up1a, etr1.Addr()}
	r.lost = func(from, to netip.Addr) bool {
		return Path{from, to} == bad || Path{to, from} == bad
	}
	r.converge(always(false), func() bool { return slices.Equal(r.down, []Path{bad}) })
	r.stream(r.now.Sub(zeroTime)+5*time.Second, always(true))
	if !slices.Equal(r.sends(), []netip.Addr{up1a, up2a}) || !slices.Equal(r.down, []Path{bad}) {
		t.Errorf("sources %v, down %v", r.sources, r.down)
	}
	if len(r.changes) != 0 {
		t.Errorf("the planes were told of %v", r.changes)
	}
}

// TestAllSilent: a peer that answers nothing by any path makes no uplink
// suspect.
func TestAllSilent(t *testing.T) {
	r := newPathRig(t, nil)
	r.stream(20*time.Second, always(true))
	r.lost = func(from, to netip.Addr) bool { return to != ms1.Addr() && from != ms1.Addr() }
	r.stream(60*time.Second, always(false))
	if len(r.sources) != 2 || r.stat(uplinksDown) != 0 || r.stat(rlocsDown) != 2 {
		t.Errorf("sources %v, %d uplinks and %d RLOCs down", r.sources, r.stat(uplinksDown), r.stat(rlocsDown))
	}
}

// TestManyFlows: of more conversations than are known some are not watched, which costs
// no look at all of those for each; they are when there is room.
func TestManyFlows(t *testing.T) {
	r := newPathRig(t, nil)
	p, now := r.m.probes, r.now
	list := func(from, n int) (list []Traffic) {
		for i := from; i < from+n; i++ {
			e := mapping.EID{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 3, byte(i >> 8), byte(i)}), 32)}
			list = append(list, Traffic{EID: e, Sent: 1, Received: 1})
		}
		return list
	}
	p.traffic(now, list(0, 2*maxFlows))
	if len(p.flows) != maxFlows {
		t.Fatalf("%d conversations are known, want %d", len(p.flows), maxFlows)
	}
	looked := p.forgetAgain
	if want := now.Add(flowLook); !looked.Equal(want) {
		t.Errorf("the next look at all is at %v, want %v", looked, want)
	}
	p.traffic(now.Add(flowLook/2), list(maxFlows, maxFlows))
	if !p.forgetAgain.Equal(looked) {
		t.Error("all were looked at again at once")
	}
	// Half of them go on, the others end.
	for range 2 * flowIdle / flowRound {
		now = now.Add(flowRound)
		p.traffic(now, list(0, maxFlows/2))
	}
	p.traffic(now, list(maxFlows, maxFlows))
	if len(p.flows) != maxFlows || p.flows[list(maxFlows, 1)[0].EID] == nil || p.flows[list(0, 1)[0].EID] == nil || p.flows[list(maxFlows/2, 1)[0].EID] != nil {
		t.Errorf("%d conversations are known, want %d, and those that have traffic", len(p.flows), maxFlows)
	}
}

// TestFalseSuspicion: a conversation that often goes one way costs less and
// less probes, and nothing else.
func TestFalseSuspicion(t *testing.T) {
	r := newPathRig(t, nil)
	r.stream(20*time.Second, always(true))
	n := len(r.probes)
	r.stream(10*time.Minute, func() bool { return r.now.UnixMilli()%10_000 < 1000 })
	if got, most := len(r.probes)-n, 4*(600/10+probeEachBurst); got > most {
		t.Errorf("%d probes in 10 minutes, at most %d allowed", got, most)
	}
	if len(r.sources) != 2 || len(r.down) != 0 {
		t.Errorf("sources %v, down %v", r.sources, r.down)
	}
}

// TestFailureAfterFalseSuspicions: suspicions that came to nothing have used up
// what a path may be probed; a real failure is found no later for that.
func TestFailureAfterFalseSuspicions(t *testing.T) {
	r := newPathRig(t, nil)
	r.stream(2*time.Second, always(true))
	for range 3 { // and the first probe
		for path := range r.m.probes.paths {
			r.m.unreachable(r.now, path) // anybody may say so
		}
		r.stream(r.now.Sub(zeroTime)+500*time.Millisecond, always(true))
	}
	if len(r.down) != 0 {
		t.Fatalf("down %v", r.down)
	}
	r.lost = func(from, to netip.Addr) bool { return from == up1a || to == up1a }
	took := r.converge(always(false), func() bool { return slices.Equal(r.sends(), []netip.Addr{up2a}) })
	if limit := time.Second + 2*r.rtt; took > limit {
		t.Errorf("found after %v, at most %v allowed", took, limit)
	}
}

// TestProbeBudget: with traffic both ways each RLOC is probed once in an
// interval, whatever number of paths there is.
func TestProbeBudget(t *testing.T) {
	r := newPathRig(t, nil)
	r.stream(time.Minute, always(true))
	n := len(r.probes)
	r.stream(11*time.Minute, always(true))
	if got := len(r.probes) - n; got < 30 || got > 56 { // intervals are 3/4 long with these nonces
		t.Errorf("%d probes of 2 RLOCs in 10 minutes, want about 53", got)
	}
	paths := map[Path]bool{}
	for _, s := range r.probes[n:] {
		paths[Path{s.src.Addr(), s.dst.Addr()}] = true
	}
	if len(paths) != 4 {
		t.Errorf("%d paths were probed, want 4", len(paths))
	}
}

// TestFlapDamping: an uplink that flaps once a second for a minute is announced
// as gone once, and as back when it has been there for a while; the other
// uplink's paths are left alone.
func TestFlapDamping(t *testing.T) {
	r := newPathRig(t, nil)
	r.stream(20*time.Second, always(true))
	r.regs, r.smrs = nil, nil
	for range 60 {
		for _, up := range []bool{false, true} {
			r.setUplinks(uplinks(true, up, up2a))
			r.stream(r.now.Sub(zeroTime)+500*time.Millisecond, always(true))
			if !slices.Contains(r.sends(), up1a) {
				t.Fatal("the other uplink is not used")
			}
		}
	}
	if len(r.regs) > 8 || len(r.smrs) > 12 {
		t.Errorf("%d registrations and %d SMRs in a minute of flapping", len(r.regs), len(r.smrs))
	}
	took := r.converge2(90*time.Second, func() bool { return len(r.sources) == 2 })
	if took < 30*time.Second || took > holdDownMax+time.Second {
		t.Errorf("used again after %v", took)
	}
	if r.stat(pathsDown) != 0 {
		t.Errorf("%d paths were found down", r.stat(pathsDown))
	}
}

func (r *pathRig) converge2(limit time.Duration, cond func() bool) time.Duration {
	r.t.Helper()
	start := r.now
	for !cond() && r.now.Sub(start) < limit {
		r.stream(r.now.Sub(zeroTime)+50*time.Millisecond, always(true))
	}
	return r.now.Sub(start)
}

// TestPeerSuspicionEnds: a peer that goes on probing does not make us test a way
// to it that has just had a reply.
func TestPeerSuspicionEnds(t *testing.T) {
	r := newPathRig(t, nil)
	r.stream(20*time.Second, always(true))
	r.lost = func(from, to netip.Addr) bool { return false }
	start := len(r.probes)
	for n := range 20 { // as one that tests what we suspect does
		b := mustEncode(t, &wire.MapRequest{Probe: true, Nonce: uint64(n + 1), ITRRLOCs: []wire.Address{wire.IPAddress(etr1.Addr())},
			EIDs: []wire.RequestRecord{wire.NewRequestRecord(eid("10.1.0.0/16"))}})
		r.m.receive(r.now, b, etr1, netip.AddrPortFrom(up1a, 4342))
		r.collect()
		r.stream(r.now.Sub(zeroTime)+200*time.Millisecond, always(true))
	}
	if got := len(r.probes) - start; got < 1 || got > 3 {
		t.Errorf("%d probes for 20 of the peer in 4 s, want 1 to 3", got)
	}
}

// TestDeadPeerIsNotOurUplink: the only site that is reached by an uplink does
// not answer any more, from any uplink. That is no sign that the uplink is dead.
func TestDeadPeerIsNotOurUplink(t *testing.T) {
	etr3 := addr("2001:db8:3::7")
	r := newPathRig(t, func(cfg *Config) {
		cfg.Uplinks = []Uplink{{Name: "eth2", Up: true, Addrs: []netip.Addr{up1a}}, {Name: "eth3", Up: true, Addrs: []netip.Addr{own6}}}
		cfg.Databases[0].Uplinks[1] = UplinkLocator{Interface: "eth3", IPv6: true, Priority: 1, Weight: 30}
	})
	r.learn(addr("10.3.0.1"), &mapping.Record{EID: eid("10.3.0.0/16"), TTL: 1440, Authoritative: true,
		Locators: []mapping.Locator{mapping.MakeLocator(etr3, 1, 100)}})
	dead := false
	r.lost = func(from, to netip.Addr) bool { return dead && (from == etr3 || to == etr3) }
	for d := 50 * time.Millisecond; d < time.Minute; d += 50 * time.Millisecond {
		dead = d > 20*time.Second
		r.pass(d)
		if d%(5*time.Second) == 0 {
			r.used("10.2.0.0/16", "10.3.0.0/16")
		}
		there := Traffic{EID: eid("10.3.0.0/16"), Sent: 50, Received: 50}
		if dead {
			there.Received = 0
		}
		r.m.traffic(r.now, []Traffic{{EID: eid("10.2.0.0/16"), Sent: 50, Received: 50}, there})
		r.collect()
	}
	if r.stat(rlocsDown) == 0 {
		t.Error("the site that is gone was not noticed")
	}
	if n := r.stat(uplinksDown); n != 0 || len(r.sources) != 2 {
		t.Errorf("%d uplinks were called dead, sources %v", n, r.sources)
	}
}

// TestUplinkNothingComesBy: nothing comes in by one uplink any more; what comes
// in of each site still varies too much to tell.
func TestUplinkNothingComesBy(t *testing.T) {
	r := newPathRig(t, nil)
	n := uint64(0)
	step := func(lost bool) {
		n++
		at := r.now.Sub(zeroTime) + 50*time.Millisecond
		r.pass(at)
		up1 := UplinkTraffic{Name: "eth2", Sent: 40, Received: n % 3 * 30}
		if lost {
			up1.Received = 0
		}
		up2 := UplinkTraffic{Name: "eth3", Sent: 40, Received: (n + 1) % 3 * 30}
		r.m.traffic(r.now, []Traffic{{EID: eid("10.2.0.0/16"), Sent: 80, Received: up1.Received + up2.Received}})
		r.m.uplinkTraffic(r.now, []UplinkTraffic{up1, up2})
		r.collect()
		r.pass(at)
	}
	for range 200 {
		step(false)
	}
	if n := r.stat(suspicionsUplink); n != 0 {
		t.Errorf("%d suspicions before anything happened", n)
	}
	r.lost = func(from, to netip.Addr) bool { return to == up1a }
	start := r.now
	for !slices.Equal(r.sends(), []netip.Addr{up2a}) && r.now.Sub(start) < 5*time.Second {
		step(true)
	}
	if took := r.now.Sub(start); took > 700*time.Millisecond {
		t.Errorf("took %v", took)
	}
	if r.stat(suspicionsUplink) == 0 {
		t.Error("the uplink was not suspected")
	}
}

// TestFailureAfterReturn: a path that comes back after a while and fails again
// at once is found to be down as soon as before.
func TestFailureAfterReturn(t *testing.T) {
	r := newPathRig(t, nil)
	r.stream(20*time.Second, always(true))
	for range 3 {
		r.lost = func(from, to netip.Addr) bool { return from == up1a || to == up1a }
		took := r.converge(always(false), func() bool { return slices.Equal(r.sends(), []netip.Addr{up2a}) })
		if limit := time.Second + 2*r.rtt; took > limit {
			t.Errorf("found after %v, at most %v allowed", took, limit)
		}
		r.stream(r.now.Sub(zeroTime)+10*time.Second, always(true))
		r.lost = func(from, to netip.Addr) bool { return false }
		r.converge(always(true), func() bool { return len(r.sources) == 2 })
		r.stream(r.now.Sub(zeroTime)+time.Second, always(true))
	}
}

// TestFallStarved: where the rounds are long and uneven, because the machine is
// busy, half of what came staying away is still seen, and nothing else is.
func TestFallStarved(t *testing.T) {
	wrong := 0
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var f flow
		next := func(each int) bool { // packets in a round of 50 ms
			gap := time.Duration(20+rnd.IntN(280)) * time.Millisecond
			return f.falls(gap, uint64(int(gap/time.Millisecond)*each/50))
		}
		for range 300 {
			if next(50) {
				wrong++
			}
		}
		rounds := 1
		for ; rounds < 20 && !next(25); rounds++ {
		}
		if rounds > 5 {
			t.Errorf("seed %d: not found in %d rounds", seed, rounds)
		}
	}
	if wrong > 0 {
		t.Errorf("%d false alarms", wrong)
	}
}

// TestLocatorJoins: a locator that a mapping gets while there is traffic is
// probed at once.
func TestLocatorJoins(t *testing.T) {
	r := newPathRig(t, nil)
	r.stream(7*time.Second, always(true))
	joins := addr("203.0.113.77")
	rec := twoLocators("10.2.0.0/16")
	rec.Locators = append(rec.Locators, mapping.MakeLocator(joins, 1, 50))
	r.m.itr.changes = append(r.m.itr.changes, r.m.itr.cache.Apply(r.now, rec)...)
	r.stream(7100*time.Millisecond, always(true))
	if !slices.ContainsFunc(r.probes, func(s sent) bool { return s.dst.Addr() == joins }) {
		t.Error("it was not probed")
	}
}
