package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/storetest"
)

func openDir(dir string) (mapping.Store, error) {
	s, err := Open(filepath.Join(dir, "store.db"))
	if err != nil {
		return nil, err // not a nil *Store in an interface
	}
	return s, nil
}

func TestMain(m *testing.M) {
	storetest.Child(openDir)
	os.Exit(m.Run())
}

func TestStore(t *testing.T) { storetest.Run(t, openDir) }

func mustOpen(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func item(e mapping.EID) mapping.Item {
	l := mapping.MakeLocator(netip.MustParseAddr("192.0.2.1"), 1, 100)
	return mapping.Item{Kind: mapping.ItemMapping, EID: e, Record: &mapping.Record{EID: e, TTL: 60, Locators: []mapping.Locator{l}}}
}

// TestLargestRecord: what the store takes, it reads back; a record that it could
// not read would keep the map-server from starting again.
func TestLargestRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := mustOpen(t, path)
	// The record takes 16 octets, and its locator 9 around the name.
	sized := func(octets int) mapping.Item {
		it := item(mapping.MustParseEID("10.0.0.0/8"))
		it.Record.Locators = []mapping.Locator{{Opaque: "\x00\x11" + strings.Repeat("x", octets-16-9) + "\x00"}}
		return it
	}
	if err := s.Commit(t.Context(), []mapping.Change{{Item: sized(maxRecord)}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), []mapping.Change{{Item: sized(maxRecord + 1)}}); err == nil {
		t.Error("a record that is too large was accepted")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for it, err := range mustOpen(t, path).Items(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; !it.Record.Equal(sized(maxRecord).Record) {
			t.Error("another record came back")
		}
	}
	if n != 1 {
		t.Errorf("%d items, want 1", n)
	}
}

func TestFileMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	mustOpen(t, path)
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600: the file tells who is where", fi.Mode().Perm())
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	refused := func(name string, want error, words string) {
		t.Helper()
		before, _ := os.ReadFile(path(name))
		s, err := Open(path(name))
		if err == nil {
			s.Close()
			t.Fatalf("%s: opened", name)
		}
		if want != nil && !errors.Is(err, want) || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v; want %v with %q", name, err, want, words)
		}
		if after, _ := os.ReadFile(path(name)); !bytes.Equal(before, after) {
			t.Errorf("%s: Open changed the file", name)
		}
	}

	s := mustOpen(t, path("locked"))
	start := time.Now()
	refused("locked", ErrLocked, "another process")
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("a locked store was refused after %v", d)
	}
	for i := range 2000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})
		if err := s.Commit(t.Context(), []mapping.Change{{Item: item(mapping.HostEID(0, a))}}); err != nil {
			t.Fatal(err)
		}
		if i == 50 {
			break
		}
	}
	s.Close()
	sound, err := os.ReadFile(path("locked"))
	if err != nil {
		t.Fatal(err)
	}

	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("text", []byte(strings.Repeat("this is no database\n", 1000)))
	refused("text", ErrCorrupt, "")
	write("short", sound[:100])
	refused("short", ErrCorrupt, "")
	write("cut", sound[:3*4096])
	refused("cut", ErrCorrupt, "")
	zeroed := slices.Clone(sound)
	clear(zeroed[2*4096:])
	write("zeroed", zeroed)
	refused("zeroed", ErrCorrupt, "")

	change := func(name string, f func(*bbolt.Tx) error) {
		t.Helper()
		db, err := bbolt.Open(path(name), 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(f); err != nil {
			t.Fatal(err)
		}
		db.Close()
	}
	write("newer", sound)
	change("newer", func(tx *bbolt.Tx) error { return tx.Bucket(layoutBucket).Put(versionKey, []byte{layoutVersion + 1}) })
	refused("newer", ErrVersion, fmt.Sprintf("version [%d], this program reads %d", layoutVersion+1, layoutVersion))
	change("foreign", func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("peaches")); return err })
	refused("foreign", ErrVersion, "another program")
	write("halved", sound)
	change("halved", func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("nonces")) })
	refused("halved", ErrCorrupt, "nonces")

	if err := os.Mkdir(path("directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	refused("directory", nil, "directory")
	refused("missing/file", os.ErrNotExist, "")
}

// TestBitFlips: a flipped bit anywhere is noticed at the opening or by the
// walk, or did not matter; no walk yields an item that was never committed.
func TestBitFlips(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s.db")
	s := mustOpen(t, path)
	known := make(map[mapping.EID]*mapping.Record)
	var cs []mapping.Change
	for i := range 300 {
		it := item(mapping.HostEID(uint32(i%3), netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})))
		known[it.EID] = it.Record
		cs = append(cs, mapping.Change{Item: it})
	}
	if err := s.Commit(t.Context(), cs); err != nil {
		t.Fatal(err)
	}
	var used int64
	if err := s.db.View(func(tx *bbolt.Tx) error { used = tx.Size(); return nil }); err != nil {
		t.Fatal(err)
	}
	s.Close()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	noticed := 0
	const flips = 300
	for range flips {
		// Most of the file is room to grow.
		var octet [1]byte
		var at int64
		for octet[0] == 0 {
			at = rng.Int64N(used)
			if _, err := f.ReadAt(octet[:], at); err != nil {
				t.Fatal(err)
			}
		}
		bit := rng.IntN(8)
		sound := octet[0]
		octet[0] ^= 1 << bit
		if _, err := f.WriteAt(octet[:], at); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path)
		if err != nil {
			noticed++
			octet[0] = sound
			if _, err := f.WriteAt(octet[:], at); err != nil {
				t.Fatal(err)
			}
			continue
		}
		for it, err := range s.Items(t.Context()) {
			if err != nil {
				if !errors.Is(err, ErrCorrupt) {
					t.Errorf("bit %d of octet %d: %v", bit, at, err)
				}
				noticed++
				break
			}
			if r := known[it.EID]; r == nil || !r.Equal(it.Record) {
				t.Fatalf("bit %d of octet %d: the walk yielded %v, which was never committed", bit, at, it.Record)
			}
		}
		s.Close()
		octet[0] = sound
		if _, err := f.WriteAt(octet[:], at); err != nil {
			t.Fatal(err)
		}
	}
	if noticed < flips/2 {
		t.Errorf("%d of %d flipped bits were noticed", noticed, flips)
	}
}

func randomEID(rng *rand.Rand) mapping.EID {
	var a netip.Addr
	var bits int
	if rng.IntN(2) == 0 {
		a, bits = netip.AddrFrom4([4]byte{byte(rng.IntN(3)), byte(rng.IntN(3)), 0, byte(rng.IntN(2))}), rng.IntN(33)
	} else {
		a, bits = netip.AddrFrom16([16]byte{0x20, byte(rng.IntN(3)), byte(rng.IntN(3)), 15: byte(rng.IntN(2))}), rng.IntN(129)
	}
	e, err := mapping.MakeEID(uint32(rng.IntN(3))<<8, netip.PrefixFrom(a, bits))
	if err != nil {
		panic(err)
	}
	if rng.IntN(3) == 0 {
		p, _ := a.Next().Prefix(rng.IntN(bits + 1))
		e.Source = p
	}
	return e
}

// TestKeyOrder: keys sort as EID.Compare does, so that a sorted load writes
// each page once.
func TestKeyOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		a, b := randomEID(rng), randomEID(rng)
		ka, err := appendEID(nil, a)
		if err != nil {
			t.Fatal(err)
		}
		kb, err := appendEID(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := bytes.Compare(ka, kb), a.Compare(b); got != want {
			t.Fatalf("%v and %v: keys compare %d, EIDs %d", a, b, got, want)
		}
		r := reader{b: ka}
		if e := r.eid(); r.end() != nil || e != a {
			t.Fatalf("%v came back as %v, %v", a, e, r.err)
		}
	}
}

// TestGroupCommit: commits that wait at the same time share transactions.
func TestGroupCommit(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "s.db"))
	txid := func() (id int) {
		if err := s.db.View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil }); err != nil {
			t.Fatal(err)
		}
		return id
	}
	before := txid()
	s.writer <- struct{}{} // as if a transaction were under way
	const n = 50
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			it := item(mapping.HostEID(0, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})))
			if err := s.Commit(context.Background(), []mapping.Change{{Item: it}}); err != nil {
				t.Error(err)
			}
		})
	}
	waitFor(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.queue) == n
	})
	<-s.writer
	wg.Wait()
	if got := txid() - before; got != 1 {
		t.Errorf("%d waiting commits took %d transactions, want 1", n, got)
	}
}

// TestCancelWhileWaiting: a commit that no transaction has taken yet can still
// be called off, and then leaves nothing.
func TestCancelWhileWaiting(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "s.db"))
	s.writer <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- s.Commit(ctx, []mapping.Change{{Item: item(mapping.MustParseEID("10.0.0.0/8"))}})
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("commit: %v", err)
	}
	<-s.writer
	for it, err := range s.Items(t.Context()) {
		t.Errorf("in the store: %v, %v", it, err)
	}
}

// TestCloseWaits: Close lets the commits that were called before it through.
func TestCloseWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := mustOpen(t, path)
	s.writer <- struct{}{}
	committed, closed := make(chan error, 1), make(chan error, 1)
	go func() {
		committed <- s.Commit(context.Background(), []mapping.Change{{Item: item(mapping.MustParseEID("10.0.0.0/8"))}})
	}()
	state := func(f func() bool) func() bool {
		return func() bool { s.mu.Lock(); defer s.mu.Unlock(); return f() }
	}
	waitFor(t, state(func() bool { return len(s.queue) == 1 }))
	go func() { closed <- s.Close() }()
	waitFor(t, state(func() bool { return s.closed }))
	select {
	case err := <-closed:
		t.Fatalf("Close returned %v before the commit", err)
	case <-time.After(20 * time.Millisecond):
	}
	<-s.writer
	if err := <-committed; err != nil {
		t.Errorf("commit: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
	n := 0
	for _, err := range mustOpen(t, path).Items(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d items, want 1", n)
	}
}

func waitFor(t *testing.T, f func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen")
		}
	}
}

// A file that an earlier version wrote has no sites, or no revision and no
// subscriptions either; it is read, and takes them from then on.
func TestUpgrade(t *testing.T) {
	t.Run("from 1", func(t *testing.T) { testUpgrade(t, 1, "subscriptions", "revision", "sites") })
	t.Run("from 2", func(t *testing.T) { testUpgrade(t, 2, "revision", "sites") })
	t.Run("from 3", func(t *testing.T) { testUpgrade(t, 3, "sites") })
}

func testUpgrade(t *testing.T, version byte, missing ...string) {
	path := filepath.Join(t.TempDir(), "db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	old := item(mapping.MustParseEID("10.0.0.0/8"))
	if err := s.Commit(t.Context(), []mapping.Change{{Item: old}}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error {
		for _, name := range missing {
			if err := tx.DeleteBucket([]byte(name)); err != nil {
				return err
			}
		}
		return tx.Bucket(layoutBucket).Put(versionKey, []byte{version})
	}); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if s, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	sub := mapping.Item{Kind: mapping.ItemSubscription, EID: old.EID, By: mapping.Registrant{XTRID: mapping.XTRID{1}}, Nonce: 5}
	rev := mapping.Item{Kind: mapping.ItemRevision, Revision: 7}
	site := mapping.Item{Kind: mapping.ItemSite, Site: "left", Revision: 7}
	if err := s.Commit(t.Context(), []mapping.Change{{Item: sub}, {Item: rev}, {Item: site}}); err != nil {
		t.Fatal(err)
	}
	var kinds []mapping.ItemKind
	for it, err := range s.Items(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, it.Kind)
	}
	if !slices.Equal(kinds, []mapping.ItemKind{mapping.ItemSite, mapping.ItemMapping, mapping.ItemSubscription, mapping.ItemRevision}) {
		t.Errorf("items of kinds %v after the upgrade", kinds)
	}
}

func FuzzDecodeItem(f *testing.F) {
	for _, kind := range []mapping.ItemKind{mapping.ItemMapping, mapping.ItemRegistration, mapping.ItemNonce, mapping.ItemSubscription, mapping.ItemRevision, mapping.ItemSite} {
		it := item(mapping.MustParseEID("[7]10.0.0.0/8"))
		it.Revision = 9
		it.Kind, it.Site, it.Nonce, it.At = kind, "left", 7, time.Unix(1_700_000_000, 0)
		it.RLOCs = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
		key, err := appendKey(nil, &it)
		if err != nil {
			f.Fatal(err)
		}
		value, err := appendValue(nil, key, &it)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(kind-mapping.ItemMapping), key, value[crcSize:])
	}
	f.Fuzz(func(t *testing.T, k byte, key, value []byte) {
		kind := mapping.ItemMapping + mapping.ItemKind(k)%6
		sum := checksum(key, value)
		b := append([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}, value...)
		it, err := decodeItem(kind, key, b)
		if err != nil {
			return
		}
		// What is read can be written, and is then read as the same.
		key2, err := appendKey(nil, &it)
		if err != nil {
			t.Skip("a key that this program does not write")
		}
		value2, err := appendValue(nil, key2, &it)
		if err != nil {
			t.Fatalf("%+v can't be written: %v", it, err)
		}
		again, err := decodeItem(kind, key2, value2)
		if err != nil {
			t.Fatalf("%+v can't be read again: %v", it, err)
		}
		same := it.EID == again.EID && it.By == again.By && it.Site == again.Site && it.KeyID == again.KeyID &&
			it.Flags == again.Flags && it.Nonce == again.Nonce && it.At.Equal(again.At) &&
			it.Revision == again.Revision && it.Digest == again.Digest && bytes.Equal(it.Value, again.Value) &&
			(it.Record == nil) == (again.Record == nil) && (it.Record == nil || it.Record.Equal(again.Record))
		if !same {
			t.Fatalf("%+v came back as %+v", it, again)
		}
	})
}

func BenchmarkCommit10k(b *testing.B) {
	s := mustOpen(b, filepath.Join(b.TempDir(), "s.db"))
	n := uint32(0)
	for b.Loop() {
		cs := make([]mapping.Change, 10_000)
		for i := range cs {
			n++
			cs[i].Item = item(mapping.HostEID(0, netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})))
		}
		if err := s.Commit(b.Context(), cs); err != nil {
			b.Fatal(err)
		}
	}
}
