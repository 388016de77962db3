package bpf

import (
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// newTestCopier returns a copier with tables of a size that no program uses.
func newTestCopier(t *testing.T, entries int) (*copier, *dataplane.FIB, *dataplane.Forwarder) {
	t.Helper()
	spec, err := loadLisp()
	if err != nil {
		t.Fatal(err)
	}
	if err := specify(spec, entries, 64); err != nil {
		t.Fatal(err)
	}
	var o lispObjects
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		t.Fatal(err)
	}
	tables, err := mapTables(o.lispMaps)
	if err != nil {
		t.Fatal(err)
	}
	fib := dataplane.NewFIB()
	fib.SetSources([]dataplane.Source{{Addr: netip.MustParseAddr("192.0.2.100"), Priority: 1, Weight: 100}, {Addr: netip.MustParseAddr("2001:db8::100"), Priority: 1, Weight: 100}})
	fwd := dataplane.NewForwarder(fib, dataplane.Config{})
	c := newCopier(tables, fwd, nil, func(netip.Addr) []uint16 { return nil })
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, fib, fwd
}

// mapped is a change of a mapping to one locator; an invalid one removes it.
func mapped(eid string, rloc string) mapping.CacheChange {
	c := mapping.CacheChange{EID: mapping.EID{Prefix: netip.MustParsePrefix(eid)}}
	if rloc != "" {
		toRecord(&c, netip.MustParseAddr(rloc))
	}
	return c
}

func toRecord(c *mapping.CacheChange, rloc netip.Addr) {
	c.Expires = time.Now().Add(time.Hour)
	c.Record = &mapping.Record{EID: c.EID, TTL: 60, Locators: []mapping.Locator{mapping.MakeLocator(rloc, 1, 100)}}
}

// via returns where the programs send packets to an address: the locator of
// the longest prefix, or no address when they leave them to the slow path.
func (c *copier) via(t *testing.T, a string) netip.Addr {
	t.Helper()
	var index uint32
	addr := netip.MustParseAddr(a)
	var err error
	if addr.Is4() {
		err = c.t.Eids4.Lookup(&lispEid4{Bits: 64, Addr: words(addr)[0]}, &index)
	} else {
		err = c.t.Eids6.Lookup(&lispEid6{Bits: 160, Addr: words(addr)}, &index)
	}
	if err != nil || index == 0 || c.t.entries[index].Expires <= bootTime(time.Now()) {
		return netip.Addr{}
	}
	r := &c.t.rlocs[c.t.entries[index].Rloc]
	return netipAddr(r.Addr, r.V6 != 0)
}

// The prefixes of an Internet come into the kernel, and go, whether it takes
// many at once or not.
func TestManyPrefixes(t *testing.T) {
	for name, single := range map[string]bool{"batches": false, "one by one": true} {
		t.Run(name, func(t *testing.T) {
			n := manyPrefixes
			if single {
				n /= 10
			}
			c, fib, _ := newTestCopier(t, n+n/4+1024)
			c.eids4.single = single
			rlocs := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1")}
			list := make([]mapping.CacheChange, n)
			for i := range list {
				var b [4]byte
				binary.BigEndian.PutUint32(b[:], uint32(i+1<<16)<<8)
				list[i].EID.Prefix = netip.PrefixFrom(netip.AddrFrom4(b), 24)
				toRecord(&list[i], rlocs[i%3])
			}
			fib.Apply(list)
			sync := func(what string) {
				start := time.Now()
				if err := c.sync(); err != nil {
					t.Fatal(err)
				}
				t.Logf("%s %d prefixes in %v", what, n, time.Since(start).Round(time.Millisecond))
			}
			sync("put")
			check := func(kept func(i int) bool) {
				t.Helper()
				for i := 0; i < n; i += 97 {
					want := netip.Addr{}
					if kept(i) {
						want = rlocs[i%3]
					}
					if got := c.via(t, list[i].EID.Prefix.Addr().Next().String()); got != want {
						t.Fatalf("%v goes to %v, want %v", list[i].EID, got, want)
					}
				}
			}
			check(func(int) bool { return true })
			if c.eids4.single != single {
				t.Error("this kernel takes no batches of prefixes")
			}
			if err := c.lack(); err != nil {
				t.Error(err)
			}
			var gone []mapping.CacheChange
			for i := range list {
				if i%10 == 0 {
					gone = append(gone, mapping.CacheChange{EID: list[i].EID})
				}
			}
			fib.Apply(gone)
			sync("removed a tenth of")
			check(func(i int) bool { return i%10 != 0 })
			if got, want := c.placed[0], n-len(gone); got != want {
				t.Errorf("%d prefixes are in the tables, want %d", got, want)
			}
		})
	}
}

// A prefix that finds no room does not have its packets forwarded by a shorter
// one; when there is room it is forwarded, and so is the shorter one.
func TestNoRoomForPrefix(t *testing.T) {
	for _, tt := range []struct{ name, cover, long, addr, beside string }{
		{"IPv4", "10.0.0.0/8", "10.1.2.0/24", "10.1.2.3", "10.9.9.9"},
		{"IPv6", "2001:db8::/32", "2001:db8:1:2::/64", "2001:db8:1:2::3", "2001:db8:9::9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const size = 16
			c, fib, fwd := newTestCopier(t, size)
			other := func(i byte) string {
				if tt.name == "IPv4" {
					return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, i, 0}), 24).String()
				}
				return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb9, 0, i}), 48).String()
			}
			apply := func(list ...mapping.CacheChange) {
				t.Helper()
				fib.Apply(list)
				if err := c.sync(); err != nil {
					t.Fatal(err)
				}
			}
			want := func(addr, rloc string) {
				t.Helper()
				var a netip.Addr
				if rloc != "" {
					a = netip.MustParseAddr(rloc)
				}
				if got := c.via(t, addr); got != a {
					t.Errorf("%s goes to %v, want %v", addr, got, a)
				}
			}
			list := []mapping.CacheChange{mapped(tt.cover, "192.0.2.1")}
			for i := range byte(size - 2) {
				list = append(list, mapped(other(i), "192.0.2.2"))
			}
			apply(list...)
			want(tt.beside, "192.0.2.1")
			if err := c.lack(); err != nil {
				t.Fatal(err)
			}

			apply(mapped(tt.long, "192.0.2.3"))
			want(tt.addr, "")
			want(tt.beside, "")
			stats := maps.Collect(fwd.Stats())
			if c.lack() == nil || stats[dataplane.KernelFull.String()] == 0 {
				t.Error("nothing tells of it")
			}
			apply(mapped(tt.cover, "192.0.2.4")) // which must not uncover it
			want(tt.addr, "")

			time.Sleep(2 * grace) // what has gone keeps its index for a moment
			apply(mapped(other(0), ""))
			want(tt.addr, "192.0.2.3")
			time.Sleep(2 * grace)
			apply(mapped(tt.cover, "192.0.2.4"))
			want(tt.beside, "192.0.2.4")
			want(tt.addr, "192.0.2.3")
			if len(c.refused) != 0 || len(c.over) != 0 {
				t.Errorf("%d prefixes still have no room, %d are over such", len(c.refused), len(c.over))
			}
		})
	}
}

// Prefixes that the kernel does not take are as those without room, whatever
// else is in the same batch.
func TestKernelRefusesPrefix(t *testing.T) {
	const size = 16
	c, fib, _ := newTestCopier(t, size)
	foreign := func(i byte) *lispEid4 {
		return &lispEid4{Bits: 56, Iid: bigEndian(5), Addr: words(netip.AddrFrom4([4]byte{172, 16, i, 0}))[0]}
	}
	for i := range byte(size - 2) {
		if err := c.t.Eids4.Update(foreign(i), uint32(0), ebpf.UpdateAny); err != nil {
			t.Fatal(err)
		}
	}
	fib.Apply([]mapping.CacheChange{mapped("10.0.0.0/8", "192.0.2.1"), mapped("10.1.0.0/16", "192.0.2.2"), mapped("10.1.2.0/24", "192.0.2.3"), mapped("10.1.2.0/24", "192.0.2.4"), mapped("10.0.0.0/8", "192.0.2.5")})
	if err := c.sync(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error %v, want %v", err, unix.ENOSPC)
	}
	for _, a := range []string{"10.9.9.9", "10.1.9.9", "10.1.2.3"} {
		if got := c.via(t, a); got.IsValid() {
			t.Errorf("%s goes to %v past a prefix that has no place", a, got)
		}
	}
	if err := c.t.Eids4.Delete(foreign(0)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second for what covered it
		if err := c.sync(); err != nil {
			t.Fatal(err)
		}
	}
	for a, want := range map[string]string{"10.9.9.9": "192.0.2.5", "10.1.9.9": "192.0.2.2", "10.1.2.3": "192.0.2.4"} {
		if got := c.via(t, a); got != netip.MustParseAddr(want) {
			t.Errorf("%s goes to %v, want %v", a, got, want)
		}
	}
	if len(c.refused) != 0 || len(c.over) != 0 || c.placed[0] != 3 {
		t.Errorf("%d prefixes have no room, %d are over such, %d are placed", len(c.refused), len(c.over), c.placed[0])
	}
}

// What was counted is taken when the copier has rested, and in the end in any case.
func TestFoldRests(t *testing.T) {
	c, fib, _ := newTestCopier(t, 1024)
	fib.Apply([]mapping.CacheChange{mapped("10.1.0.0/16", "192.0.2.1")})
	if err := c.sync(); err != nil {
		t.Fatal(err)
	}
	line := c.lines[mapping.MustParseEID("10.1.0.0/16")]
	entry := fib.Snapshot().Lookup(0, netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("192.0.2.77"), time.Now())
	count := func(want uint64) {
		t.Helper()
		if got := entry.Traffic().PacketsOut; got != want {
			t.Errorf("%d packets are taken, want %d", got, want)
		}
	}
	sent := func() {
		c.t.usages[int(line.index)*c.t.shards].Packets++
		c.t.touched[line.index/8], c.t.touchedIn[line.index/8/touchLine] = ^uint64(0), ^uint64(0)
	}
	sent()
	c.searched = time.Now()
	c.fold()
	count(1)
	if rest := time.Until(c.restUntil); rest > foldInterval {
		t.Errorf("it rests for %v", rest)
	}
	c.restUntil = time.Now().Add(time.Hour)
	sent()
	c.fold()
	count(1)
	c.restUntil = time.Time{}
	c.fold()
	count(2)
	// A mark that nothing tells of is found within a second.
	c.t.usages[int(line.index)*c.t.shards].Packets++
	c.t.touched[line.index/8] = ^uint64(0)
	c.restUntil = time.Time{}
	c.fold()
	count(2)
	c.restUntil, c.searched = time.Time{}, time.Now().Add(-foldInterval)
	c.fold()
	count(3)
}
