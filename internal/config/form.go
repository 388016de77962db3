package config

import (
	"slices"
	"strconv"
	"time"
)

// A form is what a value of a file may be. It is found out by watching a reader
// that reads one, so that what the JSON schemas and docs/configuration.md say of
// a key is what is read. While a daemon reads its file there is none: every
// method does nothing on nil.
type form struct {
	keys     map[string]*form // of a mapping; nil for other values
	optional map[string]bool  // keys that a mapping may be without
	items    *form            // of a list
	nonEmpty bool             // whether a list has an item at least
	scalar   *scalar
}

// kind is what a scalar is read as.
type kind uint8

const (
	anyText kind = iota
	integer
	boolean
	enum
	duration
)

// A scalar is what a text of a file may be.
type scalar struct {
	kind
	// low and high bound an integer, or a duration in nanoseconds.
	low, high uint64
	names     []string // of an enum
	// what names a text in a word or two, and pattern is a regular expression that
	// it matches; "" where anything may be.
	what, pattern string
	// numeric says that YAML may take the text for a number.
	numeric bool
	// otherwise is what it is when left out; "" if that is not a value, or no
	// constant.
	otherwise string
	varies    bool // whether otherwise was not always the same
}

// Texts of a file. The patterns are for editors: what they match may still be
// refused.
var (
	textForm      = scalar{what: "text", numeric: true}
	pathForm      = scalar{what: "path", numeric: true}
	eidForm       = scalar{what: "EID-prefix", pattern: `^(\[[0-9]+\] *)?[0-9a-fA-F.:]+(/[0-9]{1,3})?$`}
	addressForm   = scalar{what: "address", pattern: `^[0-9a-fA-F.:]+$`}
	prefixForm    = scalar{what: "address or prefix", pattern: `^[0-9a-fA-F.:]+(/[0-9]{1,3})?$`}
	endForm       = scalar{what: "address with length", pattern: `^[0-9a-fA-F.:]+/[0-9]{1,3}$`}
	xtrIDForm     = scalar{what: "32 hexadecimal digits", pattern: `^[0-9a-fA-F]{32}$`, numeric: true}
	interfaceForm = scalar{what: "interface", pattern: `^[!-$&-.0-9;-~]{1,15}$`, numeric: true}
	nameForm      = scalar{what: "1 to 63 ASCII characters", pattern: `^[ -~]{1,63}$`, numeric: true}
	communityForm = scalar{what: "community", pattern: `^([a-z-]+|[0-9]+(:[0-9]+){1,2})$`, numeric: true}
)

// portForm is an address with a port, or that port.
func portForm(port uint16) scalar {
	return scalar{what: "address, port " + strconv.Itoa(int(port)), pattern: `^([0-9a-fA-F.:]+|[0-9.]+:[0-9]{1,5}|\[[0-9a-fA-F.:]+\]:[0-9]{1,5})$`}
}

func integerForm(low, high, otherwise uint64) scalar {
	s := scalar{kind: integer, low: low, high: high}
	if otherwise >= low && otherwise <= high {
		s.otherwise = strconv.FormatUint(otherwise, 10)
	}
	return s
}

func durationForm(low, high, otherwise time.Duration) scalar {
	s := scalar{kind: duration, low: uint64(low), high: uint64(high)}
	if otherwise >= low && otherwise <= high {
		s.otherwise = shortDuration(otherwise)
	}
	return s
}

// is adds a scalar to what the value may be.
func (f *form) is(s scalar) {
	switch {
	case f == nil:
	case f.scalar == nil:
		f.scalar = &s
	default:
		had := f.scalar
		had.low, had.high = min(had.low, s.low), max(had.high, s.high)
		had.varies = had.varies || had.otherwise != s.otherwise
	}
}

// otherwise says what the value is when left out, whatever was said of that; ""
// for no constant.
func (f *form) otherwise(s string) {
	if f != nil && f.scalar != nil {
		f.scalar.otherwise, f.scalar.varies = s, false
	}
}

// isText adds a text that nothing more is known of.
func (f *form) isText() {
	if f != nil && f.scalar == nil {
		f.is(textForm)
	}
}

// list says that the value may be a list, and returns the form of its items.
func (f *form) list() *form {
	if f == nil {
		return nil
	}
	if f.items == nil {
		f.items = new(form)
	}
	return f.items
}

func (f *form) isNotEmpty() {
	if f != nil {
		f.nonEmpty = true
	}
}

// key says that the value may be a mapping with a key, whose form it returns.
func (f *form) key(name string) *form {
	if f == nil {
		return nil
	}
	if f.keys == nil {
		f.keys, f.optional = make(map[string]*form), make(map[string]bool)
	}
	if f.keys[name] == nil {
		f.keys[name] = new(form)
	}
	return f.keys[name]
}

// ended says which of the keys that were asked for had to be there.
func (f *form) ended(known, needed []string) {
	if f == nil {
		return
	}
	for _, k := range known {
		if !slices.Contains(needed, k) {
			f.key(k)
			f.optional[k] = true
		}
	}
}
