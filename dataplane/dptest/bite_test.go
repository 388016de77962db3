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
			if c.State != s || c.Wire || len(c.Out)+len(c.In) > 10000 { // large ones differ by their size
				continue
			}
			play := p.Encap
			pkt := c.Out
			if c.In != nil {
				play, pkt = p.Decap, c.In
			}
			good := play(c.IID, slices.Clone(pkt), c.Size)
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

// A super-packet in pieces where it can go out whole is seen, and so is one that
// is whole behind a link which takes none.
func TestSuiteCountsFrames(t *testing.T) {
	f := Factory{Wire: true}
	seen := 0
	p := newMemory(allStates().open)
	for _, c := range Corpus() {
		if c.Size == 0 || c.Out == nil || !c.Whole {
			continue
		}
		seen++
		o := p.Encap(c.IID, c.Out, c.Size)
		n := len(o.Sent)
		for _, frames := range []int{1, n} {
			o.SentFrames = frames
			if err := c.check(f, o); (err == nil) != (frames == 1) {
				t.Errorf("%s: %d frames: %v", c.Name, frames, err)
			}
			behind := c
			behind.Whole, behind.segmented = false, true
			if err := behind.check(f, o); (err == nil) != (frames == n) {
				t.Errorf("%s: %d frames where each is one: %v", c.Name, frames, err)
			}
		}
	}
	if seen < 20 {
		t.Errorf("%d cases", seen)
	}
}

// What cuts super-packets complains of headers that do not fit.
func TestCutComplains(t *testing.T) {
	whole, segments := super(out4(0).with(func(p *Inner) { p.Proto = TCP }), 3000, 1000)
	inner, o := announce(whole, 1000)
	d := over(Far6, 0, inner)
	d.Sum = ZeroSum
	const head = 40 + 16
	o.start += head
	good := d.Bytes()
	list, err := o.cut(good)
	if err != nil || len(list) != 3 {
		t.Fatalf("%d packets, %v", len(list), err)
	}
	for i, s := range list {
		want := over(Far6, 0, segments[i])
		want.Sum = ZeroSum
		if !slices.Equal(s, want.Bytes()) {
			t.Errorf("packet %d\n%x\nwant\n%x", i, s, want.Bytes())
		}
	}
	for name, at := range map[string]int{"outer length": 5, "UDP length": 45, "port": 43, "UDP checksum": 47, "inner length": head + 3} {
		if _, err := o.cut(patch(good, at, good[at]^1)); err == nil {
			t.Errorf("a wrong %s is not seen", name)
		}
	}
	o.start -= 4
	if _, err := o.cut(good); err == nil {
		t.Error("a wrong place of the transport header is not seen")
	}
}
