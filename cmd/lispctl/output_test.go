package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// What stands beside an address, and what is no address, is shown, by show and
// by lig.
func TestLC1_NamesAndPlacesAreShown(t *testing.T) {
	for _, c := range []struct{ addr, opaque, want, state string }{
		{"192.0.2.1", "", "192.0.2.1", "up"},
		{"192.0.2.1", "\x40\x03\x00\x00\x01\x00\x00\x0b\x00\x01\xc0\x00\x02\x01\x00\x11ms\x00", `afi-list(192.0.2.1, "ms")`, "up"},
		{"192.0.2.1", "\x40\x03\x00\x00\x05\x00\x00\x12\x80\x34\x1f\x07\x80\x0d\x18\x1d\x00\x00\x00\x22\x00\x01\xc0\x00\x02\x01",
			`geo-coordinates(52°31'7"N 13°24'29"E 34 m, 192.0.2.1)`, "up"},
		{"", "\x40\x03\x00\x00\x0a\x00\x00\x08\x00\x01\x00\x01\xc0\x00\x02\x01", "explicit-locator-path(192.0.2.1 S)", "not an address"},
		{"", "\x00\x11etr\x00", `"etr"`, "not an address"},
		{"", "\x40\x03\x00\x00\xc8\x00\x00\x03abc", "lcaf-type-200(616263)", "not an address"},
	} {
		l := mapping.MakeLocator(netip.Addr{}, 1, 100)
		if c.addr != "" {
			l.Addr = netip.MustParseAddr(c.addr)
		}
		l.Opaque = c.opaque
		if got := locatorName(l); got != c.want || state(l) != c.state {
			t.Errorf("lig writes %s, %s; want %s, %s", got, state(l), c.want, c.state)
		}
		p := &eidolonv1.Locator{Address: c.addr, Opaque: []byte(c.opaque), Priority: 1, Weight: 100}
		if got := locatorText(p); got != c.want+" 1/100" {
			t.Errorf("show writes %s, want %s", got, c.want)
		}
	}
}

// What YAML says is what JSON says, whatever is in it.
func TestYAMLSaysWhatJSONSays(t *testing.T) {
	texts := []string{"", " ", "-", "~", "null", "yes", "off", "1", "0x10", "1e3", "1_000", ".5", "00000000000000000000000000000010", "2026-11-27", "12:30:45",
		"[7]2001:db8::/32", "2001:db8::1", "::", "a: b", "a #b", "- a", "{a}", "*a", "&a", "!a", "%a", "@a", "`a", "'", `"`, `\`, "a\nb", "a\n", "\n", "a\tb", "é\u2028", "|", ">", "?", "? a", "=", "<<"}
	for n := range 3 {
		var regs []*eidolonv1.Registration
		for _, s := range texts {
			regs = append(regs, &eidolonv1.Registration{Site: s, XtrId: s, SiteId: 1<<64 - 1, Record: &eidolonv1.Record{Eid: s,
				Locators: []*eidolonv1.Locator{{Address: s, Opaque: []byte(s), Priority: 255}, {}}}})
		}
		if n == 0 {
			regs = nil
		}
		said := make(map[format]string)
		for _, f := range []format{formatJSON, formatYAML} {
			var b bytes.Buffer
			o := output{w: &b, format: f}
			var err error
			if n < 2 {
				l := o.list("A")
				for _, r := range regs {
					err = errors.Join(err, l.add(r, 1))
				}
				err = errors.Join(err, l.end())
			} else {
				d := &document{o: o}
				for i, name := range []string{"some", "none", "others"} {
					l, lerr := d.list(name, "one", "A")
					err = errors.Join(err, lerr)
					for _, r := range regs {
						if i != 1 {
							err = errors.Join(err, l.add(r, 1))
						}
					}
					err = errors.Join(err, l.end())
				}
				if d.table("B") != nil {
					t.Fatal("a table for programs")
				}
				err = errors.Join(err, d.end())
			}
			if err != nil {
				t.Fatal(err)
			}
			said[f] = b.String()
		}
		var fromJSON, fromYAML any
		if err := json.Unmarshal([]byte(said[formatJSON]), &fromJSON); err != nil {
			t.Fatalf("%v\n%s", err, said[formatJSON])
		}
		asJSON, err := yaml.YAMLToJSON([]byte(said[formatYAML]))
		if err == nil {
			err = json.Unmarshal(asJSON, &fromYAML)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, said[formatYAML])
		}
		if !reflect.DeepEqual(fromJSON, fromYAML) {
			for i, a := range fromJSON.([]any) {
				if b := fromYAML.([]any)[i]; !reflect.DeepEqual(a, b) {
					t.Errorf("JSON %v\nYAML %v", a, b)
				}
			}
			t.Fatalf("JSON:\n%s\nYAML:\n%s", said[formatJSON], said[formatYAML])
		}
	}
}

// Long tables go out in pieces, with one header, and colours do not move columns.
func TestTable(t *testing.T) {
	var b bytes.Buffer
	tb := output{w: &b, format: formatTable, palette: true}.table("NAME", "+WIDE", "STATE", "Ü")
	for i := range tablePiece + 1 {
		tb.row(i, "wide", "down", "")
		if i == 0 && b.Len() > 0 {
			t.Error("the first row was not waited for")
		}
	}
	if b.Len() == 0 {
		t.Error("nothing was printed before the end")
	}
	if err := tb.end(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	if len(lines) != tablePiece+3 || lines[len(lines)-1] != "" {
		t.Fatalf("%d lines", len(lines))
	}
	if want := bold + "NAME" + plain + "  " + bold + "STATE" + plain + "  " + bold + "Ü" + plain; lines[0] != want {
		t.Errorf("header %q, want %q", lines[0], want)
	}
	if want := "4095  " + red + "down" + plain + "   -"; lines[4096] != want {
		t.Errorf("row %q, want %q", lines[4096], want)
	}
	if want := "4096  " + red + "down" + plain + "  -"; lines[4097] != want {
		t.Errorf("row of the last piece %q, want %q", lines[4097], want)
	}
}

func TestInterval(t *testing.T) {
	for s, want := range map[string]time.Duration{"2": 2 * time.Second, "0.1": 100 * time.Millisecond, "1m": time.Minute, "86400": 24 * time.Hour,
		"0": 0, "0.09": 0, "-1": 0, "86401": 0, "1e300": 0, "NaN": 0, "x": 0, "": 0} {
		var i interval
		err := i.Set(s)
		if time.Duration(i) != want || (err == nil) != (want > 0) {
			t.Errorf("%q is %v, %v; want %v", s, time.Duration(i), err, want)
		}
	}
}

// Every counter that a trace has words for is one of a data plane.
func TestFates(t *testing.T) {
	known := make(map[string]bool)
	for name := range new(dataplane.Stats).All() {
		known[name] = true
	}
	for _, f := range fates {
		if !known[f.counter] {
			t.Errorf("there is no counter %s", f.counter)
		}
	}
}
