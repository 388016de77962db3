// Package bgp is what the rest of Eidolon says and hears of BGP (RFC 4271):
// neighbours, prefixes that are announced, and prefixes that are received. Who
// speaks it is in the room speaker, so that nobody else gets to see, or links, the
// library that does.
package bgp

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"
)

// Port is that of BGP (RFC 4271 section 8.2.1).
const Port = 179

// Defaults and limits.
const (
	DefaultHoldTime    = 90 * time.Second
	DefaultMaxPrefixes = 1000
	MaxMaxPrefixes     = 100_000
	// MaxRestartTime is what the field of RFC 4724 section 3 can hold.
	MaxRestartTime = 4095 * time.Second
	// MaxRoutes is the largest number of routes that are announced.
	MaxRoutes = 100_000
)

// Config says who speaks BGP and with whom.
type Config struct {
	// AS is our autonomous system, 1 to 2^32-2, and RouterID the BGP identifier,
	// an IPv4 address.
	AS       uint32
	RouterID netip.Addr
	// Listen are the addresses where neighbours are waited for, on ListenPort; none
	// opens no port. ListenPort 0 is Port.
	Listen     []netip.Addr
	ListenPort uint16
	Neighbours []Neighbour
	// RestartTime, if not 0, asks the neighbours to keep what was announced for so
	// long when the session breaks down without a word, because the process was
	// killed or its host restarts (RFC 4724): whole seconds, up to MaxRestartTime.
	RestartTime time.Duration
	// Transit, if set, has what one neighbour says passed on to the others.
	Transit *Transit
	// OnRoutes is called, if set, with what is received: the best route to each
	// prefix as it changes, in order, from one goroutine. It owns the slice.
	OnRoutes func([]Received) `json:"-"`
	// Logger gets events; nil discards them.
	Logger *slog.Logger `json:"-"`
}

// Transit is how routes are passed on.
type Transit struct {
	// Aggregates keep what is inside of them, and is not equal, from neighbours
	// without MoreSpecifics, whether it is ours or was received.
	Aggregates []netip.Prefix
}

// Neighbour is a router that there is a session with. The session carries the
// prefixes of the address family of its address.
type Neighbour struct {
	Addr netip.Addr
	AS   uint32 // ours for IBGP
	// Port is where it waits for us, unless Passive; 0 is Port.
	Port uint16
	// Passive waits for it to connect to us.
	Passive bool
	// Password authenticates the segments of TCP (RFC 2385); "" for none.
	Password string `json:"-"`
	// LocalAddr is our end of the session, and so the next hop that it is told;
	// not valid for the address of the way to it.
	LocalAddr netip.Addr
	// HoldTime is how long it may be silent: 3 s to 65535 s, 0 for
	// DefaultHoldTime.
	HoldTime time.Duration
	// Multihop is the TTL of what is sent to a neighbour in another AS that is
	// not on a link with us; 0 where it is.
	Multihop uint8
	// MaxPrefixes is how many prefixes it may announce; with more the session ends
	// for some minutes. 0 is DefaultMaxPrefixes.
	MaxPrefixes int
	// MoreSpecifics has it told what is inside of our aggregates too, because it
	// announces the same ones.
	MoreSpecifics bool
}

// Route is a prefix that is announced.
type Route struct {
	Prefix netip.Prefix
	// OriginAS is the AS at the end of the AS_PATH; 0, or our own, for a path
	// that begins with us.
	OriginAS uint32
	// Communities are those of RFC 1997, LargeCommunities of RFC 8092.
	Communities      []uint32
	LargeCommunities [][3]uint32
}

// Equal reports whether r and o say the same.
func (r *Route) Equal(o *Route) bool {
	return r.Prefix == o.Prefix && r.OriginAS == o.OriginAS &&
		slices.Equal(r.Communities, o.Communities) && slices.Equal(r.LargeCommunities, o.LargeCommunities)
}

// WellKnown are names in the registry of communities.
var WellKnown = map[string]uint32{
	"graceful-shutdown": 0xffff0000, "blackhole": 0xffff029a,
	"no-export": 0xffffff01, "no-advertise": 0xffffff02, "no-export-subconfed": 0xffffff03, "no-peer": 0xffffff04,
}

// CommunityTexts returns all communities of r as they are configured and shown.
func (r *Route) CommunityTexts() (list []string) {
	for _, c := range r.Communities {
		text := fmt.Sprintf("%d:%d", c>>16, c&0xffff)
		for name, n := range WellKnown {
			if n == c {
				text = name
			}
		}
		list = append(list, text)
	}
	for _, c := range r.LargeCommunities {
		list = append(list, fmt.Sprintf("%d:%d:%d", c[0], c[1], c[2]))
	}
	return list
}

// Received is a change of the best route of the neighbours to a prefix.
type Received struct {
	Prefix netip.Prefix
	// Withdrawn says that there is none any more.
	Withdrawn bool
	From      netip.Addr // the neighbour
	NextHop   netip.Addr // not valid with Withdrawn
	OriginAS  uint32     // of the AS_PATH; 0 if that is empty
}

// State is that of a session (RFC 4271 section 8.2.2).
type State uint8

const (
	Idle State = iota
	Connect
	Active
	OpenSent
	OpenConfirm
	Established
	// TooManyPrefixes: the session is ended because the neighbour announced more
	// than it may, and begins again later.
	TooManyPrefixes
	// Waiting: sessions have not begun, because after a restart it is not known yet
	// what there is to announce.
	Waiting
)

var states = [...]string{"idle", "connect", "active", "open-sent", "open-confirm", "established", "too-many-prefixes", "waiting"}

// String returns the name used in the API and output.
func (s State) String() string {
	if int(s) < len(states) {
		return states[s]
	}
	return fmt.Sprintf("state-%d", uint8(s))
}

// NeighbourStatus is what is known of a neighbour.
type NeighbourStatus struct {
	Addr  netip.Addr
	AS    uint32
	State State
	// Since is when the session was established or, if it is not, when it
	// ended; zero if there was none.
	Since    time.Time
	RouterID netip.Addr // not valid while not known
	// GracefulRestart: both sides keep routes through a restart.
	GracefulRestart bool
	// Received counts the prefixes that it announces, Announced those that it was
	// told.
	Received, Announced   int
	UpdatesIn, UpdatesOut uint64
	// Flaps is how often an established session ended.
	Flaps uint32
}

// Complete returns a copy of c in which every default is filled in, or all that
// is wrong with c.
func (c Config) Complete() (Config, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.AS == 0 || c.AS == 1<<32-1 {
		bad("as %d: not a number of an autonomous system", c.AS)
	}
	if !c.RouterID.Is4() || c.RouterID.IsUnspecified() {
		bad("router_id %v: expected an IPv4 address", c.RouterID)
	}
	if c.RestartTime < 0 || c.RestartTime > MaxRestartTime || c.RestartTime%time.Second != 0 {
		bad("restart time %v: expected whole seconds, up to %v", c.RestartTime, MaxRestartTime)
	}
	if c.ListenPort == 0 {
		c.ListenPort = Port
	}
	c.Neighbours = slices.Clone(c.Neighbours)
	for i := range c.Neighbours {
		n := &c.Neighbours[i]
		n.Addr = n.Addr.Unmap()
		switch {
		case !n.Addr.IsValid() || n.Addr.IsUnspecified() || n.Addr.IsMulticast():
			bad("neighbour %v: not the address of a host", n.Addr)
		case slices.ContainsFunc(c.Neighbours[:i], func(o Neighbour) bool { return o.Addr == n.Addr }):
			bad("neighbour %v: given twice", n.Addr)
		}
		if n.AS == 0 || n.AS == 1<<32-1 {
			bad("neighbour %v: as %d: not a number of an autonomous system", n.Addr, n.AS)
		}
		if n.Passive && len(c.Listen) == 0 {
			bad("neighbour %v: passive, and there is no address to listen on", n.Addr)
		}
		if n.LocalAddr.IsValid() && n.LocalAddr.Is4() != n.Addr.Is4() {
			bad("neighbour %v: the local address %v is of the other family", n.Addr, n.LocalAddr)
		}
		if len(n.Password) > 80 { // TCP_MD5SIG_MAXKEYLEN
			bad("neighbour %v: the password has %d octets, expected 80 at most", n.Addr, len(n.Password))
		}
		if n.Port == 0 {
			n.Port = Port
		}
		if n.HoldTime == 0 {
			n.HoldTime = DefaultHoldTime
		}
		if n.HoldTime < 3*time.Second || n.HoldTime > 65535*time.Second || n.HoldTime%time.Second != 0 {
			bad("neighbour %v: hold time %v: expected whole seconds from 3s to 65535s", n.Addr, n.HoldTime)
		}
		if n.MaxPrefixes == 0 {
			n.MaxPrefixes = DefaultMaxPrefixes
		}
		if n.MaxPrefixes < 1 || n.MaxPrefixes > MaxMaxPrefixes {
			bad("neighbour %v: max prefixes %d: expected 1 to %d", n.Addr, n.MaxPrefixes, MaxMaxPrefixes)
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}
