// Package uplink watches the interfaces toward the providers, and has the
// kernel send packets by the provider whose address they carry.
//
// Each uplink has a routing table of its own and each of its addresses a rule:
//
//	1010  from RLOC  lookup TABLE
//	TABLE: default via the gateway of this uplink
//	       all routes of the main table but those by other uplinks
//
// A provider drops packets with another provider's address (RFC 2827), so the
// main table, with its one default route, is not enough for a site with two.
package uplink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Protocol is the routing protocol number of the routes and rules of this
// package. Nothing with another number is touched.
const Protocol = 142

// DefaultTable is the kernel routing table of the first uplink.
const DefaultTable = 4400

// Limits and intervals that are ours.
const (
	rulePriority = 1010
	// gather is how long after an event others are waited for: an interface
	// that comes up causes several at once.
	gather = 2 * time.Millisecond
	// poll is how often the carriers are looked at: the kernel tells of the
	// second change within a second only when that is over.
	poll = 50 * time.Millisecond
	// resync is how often the state is read without an event.
	resync = 30 * time.Second
	// maxRoutes is how many routes of the main table a table gets; from a
	// larger one only the connected networks and the default are taken.
	maxRoutes = 4096
)

// Interface is an uplink by its name.
type Interface struct {
	Name string
	// Gateway4 and Gateway6 are the routers of the provider. Without one, that
	// of the default route by this interface in the main table is taken, and
	// on a point-to-point link none is needed.
	Gateway4, Gateway6 netip.Addr
}

// Config says what to watch.
type Config struct {
	// Interfaces are uplinks with all of their addresses, whichever they are.
	Interfaces []Interface
	// Addresses make the interface that has one of them an uplink with these
	// addresses, beside what Interfaces says.
	Addresses []netip.Addr
	// Table is the kernel routing table of the first uplink; the others take
	// the numbers after it. 0 means DefaultTable.
	Table int
	// Logger gets what happens rarely; nil discards.
	Logger *slog.Logger
}

// State is an uplink as it is now.
type State struct {
	Name string
	// Up reports that the interface is on and has a carrier.
	Up bool
	// Addrs are the addresses that packets can be sent from: of a global scope,
	// not tentative, and not temporary ones (RFC 8981). Those that are still
	// preferred come first.
	Addrs []netip.Addr
}

// Watcher knows the uplinks. Its methods but Configure and AppendCounters are for
// one goroutine.
type Watcher struct {
	cfg    Config
	log    *slog.Logger
	next   atomic.Pointer[Config] // of Configure
	h      *netlink.Handle
	events *nl.NetlinkSocket
	kicks  chan struct{}
	now    []State
	tables map[string]int // by interface; a number stays with its name
	large  bool           // the main table is too large, and that was said
	closed atomic.Bool

	statsMu   sync.Mutex
	stats     *os.File // /proc/net/dev of the namespace that the watcher was opened in
	statsText []byte
}

// Open reads the state and sets up tables and rules; what an earlier run left
// of them and is not wanted is removed. It needs CAP_NET_ADMIN. Run follows, or
// Close.
func Open(cfg Config) (*Watcher, error) {
	if cfg.Table == 0 {
		cfg.Table = DefaultTable
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Watcher{cfg: cfg, log: cfg.Logger, kicks: make(chan struct{}, 1), tables: make(map[string]int)}
	var err error
	if w.h, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	if w.stats, err = os.Open("/proc/thread-self/net/dev"); err != nil {
		w.h.Close()
		return nil, err
	}
	// Before the state is read, so that nothing is missed.
	w.events, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		w.h.Close()
		w.stats.Close()
		return nil, fmt.Errorf("subscribe to netlink events: %w", err)
	}
	if _, err := w.sync(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// Configure replaces Interfaces and Addresses. It may be called from any
// goroutine, and takes effect soon after.
func (w *Watcher) Configure(cfg Config) {
	w.next.Store(&cfg)
	w.kick()
}

// Counters are the packets that an uplink carried since its interface is there,
// whatever they are.
type Counters struct {
	Name           string
	Sent, Received uint64
}

// AppendCounters appends the counters of the named interfaces, of those that
// are there, to buf. It may be called from any goroutine.
//
// They are read from the file, not by netlink: the latter waits for a lock that
// a machine which makes and removes network namespaces holds for seconds, and
// meanwhile a dead uplink would not be seen.
func (w *Watcher) AppendCounters(buf []Counters, names []string) []Counters {
	w.statsMu.Lock()
	defer w.statsMu.Unlock()
	text := w.statsText[:0]
	for {
		text = slices.Grow(text, 4096)
		n, err := w.stats.ReadAt(text[len(text):cap(text)], int64(len(text)))
		text = text[:len(text)+n]
		if n == 0 || err != nil {
			break
		}
	}
	w.statsText = text
	return appendCounters(buf, text, names)
}

// appendCounters reads the text of /proc/net/dev: of each interface eight numbers
// of what was received, octets and packets first, and eight of what was sent.
func appendCounters(buf []Counters, text []byte, names []string) []Counters {
	for line := range bytes.Lines(text) {
		name, rest, ok := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		if !ok || !slices.Contains(names, string(name)) {
			continue
		}
		f := bytes.Fields(rest)
		if len(f) < 10 {
			continue
		}
		received, rerr := strconv.ParseUint(string(f[1]), 10, 64)
		sent, serr := strconv.ParseUint(string(f[9]), 10, 64)
		if rerr == nil && serr == nil {
			buf = append(buf, Counters{string(name), sent, received})
		}
	}
	return buf
}

func (w *Watcher) kick() {
	select {
	case w.kicks <- struct{}{}:
	default:
	}
}

// Current returns the state as of the last look. The slices must not be
// changed.
func (w *Watcher) Current() []State { return w.now }

// Run calls changed with the whole state whenever it changes, until ctx ends;
// then it removes tables and rules. changed should not take long.
func (w *Watcher) Run(ctx context.Context, changed func([]State)) error {
	closed := make(chan struct{})
	go func() { defer close(closed); w.listen() }()
	tick, look := time.NewTicker(resync), time.NewTicker(poll)
	defer tick.Stop()
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			err := w.Close()
			<-closed
			return err
		case <-w.kicks:
			time.Sleep(gather)
			select {
			case <-w.kicks:
			default:
			}
		case <-look.C:
			if !w.carrierChanged() {
				continue
			}
		case <-tick.C:
		}
		different, err := w.sync()
		if err != nil {
			w.log.Warn("uplinks: what the kernel has could not be brought in line; trying again", "err", err)
		}
		if different {
			w.log.Info("uplinks changed", "uplinks", fmt.Sprint(w.now))
			changed(w.now)
		}
	}
}

// listen turns events into kicks: what they say is read again, as a whole, so
// that one that is lost does no harm.
func (w *Watcher) listen() {
	for {
		_, _, err := w.events.Receive()
		if w.closed.Load() {
			return
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			w.log.Debug("netlink event", "err", err)
			time.Sleep(gather)
		}
		w.kick()
	}
}

// Close removes tables and rules. It is for a Watcher that does not run.
func (w *Watcher) Close() error {
	err := apply(w.h, nil, nil)
	w.closed.Store(true)
	w.events.Close()
	w.h.Close()
	w.stats.Close()
	return err
}

// link is what sync needs of an interface.
type link struct {
	name  string
	index int
	up    bool
	ptp   bool
	addrs []netip.Addr // usable ones, the preferred first
}

// sync reads the state, and brings tables and rules in line with it. It reports
// whether the state is another one than before. The state is taken also when
// there is an error, unless it could not be read.
func (w *Watcher) sync() (different bool, err error) {
	if c := w.next.Swap(nil); c != nil {
		w.cfg.Interfaces, w.cfg.Addresses = slices.Clone(c.Interfaces), slices.Clone(c.Addresses)
	}
	links, err := w.links()
	if err != nil {
		return false, err
	}
	next, uplinks := w.states(links)
	different = !slices.EqualFunc(w.now, next, func(a, b State) bool {
		return a.Name == b.Name && a.Up == b.Up && slices.Equal(a.Addrs, b.Addrs)
	})
	w.now = next
	routes, rules, err := w.wanted(uplinks)
	if err != nil {
		return different, err
	}
	return different, apply(w.h, routes, rules)
}

// isUp reports whether an interface is on, has a carrier, and is not waiting for
// anything (RFC 2863).
func isUp(flags uint32) bool {
	const all = unix.IFF_UP | unix.IFF_LOWER_UP | unix.IFF_RUNNING
	return flags&all == all
}

// carrierChanged reports whether an uplink is up that was not at the last look,
// or the other way round.
func (w *Watcher) carrierChanged() bool {
	return slices.ContainsFunc(w.now, func(s State) bool {
		l, err := w.h.LinkByName(s.Name)
		return err == nil && isUp(l.Attrs().RawFlags) != s.Up
	})
}

func (w *Watcher) links() (map[string]*link, error) {
	list, err := w.h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	out, byIndex := make(map[string]*link), make(map[int]*link)
	for _, l := range list {
		a := l.Attrs()
		x := &link{name: a.Name, index: a.Index, up: isUp(a.RawFlags), ptp: a.RawFlags&unix.IFF_POINTOPOINT != 0}
		out[x.name], byIndex[x.index] = x, x
	}
	addrs, err := w.h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the addresses: %w", err)
	}
	for _, preferred := range [...]bool{true, false} {
		for _, a := range addrs {
			l := byIndex[a.LinkIndex]
			ip, ok := netip.AddrFromSlice(a.IP)
			if l == nil || !ok || !usable(ip.Unmap(), a) || preferred != (a.Flags&unix.IFA_F_DEPRECATED == 0) {
				continue
			}
			l.addrs = append(l.addrs, ip.Unmap())
		}
	}
	return out, nil
}

// usable reports whether an address can be an RLOC now.
func usable(ip netip.Addr, a netlink.Addr) bool {
	bad := unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	if ip.Is6() { // the same bit means secondary for IPv4
		bad |= unix.IFA_F_TEMPORARY
	}
	if a.Flags&unix.IFA_F_OPTIMISTIC != 0 {
		bad &^= unix.IFA_F_TENTATIVE
	}
	return ip.IsGlobalUnicast() && a.Flags&bad == 0
}

// uplink is one with what its table is made of.
type uplink struct {
	*link
	Interface
	table int
	addrs []netip.Addr
}

// states returns the uplinks: those of the configuration, then others that have
// one of its addresses, by name.
func (w *Watcher) states(links map[string]*link) ([]State, []uplink) {
	var states []State
	var uplinks []uplink
	add := func(i Interface, l *link, addrs []netip.Addr) {
		s := State{Name: i.Name}
		if l != nil {
			s.Up, s.Addrs = l.up, addrs
			uplinks = append(uplinks, uplink{l, i, w.table(i.Name), addrs})
		}
		states = append(states, s)
	}
	named := func(name string) bool {
		return slices.ContainsFunc(w.cfg.Interfaces, func(i Interface) bool { return i.Name == name })
	}
	for _, i := range w.cfg.Interfaces {
		l := links[i.Name]
		var addrs []netip.Addr
		if l != nil {
			addrs = l.addrs
		}
		add(i, l, addrs)
	}
	var others []string
	for name, l := range links {
		if !named(name) && slices.ContainsFunc(l.addrs, func(a netip.Addr) bool { return slices.Contains(w.cfg.Addresses, a) }) {
			others = append(others, name)
		}
	}
	slices.Sort(others)
	var taken []netip.Addr // an address that two interfaces have is the first one's
	for _, s := range states {
		taken = append(taken, s.Addrs...)
	}
	for _, name := range others {
		var addrs []netip.Addr
		for _, a := range links[name].addrs {
			if slices.Contains(w.cfg.Addresses, a) && !slices.Contains(taken, a) {
				addrs, taken = append(addrs, a), append(taken, a)
			}
		}
		if len(addrs) > 0 {
			add(Interface{Name: name}, links[name], addrs)
		}
	}
	return states, uplinks
}

// table returns the routing table of an interface, the same for as long as the
// process lives.
func (w *Watcher) table(name string) int {
	t, ok := w.tables[name]
	if !ok {
		t = w.cfg.Table + len(w.tables)
		w.tables[name] = t
	}
	return t
}
