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
		case mapping.ItemSubscription:
			it.Nonce, it.RLOCs = 9, []netip.Addr{netip.MustParseAddr("203.0.113.78")}
		case mapping.ItemRevision:
			it.Revision++
			it.Digest--
		case mapping.ItemSite:
			it.Revision++
			it.Value = append(it.Value, "more"...)
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
