// Package testnet is a network of UDP nodes in memory, for tests of control
// machines in virtual time (testing/synctest). A node implements udp.Conn; the
// network between the nodes has latency, jitter, loss, duplication and
// partitions, all drawn from one seed that a failing test prints, and it keeps
// every datagram for assertions.
//
// Two datagrams of one path that are due at the same instant arrive in the
// order in which they were sent, so a path without jitter never reorders.
package testnet

import (
	"container/heap"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/udp"
)

var _ udp.Conn = (*Conn)(nil)

// queueLen is how many datagrams wait in a node for Read; more are dropped, as
// a full socket buffer drops them.
const queueLen = 4096

// SeedVariable is the environment variable that replays a run: it holds the
// seed that a failed test printed.
const SeedVariable = "TESTNET_SEED"

// Path says what happens to datagrams on their way. The zero Path delivers at
// once and loses nothing.
type Path struct {
	// Latency is the one-way delay.
	Latency time.Duration
	// Jitter adds a random delay from 0 up to (not including) this, for each
	// datagram by itself, so that datagrams overtake each other.
	Jitter time.Duration
	// Loss and Duplicate are probabilities from 0 to 1. Each copy of a
	// duplicated datagram has its own jitter.
	Loss, Duplicate float64
	// Down is a partition: nothing gets through.
	Down bool
}

// Fate says what became of a datagram.
type Fate uint8

const (
	// Sent datagrams were given to their destination, or are under way.
	Sent Fate = iota
	// Lost by chance (Path.Loss).
	Lost
	// Blocked by a partition (Path.Down) or by the filter.
	Blocked
	// Unreachable: no node had the destination address when it arrived.
	Unreachable
	// Overflow: the destination did not read fast enough.
	Overflow
)

// String returns the fate in lower case.
func (f Fate) String() string {
	return [...]string{"sent", "lost", "blocked", "unreachable", "overflow"}[f]
}

// Datagram is one datagram as a node sent it.
type Datagram struct {
	At       time.Time // when it was sent
	Src, Dst netip.AddrPort
	Data     []byte // shared: do not change
	Fate     Fate
}

// String returns time, addresses, length and fate.
func (d Datagram) String() string {
	return fmt.Sprintf("%s %v > %v len %d %v", d.At.Format("15:04:05.000"), d.Src, d.Dst, len(d.Data), d.Fate)
}

// Network connects the nodes of one test. Its methods may be called from
// several goroutines.
type Network struct {
	mu      sync.Mutex
	rng     *rand.Rand
	base    Path
	paths   map[[2]netip.Addr]Path
	filter  func(Datagram) bool
	nodes   map[netip.AddrPort]*Conn
	sent    []*Datagram
	flying  flights
	flights uint64
}

// New makes a network whose every path is base. The seed is random, or taken
// from the environment (SeedVariable), and printed when the test fails. Inside
// a synctest bubble, call it inside the bubble.
func New(t testing.TB, base Path) *Network {
	seed := rand.Uint64()
	if s := os.Getenv(SeedVariable); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("%s is not a number: %v", SeedVariable, err)
		}
		seed = n
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("testnet: replay with %s=%d", SeedVariable, seed)
		}
	})
	return NewSeeded(seed, base)
}

// NewSeeded is New with a given seed.
func NewSeeded(seed uint64, base Path) *Network {
	return &Network{
		rng:   rand.New(rand.NewPCG(seed, 0)),
		base:  base,
		paths: make(map[[2]netip.Addr]Path),
		nodes: make(map[netip.AddrPort]*Conn),
	}
}

// SetBase changes what holds for every path that SetPath does not name.
// Datagrams that are under way keep their arrival time.
func (n *Network) SetBase(p Path) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.base = p
}

// SetPath gives the datagrams from src to dst a path of their own; the other
// direction stays as it is.
func (n *Network) SetPath(src, dst netip.Addr, p Path) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.paths[[2]netip.Addr{src, dst}] = p
}

// Partition blocks, or with up heals, all datagrams between the two addresses
// in both directions.
func (n *Network) Partition(a, b netip.Addr, down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, k := range [][2]netip.Addr{{a, b}, {b, a}} {
		p := n.path(k[0], k[1])
		p.Down = down
		n.paths[k] = p
	}
}

// SetFilter installs a function that sees every datagram when it is sent and
// returns false to drop it (Blocked); nil removes it. It is called with the
// network locked and must not call back into it.
func (n *Network) SetFilter(f func(Datagram) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.filter = f
}

// Datagrams returns all datagrams sent so far, in the order of sending.
func (n *Network) Datagrams() []Datagram {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]Datagram, len(n.sent))
	for i, d := range n.sent {
		out[i] = *d
	}
	return out
}

// Forget drops what Datagrams would return.
func (n *Network) Forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent = nil
}

// Listen makes a node with the given addresses and ports. An address that is
// already in use is an error.
func (n *Network) Listen(addrs ...netip.AddrPort) (*Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(addrs) == 0 {
		return nil, fmt.Errorf("testnet: a node needs an address")
	}
	for i, a := range addrs {
		if !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified() {
			return nil, fmt.Errorf("testnet: %v is not an address and port of a node", a)
		}
		if n.nodes[a] != nil || slices.Contains(addrs[:i], a) {
			return nil, fmt.Errorf("testnet: address %v is in use", a)
		}
	}
	c := &Conn{
		net:    n,
		addrs:  slices.Clone(addrs),
		queue:  make(chan *Datagram, queueLen),
		closed: make(chan struct{}),
	}
	for _, a := range addrs {
		n.nodes[a] = c
	}
	return c, nil
}

// MustListen is Listen that ends the test on an error.
func (n *Network) MustListen(t testing.TB, addrs ...string) *Conn {
	t.Helper()
	parsed := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		parsed[i] = netip.MustParseAddrPort(a)
	}
	c, err := n.Listen(parsed...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (n *Network) path(src, dst netip.Addr) Path {
	if p, ok := n.paths[[2]netip.Addr{src, dst}]; ok {
		return p
	}
	return n.base
}

// send decides the fate of a datagram and puts its copies on their way.
func (n *Network) send(d *Datagram) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent = append(n.sent, d)
	p := n.path(d.Src.Addr(), d.Dst.Addr())
	// The draws do not depend on each other, so that one datagram more or
	// less of another kind does not change the rest of a replay.
	lost, dup := n.rng.Float64() < p.Loss, n.rng.Float64() < p.Duplicate
	switch {
	case p.Down, n.filter != nil && !n.filter(*d):
		d.Fate = Blocked
		return
	case lost:
		d.Fate = Lost
		return
	}
	copies := 1
	if dup {
		copies = 2
	}
	for range copies {
		delay := p.Latency
		if p.Jitter > 0 {
			delay += time.Duration(n.rng.Int64N(int64(p.Jitter)))
		}
		n.flights++
		heap.Push(&n.flying, flight{at: d.At.Add(delay), seq: n.flights, d: d})
		if delay > 0 {
			time.AfterFunc(delay, n.arrive)
		}
	}
	n.deliver(d.At)
}

// arrive delivers what is due. Whichever timer runs first delivers for all of
// the same instant, so that their order does not depend on the scheduler.
func (n *Network) arrive() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deliver(time.Now())
}

func (n *Network) deliver(now time.Time) {
	for len(n.flying) > 0 && !n.flying[0].at.After(now) {
		d := heap.Pop(&n.flying).(flight).d
		c := n.nodes[d.Dst]
		if c == nil {
			d.Fate = Unreachable
			continue
		}
		select {
		case c.queue <- d:
		default:
			d.Fate = Overflow
		}
	}
}

// Addrs returns the addresses that have a node, in order.
func (n *Network) Addrs() []netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.SortedFunc(maps.Keys(n.nodes), netip.AddrPort.Compare)
}

// Conn is one node; it implements udp.Conn.
type Conn struct {
	net    *Network
	addrs  []netip.AddrPort
	queue  chan *Datagram
	closed chan struct{}
	once   sync.Once
}

// Read returns the next datagram: how many octets were copied to buf, who sent
// it, and to which of the node's addresses. A datagram longer than buf is cut.
// It blocks until there is one, and fails with net.ErrClosed after Close.
func (c *Conn) Read(buf []byte) (int, netip.AddrPort, netip.AddrPort, error) {
	select {
	case <-c.closed:
		return 0, netip.AddrPort{}, netip.AddrPort{}, net.ErrClosed
	default:
	}
	select {
	case d := <-c.queue:
		return copy(buf, d.Data), d.Src, d.Dst, nil
	case <-c.closed:
		return 0, netip.AddrPort{}, netip.AddrPort{}, net.ErrClosed
	}
}

// Write sends b, which it copies. src must be an address of the node, with or
// without (0) its port; the zero src stands for the first of dst's family.
func (c *Conn) Write(b []byte, src, dst netip.AddrPort) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
	}
	if !dst.IsValid() || dst.Port() == 0 {
		return fmt.Errorf("testnet: cannot send to %v", dst)
	}
	i := slices.IndexFunc(c.addrs, func(a netip.AddrPort) bool {
		if src == (netip.AddrPort{}) {
			return a.Addr().Is4() == dst.Addr().Is4()
		}
		return a == src || src.Port() == 0 && a.Addr() == src.Addr()
	})
	if i < 0 {
		return fmt.Errorf("testnet: node %v has no address %v to send to %v", c.addrs, src, dst)
	}
	if c.addrs[i].Addr().Is4() != dst.Addr().Is4() {
		return fmt.Errorf("testnet: %v and %v are of different families", src, dst)
	}
	c.net.send(&Datagram{At: time.Now(), Src: c.addrs[i], Dst: dst, Data: slices.Clone(b)})
	return nil
}

// Close removes the node from the network; its addresses may be used again.
// Closing twice is a no-op.
func (c *Conn) Close() error {
	c.once.Do(func() {
		c.net.mu.Lock()
		defer c.net.mu.Unlock()
		for _, a := range c.addrs {
			delete(c.net.nodes, a)
		}
		close(c.closed)
	})
	return nil
}

// flight is one copy of a datagram under way.
type flight struct {
	at  time.Time
	seq uint64
	d   *Datagram
}

type flights []flight

func (f flights) Len() int { return len(f) }
func (f flights) Less(i, j int) bool {
	if !f[i].at.Equal(f[j].at) {
		return f[i].at.Before(f[j].at)
	}
	return f[i].seq < f[j].seq
}
func (f flights) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *flights) Push(x any)   { *f = append(*f, x.(flight)) }
func (f *flights) Pop() any {
	old := *f
	last := old[len(old)-1]
	old[len(old)-1] = flight{}
	*f = old[:len(old)-1]
	return last
}
