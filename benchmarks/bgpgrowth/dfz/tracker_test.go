package dfz

import (
	"net/netip"
	"testing"
	"time"
)

// A message about prefixes of several events counts for each in parts, which make up
// the whole where all prefixes are of events.
func TestMessagesAreShared(t *testing.T) {
	z := &Zone{}
	a, b := new(Event), new(Event)
	p := []netip.Prefix{pfx("10.0.0.0/24"), pfx("10.0.1.0/24"), pfx("10.0.2.0/24"), pfx("10.0.3.0/24")}
	z.Track(map[*Event][]netip.Prefix{a: p[:3], b: p[3:]})
	at := time.Unix(100, 0)
	from := &pipe{from: 1, to: 2}
	z.tracker.delivered(at, from, true, p, []int{4}, 80)
	z.tracker.delivered(at.Add(time.Second), from, false, []netip.Prefix{p[0], p[3], p[1]}, []int{2, 1}, 90)
	z.tracker.delivered(at.Add(2*time.Second), &pipe{from: 2, to: 3}, false, []netip.Prefix{pfx("10.9.0.0/24")}, []int{1}, 40)
	z.tracker.offered(p[:1], p[2:])
	z.tracker.edge(p[:2], []int{2}, 50)
	total := z.Total()
	for _, x := range []struct {
		what      string
		got, want float64
	}{
		{"messages", total.Updates, 4}, {"octets", total.Bytes, 210}, {"prefixes announced", total.Announced, 4}, {"withdrawn", total.Withdrawn, 4},
		{"messages of a", a.Updates, 0.75 + 0.5 + 1}, {"of b", b.Updates, 0.25 + 0.5},
		{"octets of a", a.Bytes, 60 + 30 + 30}, {"of b", b.Bytes, 20 + 30},
		{"announced of a", a.Announced, 2}, {"of b", b.Announced, 1}, {"withdrawn of a", a.Withdrawn, 3}, {"of b", b.Withdrawn, 1},
		{"offered", total.Offered, 1}, {"of a", a.Offered, 2. / 3}, {"of b", b.Offered, 1. / 3},
		{"of sites", total.EdgeUpdates, 1}, {"of a", a.EdgeUpdates, 1}, {"octets", a.EdgeBytes, 50}, {"of b", b.EdgeBytes, 0},
		{"routers", float64(total.Touched()), 3}, {"of a", float64(a.Touched()), 2},
		{"seconds", total.Last.Sub(total.First).Seconds(), 2}, {"of b", b.Last.Sub(b.First).Seconds(), 1},
	} {
		if d := x.got - x.want; d > 1e-9 || d < -1e-9 {
			t.Errorf("%s: %v, expected %v", x.what, x.got, x.want)
		}
	}
}
