// Package storetest is the conformance suite of mapping.Store. Every
// implementation runs it in its own tests:
//
//	func TestMain(m *testing.M) {
//		storetest.Child(open) // takes over in the crash test's child process
//		os.Exit(m.Run())
//	}
//
//	func TestStore(t *testing.T) { storetest.Run(t, open) }
package storetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// Open opens the store that lives in dir, and creates it where there is none.
// The suite closes what it opens, and opens one directory several times, but
// never twice at once.
type Open func(dir string) (mapping.Store, error)

// Run checks every promise of mapping.Store. It takes some seconds, and needs
// Child to be called in TestMain.
func Run(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Open)
	}{
		{"Empty", testEmpty},
		{"RoundTrip", testRoundTrip},
		{"Durable", testDurable},
		{"Replace", testReplace},
		{"Delete", testDelete},
		{"KeysAreToldApart", testKeys},
		{"InOrder", testInOrder},
		{"AllOrNothing", testAllOrNothing},
		{"RefusesBadChanges", testRefuses},
		{"KeepsNothingOfTheSlice", testKeepsNothing},
		{"YieldedItemsAreTheCallers", testYielded},
		{"SnapshotWhileCommitting", testSnapshot},
		{"StopsEarly", testStopsEarly},
		{"ConcurrentCommits", testConcurrent},
		{"CancelledContext", testCancelled},
		{"Close", testClose},
		{"BigBatch", testBigBatch},
		{"Crash", testCrash},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open) })
	}
}

func mustOpen(t *testing.T, open Open, dir string) mapping.Store {
	t.Helper()
	s, err := open(dir)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func commit(t *testing.T, s mapping.Store, changes ...mapping.Change) {
	t.Helper()
	if err := s.Commit(t.Context(), changes); err != nil {
		t.Fatalf("commit of %d changes: %v", len(changes), err)
	}
}

func put(items ...mapping.Item) []mapping.Change {
	var cs []mapping.Change
	for _, it := range items {
		cs = append(cs, mapping.Change{Item: it})
	}
	return cs
}

// del names an item by its key alone, as Change promises is enough.
func del(it mapping.Item) mapping.Change {
	return mapping.Change{Delete: true, Item: mapping.Item{Kind: it.Kind, EID: it.EID, By: it.By, Site: it.Site, KeyID: it.KeyID}}
}

// items reads the whole store in a canonical order.
func items(t *testing.T, s mapping.Store) []mapping.Item {
	t.Helper()
	var out []mapping.Item
	for it, err := range s.Items(t.Context()) {
		if err != nil {
			t.Fatalf("items: %v", err)
		}
		out = append(out, it)
	}
	sortItems(out)
	return out
}

func sortItems(its []mapping.Item) {
	slices.SortFunc(its, func(a, b mapping.Item) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), a.EID.Compare(b.EID), cmp.Compare(a.Site, b.Site),
			cmp.Compare(a.KeyID, b.KeyID), bytes.Compare(a.By.XTRID[:], b.By.XTRID[:]),
			cmp.Compare(a.By.SiteID, b.By.SiteID), a.By.RLOC.Compare(b.By.RLOC))
	})
}

func equal(a, b mapping.Item) bool {
	if (a.Record == nil) != (b.Record == nil) || a.Record != nil && !a.Record.Equal(b.Record) {
		return false
	}
	return a.Kind == b.Kind && a.EID == b.EID && a.By == b.By && a.Site == b.Site && a.KeyID == b.KeyID &&
		a.Flags == b.Flags && a.Nonce == b.Nonce && a.At.Equal(b.At)
}

// want fails the test when the store does not hold exactly these items.
func want(t *testing.T, s mapping.Store, wanted ...mapping.Item) {
	t.Helper()
	got := items(t, s)
	wanted = slices.Clone(wanted)
	sortItems(wanted)
	if len(got) != len(wanted) {
		t.Errorf("%d items in the store, want %d", len(got), len(wanted))
	}
	for i := range min(len(got), len(wanted)) {
		if !equal(got[i], wanted[i]) {
			t.Fatalf("item %d:\n got %+v %v\nwant %+v %v", i, got[i], got[i].Record, wanted[i], wanted[i].Record)
		}
	}
}

func locator(s string) mapping.Locator { return mapping.MakeLocator(netip.MustParseAddr(s), 1, 100) }

func record(e mapping.EID, locs ...mapping.Locator) *mapping.Record {
	return &mapping.Record{EID: e, TTL: mapping.DefaultTTL, Locators: locs}
}

func mappingItem(e string, locs ...mapping.Locator) mapping.Item {
	eid := mapping.MustParseEID(e)
	return mapping.Item{Kind: mapping.ItemMapping, EID: eid, Record: record(eid, locs...)}
}

// numbered is the i-th of many mappings, in ascending order of EID, with a
// locator that tells version v of it.
func numbered(i, v int) mapping.Item {
	a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	eid := mapping.HostEID(0, a)
	l := netip.AddrFrom4([4]byte{192, byte(v >> 16), byte(v >> 8), byte(v)})
	return mapping.Item{Kind: mapping.ItemMapping, EID: eid, Record: record(eid, mapping.MakeLocator(l, 1, 100))}
}

func version(it mapping.Item) int {
	b := it.Record.Locators[0].Addr.As4()
	return int(b[1])<<16 | int(b[2])<<8 | int(b[3])
}

var someTime = time.Unix(1_700_000_000, 0)

// everyKind holds each kind of item in each of its forms.
func everyKind() []mapping.Item {
	xtr := mapping.Registrant{XTRID: mapping.XTRID{0: 0xde, 15: 1}, SiteID: 1<<63 + 5}
	rloc4 := mapping.Registrant{RLOC: netip.MustParseAddr("192.0.2.1")}
	rloc6 := mapping.Registrant{RLOC: netip.MustParseAddr("2001:db8::1")}
	sourced := mapping.MustParseEID("[7]2001:db8:5::/48 from 2001:db8:6::/48")
	full := mapping.MustParseEID("[16777215]2001:db8:1::/48")
	everything := &mapping.Record{EID: full, TTL: mapping.TTLReceiver, Authoritative: true, Version: 0xfff, Locators: []mapping.Locator{
		{Addr: netip.MustParseAddr("192.0.2.1"), Priority: 1, Weight: 2, MPriority: 3, MWeight: 4, Flags: mapping.Local | mapping.Reachable},
		{Addr: netip.MustParseAddr("2001:db8::9"), Priority: 255, Weight: 255, MPriority: 255, MWeight: 255, Flags: mapping.Probed},
		{Opaque: "\x00\x11name\x00", Priority: 254},
		{Opaque: "\x40\x03\x00\x00\x01\x00\x00\x06\x00\x01\xc0\x00\x02\x07", Priority: 9},
	}}
	def4, def6 := mapping.MustParseEID("0.0.0.0/0"), mapping.MustParseEID("::/0")
	host := mapping.MustParseEID("[1]10.0.0.1")
	return []mapping.Item{
		mappingItem("10.0.0.0/8", locator("192.0.2.1")),
		mappingItem("[7]10.0.0.0/8"),
		{Kind: mapping.ItemMapping, EID: def4, Record: mapping.NegativeRecord(def4, mapping.Drop, 15)},
		{Kind: mapping.ItemMapping, EID: def6, Record: mapping.NegativeRecord(def6, mapping.NativelyForward, 1)},
		{Kind: mapping.ItemMapping, EID: sourced, Record: record(sourced, locator("192.0.2.3"))},
		{Kind: mapping.ItemMapping, EID: full, Record: everything},
		{Kind: mapping.ItemRegistration, EID: full, By: xtr, Site: "left", Record: everything, At: someTime,
			Flags: mapping.ProxyReply | mapping.MergeSet | mapping.TTLFromReg | mapping.SecurityCap},
		{Kind: mapping.ItemRegistration, EID: full, By: rloc4, Site: "left", Record: everything, At: someTime.Add(time.Second)},
		{Kind: mapping.ItemRegistration, EID: sourced, By: rloc6, Site: "", Record: record(sourced)},
		{Kind: mapping.ItemRegistration, EID: host, By: rloc6, Site: "a site with a long name, spaces and Ünicode", Record: record(host, locator("192.0.2.9")), At: someTime},
		{Kind: mapping.ItemNonce, Site: "left", By: xtr, KeyID: 0, Nonce: 1<<64 - 1},
		{Kind: mapping.ItemNonce, Site: "left", By: rloc4, KeyID: 255, Nonce: 1},
		{Kind: mapping.ItemNonce, Site: "", By: rloc6, KeyID: 1},
	}
}

func testEmpty(t *testing.T, open Open) {
	s := mustOpen(t, open, t.TempDir())
	want(t, s)
	commit(t, s)
	want(t, s)
}

func testRoundTrip(t *testing.T, open Open) {
	s := mustOpen(t, open, t.TempDir())
	all := everyKind()
	commit(t, s, put(all...)...)
	want(t, s, all...)
}

// testDurable: what Commit acknowledged is there after closing and opening
// again, one commit after the other.
func testDurable(t *testing.T, open Open) {
	dir := t.TempDir()
	all := everyKind()
	for i := range all {
		s := mustOpen(t, open, dir)
		want(t, s, all[:i]...)
		commit(t, s, put(all[i])...)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	want(t, mustOpen(t, open, dir), all...)
}

func testReplace(t *testing.T, open Open) {
	s := mustOpen(t, open, t.TempDir())
	commit(t, s, put(everyKind()...)...)
	changed := everyKind()
	for i := range changed {
		switch it := &changed[i]; it.Kind {
		case mapping.ItemNonce:
			it.Nonce++
		default:
			it.Record = record(it.EID, locator("203.0.113.77"), locator("2001:db8::77"))
			it.Flags ^= mapping.ProxyReply
			it.At = someTime.Add(time.Hour)
		}
		if changed[i].Kind == mapping.ItemMapping {
			changed[i].Flags, changed[i].At = 0, time.Time{}
		}
		if changed[i].Kind == mapping.ItemRegistration {
			changed[i].Site = "moved"
		}
	}
	commit(t, s, put(changed...)...)
	want(t, s, changed...)
}

func testDelete(t *testing.T, open Open) {
	s := mustOpen(t, open, t.TempDir())
	all := everyKind()
	for _, it := range all {
		commit(t, s, del(it)) // nothing there yet
	}
	want(t, s)
	commit(t, s, put(all...)...)
	for i, it := range all {
		commit(t, s, del(it), del(it))
		want(t, s, all[i+1:]...)
	}
}

// testKeys: items whose keys differ in one part only do not replace each other.
func testKeys(t *testing.T, open Open) {
	s := mustOpen(t, open, t.TempDir())
	eids := []string{"10.0.0.0/8", "10.0.0.0/9", "10.0.0.0/32", "[1]10.0.0.0/8", "[256]10.0.0.0/8", "a00::/8", "a00::/9",
		"10.0.0.0/8 from 10.0.0.0/8", "10.0.0.0/8 from 10.0.0.0/9", "0.0.0.0/0", "::/0"}
	by := []mapping.Registrant{
		{RLOC: netip.MustParseAddr("10.0.0.0")}, {RLOC: netip.MustParseAddr("a00::")},
		{XTRID: mapping.XTRID{1}}, {XTRID: mapping.XTRID{1}, SiteID: 1}, {XTRID: mapping.XTRID{15: 1}},
	}
	var all []mapping.Item
	for i, e := range eids {
		eid := mapping.MustParseEID(e)
		l := mapping.MakeLocator(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1, 1)
		all = append(all, mapping.Item{Kind: mapping.ItemMapping, EID: eid, Record: record(eid, l)})
		for j, b := range by {
			l.Weight = byte(j)
			all = append(all, mapping.Item{Kind: mapping.ItemRegistration, EID: eid, By: b, Site: "s", Record: record(eid, l)})
		}
	}
	for i, site := range []string{"", "s", "s\x00", "ss", "\x01s"} {
		for j, b := range by {
			for _, key := range []uint8{0, 1, 's', 255} {
				all = append(all, mapping.Item{Kind: mapping.ItemNonce, Site: site, By: b, KeyID: key, Nonce: uint64(1000*i + 10*j + int(key))})
			}
		}
	}
	commit(t, s, put(all...)...)
	want(t, s, all...)
}

func testInOrder(t *testing.T, open Open) {
	s := mustOpen(t, open, t.TempDir())
	a, a2, b := numbered(1, 1), numbered(1, 2), numbered(2, 1)
	commit(t, s, append(put(a), del(a), mapping.Change{Item: a2})...)
	want(t, s, a2)
	commit(t, s, append(put(b, a), del(b))...)
	want(t, s, a)
	var many []mapping.Change
	const rounds, width = 50, 7
	var last []mapping.Item
	for v := range rounds {
		for i := range width {
			many = append(many, del(numbered(i, 0)), mapping.Change{Item: numbered(i, v)})
		}
	}
	for i := range width {
		last = append(last, numbered(i, rounds-1))
	}
	commit(t, s, many...)
	want(t, s, last...)
}

// testAllOrNothing: one change that can't be stored refuses its whole batch.
func testAllOrNothing(t *testing.T, open Open) {
	s := mustOpen(t, open, t.TempDir())
	a, b := numbered(1, 1), numbered(2, 1)
	commit(t, s, put(a)...)
	bad := numbered(3, 1)
	bad.Record = nil
	changes := append(put(b, numbered(1, 2)), del(a), mapping.Change{Item: bad})
	if err := s.Commit(t.Context(), changes); err == nil {
		t.Fatal("a mapping without a record was accepted")
	}
	want(t, s, a)
}

// testRefuses: what can't be stored is an error, not silence.
func testRefuses(t *testing.T, open Open) {
	s := mustOpen(t, open, t.TempDir())
	good := numbered(1, 1)
	other := numbered(2, 1)
	with := func(f func(*mapping.Item)) mapping.Change {
		it := good
		it.Record = it.Record.Clone()
		f(&it)
		return mapping.Change{Item: it}
	}
	for name, c := range map[string]mapping.Change{
		"no kind":                     with(func(it *mapping.Item) { it.Kind = 0 }),
		"unknown kind":                with(func(it *mapping.Item) { it.Kind = 99 }),
		"no EID":                      with(func(it *mapping.Item) { it.EID, it.Record.EID = mapping.EID{}, mapping.EID{} }),
		"no record":                   with(func(it *mapping.Item) { it.Record = nil }),
		"record of another EID":       with(func(it *mapping.Item) { it.Record = other.Record }),
		"host bits in the EID":        with(func(it *mapping.Item) { it.EID.Prefix = netip.MustParsePrefix("10.1.2.3/8"); it.Record.EID = it.EID }),
		"registration without record": {Item: mapping.Item{Kind: mapping.ItemRegistration, EID: good.EID}},
		"deletion of no EID":          {Delete: true, Item: mapping.Item{Kind: mapping.ItemMapping}},
		"deletion of no kind":         {Delete: true, Item: mapping.Item{EID: good.EID}},
		"locator without an address":  with(func(it *mapping.Item) { it.Record.Locators = []mapping.Locator{{}} }),
		"too many locators":           with(func(it *mapping.Item) { it.Record.Locators = slices.Repeat(it.Record.Locators, 256) }),
	} {
		if err := s.Commit(t.Context(), []mapping.Change{c}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	want(t, s)
}

func testKeepsNothing(t *testing.T, open Open) {
	s := mustOpen(t, open, t.TempDir())
	changes := put(numbered(1, 1), numbered(2, 1))
	commit(t, s, changes...)
	for i := range changes {
		changes[i].Record.Locators[0] = locator("203.0.113.1")
		changes[i].EID = mapping.MustParseEID("203.0.113.0/24")
	}
	clear(changes)
	want(t, s, numbered(1, 1), numbered(2, 1))
}

func testYielded(t *testing.T, open Open) {
	s := mustOpen(t, open, t.TempDir())
	commit(t, s, put(everyKind()...)...)
	first := items(t, s)
	for _, it := range first {
		if it.Record != nil {
			it.Record.TTL = 7777
			clear(it.Record.Locators)
		}
	}
	want(t, s, everyKind()...)
	kept := items(t, s)
	// Change and close the store under the kept items.
	for _, it := range everyKind() {
		commit(t, s, del(it))
	}
	commit(t, s, put(numbered(1, 1))...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wanted := everyKind()
	sortItems(wanted)
	for i := range wanted {
		if !equal(kept[i], wanted[i]) {
			t.Fatalf("item %d changed after it was yielded: %+v", i, kept[i])
		}
	}
}

// testSnapshot: a walk sees one state, whatever is committed meanwhile, and
// does not hold commits up.
func testSnapshot(t *testing.T, open Open) {
	s := mustOpen(t, open, t.TempDir())
	const n = 500
	var first, second []mapping.Item
	for i := range n {
		first = append(first, numbered(i, 1))
		second = append(second, numbered(i, 2))
	}
	commit(t, s, put(first...)...)
	seen := 0
	for it, err := range s.Items(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if v := version(it); v != 1 {
			t.Fatalf("item %d of the walk is of version %d, committed after the walk began", seen, v)
		}
		if seen == n/2 {
			commit(t, s, put(second...)...)
			var more []mapping.Change
			for i := range 3 * n {
				more = append(more, mapping.Change{Item: numbered(n+i, 2)})
			}
			commit(t, s, more...)
		}
		seen++
	}
	if seen != n {
		t.Errorf("the walk saw %d items, want %d", seen, n)
	}
	if got := len(items(t, s)); got != 4*n {
		t.Errorf("%d items after the commits, want %d", got, 4*n)
	}
}

func testStopsEarly(t *testing.T, open Open) {
	s := mustOpen(t, open, t.TempDir())
	commit(t, s, put(numbered(1, 1), numbered(2, 1))...)
	for range s.Items(t.Context()) {
		break
	}
	commit(t, s, put(numbered(3, 1))...) // nothing is left locked
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seen int
	var last error
	for _, err := range s.Items(ctx) {
		cancel()
		if last = err; err == nil {
			seen++
		}
	}
	if seen != 1 || !errors.Is(last, context.Canceled) {
		t.Errorf("a cancelled walk gave %d items and %v, want 1 and %v", seen, last, context.Canceled)
	}
}

// testConcurrent: commits of several goroutines are all kept, each whole, and
// each goroutine's in its order.
func testConcurrent(t *testing.T, open Open) {
	dir := t.TempDir()
	s := mustOpen(t, open, dir)
	const workers, rounds, width = 8, 12, 5
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			// Whatever a walk sees, the items of one commit agree.
			versions := make(map[int]map[int]bool)
			for it, err := range s.Items(context.Background()) {
				if err != nil {
					t.Errorf("walk: %v", err)
					return
				}
				b := it.EID.Prefix.Addr().As4()
				w := int(b[2])
				if versions[w] == nil {
					versions[w] = make(map[int]bool)
				}
				versions[w][version(it)] = true
			}
			for w, vs := range versions {
				if len(vs) != 1 {
					t.Errorf("a walk saw parts of commits %v of worker %d", slices.Collect(maps.Keys(vs)), w)
				}
			}
			time.Sleep(time.Millisecond)
		}
	})
	var committers sync.WaitGroup
	for w := range workers {
		committers.Go(func() {
			for r := range rounds {
				var cs []mapping.Change
				for i := range width {
					cs = append(cs, mapping.Change{Item: numbered(w<<8|i, r+1)})
				}
				if err := s.Commit(context.Background(), cs); err != nil {
					t.Errorf("worker %d: %v", w, err)
				}
			}
		})
	}
	committers.Wait()
	close(stop)
	wg.Wait()
	var wanted []mapping.Item
	for w := range workers {
		for i := range width {
			wanted = append(wanted, numbered(w<<8|i, rounds))
		}
	}
	want(t, s, wanted...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	want(t, mustOpen(t, open, dir), wanted...)
}

func testCancelled(t *testing.T, open Open) {
	s := mustOpen(t, open, t.TempDir())
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("enough"))
	if err := s.Commit(ctx, put(numbered(1, 1))); !errors.Is(err, context.Canceled) {
		t.Errorf("commit under a cancelled context: %v", err)
	}
	want(t, s)
}

func testClose(t *testing.T, open Open) {
	dir := t.TempDir()
	s := mustOpen(t, open, dir)
	var wg sync.WaitGroup
	results := make([]error, 40)
	for i := range results {
		wg.Go(func() { results[i] = s.Commit(context.Background(), put(numbered(i, 1))) })
	}
	if err := s.Close(); err != nil {
		t.Fatalf("close during commits: %v", err)
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if err := s.Commit(t.Context(), put(numbered(1, 1))); !errors.Is(err, mapping.ErrStoreClosed) {
		t.Errorf("commit after close: %v", err)
	}
	var walked error
	for _, err := range s.Items(t.Context()) {
		walked = err
	}
	if !errors.Is(walked, mapping.ErrStoreClosed) {
		t.Errorf("walk after close: %v", walked)
	}
	var wanted []mapping.Item
	for i, err := range results {
		switch {
		case err == nil:
			wanted = append(wanted, numbered(i, 1))
		case !errors.Is(err, mapping.ErrStoreClosed):
			t.Errorf("commit during close: %v", err)
		}
	}
	want(t, mustOpen(t, open, dir), wanted...)
}

func testBigBatch(t *testing.T, open Open) {
	dir := t.TempDir()
	s := mustOpen(t, open, dir)
	const n = 30_000
	var all []mapping.Item
	for i := range n {
		all = append(all, numbered(i, i))
	}
	commit(t, s, put(all...)...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, open, dir)
	want(t, s, all...)
	var cs []mapping.Change
	for _, it := range all[1:] {
		cs = append(cs, del(it))
	}
	commit(t, s, cs...)
	want(t, s, all[0])
}
