package dfz

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// What is packed is what GoBGP reads, in as few messages as 4096 octets allow.
func TestPackedUpdates(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 0))
	attrs, err := attributes([]uint32{SiteAS(7), AS(3)}, netip.MustParseAddr("127.64.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	if !hasAS(attrs, SiteAS(7)) || !hasAS(attrs, AS(3)) || hasAS(attrs, AS(4)) {
		t.Error("the ASes of the path are not found")
	}
	for _, n := range []int{1, 2, 500, 3000} {
		var list []netip.Prefix
		for range n {
			p, _ := netip.AddrFrom4([4]byte{byte(1 + rng.IntN(200)), byte(rng.Uint32()), byte(rng.Uint32()), 0}).Prefix(8 + rng.IntN(25))
			list = append(list, p)
		}
		for _, a := range [][]byte{attrs, nil} {
			b, sizes := appendUpdates(nil, a, list)
			var got []netip.Prefix
			in := bytes.NewReader(b)
			var u update
			for i, size := range sizes {
				msg, err := readMessage(in, nil)
				if err != nil {
					t.Fatal(err)
				}
				if i < len(sizes)-1 && len(msg) < maxMessage-5 {
					t.Errorf("message %d of %d has %d octets", i, len(sizes), len(msg))
				}
				parsed, err := bgp.ParseBGPMessage(msg)
				if err != nil {
					t.Fatal(err)
				}
				body := parsed.Body.(*bgp.BGPUpdate)
				theirs := body.NLRI
				if a == nil {
					theirs = body.WithdrawnRoutes
					if len(body.PathAttributes) > 0 {
						t.Error("a withdrawal with attributes")
					}
				}
				if len(theirs) != size {
					t.Errorf("GoBGP reads %d prefixes, %d are counted", len(theirs), size)
				}
				if err := u.decode(msg); err != nil {
					t.Fatal(err)
				}
				ours := u.announced
				if a == nil {
					ours = u.withdrawn
				} else if !bytes.Equal(u.attrs, attrs) {
					t.Errorf("attributes %x", u.attrs)
				}
				for i, p := range theirs {
					if i < len(ours) && p.String() != ours[i].String() {
						t.Errorf("GoBGP reads %v, we read %v", p, ours[i])
					}
				}
				got = append(got, ours...)
			}
			if in.Len() > 0 || !slices.Equal(got, list) {
				t.Errorf("of %d prefixes %d are there again, %d octets are left", len(list), len(got), in.Len())
			}
		}
	}
}

// Messages that lie about their lengths are refused.
func TestBadUpdates(t *testing.T) {
	attrs, err := attributes([]uint32{1}, netip.MustParseAddr("127.64.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	good, _ := appendUpdates(nil, attrs, []netip.Prefix{pfx("10.0.0.0/8"), pfx("10.1.2.0/24")})
	var u update
	if err := u.decode(good); err != nil {
		t.Fatal(err)
	}
	for n := headerLen; n < len(good); n++ {
		// Where it is cut between two prefixes it is a message of its own.
		err := u.decode(good[:n])
		between := n >= headerLen+4+len(attrs) && (n == headerLen+4+len(attrs) || n == headerLen+4+len(attrs)+2)
		if (err == nil) != between {
			t.Errorf("cut after %d of %d octets: %v", n, len(good), err)
		}
	}
	bad := slices.Clone(good)
	bad[headerLen+4+len(attrs)] = 33
	if u.decode(bad) == nil {
		t.Error("a prefix of 33 bits was read")
	}
}
