package dptest

import (
	"net/netip"
	"sync"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// The addresses of the corpus. A plane that is tested with a real underlay has
// Ours4 and Ours6; all others are behind one router.
var (
	Ours4, Ours6   = addr("192.0.2.1"), addr("2001:db8:ffff::1")
	Far4, Far6     = addr("198.51.100.1"), addr("2001:db8:eeee::1")
	Other4, Other6 = addr("198.51.100.2"), addr("2001:db8:eeee::2")
	// Small4 and Small6 are behind paths of SmallMTU4 and SmallMTU6 octets.
	Small4, Small6 = addr("198.51.100.3"), addr("2001:db8:eeee::3")
)

// Path MTUs in octets. Toward all locators but the small ones it is MTU.
const (
	MTU       = 1500
	SmallMTU4 = 1000
	SmallMTU6 = 1300
)

// Instances of the corpus besides 0: any, and the largest.
const (
	Red  = 7
	Last = 1<<24 - 1
)

var addr, eid = netip.MustParseAddr, mapping.MustParseEID

// State is what a plane was told before a case's packet comes.
type State struct {
	Name string
	// Config is that of the core. Where its Miss is not the zero value, which is
	// to drop, Run looks at what is held, too.
	Config  dataplane.Config
	Sources []dataplane.Source
	Proxies dataplane.Proxies
}

// Instances of every state.
func (s *State) Instances() []uint32 { return []uint32{0, Red, Last} }

// Locals returns the EID-prefixes of the site, with their versions.
func (s *State) Locals() []dataplane.LocalEID {
	var list []dataplane.LocalEID
	for _, e := range []string{
		"10.1.0.0/16", "2001:db8:1::/48", "[7]10.7.0.0/16", "[7]2001:db8:7::/48", "[16777215]10.9.0.0/16", "[16777215]2001:db8:9::/48",
	} {
		list = append(list, dataplane.LocalEID{EID: eid(e), Version: 5})
	}
	return append(list, dataplane.LocalEID{EID: eid("10.11.0.0/16")}) // has no version
}

// Tell tells a FIB everything of the state, at now.
func (s *State) Tell(f *dataplane.FIB, now time.Time) {
	f.SetDefaultMTU(MTU)
	f.SetLocal(s.Locals())
	f.SetSources(s.Sources)
	f.SetProxies(s.Proxies)
	f.Apply(Mappings(now))
	f.SetRouteMTU(Small4, SmallMTU4, now)
	f.SetRouteMTU(Small6, SmallMTU6, now)
}

// Mappings are those of every state, at now.
func Mappings(now time.Time) []mapping.CacheChange {
	var list []mapping.CacheChange
	add := func(lifetime time.Duration, r *mapping.Record) {
		r.SortLocators()
		list = append(list, mapping.CacheChange{EID: r.EID, Record: r, Expires: now.Add(lifetime)})
	}
	to := func(e string, locs ...mapping.Locator) *mapping.Record {
		return &mapping.Record{EID: eid(e), TTL: 60, Version: 3, Locators: locs}
	}
	at := func(a netip.Addr) mapping.Locator { return mapping.MakeLocator(a, 1, 100) }
	never, down := mapping.MakeLocator(Far4, mapping.PriorityUnusable, 100), at(Far4)
	down.Flags = 0

	for _, r := range []*mapping.Record{
		to("10.2.0.0/16", at(Far4)), to("2001:db8:2::/48", at(Far4)),
		to("10.3.0.0/16", at(Far6)), to("2001:db8:3::/48", at(Far6)),
		to("10.2.9.0/24", at(Other4)), to("10.2.9.9/32", at(Other6)), // more specific
		to("2001:db8:2:9::/64", at(Other6)), to("2001:db8:2:9::9/128", at(Other4)),
		to("10.6.4.0/24", at(Small4)), to("2001:db8:6:4::/64", at(Small4)),
		to("10.6.6.0/24", at(Small6)), to("2001:db8:6:6::/64", at(Small6)),
		// Which of the locators.
		to("10.5.1.0/24", never, at(Other4)), to("10.5.2.0/24", down, at(Other4)),
		to("10.5.3.0/24", mapping.MakeLocator(Far4, 2, 100), mapping.MakeLocator(Other6, 1, 0)),
		to("10.5.4.0/24", mapping.MakeLocator(Far4, 1, 0), mapping.MakeLocator(Other4, 1, 1)),
		to("10.5.5.0/24", never), to("10.5.6.0/24", down), to("2001:db8:5:5::/64", never),
		to("10.5.7.0/24", mapping.MakeLocator(addr("224.0.0.9"), 1, 100)),
		to("10.5.8.0/24", mapping.MakeLocator(Far4, 1, 50), mapping.MakeLocator(Other4, 1, 30), mapping.MakeLocator(Far6, 1, 20)),
		to("2001:db8:5:8::/64", mapping.MakeLocator(Far4, 1, 50), mapping.MakeLocator(Other4, 1, 30), mapping.MakeLocator(Far6, 1, 20)),
		// Other instances.
		to("[7]10.2.0.0/16", at(Other4)), to("[7]2001:db8:2::/48", at(Other6)),
		to("[16777215]10.2.0.0/16", at(Far4)), to("[16777215]2001:db8:2::/48", at(Far6)),
		to("[7]10.12.0.0/16", at(Far4)), // not in instance 0
	} {
		add(time.Hour, r)
	}
	for i, action := range []mapping.Action{
		mapping.NoAction, mapping.NativelyForward, mapping.SendMapRequest, mapping.Drop, mapping.DropPolicy, mapping.DropAuth, 7,
	} {
		for _, e := range []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 4, byte(i), 0}), 24),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 4, 0, byte(i)}), 64),
		} {
			add(time.Hour, mapping.NegativeRecord(mapping.EID{Prefix: e}, action, 60))
		}
	}
	expired, v6 := to("10.2.8.0/24", at(Far4)), to("2001:db8:2:8::/64", at(Far4))
	add(0, expired) // the entry of 10.2.0.0/16 does not take its place
	add(0, v6)
	null := to("10.13.0.0/16", at(Far4))
	null.Version = uint16(mapping.NullVersion)
	add(time.Hour, null)
	// Learned an hour from now: later than any packet that contradicts it.
	add(2*time.Hour, to("10.14.0.0/16", at(Far4)))
	return list
}

func sources(list ...netip.Addr) (out []dataplane.Source) {
	for _, a := range list {
		out = append(out, dataplane.Source{Addr: a, Priority: 1, Weight: 100})
	}
	return out
}

// states are those of the corpus.
type states struct {
	open, only4, loose, strict, versions, clamp, proxy, hold, holdShort *State
}

var allStates = sync.OnceValue(func() *states {
	both := sources(Ours4, Ours6)
	hold := dataplane.MissPolicy{Hold: true, PacketsPerEID: 8, BytesPerEID: 6000, Packets: 20, Time: time.Minute}
	short := hold
	short.Time = 200 * time.Millisecond
	return &states{
		open:     &State{Name: "sources unchecked", Sources: both},
		only4:    &State{Name: "no IPv6 outside", Sources: sources(Ours4)},
		loose:    &State{Name: "sources loose", Sources: both, Config: dataplane.Config{SourceCheck: dataplane.SourcesLoose}},
		strict:   &State{Name: "sources strict", Sources: both, Config: dataplane.Config{SourceCheck: dataplane.SourcesStrict}},
		versions: &State{Name: "map-versions", Sources: both, Config: dataplane.Config{MapVersioning: true}},
		clamp:    &State{Name: "MSS clamp", Sources: both, Config: dataplane.Config{MSSClamp: true}},
		proxy: &State{Name: "proxy", Sources: both, Proxies: dataplane.Proxies{
			ITR: []mapping.EID{eid("10.2.0.0/15"), eid("10.4.0.0/16"), eid("2001:db8:2::/47")},
			ETR: []mapping.EID{eid("10.2.0.0/15"), eid("2001:db8:2::/47")},
		}},
		hold:      &State{Name: "misses held", Sources: both, Config: dataplane.Config{Miss: hold}},
		holdShort: &State{Name: "misses held for a moment", Sources: both, Config: dataplane.Config{Miss: short}},
	}
})

// States returns the states of the corpus. They are the same at each call.
func States() []*State {
	s := allStates()
	return []*State{s.open, s.only4, s.loose, s.strict, s.versions, s.clamp, s.proxy, s.hold, s.holdShort}
}
