package mrt

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

func said(after time.Duration, peer uint32, withdrawn, announced string, path ...uint32) Update {
	u := Update{Time: start.Add(after), Peer: Peer{AS: peer}, Octets: 40, nextHop: "192.0.2.1"}
	if withdrawn != "" {
		u.Withdrawn = []netip.Prefix{netip.MustParsePrefix(withdrawn)}
	}
	if announced != "" {
		u.Announced = []netip.Prefix{netip.MustParsePrefix(announced)}
		u.Path = append([]uint32{peer}, path...)
		u.Attributes = []bgp.PathAttributeInterface{bgp.NewPathAttributeAsPath([]bgp.AsPathParamInterface{seq(u.Path...)})}
	}
	return u
}

// Site 9 has the providers 5 and 6. What happens behind them changes no mapping.
func TestAnalyse(t *testing.T) {
	const p, q = "10.1.0.0/16", "10.2.0.0/16"
	med := said(13*time.Second, 1, "", p, 4, 5, 9)
	med.Attributes = append(med.Attributes, bgp.NewPathAttributeMultiExitDisc(7))
	f := &File{Updates: []Update{
		said(0, 1, "", p, 3, 5, 9),              // 1 reaches it over 5; it may have before
		said(time.Second, 2, "", p, 6, 9),       // 2 over 6, the same
		said(10*time.Second, 1, "", p, 4, 5, 9), // another way to 5: no change
		said(11*time.Second, 1, "", p, 4, 5, 9), // again
		said(12*time.Second, 1, "", p, 4, 4, 5, 9),
		med,                                         // the path as it was
		said(14*time.Second, 1, "", p, 4, 5, 9),     // with other attributes
		said(60*time.Second, 2, "", p, 4, 5, 9),     // nobody over 6 any more
		said(61*time.Second, 2, p, ""),              // 1 still reaches it
		said(62*time.Second, 1, p, ""),              // gone
		said(200*time.Second, 1, "", p, 6, 9),       // back
		said(200*time.Second, 2, q, ""),             // gone, whatever it was
		said(201*time.Second, 3, q, ""),             // no news
		said(202*time.Second, 1, "", q, 8),          // 8 carries for nobody
		said(203*time.Second, 2, "", "10.3.0.0/16"), // of the peer itself, which carries
	}}
	f.Updates[4].Path = []uint32{1, 4, 5, 9} // as Read has it
	s, changes := Analyse(f)
	type brief struct {
		prefix        string
		before, after []uint32
		known         bool
	}
	var got []brief
	for _, c := range changes {
		got = append(got, brief{c.Prefix.String(), c.Before, c.After, c.Known})
	}
	want := []brief{
		{p, []uint32{}, []uint32{5}, false},
		{p, []uint32{5}, []uint32{5, 6}, false},
		{p, []uint32{5, 6}, []uint32{5}, true},
		{p, []uint32{5}, []uint32{}, true},
		{p, []uint32{}, []uint32{6}, true},
		{q, []uint32{}, []uint32{}, false},
		{q, []uint32{}, []uint32{1}, false},
		{"10.3.0.0/16", []uint32{}, []uint32{2}, false},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("changes\n%v\nexpected\n%v", got, want)
	}
	for what, x := range map[string][2]int{
		"changes": {s.Changes, 8}, "known": {s.Known, 3}, "of stubs": {s.ChangesStub, 7}, "stubs": {s.Stubs, 2},
		"events": {s.Events, 5}, "prefixes": {s.Prefixes, 3}, "again": {s.Again, 1}, "same path": {s.SamePath, 3},
		"first mentions": {s.FirstMentions, 6}, "routes": {s.Routes, 3}, "peers": {s.Peers, 3},
		"announced": {s.Announced, 11}, "withdrawn": {s.Withdrawn, 4}, "octets": {s.Octets, 600},
		"in the busiest second": {int(s.PerSecond.Max), 2}, "seconds": {int(s.Window.Seconds()), 203},
	} {
		if x[0] != x[1] {
			t.Errorf("%s: %d, expected %d", what, x[0], x[1])
		}
	}
	if s, changes := Analyse(&File{}); s.Updates != 0 || len(changes) != 0 {
		t.Errorf("an empty file: %+v, %v", s, changes)
	}
}
