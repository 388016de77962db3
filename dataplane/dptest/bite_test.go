package dptest

import (
	"errors"
	"slices"
	"testing"

	"github.com/eidolon-lisp/eidolon/dataplane"
)

// Whatever a plane does wrong, the suite sees it: each case is played right, and
// then what came of it is changed.
func TestSuiteBites(t *testing.T) {
	flip := func(pkts [][]byte, at int, bit byte) bool {
		if len(pkts) == 0 || at >= len(pkts[0]) {
			return false
		}
		pkts[0][at] ^= bit
		return true
	}
	faults := map[string]func(o *Outcome) bool{
		"nothing sent":     func(o *Outcome) bool { had := len(o.Sent) > 0; o.Sent = nil; return had },
		"nothing to hosts": func(o *Outcome) bool { had := len(o.Host) > 0; o.Host = nil; return had },
		"sent twice":       func(o *Outcome) bool { o.Sent = append(o.Sent, o.Sent...); return len(o.Sent) > 0 },
		"to hosts twice":   func(o *Outcome) bool { o.Host = append(o.Host, o.Host...); return len(o.Host) > 0 },
		"not counted":      func(o *Outcome) bool { had := len(o.Drops) > 0; o.Drops = nil; return had },
		"counted twice": func(o *Outcome) bool {
			for r := range o.Drops {
				o.Drops[r]++
			}
			return len(o.Drops) > 0
		},
		"counted as another": func(o *Outcome) bool { o.Drops[dataplane.DropHostWrite]++; return true },
		"passed":             func(o *Outcome) bool { *o = Outcome{Passed: true}; return true },
		"refused":            func(o *Outcome) bool { *o = Outcome{Refused: true}; return true },
		"leaked":             func(o *Outcome) bool { o.Leaked = [][]byte{{0x45}}; return true },
		"not played":         func(o *Outcome) bool { o.Err = errors.New("no"); return true },
		"last octet": func(o *Outcome) bool {
			return len(o.Sent) > 0 && flip(o.Sent, len(o.Sent[0])-1, 1)
		},
		"last octet to a host": func(o *Outcome) bool { return len(o.Host) > 0 && flip(o.Host, len(o.Host[0])-1, 1) },
	}
	for at := range 68 {
		faults["sent octet "+string(rune('0'+at/10))+string(rune('0'+at%10))] = func(o *Outcome) bool {
			if len(o.Sent) == 0 {
				return false
			}
			if p := o.Sent[0]; p[0]>>4 == 6 && (at == 1 || at == 2 || at == 3) {
				return false // the flow label may be any; the class is in octets 0 and 1
			}
			return flip(o.Sent, at, 1)
		}
	}
	seen := make(map[string]int)
	for _, s := range States() {
		p := newMemory(s)
		for _, c := range Corpus() {
			if c.State != s || c.Wire {
				continue
			}
			play := p.Encap
			pkt := c.Out
			if c.In != nil {
				play, pkt = p.Decap, c.In
			}
			good := play(c.IID, slices.Clone(pkt))
			if err := c.check(Memory, good); err != nil {
				t.Fatalf("%s: %v", c.Name, err)
			}
			for name, fault := range faults {
				o := good
				o.Sent, o.Host = clone(good.Sent), clone(good.Host)
				o.Drops = make(map[dataplane.DropReason]uint64)
				for r, n := range good.Drops {
					o.Drops[r] = n
				}
				if !fault(&o) {
					continue
				}
				seen[name]++
				if name == "refused" && c.Around == Stopped {
					continue
				}
				if c.check(Memory, o) == nil {
					t.Errorf("%s: %s, and the suite does not see it", c.Name, name)
				}
			}
		}
	}
	for name := range faults {
		if seen[name] == 0 {
			t.Errorf("no case could have the fault %q", name)
		}
	}
}

func clone(list [][]byte) (out [][]byte) {
	for _, b := range list {
		out = append(out, slices.Clone(b))
	}
	return out
}
