package mrt

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"github.com/osrg/gobgp/v3/pkg/packet/mrt"
)

var start = time.Date(2016, 8, 11, 16, 0, 0, 0, time.UTC)

// seq is a segment of an AS path, with four octets for each AS.
func seq(path ...uint32) bgp.AsPathParamInterface {
	return bgp.NewAs4PathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, path)
}

func seq2(path ...uint16) bgp.AsPathParamInterface {
	return bgp.NewAsPathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, path)
}

func attrs(path ...bgp.AsPathParamInterface) []bgp.PathAttributeInterface {
	return []bgp.PathAttributeInterface{
		bgp.NewPathAttributeOrigin(0), bgp.NewPathAttributeAsPath(path), bgp.NewPathAttributeNextHop("192.0.2.9"),
		bgp.NewPathAttributeCommunities([]uint32{65001<<16 | 7}),
	}
}

func prefixes(list ...string) (out []*bgp.IPAddrPrefix) {
	for _, s := range list {
		p := netip.MustParsePrefix(s)
		out = append(out, bgp.NewIPAddrPrefix(uint8(p.Bits()), p.Addr().String()))
	}
	return out
}

// record is a BGP4MP record as a collector writes it.
func record(t testing.TB, after time.Duration, as uint32, four bool, m *bgp.BGPMessage) []byte {
	t.Helper()
	sub := mrt.MESSAGE
	if four {
		sub = mrt.MESSAGE_AS4
	}
	b, err := mrt.NewMRTMessage(uint32(start.Add(after).Unix()), mrt.BGP4MP, sub, mrt.NewBGP4MPMessage(as, 65000, 0, "198.51.100.1", "198.51.100.2", four, m))
	if err != nil {
		t.Fatal(err)
	}
	out, err := b.Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func strs(list []netip.Prefix) (out []string) {
	for _, p := range list {
		out = append(out, p.String())
	}
	return out
}

func TestRead(t *testing.T) {
	four := record(t, 3*time.Second, 65010, true, bgp.NewBGPUpdateMessage(prefixes("203.0.113.0/24"), attrs(seq(65010, 70000, 70000, 65099)), prefixes("10.1.0.0/16", "10.2.0.0/15")))
	// From a router that writes an AS with two octets: AS 70000 is AS_TRANS there.
	two := append(attrs(seq2(65010, 65011, bgp.AS_TRANS, 65099)), bgp.NewPathAttributeAs4Path([]*bgp.As4PathParam{bgp.NewAs4PathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, []uint32{70000, 65099})}))
	old := record(t, 4*time.Second, 65010, false, bgp.NewBGPUpdateMessage(nil, two, prefixes("10.1.0.0/16")))
	micro := bytes.Clone(old)
	binary.BigEndian.PutUint16(micro[4:], uint16(mrt.BGP4MP_ET))
	binary.BigEndian.PutUint32(micro[8:], uint32(len(micro)-recordHeader+4))
	micro = append(micro[:recordHeader:recordHeader], append([]byte{0, 0, 0x30, 0x39}, old[recordHeader:]...)...)
	state, err := mrt.NewMRTMessage(0, mrt.BGP4MP, mrt.STATE_CHANGE_AS4, mrt.NewBGP4MPStateChange(65010, 65000, 0, "198.51.100.1", "198.51.100.2", true, mrt.ESTABLISHED, mrt.IDLE))
	if err != nil {
		t.Fatal(err)
	}
	change, err := state.Serialize()
	if err != nil {
		t.Fatal(err)
	}
	broken := bytes.Clone(four)
	broken[len(broken)-3] = 77 // the length of a prefix
	f, err := Read(bytes.NewReader(bytes.Join([][]byte{four, old, micro, change, broken, record(t, 0, 65010, true, bgp.NewBGPKeepAliveMessage())}, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Updates) != 3 || f.States != 1 || f.Messages != 1 || f.Malformed != 1 {
		t.Fatalf("%d UPDATEs, %d changes of state, %d other messages, %d malformed", len(f.Updates), f.States, f.Messages, f.Malformed)
	}
	for i, want := range []struct {
		at                   time.Duration
		withdrawn, announced []string
		path                 []uint32
		upstream             uint32
		octets               int
	}{
		{3 * time.Second, []string{"203.0.113.0/24"}, []string{"10.1.0.0/16", "10.2.0.0/15"}, []uint32{65010, 70000, 65099}, 70000, len(four) - recordHeader - 20},
		{4 * time.Second, nil, []string{"10.1.0.0/16"}, []uint32{65010, 65011, 70000, 65099}, 70000, len(old) - recordHeader - 16},
		{4*time.Second + 12345*time.Microsecond, nil, []string{"10.1.0.0/16"}, []uint32{65010, 65011, 70000, 65099}, 70000, len(old) - recordHeader - 16},
	} {
		u := f.Updates[i]
		if !u.Time.Equal(start.Add(want.at)) || u.Peer != (Peer{65010, netip.MustParseAddr("198.51.100.1")}) || u.Octets != want.octets {
			t.Errorf("UPDATE %d: %v of %v with %d octets, expected %d", i, u.Time, u.Peer, u.Octets, want.octets)
		}
		if !reflect.DeepEqual(strs(u.Withdrawn), want.withdrawn) || !reflect.DeepEqual(strs(u.Announced), want.announced) {
			t.Errorf("UPDATE %d: withdrawn %v, announced %v", i, u.Withdrawn, u.Announced)
		}
		if !reflect.DeepEqual(u.Path, want.path) || u.Upstream() != want.upstream || u.Origin() != 65099 {
			t.Errorf("UPDATE %d: path %v, upstream %d, origin %d", i, u.Path, u.Upstream(), u.Origin())
		}
	}
	// On the wire again the attributes say the same, with the next hop that was asked
	// for and four octets for each AS.
	b, err := f.Updates[1].AppendAttributes(nil, netip.MustParseAddr("127.64.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for len(b) > 0 {
		a, err := bgp.GetPathAttribute(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.DecodeFromBytes(b); err != nil {
			t.Fatal(err)
		}
		got = append(got, a.String())
		b = b[a.Len():]
	}
	want := []string{"{Origin: i}", "65010 65011 70000 65099", "{Nexthop: 127.64.0.1}", "{Communities: 65001:7}"}
	for i := range want {
		if len(got) != len(want) || !strings.Contains(got[i], want[i]) {
			t.Fatalf("attributes %v, expected %v", got, want)
		}
	}
}

func TestReadErrors(t *testing.T) {
	good := record(t, 0, 65010, true, bgp.NewBGPUpdateMessage(prefixes("203.0.113.0/24"), nil, nil))
	table := bytes.Clone(good)
	binary.BigEndian.PutUint16(table[4:], uint16(mrt.TABLE_DUMPv2))
	long := bytes.Clone(good)
	binary.BigEndian.PutUint32(long[8:], 1<<20)
	for _, x := range []struct {
		name, want string
		in         []byte
	}{
		{"header ends", "record 2: unexpected EOF", append(bytes.Clone(good), good[:5]...)},
		{"record ends", "record 2: unexpected EOF", append(bytes.Clone(good), good[:len(good)-1]...)},
		{"table", "record 1 is of type 13, expected 16 or 17", table},
		{"too long", "record 1 has 1048576 octets, the limit is 65536", long},
		{"text", "is this an MRT file?", []byte("Not MRT, but text that goes on\n")},
	} {
		if _, err := Read(bytes.NewReader(x.in)); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, expected %s", x.name, err, x.want)
		}
	}
	if _, err := ReadFile(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestReadFileCompressed(t *testing.T) {
	b := record(t, 0, 65010, true, bgp.NewBGPUpdateMessage(prefixes("203.0.113.0/24"), nil, nil))
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(b)
	w.Close()
	for name, b := range map[string][]byte{"plain": b, "packed.gz": z.Bytes()} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := ReadFile(path)
		if err != nil || len(f.Updates) != 1 || f.Name != name {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
	path := filepath.Join(t.TempDir(), "cut.gz")
	if err := os.WriteFile(path, z.Bytes()[:z.Len()-9], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path); err == nil {
		t.Error("a file that is cut off was read")
	}
}

// Whatever a file holds, reading it ends, in an error or with messages that can be
// sent again.
func FuzzRead(f *testing.F) {
	f.Add(record(f, 0, 65010, true, bgp.NewBGPUpdateMessage(prefixes("203.0.113.0/24"), attrs(seq(65010, 65099)), prefixes("10.1.0.0/16"))))
	f.Add(record(f, 0, 65010, false, bgp.NewBGPUpdateMessage(nil, attrs(seq2(65010, 65099)), prefixes("10.1.0.0/16"))))
	f.Fuzz(func(t *testing.T, in []byte) {
		x, err := Read(bytes.NewReader(in))
		if err != nil {
			return
		}
		for i := range x.Updates {
			u := &x.Updates[i]
			if len(u.Announced) == 0 {
				continue
			}
			b, err := u.AppendAttributes(nil, netip.MustParseAddr("127.64.0.1"))
			if err != nil {
				t.Fatalf("attributes of %+v: %v", u, err)
			}
			for len(b) > 0 {
				a, err := bgp.GetPathAttribute(b)
				if err == nil {
					err = a.DecodeFromBytes(b)
				}
				if err != nil || a.Len() == 0 {
					t.Fatalf("attributes of %+v can't be read again: %v", u, err)
				}
				b = b[min(a.Len(), len(b)):]
			}
		}
		Analyse(x)
	})
}
