package mapping

import "fmt"

// MaxVersion is the largest map-version: it has 12 bits.
const MaxVersion = 4095

// Version is a map-version: the number of a state of one mapping (RFC 9302
// section 6), 1 to MaxVersion, or NullVersion.
type Version uint16

// NullVersion says that map-versioning is not in use for a mapping. It is
// never compared (RFC 9302 section 6.1).
const NullVersion Version = 0

// Newer reports whether v is newer than o in the circle of 12 bits: the 2048
// numbers after o are newer, all others are not. Neither may be NullVersion;
// the answer is then false (RFC 9302 section 6).
func (v Version) Newer(o Version) bool {
	if v == NullVersion || o == NullVersion {
		return false
	}
	return v > o && v-o <= 2048 || o > v && o-v > 2048
}

// Next returns the version after v: one more, and 1 after MaxVersion, as
// NullVersion is skipped. A mapping without a version, NullVersion, stays
// without (RFC 9302 sections 6 and 6.1).
func (v Version) Next() Version {
	switch v {
	case NullVersion:
		return NullVersion
	case MaxVersion:
		return 1
	}
	return v + 1
}

// Valid explains why v is not a map-version, or returns nil. NullVersion is
// one.
func (v Version) Valid() error {
	if v > MaxVersion {
		return fmt.Errorf("map-version %d is larger than %d", v, MaxVersion)
	}
	return nil
}
