package graph

import (
	"bytes"
	"encoding/xml"
	"io"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func load(t *testing.T, src string) *clab.Topology {
	t.Helper()
	top, err := clab.Decode("t.clab.yml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return top
}

const sites = `
name: sites
topology:
  defaults: {kind: linux}
  nodes:
    ms: {exec: [ip addr add 203.0.113.10/29 dev eth1]}
    core:
    ha: {exec: [ip addr add 10.1.0.10/24 dev eth1, "ip addr add 2001:db8:a::10/64 dev eth1 nodad"]}
    xa:
    xb:
    hb:
    alone:
  links:
    - {endpoints: ["core:eth3", "ms:eth1"], mtu: 1400}
    - endpoints: ["ha:eth1", "xa:eth1"]
    - endpoints: ["xa:eth2", "core:eth1"]
    - endpoints: ["core:eth2", "xb:eth2"]
    - endpoints: ["xb:eth1", "hb:eth1"]
    - endpoints: ["xa:eth9", "xb:eth9"]
`

func TestText(t *testing.T) {
	var b bytes.Buffer
	if err := Draw(&b, load(t, strings.ReplaceAll(sites, "    - endpoints: [\"xa:eth9\", \"xb:eth9\"]\n", "")), "text"); err != nil {
		t.Fatal(err)
	}
	want := `sites: 7 nodes, 5 links

[ha]eth1--eth1[xa]eth2--eth1[core]eth2--eth2[xb]eth1--eth1[hb]   [alone]
                               |eth3
                               |
                               |eth1
                             [ms]

NODE    INTERFACE   TO          MTU    ADDRESSES
ms      eth1        core:eth3   1400   203.0.113.10/29
core    eth3        ms:eth1     1400   
        eth1        xa:eth2     9500   
        eth2        xb:eth2     9500   
ha      eth1        xa:eth1     9500   10.1.0.10/24, 2001:db8:a::10/64
`
	if !strings.HasPrefix(b.String(), want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// Every link is drawn or named, whatever the shape of the topology.
func TestAllLinksAreShown(t *testing.T) {
	top := load(t, sites)
	var b bytes.Buffer
	if err := Draw(&b, top, "text"); err != nil {
		t.Fatal(err)
	}
	picture, _, _ := strings.Cut(b.String(), "NODE")
	for _, l := range top.Links {
		named := strings.Contains(picture, "and "+l.A.String()+"--"+l.B.String())
		across := strings.Contains(picture, l.A.Interface+"--"+l.B.Interface) || strings.Contains(picture, l.B.Interface+"--"+l.A.Interface)
		down := strings.Contains(picture, "|"+l.A.Interface) && strings.Contains(picture, "|"+l.B.Interface)
		if !named && !across && !down {
			t.Errorf("link %s - %s is not shown:\n%s", l.A, l.B, picture)
		}
	}
}

func TestPictures(t *testing.T) {
	top := load(t, sites)
	var b bytes.Buffer
	if err := Draw(&b, top, "svg"); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	d := xml.NewDecoder(bytes.NewReader(b.Bytes()))
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := tok.(xml.StartElement); ok {
			counts[e.Name.Local]++
		}
	}
	// A background and 7 boxes; 7 names, 3 addresses, 12 interface names.
	if counts["line"] != 6 || counts["rect"] != 8 || counts["text"] != 7+3+12 {
		t.Errorf("%v", counts)
	}
	b.Reset()
	if err := Draw(&b, top, "dot"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`graph "sites" {`, `"ms" [label="ms\neth1 203.0.113.10/29"];`, `"core" -- "ms" [taillabel="eth3", headlabel="eth1", label="MTU 1400"];`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in\n%s", want, b.String())
		}
	}
	if err := Draw(&b, top, "png"); err == nil || !strings.Contains(err.Error(), "[text svg dot]") {
		t.Errorf("%v", err)
	}
}

// Boxes of the picture do not lie on each other.
func TestPlacesAreDistinct(t *testing.T) {
	src := "name: star\ntopology:\n  defaults: {kind: linux}\n  nodes:\n    c:\n    a:\n    b:\n    d:\n    e:\n    f:\n  links:\n" +
		"    - endpoints: [\"c:e1\", \"a:e1\"]\n    - endpoints: [\"c:e2\", \"b:e1\"]\n    - endpoints: [\"c:e3\", \"d:e1\"]\n    - endpoints: [\"c:e4\", \"e:e1\"]\n    - endpoints: [\"e:e2\", \"f:e1\"]\n"
	l := newLayout(load(t, src))
	seen := map[[3]int]string{}
	for n, p := range l.places {
		k := [3]int{p.column, p.row, p.sibling}
		if o, ok := seen[k]; ok {
			t.Errorf("%s and %s are both at %v", n, o, k)
		}
		seen[k] = n
	}
	if len(l.places) != 6 {
		t.Errorf("%d of 6 nodes are placed", len(l.places))
	}
}
