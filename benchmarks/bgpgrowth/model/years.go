package model

import "math"

// Point is the number of IPv4 prefixes in the global table at a time.
type Point struct{ Year, Entries float64 }

// Published are points of the history of the global table: up to 2000 rounded, from
// the series of G. Huston (bgp.potaroo.net), as the last three are; those between
// counted in tables of RouteViews (CAIDA pfx2as).
var Published = []Point{
	{1990.08, 2_300}, {1994, 15_000}, {1998, 49_000}, {2002.56, 112_988}, {2008.33, 270_849}, {2014.36, 512_621}, {2016.09, 615_842},
	{2020.54, 817_367}, {2024.26, 998_042}, {2025.17, 1_002_889}, {2025.5, 1_013_987}, {2025.87, 1_036_829},
}

// Shares are what a table is made of: parts of its prefixes by the class of their
// origin.
type Shares struct {
	Year float64
	// Multihomed are all prefixes of stubs with several providers, Extra those of
	// them that lie inside of other prefixes, their own, a provider's or another's,
	// and SingleHomed all of stubs with one.
	Multihomed, Extra, SingleHomed float64
}

// Decomposed are the shares in tables of RouteViews, with the AS relationships of
// CAIDA of about the same time; of 2024 the class of the origins of an eighth of the
// prefixes is not known, as the relationships are of 2018, so that its shares are
// lower bounds.
var Decomposed = []Shares{
	{2002.56, 0.281, 0.169, 0.159}, {2008.33, 0.303, 0.156, 0.121}, {2016.09, 0.267, 0.118, 0.163}, {2024.26, 0.214, 0.096, 0.136},
}

// Saved is by which factor the table is smaller when a share of it is not there.
func Saved(share float64) float64 { return 1 / (1 - share) }

// Growth is exponential growth between two points.
func Growth(a, b Point) (yearly float64) {
	return math.Pow(b.Entries/a.Entries, 1/(b.Year-a.Year)) - 1
}

// Adoption is what is left of a table when a part of its multihomed stubs have
// moved to EIDs. Where these are of blocks, each of which proxies announce as one,
// their prefixes are gone; where sites keep the prefixes that they had, each is
// announced by proxies as it was, until all have moved and no proxy is needed.
func Adoption(entries float64, s Shares, moved float64, blocks float64, keep bool) float64 {
	switch {
	case moved <= 0:
		return entries
	case keep && moved < 1:
		return entries
	case keep:
		return entries * (1 - s.Multihomed)
	}
	return entries*(1-s.Multihomed*moved) + blocks
}
