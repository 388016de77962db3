package server

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// copyOf is what somebody who follows has.
type copyOf map[mapping.EID]string

func describe(st *MappingStatus) string {
	return fmt.Sprintf("%v %v %q %v put %d", st.Record, st.Origin, st.Site, st.Forwarded, st.PutRevision)
}

func copied(d Snapshot) copyOf {
	c := make(copyOf)
	for st := range d.Mappings(mapping.EID{}, mapping.EID{}) {
		c[st.Record.EID] = describe(&st)
	}
	return c
}

func (c copyOf) apply(changes []MappingChange) {
	for _, ch := range changes {
		if ch.Mapping == nil {
			delete(c, ch.EID)
		} else {
			c[ch.EID] = describe(ch.Mapping)
		}
	}
}

func (c copyOf) difference(o copyOf) string {
	for e, text := range c {
		if o[e] != text {
			return fmt.Sprintf("%v: %q and %q", e, text, o[e])
		}
	}
	for e, text := range o {
		if _, ok := c[e]; !ok {
			return fmt.Sprintf("%v: nothing and %q", e, text)
		}
	}
	return ""
}

// ended is a context that ends a wait for what is not there.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// catchUp reads all that is there.
func (c copyOf) catchUp(f *Follower, limit int) (uint64, error) {
	for {
		changes, told, err := f.Next(ended(), limit)
		c.apply(changes)
		switch {
		case errors.Is(err, context.Canceled):
			return told, nil
		case err != nil:
			return told, err
		}
	}
}

// TestFollowers: whoever begins with a snapshot, at any time, and goes on with
// the changes has what the store has, also when he pauses, is cut off and
// resumes, and when the map-server is killed and starts again.
func TestFollowers(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	cfg := twoSites()
	cfg.Sites[0].Prefixes[0].EID = eid("10.0.0.0/9")
	b := newBench(t, cfg, newMemStore())
	type follower struct {
		f    *Follower
		have copyOf
		told uint64
	}
	var all []*follower
	resumed, resynced := 0, 0
	begin := func() *follower {
		d := b.s.Snapshot()
		f, err := b.s.Follow(d.Revision)
		if err != nil {
			t.Fatal(err)
		}
		return &follower{f, copied(d), d.Revision}
	}
	again := func(x *follower) {
		f, err := b.s.Follow(x.told)
		if errors.As(err, new(*ResyncError)) {
			resynced++
			*x = *begin()
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		resumed++
		x.f = f
	}
	where := ""
	verify := func(x *follower) {
		told, err := x.have.catchUp(x.f, 1+rng.IntN(4))
		if err != nil {
			t.Fatalf("seed %d, %s: %v", seed, where, err)
		}
		d := b.s.Snapshot()
		x.told = told
		if why := x.have.difference(copied(d)); why != "" || told != d.Revision {
			t.Fatalf("seed %d, %s: a copy differs at revision %d of %d: %s", seed, where, told, d.Revision, why)
		}
	}
	pick := func() mapping.EID { return randomEID(rng, 8, 12) }
	for step := range 1500 {
		where = fmt.Sprintf("step %d", step)
		switch rng.IntN(12) {
		case 0, 1, 2:
			var ops []Op
			for range 1 + rng.IntN(4) {
				e := pick()
				if slices.ContainsFunc(ops, func(o Op) bool { return o.eid() == e }) {
					continue
				}
				op := Op{EID: e}
				if rng.IntN(3) > 0 || apiMapping(b.s.table.Load(), e) == nil {
					op.Record = &mapping.Record{EID: e, TTL: 1 + uint32(rng.IntN(3))}
					randomLocators(rng, op.Record)
				}
				if rng.IntN(3) == 0 {
					want := uint64(0)
					if p := apiMapping(b.s.table.Load(), e); p != nil {
						want = p.revision
					}
					op.If = &want
				}
				ops = append(ops, op)
			}
			b.s.Batch(t.Context(), ops) // fails while the store does
		case 3, 4, 5:
			r := &mapping.Record{EID: pick(), TTL: uint32(rng.IntN(3))}
			randomLocators(rng, r)
			b.now = b.now.Add(time.Second) // the store knows to the second who was last
			b.register(registering{xtr: xtrID(byte(1 + rng.IntN(3))), merge: rng.IntN(2) == 0, proxy: rng.IntN(2) == 0, records: []*mapping.Record{r}})
		case 6:
			b.pass(time.Duration(rng.IntN(100)) * time.Second)
		case 7:
			b.store.setFail(map[bool]error{true: errDisk}[rng.IntN(3) == 0])
		case 8:
			if len(all) < 8 {
				all = append(all, begin())
			}
		case 9:
			if len(all) > 0 {
				x := all[rng.IntN(len(all))]
				x.f.Close()
				again(x)
			}
		case 10:
			if len(all) > 0 {
				verify(all[rng.IntN(len(all))])
			}
		case 11:
			if rng.IntN(6) > 0 {
				break
			}
			b.store.setFail(nil)
			next := cfg
			if rng.IntN(2) == 0 { // another configuration is another database
				next.Static = append(slices.Clone(cfg.Static), rec(fmt.Sprintf("10.%d.0.0/16", rng.IntN(3)), "203.0.113.5"))
			}
			b = b.restart(next)
			for _, x := range all {
				again(x)
			}
		}
	}
	b.store.setFail(nil)
	b.pass(time.Second)
	where = "the end"
	for _, x := range all {
		verify(x)
	}
	if len(all) == 0 || resumed < 10 || resynced == 0 {
		t.Errorf("%d followed, %d resumed, %d began again", len(all), resumed, resynced)
	}
	b.check()
}

// TestFollowResumesAfterRestart: who knows all goes on without a snapshot; who
// does not, and who knows more than there is, is told so.
func TestFollowResumesAfterRestart(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	put := func(l string) uint64 {
		t.Helper()
		revision, err := b.s.Batch(t.Context(), []Op{putOp("20.0.0.0/8", l)})
		if err != nil {
			t.Fatal(err)
		}
		return revision
	}
	early, late := put("203.0.113.1"), put("203.0.113.2")
	b = b.restart(twoSites())
	if got := b.s.Snapshot().Revision; got != late {
		t.Fatalf("revision %d after the restart, want %d", got, late)
	}
	f, err := b.s.Follow(late)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	next := put("203.0.113.3")
	changes, told, err := f.Next(t.Context(), 10)
	if err != nil || told != next || len(changes) != 1 || changes[0].Revision != next || changes[0].Mapping.Record.Locators[0].Addr != addr("203.0.113.3") {
		t.Errorf("after the restart: %+v, %d, %v", changes, told, err)
	}
	for _, after := range []uint64{early, next + 1} {
		_, err := b.s.Follow(after)
		var resync *ResyncError
		if !errors.As(err, &resync) || *resync != (ResyncError{after, late, next}) {
			t.Errorf("after %d: %v", after, err)
		}
	}
	if got := b.count(resyncs); got != 2 {
		t.Errorf("%d resynchronisations counted, want 2", got)
	}
	// What a failing store does not have is not told, and not in a snapshot.
	b.store.setFail(errDisk)
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
	if _, ok := copied(b.s.Snapshot())[eid("10.2.0.0/16")]; ok {
		t.Error("a snapshot has what the store has not")
	}
	if changes, _, err := f.Next(ended(), 10); len(changes) > 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("told before it is durable: %+v, %v", changes, err)
	}
	b.store.setFail(nil)
	b.pass(time.Second)
	if changes, _, err := f.Next(ended(), 10); len(changes) != 1 || err != nil {
		t.Errorf("when it is durable: %+v, %v", changes, err)
	}

	// Without a store nothing of an earlier life is taken for this one's.
	c := newBenchAt(t, twoSites(), nil, b.now)
	old := c.s.Snapshot().Revision
	c = newBenchAt(t, twoSites(), nil, b.now.Add(time.Second))
	if _, err := c.s.Follow(old); !errors.As(err, new(*ResyncError)) {
		t.Errorf("without a store: %v", err)
	}
}

// TestSlowFollower: the history is bounded, and who falls behind it is told.
// A revision that is cut is not said to be whole.
func TestSlowFollower(t *testing.T) {
	b := newBench(t, Config{}, newMemStore())
	begin := b.s.Snapshot().Revision
	slow, err := b.s.Follow(begin)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	batch := func(round, n int) uint64 {
		t.Helper()
		var ops []Op
		for i := range n {
			ops = append(ops, putOp(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&0xff, i&0xff), fmt.Sprintf("192.0.2.%d", round)))
		}
		revision, err := b.s.Batch(t.Context(), ops)
		if err != nil {
			t.Fatal(err)
		}
		return revision
	}
	first := batch(1, 20_000)
	changes, told, err := slow.Next(t.Context(), 15_000)
	if err != nil || len(changes) != 15_000 || told != begin {
		t.Errorf("a part of a revision: %d changes, told of %d, %v", len(changes), told, err)
	}
	second := batch(2, 10_000)
	changes, told, err = slow.Next(t.Context(), 6_000)
	if err != nil || len(changes) != 6_000 || told != first {
		t.Errorf("the rest and a part of the next: %d changes, told of %d of %d, %v", len(changes), told, first, err)
	}
	if slow.Lagging() {
		t.Error("it lags while all is there")
	}
	third := batch(3, 20_000)
	fourth := batch(4, 20_000)
	if n := len(b.s.history.ring); n != historyLength {
		t.Errorf("%d changes are kept", n)
	}
	if !slow.Lagging() {
		t.Error("it does not lag")
	}
	_, told, err = slow.Next(t.Context(), 10)
	var resync *ResyncError
	if !errors.As(err, &resync) || *resync != (ResyncError{first, third, fourth}) || told != first {
		t.Errorf("too slow: told of %d, %v; second %d", told, err, second)
	}
	for after, ok := range map[uint64]bool{first: false, second: false, third: true, fourth: true} {
		f, err := b.s.Follow(after)
		if (err == nil) != ok {
			t.Errorf("after %d: %v", after, err)
		}
		if f != nil {
			have := copyOf{}
			if told, err := have.catchUp(f, 7_000); err != nil || told != fourth || len(have) != int(fourth-after)*20_000 {
				t.Errorf("after %d: %d mappings, told of %d, %v", after, len(have), told, err)
			}
			f.Close()
		}
	}
	var many []*Follower
	for {
		f, err := b.s.Follow(fourth)
		if err != nil {
			if !errors.Is(err, ErrTooManyFollow) || len(many) != maxFollowers-1 {
				t.Errorf("%d followed: %v", len(many), err)
			}
			break
		}
		many = append(many, f)
	}
	for _, f := range many {
		f.Close()
	}
}

// TestFollowerWaits: Next sleeps until something changes or its context ends.
func TestFollowerWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, newMemStore())
		got := make(chan string, 1)
		ctx, cancel := context.WithCancelCause(t.Context())
		for range 2 {
			go func() {
				f, err := b.s.Follow(b.s.Snapshot().Revision)
				if err != nil {
					got <- err.Error()
					return
				}
				defer f.Close()
				for {
					changes, _, err := f.Next(ctx, 10)
					if err != nil {
						got <- err.Error()
						return
					}
					got <- fmt.Sprint(len(changes))
				}
			}()
		}
		synctest.Wait()
		if len(got) > 0 {
			t.Fatalf("%s before anything happened", <-got)
		}
		if _, err := b.s.Batch(t.Context(), []Op{putOp("10.0.0.0/8", "192.0.2.1")}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if n := <-got; n != "1" {
				t.Errorf("%s changes", n)
			}
		}
		cancel(errDisk)
		for range 2 {
			if why := <-got; why != errDisk.Error() {
				t.Errorf("ended by %s", why)
			}
		}
	})
}
