package main

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
)

// maxMappings is how many the right site has room for, an EID-prefix in each
// eighth address.
const maxMappings = 1 << 20

// tableSeed makes the table the same in all processes and runs.
const tableSeed = 900_000

// mappings returns n different EID-prefixes of the right site of 29 to 32 bits
// that do not overlap, in random order.
func mappings(n int) []netip.Prefix {
	rng := rand.New(rand.NewPCG(tableSeed, 0))
	block := pfx(rightBlock).Addr().As4()
	base := binary.BigEndian.Uint32(block[:])
	out := make([]netip.Prefix, n)
	for i, slot := range rng.Perm(maxMappings)[:n] {
		a := base + uint32(slot)<<3 + rng.Uint32N(8)
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], a)
		out[i] = netip.PrefixFrom(netip.AddrFrom4(b), 29+rng.IntN(4)).Masked()
	}
	return out
}
