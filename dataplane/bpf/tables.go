package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
)

// Sizes that are ours; those of tables.h that are not here are in the objects.
const (
	maxRLOCs       = 65536
	maxSlotTables  = 4096
	maxSourceTable = 256
	maxSources     = 8
	maxOwn         = 256
	sourcePorts    = 16
	generations    = 4096
	touchLine      = 64
	maxShards      = 8
	// maxFlows is how many flows, and arrivals, all CPUs together remember, and
	// minFlows how many each does.
	maxFlows = 1 << 18
	minFlows = 64
	// hostsPerFlow is how many hosts there are in their cache for each of these.
	hostsPerFlow = 4
	// maxCPUs is for how many there is room when the kernel does not tell.
	maxCPUs = 8192
	// maxEntries is what the cache of hosts has bits for.
	maxEntries = 1 << 24
)

// Both sides index tables of the same size; the constants of C are in types.
var (
	_ [dataplane.Slots]uint32 = lispSlots{}.Rloc
	_ [dataplane.Slots]uint8  = lispSources{}.Slots
	_ [maxSources][4]uint32   = lispSources{}.Addr
	_ [touchLine]uint8        = lispTouch{}.Entry

	_ [maxSources][sourcePorts]uint16 = lispSources{}.Ports
)

// tables are the maps, those that user space writes word by word mapped into
// memory. They are shared with the programs, and with who has adopted the pins.
type tables struct {
	lispMaps
	shards int // a power of 2

	settings     *lispConfig
	generations  []padded[uint32]
	entries      []lispEntry
	rlocs        []lispRloc
	slotTables   []lispSlots
	sourceTables []padded[lispSources]
	usages       []lispUsage
	rlocUsages   []lispUsage
	ownUsages    []lispUsage
	touched      []uint64 // eight entries in each
	touchedIn    []uint64 // eight times eight of these words

	mapped [][]byte
}

// padded is a value of an array map whose size is no multiple of 8.
type padded[T any] struct {
	_ [0]uint64
	v T
}

// shardBits is how many tables of usage there are, as a power of 2: one for
// each CPU, but not more than 8, so that they do not wait for each other much.
func shardBits() int {
	return bits.Len(uint(min(runtime.NumCPU(), maxShards) - 1))
}

// specify puts the sizes into the specification of the maps.
func specify(spec *ebpf.CollectionSpec, entries, cache int) error {
	n := shardBits()
	if err := spec.Variables["shard_bits"].Set(uint32(n)); err != nil {
		return fmt.Errorf("set shard_bits: %w", err)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		cpus = maxCPUs
	}
	each := uint32(0)
	if cpus <= 1<<n {
		each = 1
	}
	if err := spec.Variables["shard_each"].Set(each); err != nil {
		return fmt.Errorf("set shard_each: %w", err)
	}
	cpuBits := bits.Len(uint(cpus - 1))
	lines := max(min(floor2(max(cache/hostsPerFlow, 1)), maxFlows>>cpuBits), minFlows)
	if err := spec.Variables["flow_lines"].Set(uint32(lines)); err != nil {
		return fmt.Errorf("set flow_lines: %w", err)
	}
	size := map[string]int{
		"flows": lines << cpuBits, "arrivals": lines << cpuBits,
		"eids4": entries, "eids6": entries, "entries": entries, "usages": entries << n, "touched": (entries + touchLine - 1) / touchLine,
		"touched_in": (entries + touchLine*touchLine - 1) / (touchLine * touchLine), "rloc_usages": maxRLOCs << n, "own_usages": maxOwn << n, "hosts": cache,
	}
	for name, n := range size {
		spec.Maps[name].MaxEntries = uint32(n)
	}
	return nil
}

// floor2 is the largest power of 2 that is not more than n, which is positive.
func floor2(n int) int { return 1 << (bits.Len(uint(n)) - 1) }

// mapTables maps the arrays into memory.
func mapTables(maps lispMaps) (_ *tables, err error) {
	t := &tables{lispMaps: maps, shards: 1 << shardBits()}
	defer func() {
		if err != nil {
			t.unmap()
		}
	}()
	settings, err := mapArray[lispConfig](t, maps.Settings)
	if err != nil {
		return nil, err
	}
	t.settings = &settings[0]
	if t.generations, err = mapArray[padded[uint32]](t, maps.Generations); err != nil {
		return nil, err
	}
	if t.entries, err = mapArray[lispEntry](t, maps.Entries); err != nil {
		return nil, err
	}
	if t.rlocs, err = mapArray[lispRloc](t, maps.Rlocs); err != nil {
		return nil, err
	}
	if t.slotTables, err = mapArray[lispSlots](t, maps.SlotTables); err != nil {
		return nil, err
	}
	if t.sourceTables, err = mapArray[padded[lispSources]](t, maps.SourceTables); err != nil {
		return nil, err
	}
	if t.usages, err = mapArray[lispUsage](t, maps.Usages); err != nil {
		return nil, err
	}
	if t.rlocUsages, err = mapArray[lispUsage](t, maps.RlocUsages); err != nil {
		return nil, err
	}
	if t.ownUsages, err = mapArray[lispUsage](t, maps.OwnUsages); err != nil {
		return nil, err
	}
	for m, words := range map[*ebpf.Map]*[]uint64{maps.Touched: &t.touched, maps.TouchedIn: &t.touchedIn} {
		lines, err := mapArray[[touchLine / 8]uint64](t, m)
		if err != nil {
			return nil, err
		}
		*words = unsafe.Slice(&lines[0][0], len(lines)*touchLine/8)
	}
	return t, nil
}

// mapArray maps an array map into memory.
func mapArray[T any](t *tables, m *ebpf.Map) ([]T, error) {
	var v T
	if unsafe.Sizeof(v) != uintptr(m.ValueSize()+7)&^7 {
		return nil, fmt.Errorf("map %v: values of %d octets, want %d", m, m.ValueSize(), unsafe.Sizeof(v))
	}
	size := int(unsafe.Sizeof(v)) * int(m.MaxEntries())
	page := unix.Getpagesize()
	b, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %v into memory: %w", m, err)
	}
	t.mapped = append(t.mapped, b)
	return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), m.MaxEntries()), nil
}

// unmap ends the use of the memory.
func (t *tables) unmap() error {
	var errs []error
	for _, b := range t.mapped {
		errs = append(errs, unix.Munmap(b))
	}
	t.mapped = nil
	return errors.Join(errs...)
}

// words returns an address as the programs have it: in network order, an IPv4
// address in the first word.
func words(a netip.Addr) (w [4]uint32) {
	if a.Is4() {
		b := a.As4()
		w[0] = binary.NativeEndian.Uint32(b[:])
		return w
	}
	b := a.As16()
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

// netipAddr undoes words.
func netipAddr(w [4]uint32, v6 bool) netip.Addr {
	var b [16]byte
	for i := range w {
		binary.NativeEndian.PutUint32(b[4*i:], w[i])
	}
	if v6 {
		return netip.AddrFrom16(b)
	}
	return netip.AddrFrom4([4]byte(b[:4]))
}

// address is the key of maps with addresses of both families.
func address(a netip.Addr) lispAddress {
	k := lispAddress{Family: 6, Addr: words(a)}
	if a.Is4() {
		k.Family = 4
	}
	return k
}

func bigEndian(n uint32) uint32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return binary.NativeEndian.Uint32(b[:])
}

// swapped returns a port as the programs have it.
func swapped(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}
