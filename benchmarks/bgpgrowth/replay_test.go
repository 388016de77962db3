package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"github.com/osrg/gobgp/v3/pkg/packet/mrt"
)

// recording writes a file of updates: three peers announce 40 prefixes, which then
// lose one of their two providers each, and get it back.
func recording(t *testing.T) string {
	t.Helper()
	var out bytes.Buffer
	put := func(second uint32, peer uint32, m *bgp.BGPMessage) {
		r, err := mrt.NewMRTMessage(1470931200+second, mrt.BGP4MP, mrt.MESSAGE_AS4, mrt.NewBGP4MPMessage(peer, 65000, 0, fmt.Sprintf("198.51.100.%d", peer-64900), "198.51.100.99", true, m))
		if err != nil {
			t.Fatal(err)
		}
		b, err := r.Serialize()
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	say := func(second, peer uint32, i int, path ...uint32) {
		bits := uint8(24)
		if i == 99 {
			bits = 32
		}
		p := []*bgp.IPAddrPrefix{bgp.NewIPAddrPrefix(bits, fmt.Sprintf("11.0.%d.0", i))}
		if path == nil {
			put(second, peer, bgp.NewBGPUpdateMessage(p, nil, nil))
			return
		}
		path = append([]uint32{peer}, path...)
		put(second, peer, bgp.NewBGPUpdateMessage(nil, []bgp.PathAttributeInterface{
			bgp.NewPathAttributeOrigin(0),
			bgp.NewPathAttributeAsPath([]bgp.AsPathParamInterface{bgp.NewAs4PathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, path)}),
			bgp.NewPathAttributeNextHop("198.51.100.1"),
		}, p))
	}
	const a, b, site = 64511, 64512, 64600 - 1
	for i := range 40 {
		for peer := uint32(64901); peer <= 64903; peer++ {
			say(0, peer, i, a+peer%2, site)
		}
	}
	for i := range 40 {
		for peer := uint32(64901); peer <= 64903; peer++ {
			say(20, peer, i, b, site)
		}
	}
	for i := range 20 {
		for peer := uint32(64901); peer <= 64903; peer++ {
			say(40, peer, i)
		}
	}
	say(40, 64901, 99) // was there before
	path := filepath.Join(t.TempDir(), "updates.mrt")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A recorded file goes through live speakers and a live map-server, and what is
// counted is what was on the wire.
func TestReplay(t *testing.T) {
	t.Parallel()
	path := recording(t)
	base := job{Speakers: 6, Seed: 1}
	t.Run("speakers", func(t *testing.T) {
		t.Parallel()
		j := base
		j.Replay = &replayJob{File: path, Speed: 20}
		rows, err := measureJob(t.Context(), j, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		r := rows[0]
		// 120 and 120 announcements, and 61 withdrawals, one message each.
		if r.EdgeUpdates != 301 || r.Edges != 3 {
			t.Errorf("%v UPDATEs of %v peers came in", r.EdgeUpdates, r.Edges)
		}
		// Each of 20 prefixes is announced to each speaker at least once, and each of 21
		// is withdrawn everywhere.
		if r.Announced < 20*5 || r.Withdrawn < 21*5 || r.Updates < 20 || r.Bytes < 23*r.Updates {
			t.Errorf("among the speakers %v UPDATEs with %v octets, %v announced, %v withdrawn", r.Updates, r.Bytes, r.Announced, r.Withdrawn)
		}
		if math.Abs(r.Seconds-2) > 1 {
			t.Errorf("40 s took %v s at 20 times the speed", r.Seconds)
		}
	})
	for _, watchers := range []int{0, 2} {
		t.Run(fmt.Sprintf("mappings, %d subscribers", watchers), func(t *testing.T) {
			t.Parallel()
			j := base
			j.Replay = &replayJob{File: path, Speed: 20, Mapping: true, Watchers: watchers}
			rows, err := measureJob(t.Context(), j, func(string) {})
			if err != nil {
				t.Fatal(err)
			}
			// 40 prefixes: over b and, with the second peer, a; then b alone; 20 of them
			// gone, and one that nobody knew.
			r := rows[0]
			changes := 40.0 + 40 + 40 + 20 + 1
			if r.Changed != changes || r.Registers != changes || r.Notifies != changes || r.Records != 41 {
				t.Errorf("%v changes of %v mappings, %v Map-Registers, %v Map-Notifies, expected %v", r.Changed, r.Records, r.Registers, r.Notifies, changes)
			}
			// Changes of a mapping that follow at once may be told as one.
			w := float64(watchers)
			if r.Publications < w*(40+20+1) || r.Publications > w*changes || r.Acks != r.Publications || r.Subscribed != 41*w {
				t.Errorf("%v publications, %v acknowledgements, %v subscriptions", r.Publications, r.Acks, r.Subscribed)
			}
		})
	}
}

func TestReplayOptions(t *testing.T) {
	for _, x := range []struct {
		want string
		args []string
	}{
		{"-speed 0", []string{"-mrt", "x", "-speed", "0"}},
		{"no such file", []string{"-mrt", filepath.Join(t.TempDir(), "none")}},
	} {
		o, err := parse(x.args, &bytes.Buffer{})
		if err == nil {
			o.out = t.TempDir()
			err = run(t.Context(), o)
		}
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%v: %v, expected %s", x.args, err, x.want)
		}
	}
	if got := strings.Join(shown([]string{"-mrt", "/some/where/a.gz", "-speed", "2"}), " "); got != "-mrt a.gz -speed 2" {
		t.Errorf("shown as %s", got)
	}
}
