package mapping

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// DefaultTTL is the Record TTL that Eidolon gives when nothing else is
// configured, in minutes. RFC 9301 names none; deployed routers use a day.
const DefaultTTL = 1440

// Negative TTLs of RFC 9301 sections 8.1, 8.3 and 8.4, in minutes.
const (
	NegativeTTL      = 15 // a hole: no such EID-prefix
	NotRegisteredTTL = 1  // configured, but nobody registered it
)

// PriorityUnusable is the priority of a locator that must not be used for
// unicast (RFC 9301 section 5.4).
const PriorityUnusable = 255

// LocatorFlags are the L, p and R bits of an RLOC-record, with the values that
// they have on the wire (RFC 9301 section 5.4).
type LocatorFlags uint8

const (
	// Reachable (R): the sender of the record has a route to the locator.
	Reachable LocatorFlags = 1 << iota
	// Probed (p): this is the locator that an RLOC-probe reply answers for.
	Probed
	// Local (L): the locator belongs to the replying ETR itself.
	Local
)

// String returns the letters of the set flags, "LpR" when all are set.
func (f LocatorFlags) String() string {
	var b strings.Builder
	for _, x := range []struct {
		f LocatorFlags
		s string
	}{{Local, "L"}, {Probed, "p"}, {Reachable, "R"}} {
		if f&x.f != 0 {
			b.WriteString(x.s)
		}
	}
	return b.String()
}

// Locator is one routing locator of a record with its traffic-engineering
// values (RFC 9301 section 5.4). It is comparable.
type Locator struct {
	// Addr is what packets are encapsulated to. It is not valid where there
	// is no such address: in a name alone, in an LCAF of an unknown type.
	Addr netip.Addr
	// Opaque holds, for a locator that is more or other than a plain IPv4 or
	// IPv6 address (any LCAF, a MAC address, a name), its AFI and address
	// octets as they were received: they are stored and passed on unchanged.
	// Addr is then the address in it, if any; wire.Address.RLOC says which.
	// Empty for a plain address.
	Opaque string
	// Priority is 0 to 254, lower first; 255 means never for unicast.
	Priority uint8
	// Weight shares traffic among locators of the same best priority.
	Weight uint8
	// MPriority and MWeight are the same for multicast tree joins.
	MPriority, MWeight uint8
	// Flags are L, p and R.
	Flags LocatorFlags
}

// MakeLocator returns a reachable unicast locator. 255 is the multicast
// priority: no joins.
func MakeLocator(a netip.Addr, priority, weight uint8) Locator {
	return Locator{Addr: a, Priority: priority, Weight: weight, MPriority: PriorityUnusable, Flags: Reachable}
}

// Usable reports whether unicast packets may be encapsulated to l: it has an
// address, R set, priority not 255 (RFC 9300 section 9, RFC 9301 section 5.4).
func (l Locator) Usable() bool {
	return l.Addr.IsValid() && l.Flags&Reachable != 0 && l.Priority != PriorityUnusable
}

// Compare orders locators as a record must carry them: all IPv4 before all
// IPv6, ascending addresses, then all others by their octets (RFC 9301
// section 5.5, RFC 8060 section 3).
func (l Locator) Compare(o Locator) int {
	if l.Opaque == "" && o.Opaque == "" {
		return l.Addr.Compare(o.Addr)
	}
	return cmp.Compare(l.Opaque, o.Opaque) // a plain address has none, and comes first
}

// String returns "192.0.2.1 1/100" and, if any, the flags.
func (l Locator) String() string {
	a := "opaque"
	if l.Addr.IsValid() {
		a = l.Addr.String()
	}
	s := fmt.Sprintf("%s %d/%d", a, l.Priority, l.Weight)
	if f := l.Flags.String(); f != "" {
		s += " " + f
	}
	return s
}

// ValidRLOC explains why a cannot be a locator, or returns nil. Locators are
// unicast addresses that an underlay routes: not unspecified, loopback,
// multicast or the limited broadcast address (RFC 9301 section 5.4).
// Link-local addresses are refused too: they name no place.
func ValidRLOC(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return fmt.Errorf("not an address")
	case a.Is4In6(), a.Zone() != "":
		return fmt.Errorf("%v is not a plain IPv4 or IPv6 address", a)
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(),
		a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%v is not an address that an underlay routes", a)
	}
	return nil
}

// Action says what an ITR does with packets for a record that has no locators
// (RFC 9301 section 5.4).
type Action uint8

const (
	NoAction        Action = iota // keep the entry, do not encapsulate
	NativelyForward               // forward unencapsulated
	SendMapRequest                // ask again, rate-limited, when packets match
	Drop                          // drop, no reason given
	DropPolicy                    // drop, policy denied
	DropAuth                      // drop, authentication failure
)

// MaxAction is the largest value that the three bits of ACT can carry; 6 and 7
// are unassigned and are treated as Drop.
const MaxAction = 7

var actionNames = [...]string{"no-action", "natively-forward", "send-map-request", "drop", "drop-policy-denied", "drop-auth-failure"}

// String returns the name used in configuration, the API and output.
func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return fmt.Sprintf("action-%d", uint8(a))
}

// MarshalText returns the name, so that logs and JSON have it too.
func (a Action) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// ParseAction is the inverse of String for the assigned actions.
func ParseAction(s string) (Action, error) {
	if i := slices.Index(actionNames[:], s); i >= 0 {
		return Action(i), nil
	}
	return 0, fmt.Errorf("unknown action %q, expected one of %s", s, strings.Join(actionNames[:], ", "))
}

// Record binds an EID to the locators of its site (the EID-record of RFC 9301
// section 5.4). A Record that is in a Table or a Cache is shared by readers and
// must not be changed: Clone it.
type Record struct {
	EID EID
	// TTL is in minutes. 0 withdraws the record; TTLReceiver leaves the
	// choice to the receiver.
	TTL uint32
	// Action matters only when Locators is empty.
	Action Action
	// Authoritative is the A bit: only an ETR sets it, never a map-server.
	Authoritative bool
	// Version is the 12-bit map-version (RFC 9302), 0 for none.
	Version uint16
	// Locators is sorted by Locator.Compare.
	Locators []Locator
}

// TTLReceiver is the TTL value that lets the receiver decide.
const TTLReceiver = 0xffffffff

// Lifetime returns the TTL as a duration; DefaultTTL stands in for
// TTLReceiver, and a week is the longest.
func (r *Record) Lifetime() time.Duration {
	const longest = 7 * 24 * time.Hour
	switch {
	case r.TTL == TTLReceiver:
		return DefaultTTL * time.Minute
	case r.TTL >= uint32(longest/time.Minute): // a Duration can't hold every TTL
		return longest
	}
	return time.Duration(r.TTL) * time.Minute
}

// Negative reports whether r has no locators.
func (r *Record) Negative() bool { return len(r.Locators) == 0 }

// Clone returns a copy that shares nothing with r.
func (r *Record) Clone() *Record {
	c := *r
	c.Locators = slices.Clone(r.Locators)
	return &c
}

// Equal reports whether r and o say the same.
func (r *Record) Equal(o *Record) bool {
	return r.EID == o.EID && r.TTL == o.TTL && r.Action == o.Action && r.Authoritative == o.Authoritative &&
		r.Version == o.Version && slices.Equal(r.Locators, o.Locators)
}

// SortLocators puts the locators in the order that the wire requires.
func (r *Record) SortLocators() { slices.SortFunc(r.Locators, Locator.Compare) }

// NegativeRecord returns a record without locators.
func NegativeRecord(e EID, a Action, ttl uint32) *Record {
	return &Record{EID: e, TTL: ttl, Action: a}
}

// String returns one line for logs and tests.
func (r *Record) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v ttl %dm", r.EID, r.TTL)
	if r.Negative() {
		fmt.Fprintf(&b, " %v", r.Action)
	}
	for _, l := range r.Locators {
		fmt.Fprintf(&b, ", %v", l)
	}
	return b.String()
}
