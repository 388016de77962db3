package tun

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/eidolon-lisp/eidolon/dataplane/dptest/sites"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// EIDs come and go while the plane runs: those that are there are forwarded,
// others in what is guarded are dropped and not leaked to the provider, and
// nothing is left at the end.
func TestSetLocals(t *testing.T) {
	tp := sites.New(t)
	before := kernelState(t, tp.XTRA)
	cfg := sites.ConfigA(sites.RLOCB4)
	cfg.Locals, cfg.Guarded = []mapping.EID{sites.EIDA6}, []mapping.EID{mapping.MustParseEID("10.1.0.0/16")}
	a, b := sites.Start(t, tp.XTRA, cfg), sites.Start(t, tp.XTRB, sites.ConfigB(sites.RLOCA4))
	_ = b
	stable := ourRules(t, tp.XTRA)
	leaks := func() uint64 { return received(t, tp.Core, "a") }
	arrives := func(want bool) {
		t.Helper()
		got, _ := sites.Datagrams(t, tp.HostA, sites.HostA4, tp.HostB, sites.HostB4, false, 100, 100)
		if len(got) != map[bool]int{true: 2, false: 0}[want] {
			t.Errorf("%d of 2 packets arrived, want %v", len(got), want)
		}
	}
	n := leaks()
	arrives(false)
	if s := a.State().Stats; s["drop_source_not_eid"] < 2 {
		t.Errorf("counters %v", s)
	}
	if got := leaks() - n; got > 2 { // neighbour discovery
		t.Errorf("%d packets went to the provider", got)
	}
	if err := a.Tell("locals", []mapping.EID{sites.EIDA6, sites.EIDA4}).Err; err != "" {
		t.Fatal(err)
	}
	arrives(true)
	// Another instance is none of this router: nothing changes.
	if err := a.Tell("locals", []mapping.EID{mapping.MustParseEID("[9]10.1.0.0/24")}).Err; !strings.Contains(err, "no configured instance") {
		t.Errorf("an EID of an unknown instance: %q", err)
	}
	if err := a.Tell("locals", []mapping.EID{sites.EIDA4}).Err; err != "" {
		t.Fatal(err)
	}
	arrives(true)
	if err := a.Tell("locals", []mapping.EID{sites.EIDA6}).Err; err != "" {
		t.Fatal(err)
	}
	arrives(false)
	if got := ourRules(t, tp.XTRA); !slices.Equal(got, stable) {
		t.Errorf("rules\n%v\nwant those of the beginning\n%v", got, stable)
	}
	// The first IPv4 EID brings the routes of its family.
	if err := a.Tell("locals", []mapping.EID{sites.EIDA6, sites.EIDA4}).Err; err != "" {
		t.Fatal(err)
	}
	arrives(true)
	sites.Transfer(t, tp.HostA, tp.HostB, sites.HostB6, 1<<20)
	a.Exit()
	if after := kernelState(t, tp.XTRA); !slices.Equal(after, before) {
		t.Errorf("after the end\n%s\nbefore the start\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
}

// ourRules returns the rules of the kernel that are ours.
func ourRules(t *testing.T, ns *netns.NS) (list []string) {
	t.Helper()
	for _, s := range kernelState(t, ns) {
		if strings.HasPrefix(s, "rule ") && strings.Contains(s, "protocol 141 ") {
			list = append(list, s)
		}
	}
	return list
}

// received returns how many packets a link has received.
func received(t *testing.T, ns *netns.NS, dev string) (n uint64) {
	t.Helper()
	time.Sleep(50 * time.Millisecond)
	sites.Check(t, ns.Do(func() error {
		l, err := netlink.LinkByName(dev)
		if err == nil {
			n = l.Attrs().Statistics.RxPackets
		}
		return err
	}))
	return n
}
