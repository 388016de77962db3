package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/eidolon-lisp/eidolon/api"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// TestTableRoundTrip: prefixes written in either format, in any order, with
// duplicates, plain or in gzip, are read back sorted and each once.
func TestTableRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		origins := rapid.Bool().Draw(t, "pfx2as")
		zip := rapid.Bool().Draw(t, "gzip")
		want := map[netip.Prefix]string{}
		var text strings.Builder
		n := rapid.IntRange(1, 50).Draw(t, "lines")
		for range n {
			a := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "v4")))
			if rapid.Bool().Draw(t, "v6") {
				a = netip.AddrFrom16([16]byte(append([]byte{0x20}, rapid.SliceOfN(rapid.Byte(), 15, 15).Draw(t, "v6 octets")...)))
			}
			p, _ := a.Prefix(rapid.IntRange(0, 12).Draw(t, "length"))
			if origins {
				want[p] = fmt.Sprint(rapid.Uint32().Draw(t, "origin"))
				fmt.Fprintf(&text, "%v\t%d\t%s\n", p.Addr(), p.Bits(), want[p])
			} else {
				want[p] = ""
				fmt.Fprintln(&text, p)
			}
		}
		var in io.Reader = strings.NewReader(text.String())
		if zip {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			io.WriteString(z, text.String())
			z.Close()
			in = &b
		}
		table, err := readTable(in)
		if err != nil {
			t.Fatal(err)
		}
		if table.bad != 0 || table.duplicates != n-len(want) || len(table.routes) != len(want) {
			t.Fatalf("%d routes, %d bad, %d twice; want %d of %d lines", len(table.routes), table.bad, table.duplicates, len(want), n)
		}
		for i, rt := range table.routes {
			if origin, ok := want[rt.prefix]; !ok || origin != rt.origin {
				t.Fatalf("%v has origin %q, want %q", rt.prefix, rt.origin, origin)
			}
			if i > 0 && table.routes[i-1].prefix.Compare(rt.prefix) >= 0 {
				t.Fatalf("%v comes before %v", table.routes[i-1].prefix, rt.prefix)
			}
		}
	})
}

func TestTableErrors(t *testing.T) {
	if _, err := readTable(strings.NewReader("10.0.0.0/8\n" + strings.Repeat("x", maxLine+1))); err == nil || !strings.Contains(err.Error(), "line 2: longer than") {
		t.Errorf("a line that is too long: %v", err)
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	for i := range 10000 {
		fmt.Fprintf(z, "10.%d.%d.0/24\n", i/256, i%256)
	}
	z.Close()
	if _, err := readTable(bytes.NewReader(b.Bytes()[:b.Len()/2])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("gzip that is cut short: %v", err)
	}
	if _, err := readTable(strings.NewReader("\x1f\x8bnot gzip")); err == nil {
		t.Error("something that looks like gzip: no error")
	}
	table, err := readTable(strings.NewReader(strings.Repeat("bad line here too\n", maxFirstBad+5)))
	if err != nil || table.bad != maxFirstBad+5 || len(table.firstBad) != maxFirstBad {
		t.Errorf("many bad lines: %+v, %v", table, err)
	}
	var out strings.Builder
	if err := report(&out, "f", table, true); err == nil || !strings.Contains(out.String(), "and 5 more bad lines") {
		t.Errorf("report: %v, %q", err, out.String())
	}
}

// failing is a map-server whose disk fills up.
type failing struct {
	*server.Server
	room atomic.Int64
}

func (f *failing) Batch(ctx context.Context, ops []server.Op) (uint64, error) {
	if f.room.Add(-int64(len(ops))) < 0 {
		return 0, errors.New("disk full")
	}
	return f.Server.Batch(ctx, ops)
}

// TestImportBreaksOff: an import that fails says how far it got; repeated, it
// completes.
func TestImportBreaksOff(t *testing.T) {
	srv, err := server.New(t.Context(), server.Config{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := &failing{Server: srv}
	f.room.Store(importBatch)
	h := &host{dir: t.TempDir()}
	ctx, cancel := context.WithCancel(context.Background())
	defer func() { cancel(); h.wait.Wait() }()
	h.serve(ctx, programMapServer, api.Admin(programMapServer), api.Mappings(f))
	var c *client
	for range 500 {
		if c, err = dial(ctx, target{socket: h.socket(programMapServer)}, programMapServer); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	im := importer{ttl: 60, locators: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	var routes []route
	for i := range 2*importBatch + 5 {
		routes = append(routes, route{prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)})
	}
	err = putAll(ctx, c, uint64(len(routes)), im.batches(routes), io.Discard)
	if want := fmt.Sprintf("disk full; %d of %d mappings are durable", importBatch, len(routes)); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	f.room.Store(int64(len(routes)))
	if err := putAll(ctx, c, uint64(len(routes)), im.batches(routes), io.Discard); err != nil {
		t.Fatal(err)
	}
	if n := len(slices.Collect(srv.Database(mapping.EID{}))); n != len(routes) {
		t.Errorf("%d mappings, want %d", n, len(routes))
	}
	stopped, stop := context.WithCancel(ctx)
	stop()
	if err := putAll(stopped, c, uint64(len(routes)), im.batches(routes), io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestProgressText(t *testing.T) {
	for _, c := range []struct {
		done, total uint64
		took        time.Duration
		want        string
	}{
		{0, 100, time.Second, "0 of 100 (0 %)"},
		{25, 100, time.Second, "25 of 100 (25 %), 25/s, 3s to go"},
		{100, 100, 2 * time.Second, "100 of 100 (100 %), 50/s, 0s to go"},
		{1, 1_000_000, time.Second, "1 of 1000000 (0 %), 1/s, 11d13h to go"},
	} {
		if got := progressLine(c.done, c.total, c.took); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	if got := bar(50, 100); got != "["+strings.Repeat("=", 15)+strings.Repeat(" ", 15)+"]" {
		t.Errorf("bar %q", got)
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 59 * time.Second: "59s", time.Minute: "1m", 3661 * time.Second: "1h1m", 3601 * time.Second: "1h",
		49 * time.Hour: "2d1h", -90 * time.Second: "-1m30s", 1600 * time.Millisecond: "2s",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%v) = %q, want %q", d, got, want)
		}
	}
}
