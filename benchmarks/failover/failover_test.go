package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
	lispwire "github.com/eidolon-lisp/eidolon/mapping/wire"
)

// The program starts itself under other names.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case runName:
		os.Exit(runChild())
	case speakerName:
		os.Exit(runSpeaker())
	}
	m.Run()
}

func TestParse(t *testing.T) {
	for _, x := range []struct {
		args string
		want string // of the error; empty: none
	}{
		{"", ""},
		{"-quick", ""},
		{"--quick -arms bgp,eidolon -failures carrier,flap -rtt 0,80 -runs 3", ""},
		{"-parallel 4 -bars -te=false -out x", ""},
		{"-arms ospf", "ospf"},
		{"-failures meteor", "meteor"},
		{"-rtt 5000", "-rtt"},
		{"-rtt 8x", "-rtt"},
		{"-runs 0", "-runs"},
		{"-warmup 10ms", "-warmup"},
		{"-parallel 17", "-parallel"},
		{"rest", "rest"},
	} {
		_, err := parse(strings.Fields(x.args), io.Discard)
		if (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("%q: %v, expected an error with %q", x.args, err, x.want)
		}
	}
	o, err := parse([]string{"-quick"}, io.Discard)
	if err != nil || o.runs != 1 || o.parallel != 3 || o.out != "" {
		t.Errorf("a quick run is %+v, %v", o, err)
	}
}

const msec = time.Millisecond

// arrivalsOf sends n datagrams, one a millisecond, of which those for which
// lost is true do not arrive; the others take delay.
func arrivalsOf(n int, delay time.Duration, lost func(i int) bool) (list []arrival) {
	for i := range n {
		if !lost(i) {
			list = append(list, arrival{uint64(i), time.Duration(i) * msec, time.Duration(i)*msec + delay})
		}
	}
	return list
}

func TestLongest(t *testing.T) {
	never := func(int) bool { return false }
	for name, x := range map[string]struct {
		list []arrival
		sent uint64
		want gap
	}{
		"nothing lost": {arrivalsOf(3000, msec, never), 3000, gap{0, msec, true, 0}},
		"one outage": {arrivalsOf(3000, msec, func(i int) bool { return i >= 500 && i < 700 }), 3000,
			gap{201 * msec, 201 * msec, true, 200}},
		"the longest of two": {arrivalsOf(3000, msec, func(i int) bool { return i >= 500 && i < 700 || i >= 800 && i < 850 }), 3000,
			gap{201 * msec, 201 * msec, true, 250}},
		"never back": {arrivalsOf(3000, msec, func(i int) bool { return i >= 500 }), 3000,
			gap{3000*msec - 499*msec, 3000*msec - 500*msec, false, 2490}},
		"nothing at all": {nil, 3000, gap{3000 * msec, 2900 * msec, false, 2990}},
		"the end is on its way": {arrivalsOf(3000, msec, func(i int) bool { return i >= 2995 }), 3000,
			gap{0, 5 * msec, true, 0}},
	} {
		if got := longest(x.list, 100*msec, 3000*msec, x.sent, 10); got != x.want {
			t.Errorf("%s: %+v, want %+v", name, got, x.want)
		}
	}
	// A machine that stands still delays, but loses nothing.
	late := arrivalsOf(3000, msec, never)
	for i := 1000; i < 1300; i++ {
		late[i].at = 1300 * msec
	}
	if got := longest(late, 100*msec, 3000*msec, 3000, 10); got != (gap{0, 300 * msec, true, 0}) {
		t.Errorf("late: %+v", got)
	}
	// What arrives out of order is not lost.
	late[500], late[501] = late[501], late[500]
	if got := longest(late, 100*msec, 3000*msec, 3000, 10); got.lost != 0 || got.outage != 0 {
		t.Errorf("out of order: %+v", got)
	}
}

func TestRecovered(t *testing.T) {
	list := arrivalsOf(1000, 0, func(i int) bool { return i >= 300 && i < 500 })
	for now, want := range map[time.Duration]bool{300 * msec: true, 400 * msec: false, 500 * msec: false, 620 * msec: false, 700 * msec: true} {
		var sofar []arrival
		for _, a := range list {
			if a.at < now {
				sofar = append(sofar, a)
			}
		}
		if got := recovered(sofar, now, 200*msec, msec); got != want {
			t.Errorf("at %v: %v", now, got)
		}
	}
}

func TestQuantile(t *testing.T) {
	list := []float64{5, 1, 4, 2, 3, math.Inf(1), 6, 7, 8, 9}
	for q, want := range map[float64]float64{0: 1, 0.1: 1, 0.5: 5, 0.9: 9, 0.95: math.Inf(1), 1: math.Inf(1)} {
		if got := quantile(list, q); got != want {
			t.Errorf("%g: %g, want %g", q, got, want)
		}
	}
	if list[0] != 5 {
		t.Error("the list was sorted in place")
	}
	if !math.IsNaN(quantile(nil, 0.5)) {
		t.Error("nothing has a median")
	}
}

func TestMoved(t *testing.T) {
	var list []passing
	for i := range 13_000 { // one a millisecond, changed at 3 s, done 0.9 s later
		at := time.Duration(i) * msec
		first := i%2 == 0
		if at >= 3900*msec {
			first = i%10 < 7
		}
		list = append(list, passing{at, map[bool]int{true: 0, false: 1}[first]})
	}
	before, after, took := moved(list, 3*time.Second)
	if math.Abs(before-0.5) > 0.01 || math.Abs(after-0.7) > 0.01 || took != time.Second {
		t.Errorf("from %g to %g in %v", before, after, took)
	}
}

// packetOf makes an IPv4 packet.
func packetOf(proto uint8, src, dst netip.AddrPort, l4 []byte) []byte {
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45, 64, proto
	b[2], b[3] = byte((20+len(l4))>>8), byte(20+len(l4))
	copy(b[12:], src.Addr().AsSlice())
	copy(b[16:], dst.Addr().AsSlice())
	return append(b, l4...)
}

func udpOf(src, dst netip.AddrPort, payload []byte) []byte {
	n := 8 + len(payload)
	return packetOf(17, src, dst, append([]byte{byte(src.Port() >> 8), byte(src.Port()), byte(dst.Port() >> 8), byte(dst.Port()), byte(n >> 8), byte(n), 0, 0}, payload...))
}

func tcpOf(src, dst netip.AddrPort, seq uint32, syn bool, payload []byte) []byte {
	h := []byte{byte(src.Port() >> 8), byte(src.Port()), byte(dst.Port() >> 8), byte(dst.Port()),
		byte(seq >> 24), byte(seq >> 16), byte(seq >> 8), byte(seq), 0, 0, 0, 0, 5 << 4, 0x10, 0, 0, 0, 0, 0, 0}
	if syn {
		h[13] = 2
	}
	return packetOf(6, src, dst, append(h, payload...))
}

func bgpMessage(typ byte, n int) []byte {
	b := []byte(strings.Repeat("\xff", 16))
	b = append(b, byte(n>>8), byte(n), typ)
	return append(b, make([]byte, n-bgpHeader)...)
}

func TestCount(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:40000"), netip.MustParseAddrPort("192.0.2.2:179")
	c := &counter{own: map[netip.Addr]string{a.Addr(): "a", b.Addr(): "b"}, counts: counts{}, flows: map[flowKey]*messageStream{}}
	update, keepalive := bgpMessage(2, 60), bgpMessage(4, 19)
	both := append(append([]byte(nil), update...), keepalive...)
	c.count("a", tcpOf(a, b, 99, true, nil))
	c.count("a", tcpOf(a, b, 100, false, both[:30])) // in two segments
	c.count("a", tcpOf(a, b, 130, false, both[30:]))
	c.count("a", tcpOf(a, b, 130, false, both[30:])) // sent again
	c.count("b", tcpOf(b, a, 500, false, nil))       // acknowledged
	c.count("x", tcpOf(a, b, 130, false, both[30:])) // passed on
	if u, k := c.counts["bgp update"].Msgs, c.counts["bgp keepalive"].Msgs; u != 1 || k != 1 {
		t.Errorf("%d updates and %d keepalives: %v", u, k, c.counts)
	}
	if got, want := c.counts.sum("bgp"), (tally{2, 40 + 70 + 89 + 89 + 40, 40 + 70 + 89 + 89 + 40 + 89}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}

	ctl := netip.MustParseAddrPort("192.0.2.1:4342")
	eid, rec := mapping.MustParseEID("10.0.0.0/8"), &mapping.Record{EID: mapping.MustParseEID("10.0.0.0/8"), TTL: 1}
	recs, err := lispwire.NewRecords(rec)
	if err != nil {
		t.Fatal(err)
	}
	request := lispwire.MapRequest{ITRRLOCs: []lispwire.Address{lispwire.IPAddress(a.Addr())}, EIDs: []lispwire.RequestRecord{lispwire.NewRequestRecord(eid)}}
	probe, smr := request, request
	probe.Probe, smr.SMR = true, true
	for kind, m := range map[string]interface {
		AppendBinary([]byte) ([]byte, error)
	}{
		"lisp map-request": &request, "lisp probe": &probe, "lisp smr": &smr,
		"lisp map-reply": &lispwire.MapReply{Records: recs}, "lisp probe-reply": &lispwire.MapReply{Probe: true, Records: recs},
		"lisp map-register": &lispwire.MapRegister{Records: recs}, "lisp map-notify": &lispwire.MapNotify{Records: recs},
	} {
		msg, err := m.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		c.count("a", udpOf(ctl, ctl, msg))
		if c.counts[kind].Msgs != 1 {
			t.Errorf("%s is not counted: %v", kind, c.counts)
		}
	}
	before := c.snapshot()
	c.count("a", udpOf(ctl, ctl, []byte{0x30}))
	if d := c.snapshot().minus(before); d.sum("").Msgs != 1 || d["lisp map-register"].Msgs != 1 {
		t.Errorf("since then: %v", d)
	}
	for n := range 60 { // nothing that is cut may do harm
		c.count("a", tcpOf(a, b, 200, false, update)[:n])
	}
}

// The tables are read back as they were written, and a line that was cut off is
// done again.
func TestTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runs.csv")
	tab, err := openTable(path)
	if err != nil {
		t.Fatal(err)
	}
	j := plannedRun{job: job{Arm: "eidolon", Failure: "carrier", RTT: 80}, run: 0}
	res := &result{Out: &direction{Outage: 12.34, Recovered: true, Lost: 12}, In: &direction{}, Idle: "yes", Control: counts{"lisp smr": {2, 100, 300}}}
	for run := range 2 {
		j.run = run
		if err := tab.add(rowOf(j, res)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tab.close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()-5); err != nil {
		t.Fatal(err)
	}
	if tab, err = openTable(path); err != nil {
		t.Fatal(err)
	}
	c := cell{"eidolon", "carrier", 80}
	if !tab.has(c, 0) || tab.has(c, 1) || len(tab.rows) != 1 {
		t.Fatalf("%d rows", len(tab.rows))
	}
	r := tab.rows[0]
	if v, _ := r.number("out_outage_ms"); v != 12.3 || r["in_outage_ms"] != "inf" || r["lisp_msgs"] != "2" || r["messages"] != "lisp smr 2" {
		t.Errorf("%v", r)
	}
	if err := tab.add(rowOf(j, res)); err != nil {
		t.Fatal(err)
	}
	tab.close()
	if tab, err = openTable(path); err != nil || len(tab.rows) != 2 {
		t.Fatalf("%v, %v", tab, err)
	}
	tab.close()
	if err := os.WriteFile(path, []byte("a,b\n1,2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := openTable(path); err == nil {
		t.Error("another table is taken for ours")
	}
}

func TestReport(t *testing.T) {
	dir := t.TempDir()
	runs, err := openTable(filepath.Join(dir, "runs.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer runs.close()
	te, err := openTable(filepath.Join(dir, "te.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer te.close()
	for _, x := range []struct {
		arm     string
		out, in float64
	}{{"eidolon", 100, 500}, {"bgp", 90_000, 20}} {
		j := plannedRun{job: job{Arm: x.arm, Failure: "carrier"}}
		res := &result{Out: &direction{x.out, x.out, true, 0}, In: &direction{x.in, x.in, true, 0}, TCPSurvived: true, Idle: "yes"}
		if err := runs.add(rowOf(j, res)); err != nil {
			t.Fatal(err)
		}
	}
	if err := te.add(rowOf(plannedRun{job: job{TE: true, Arm: "bgp", Failure: teName}}, &result{TE: &teResult{Before: 0.5, After: 0.69}})); err != nil {
		t.Fatal(err)
	}
	if err := report(options{out: dir, bars: true}, runs, te); err == nil || !strings.Contains(err.Error(), "in_outage_ms at p95 is 500 ms, the bar is 200 ms") || strings.Contains(err.Error(), "out_outage") {
		t.Errorf("bars: %v", err)
	}
	md, err := os.ReadFile(filepath.Join(dir, "results.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| eidolon | 1 | 100 ms / 100 ms / 100 ms | 500 ms", "| bgp | 1 | 90.0 s", "69.0 %"} {
		if !strings.Contains(string(md), want) {
			t.Errorf("the report lacks %q:\n%s", want, md)
		}
	}
	svg, err := os.Open(filepath.Join(dir, "outage.svg"))
	if err != nil {
		t.Fatal(err)
	}
	defer svg.Close()
	dots := 0
	for dec := xml.NewDecoder(svg); ; {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "circle" {
			dots++
		}
	}
	if dots != 3+4 {
		t.Errorf("%d dots", dots)
	}
	if err := checkQuick(runs, te); err == nil {
		t.Error("runs without messages pass")
	}
}

// Frames pass the wire in order, after its delay, large ones too, both ways.
func TestWire(t *testing.T) {
	ns := netns.Fresh(t, 2)
	const delay = 20 * msec
	w, err := newWire(ns[0], "eth0", ns[1], "eth0", delay)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}()
	for i, a := range []string{"192.0.2.1/30", "192.0.2.2/30"} {
		if err := ns[i].AddAddress("eth0", netip.MustParsePrefix(a)); err != nil {
			t.Fatal(err)
		}
	}
	wd := &world{ns: map[string]*netns.NS{"hs": ns[0], "hr": ns[1]}}
	ln, err := listenTCP(t.Context(), wd, netip.MustParseAddrPort("192.0.2.2:5000"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	flows, err := openTCP(t.Context(), wd, netip.MustParseAddr("192.0.2.1"), ln, 1, false)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFlows(flows)
	began := time.Now()
	if err := flows[0].keystroke(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if rtt := time.Since(began); rtt < 2*delay {
		t.Errorf("an echo took %v", rtt)
	}
	const size = 4 << 20
	go flows[0].site.Write(make([]byte, size))
	flows[0].remote.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := io.CopyN(io.Discard, flows[0].remote, size); err != nil {
		t.Fatalf("%d octets, %v", n, err)
	}
}

// The topology, plain routing, a failure: what was sent is lost, and is seen to
// be.
func TestFailureIsSeen(t *testing.T) {
	netns.Need(t)
	w, err := build(0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	a, err := armByName("single")
	if err != nil {
		t.Fatal(err)
	}
	g := &trial{arm: a, w: w, dir: t.TempDir()}
	defer g.stop()
	if err := g.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	x, err := watchWays(w)
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	// As if an earlier try had gone by the other provider.
	x.mu.Lock()
	for i := range uint16(candidates) {
		x.seen[way{protoUDP, netip.AddrPortFrom(sitePA[0], sitePort+i), netip.AddrPortFrom(remotePA, remotePort+i)}] = [2]int{0, 1}
	}
	x.mu.Unlock()
	hit, other, err := choose(w, x, sitePA[0], remotePA)
	if err != nil {
		t.Fatal(err)
	}
	defer hit.close()
	if other != nil {
		t.Error("one provider, but a flow by the other")
	}
	for _, f := range []string{"hole-in", "hole-out"} {
		failure, err := failureByName(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := failure.inject(t.Context(), w, a); err != nil {
			t.Fatal(err)
		}
		hit.remote.SetReadDeadline(time.Now().Add(300 * msec))
		for { // what was on the way
			if _, _, err := hit.remote.ReadFrom(make([]byte, 100)); err != nil {
				break
			}
		}
		hit.probe(1)
		hit.remote.SetReadDeadline(time.Now().Add(300 * msec))
		_, _, err = hit.remote.ReadFrom(make([]byte, 100))
		if f == "hole-in" && err != nil {
			t.Errorf("%s: from the site nothing comes: %v", f, err)
		}
		if f == "hole-out" && err == nil {
			t.Errorf("%s: from the site something comes", f)
		}
	}
}

// One end of each link of BGP connects and the other waits: two that connect may
// miss each other for minutes after their session was closed.
func TestOneEndConnects(t *testing.T) {
	waits := map[[2]string]int{}
	name := map[uint32]string{}
	for n, as := range asOf {
		name[as] = n
	}
	for n, c := range speakerConfigs(true, false) {
		for _, x := range c.Neighbors {
			link := []string{n, name[x.AS]}
			slices.Sort(link)
			waits[[2]string(link)] += map[bool]int{true: 1, false: 10}[x.Wait]
		}
	}
	if len(waits) != 7 {
		t.Errorf("sessions: %v", waits)
	}
	for link, n := range waits {
		if n != 11 {
			t.Errorf("%v: %d connect, %d wait", link, n/10, n%10)
		}
	}
}

// A session that was closed without need is back within two turns of GoBGP's
// idle time, also when the ends begin half a turn after each other.
func TestSessionComesBack(t *testing.T) {
	ns := netns.Fresh(t, 2)
	if err := netns.Veth(ns[0], "c2", ns[1], "c1", mtu); err != nil {
		t.Fatal(err)
	}
	g := &trial{w: &world{ns: map[string]*netns.NS{"c1": ns[0], "c2": ns[1]}}, dir: t.TempDir()}
	defer g.stop()
	configs := speakerConfigs(false, false)
	for n := range configs {
		if g.w.ns[n] == nil {
			delete(configs, n)
		}
	}
	for n, other := range map[string]string{"c1": "c2", "c2": "c1"} {
		c := configs[n]
		c.Neighbors = slices.DeleteFunc(c.Neighbors, func(x neighborConfig) bool { return x.AS != asOf[other] })
		peer := configs[other].Neighbors[slices.IndexFunc(configs[other].Neighbors, func(x neighborConfig) bool { return x.AS == c.AS })]
		if err := g.w.ns[n].AddAddress(other, netip.PrefixFrom(peer.Addr, 30)); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.startSpeakers(t.Context(), configs); err != nil {
		t.Fatal(err)
	}
	shut := func(n string) {
		if _, err := g.speakers[n].ask(speakerRequest{Op: "close", To: configs[n].Neighbors[0].Addr}); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	shut("c1")
	time.Sleep(3 * time.Second)
	shut("c2")
	for {
		up := 0
		for n, s := range g.speakers {
			r, err := s.ask(speakerRequest{Op: "state"})
			if err != nil {
				t.Fatal(n, err)
			}
			up += r.Established
		}
		if up == 2 {
			break
		}
		if time.Since(begin) > 25*time.Second {
			t.Fatal("the session is not back after 25 s")
		}
		time.Sleep(100 * time.Millisecond)
	}
	if time.Since(begin) < 4*time.Second {
		t.Error("the session was never closed")
	}
}

// One run of BGP with all that belongs to it: sessions come up, best paths get
// into the kernels, the second provider takes over, and messages are counted.
func TestRun(t *testing.T) {
	netns.Need(t)
	m := &matrix{dir: t.TempDir()}
	if raceDetector { // GoBGP is not ours to look for races in, and so slow then that it misses its own timers
		m.exe = filepath.Join(m.dir, "failover")
		if out, err := exec.Command("go", "build", "-o", m.exe, ".").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	res, err := m.child(t.Context(), job{Arm: "bgp-fast", Failure: "carrier", WarmUp: 2 * time.Second, Quick: true})
	if err != nil {
		t.Fatal(err)
	}
	if !res.TCPSurvived || res.Idle != "yes" || !res.Out.Recovered || !res.In.Recovered {
		t.Errorf("%s: outage %s, %s, window %v, %+v", res.summary(), res.Out.outage(), res.In.outage(), res.Window, res)
	}
	// Each core router has a path by its customer or by the other's, and by both
	// providers in the third; nothing that a peer heard of a peer. So the change
	// may be over before a datagram is lost, and these counts show it.
	if res.Control["bgp update"].Msgs == 0 || res.CoreSite != [2]int{3, 3} || res.CoreRIB != [2]int{6, 3} {
		t.Errorf("messages %v, routes %v, paths %v", res.Control, res.CoreSite, res.CoreRIB)
	}
}

func TestFilters(t *testing.T) {
	ns := netns.Fresh(t, 1)
	err := ns[0].Do(func() error {
		for _, f := range [][]unix.SockFilter{controlFilter, everything} {
			s, err := packetSocket(0, f)
			if err != nil {
				return err
			}
			s.Close()
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
