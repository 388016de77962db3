package speaker

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping/bgp"
	"github.com/eidolon-lisp/eidolon/mapping/bgp/bgptest"
)

const speakerVariable = "EIDOLON_BGP_SPEAKER"

func TestMain(m *testing.M) {
	bgptest.Main()
	if os.Getenv(speakerVariable) != "" {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

// job is what a speaker in a process of its own does, so that it can be killed.
type job struct {
	Neighbours  []bgp.Neighbour
	RestartTime time.Duration
	Routes      []bgp.Route
}

func child() int {
	var j job
	if err := json.NewDecoder(os.Stdin).Decode(&j); err != nil {
		return 1
	}
	s, err := New(bgp.Config{AS: 64500, RouterID: addr("192.0.2.1"), Neighbours: j.Neighbours, RestartTime: j.RestartTime})
	if err == nil {
		err = s.Announce(j.Routes)
	}
	if err == nil {
		s.Ready()
		err = s.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func startChild(t *testing.T, j job) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stderr = append(os.Environ(), speakerVariable+"=1"), os.Stderr
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		err = json.NewEncoder(in).Encode(j)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr  { return netip.MustParseAddr(s) }

var (
	v4, v6 = pfx("10.0.0.0/8"), pfx("2001:db8:e::/48")
	home4  = addr("127.0.0.1")
	peer4  = addr("127.0.0.2")
)

// running is a speaker in this process. There is one at a time.
type running struct {
	*Speaker
	stop func() // ends it in order and waits
}

func run(t *testing.T, cfg bgp.Config) *running {
	t.Helper()
	cfg.AS, cfg.RouterID = 64500, addr("192.0.2.1")
	if testing.Verbose() {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	r := &running{s, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})}
	t.Cleanup(r.stop)
	return r
}

// neighbour starts a router that waits for us, and returns how to reach it.
func neighbour(t *testing.T, change func(*bgptest.Config)) (*bgptest.Router, bgp.Neighbour) {
	t.Helper()
	c := bgptest.Config{AS: 64501, RouterID: addr("192.0.2.2"), Addr: peer4, Peer: home4, PeerAS: 64500}
	if change != nil {
		change(&c)
	}
	c.Port = bgptest.FreePort(t, c.Addr)
	return bgptest.Start(t, c, nil), bgp.Neighbour{Addr: c.Addr, AS: c.AS, Port: c.Port, LocalAddr: c.Peer, Password: c.Password}
}

// What is announced arrives with its AS_PATH, next hop and communities, in both
// address families; changes and withdrawals do too.
func TestAnnounce(t *testing.T) {
	r4, n4 := neighbour(t, nil)
	r6, n6 := neighbour(t, func(c *bgptest.Config) { c.AS, c.Addr, c.Peer = 64500, addr("::1"), addr("::1") })
	n6.LocalAddr = addr("::1")
	s := run(t, bgp.Config{Neighbours: []bgp.Neighbour{n4, n6}})
	routes := []bgp.Route{
		{Prefix: v4, OriginAS: 64510, Communities: []uint32{64500<<16 | 100, 0xffffff01}, LargeCommunities: [][3]uint32{{64500, 1, 2}}},
		{Prefix: pfx("100.64.0.0/10"), OriginAS: 64500},
		{Prefix: v6, OriginAS: 64510},
	}
	if err := s.Announce(routes); err != nil {
		t.Fatal(err)
	}
	bgptest.Eventually(t, 20*time.Second, "routes of both families", func() bool { return len(r4.Routes()) == 2 && len(r6.Routes()) == 1 })
	want := []bgptest.Route{
		{Prefix: v4, From: home4, Best: true, NextHop: home4, ASPath: []uint32{64500, 64510}, Communities: routes[0].Communities, Large: routes[0].LargeCommunities},
		{Prefix: routes[1].Prefix, From: home4, Best: true, NextHop: home4, ASPath: []uint32{64500}},
	}
	if got := r4.Routes(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got, want := r6.Routes(), []bgptest.Route{{Prefix: v6, From: addr("::1"), Best: true, NextHop: addr("::1"), ASPath: []uint32{64510}}}; !reflect.DeepEqual(got, want) {
		t.Errorf("IBGP: %+v, want %+v", got, want)
	}
	list, err := s.Neighbours()
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	if n := list[0]; n.Addr != peer4 || n.AS != 64501 || n.State != bgp.Established || n.Announced != 2 || n.RouterID != addr("192.0.2.2") ||
		n.UpdatesOut == 0 || time.Since(n.Since) > time.Minute {
		t.Errorf("neighbour %+v", n)
	}
	if got := s.Announced(); len(got) != 3 || got[0].Prefix != v4 || got[1].OriginAS != 0 {
		t.Errorf("announced %+v", got)
	}

	updates := r4.Updates()
	if err := s.Announce(routes); err != nil { // the same again
		t.Fatal(err)
	}
	s.Withdraw([]netip.Prefix{routes[1].Prefix, pfx("192.0.2.0/24")})
	bgptest.Eventually(t, 5*time.Second, "one is withdrawn", func() bool { return slices.Equal(r4.Prefixes(), []netip.Prefix{v4}) })
	if n := r4.Updates() - updates; n != 1 {
		t.Errorf("%d messages for one change", n)
	}
	s.Announce([]bgp.Route{{Prefix: v4, Communities: []uint32{7}}})
	bgptest.Eventually(t, 5*time.Second, "a route is replaced", func() bool {
		got := r4.Routes()
		return len(got) == 1 && reflect.DeepEqual(got[0].ASPath, []uint32{64500}) && reflect.DeepEqual(got[0].Communities, []uint32{7})
	})
	updates = r4.Updates()
	s.stop()
	// What was said last may still be on its way.
	bgptest.Eventually(t, 10*time.Second, "all ends", func() bool { return !r4.Established() && len(r4.Routes()) == 0 && len(r6.Routes()) == 0 })
	if n := r4.Updates() - updates; n != 1 {
		t.Errorf("%d messages before an orderly stop, want the withdrawal", n)
	}
}

// A neighbour that connects to us, with a password, gets in; one with another
// password does not.
func TestPassive(t *testing.T) {
	port := bgptest.FreePort(t, home4)
	r, n := neighbour(t, func(c *bgptest.Config) { c.PeerPort, c.Password = port, "a shared secret" })
	n.Passive = true
	other, m := neighbour(t, func(c *bgptest.Config) {
		c.PeerPort, c.Password, c.Addr, c.RouterID = port, "another secret", addr("127.0.0.3"), addr("192.0.2.3")
	})
	m.Passive, m.Password = true, "a shared secret"
	s := run(t, bgp.Config{Listen: []netip.Addr{home4}, ListenPort: port, Neighbours: []bgp.Neighbour{n, m}})
	if err := s.Announce([]bgp.Route{{Prefix: v4}}); err != nil {
		t.Fatal(err)
	}
	bgptest.Eventually(t, 20*time.Second, "a session", func() bool { return len(r.Routes()) == 1 })
	time.Sleep(3 * time.Second) // more than one try of the other
	if other.Established() || len(other.Routes()) > 0 {
		t.Error("a neighbour with another password got in")
	}
}

// collector has what is received.
type collector struct {
	mu  sync.Mutex
	all []bgp.Received
	now map[netip.Prefix]bgp.Received
}

func (c *collector) add(list []bgp.Received) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		c.now = make(map[netip.Prefix]bgp.Received)
	}
	c.all = append(c.all, list...)
	for _, r := range list {
		if r.Withdrawn {
			delete(c.now, r.Prefix)
		} else {
			c.now[r.Prefix] = r
		}
	}
}

func (c *collector) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.now)
}

// What neighbours announce is told, also that it is withdrawn or that the session
// ended; nothing of it goes to another neighbour. One that announces too much
// loses the session.
func TestReceive(t *testing.T) {
	r, n := neighbour(t, nil)
	other, m := neighbour(t, func(c *bgptest.Config) { c.AS, c.Addr, c.RouterID = 64502, addr("127.0.0.3"), addr("192.0.2.3") })
	n.MaxPrefixes = 50
	var c collector
	s := run(t, bgp.Config{Neighbours: []bgp.Neighbour{n, m}, OnRoutes: c.add})
	if err := s.Announce([]bgp.Route{{Prefix: v4}}); err != nil {
		t.Fatal(err)
	}
	a, b := pfx("203.0.113.0/24"), pfx("198.51.100.0/24")
	r.Announce([]uint32{64530}, a, b)
	bgptest.Eventually(t, 20*time.Second, "both are received", func() bool { return c.len() == 2 && len(other.Routes()) > 0 })
	c.mu.Lock()
	if got, want := c.now[a], (bgp.Received{Prefix: a, From: peer4, NextHop: peer4, OriginAS: 64530}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	c.mu.Unlock()
	r.Withdraw(b)
	bgptest.Eventually(t, 5*time.Second, "one is withdrawn", func() bool { return c.len() == 1 })
	if got := other.Prefixes(); !slices.Equal(got, []netip.Prefix{v4}) {
		t.Errorf("a neighbour is told %v", got)
	}
	var many []netip.Prefix
	for i := range 60 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i), 0}), 24))
	}
	r.Announce(nil, many...)
	bgptest.Eventually(t, 5*time.Second, "the session is over", func() bool {
		list, err := s.Neighbours()
		return err == nil && list[0].State == bgp.TooManyPrefixes && list[1].State == bgp.Established
	})
	bgptest.Eventually(t, 5*time.Second, "what it announced is gone", func() bool { return c.len() == 0 })
	time.Sleep(3 * time.Second)
	if list, err := s.Neighbours(); err != nil || list[0].State != bgp.TooManyPrefixes {
		t.Errorf("it is let in again at once: %+v %v", list, err)
	}
	for _, x := range c.all {
		if x.Prefix == v4 {
			t.Errorf("our own is told: %+v", x)
		}
	}
}

// With a transit, what one neighbour says is told to the others, with our AS and
// address; what is inside of an aggregate only to those who may hear it.
func TestLA5_Transit(t *testing.T) {
	r, n := neighbour(t, nil)
	other, m := neighbour(t, func(c *bgptest.Config) { c.AS, c.Addr, c.RouterID = 64502, addr("127.0.0.3"), addr("192.0.2.3") })
	equal, e := neighbour(t, func(c *bgptest.Config) { c.AS, c.Addr, c.RouterID = 64503, addr("127.0.0.4"), addr("192.0.2.4") })
	e.MoreSpecifics = true
	s := run(t, bgp.Config{Neighbours: []bgp.Neighbour{n, m, e}, Transit: &bgp.Transit{Aggregates: []netip.Prefix{v4, v6}}})
	own := pfx("10.9.0.0/16")
	if err := s.Announce([]bgp.Route{{Prefix: v4}, {Prefix: own}}); err != nil {
		t.Fatal(err)
	}
	outside, inside := pfx("203.0.113.0/24"), pfx("10.1.0.0/16")
	r.Announce(nil, outside, inside)
	bgptest.Eventually(t, 20*time.Second, "an equal hears all", func() bool {
		return slices.Equal(equal.Prefixes(), []netip.Prefix{v4, inside, own, outside})
	})
	bgptest.Eventually(t, 20*time.Second, "others hear the aggregate and what is outside", func() bool {
		return slices.Equal(other.Prefixes(), []netip.Prefix{v4, outside})
	})
	if got, want := other.Routes()[1], (bgptest.Route{Prefix: outside, From: home4, Best: true, NextHop: home4, ASPath: []uint32{64500, 64501}}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := r.Prefixes(); !slices.Equal(got, []netip.Prefix{v4}) {
		t.Errorf("who announced it is told %v", got)
	}
	list, err := s.Neighbours()
	if err != nil || list[1].Announced != 2 || list[2].Announced != 4 {
		t.Errorf("%+v, %v", list, err)
	}
	r.Withdraw(outside)
	bgptest.Eventually(t, 10*time.Second, "a withdrawal is passed on", func() bool { return slices.Equal(other.Prefixes(), []netip.Prefix{v4}) })
}

// A speaker that is killed and comes back has its routes kept at the neighbour,
// without a gap; one that does not come back, or that stops in order, has not.
func TestGracefulRestart(t *testing.T) {
	const restart = 12 * time.Second
	r, n := neighbour(t, func(c *bgptest.Config) { c.RestartTime = 60 })
	j := job{Routes: []bgp.Route{{Prefix: v4}, {Prefix: pfx("100.64.0.0/10")}}, Neighbours: []bgp.Neighbour{n}, RestartTime: restart}
	cmd := startChild(t, j)
	bgptest.Eventually(t, 20*time.Second, "the routes are there", func() bool { return len(r.Routes()) == 2 })
	kill := func() {
		cmd.Process.Kill()
		cmd.Wait()
		bgptest.Eventually(t, 5*time.Second, "the session ended", func() bool { return !r.Established() })
	}
	kill()
	if got := r.Routes(); len(got) != 2 || !got[0].Stale || !got[1].Stale {
		t.Errorf("not kept for a restart: %+v", got)
	}
	// One of the two does not come back.
	j.Routes = j.Routes[:1]
	cmd = startChild(t, j)
	bgptest.Eventually(t, 20*time.Second, "a new session, and the mark that ends the restart", func() bool {
		got := r.Prefixes()
		if !slices.Contains(got, v4) {
			t.Fatal("the route was lost on the way")
		}
		return r.Established() && len(got) == 1
	})
	if got := r.Routes(); len(got) != 1 || got[0].Stale {
		t.Errorf("after the restart: %+v", got)
	}
	kill()
	if len(r.Routes()) != 1 {
		t.Fatal("not kept the second time")
	}
	bgptest.Eventually(t, restart+5*time.Second, "given up", func() bool { return len(r.Routes()) == 0 })

	// Sessions wait until it is known what there is to announce.
	s := run(t, bgp.Config{Neighbours: []bgp.Neighbour{n}, RestartTime: time.Minute})
	time.Sleep(3 * time.Second)
	if list, err := s.Neighbours(); err != nil || list[0].State != bgp.Waiting || r.Established() {
		t.Errorf("before it is ready: %+v %v", list, err)
	}
	if err := s.Announce(j.Routes); err != nil {
		t.Fatal(err)
	}
	s.Ready()
	bgptest.Eventually(t, 20*time.Second, "a session", func() bool { return len(r.Routes()) == 1 })
	if list, err := s.Neighbours(); err != nil || !list[0].GracefulRestart {
		t.Errorf("%+v %v", list, err)
	}
	s.stop()
	bgptest.Eventually(t, 10*time.Second, "an orderly stop leaves nothing", func() bool { return len(r.Routes()) == 0 })
}

// Without somebody to wait for no port is open.
func TestNoPort(t *testing.T) {
	_, n := neighbour(t, nil)
	run(t, bgp.Config{Neighbours: []bgp.Neighbour{n}})
	time.Sleep(time.Second)
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/tcp", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mine := make(map[string]bool)
	links, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if to, err := os.Readlink("/proc/self/fd/" + l.Name()); err == nil {
			mine[to] = true
		}
	}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var slot, local, remote, state, q, tr, retr, uid, timeout, inode string
		fmt.Sscan(lines.Text(), &slot, &local, &remote, &state, &q, &tr, &retr, &uid, &timeout, &inode)
		if state == "0A" && mine["socket:["+inode+"]"] {
			t.Errorf("this process listens on %s", local)
		}
	}
}

func TestConfig(t *testing.T) {
	good := func() bgp.Config {
		return bgp.Config{AS: 64500, RouterID: addr("192.0.2.1"), Neighbours: []bgp.Neighbour{{Addr: peer4, AS: 64501}}}
	}
	if _, err := New(good()); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*bgp.Config){
		"no AS":                      func(c *bgp.Config) { c.AS = 0 },
		"an IPv6 router-id":          func(c *bgp.Config) { c.RouterID = addr("::1") },
		"half a second":              func(c *bgp.Config) { c.RestartTime = 500 * time.Millisecond },
		"a neighbour twice":          func(c *bgp.Config) { c.Neighbours = append(c.Neighbours, c.Neighbours[0]) },
		"nowhere to wait":            func(c *bgp.Config) { c.Neighbours[0].Passive = true },
		"a neighbour without an AS":  func(c *bgp.Config) { c.Neighbours[0].AS = 0 },
		"ends of different families": func(c *bgp.Config) { c.Neighbours[0].LocalAddr = addr("::1") },
		"a hold time of 1 s":         func(c *bgp.Config) { c.Neighbours[0].HoldTime = time.Second },
		"no bound of prefixes":       func(c *bgp.Config) { c.Neighbours[0].MaxPrefixes = 1 << 30 },
	} {
		c := good()
		edit(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	s, err := New(good())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Announce([]bgp.Route{{Prefix: netip.MustParsePrefix("10.1.0.0/8")}}); err == nil || len(s.wanted) != 0 {
		t.Errorf("host bits: %v, %v", err, s.wanted)
	}
}
