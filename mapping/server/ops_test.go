package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/boltstore"
)

// putRevision is that of the mapping that was put for e.
func (b *bench) putRevision(e string) uint64 {
	if p := apiMapping(b.s.table.Load(), eid(e)); p != nil {
		return p.revision
	}
	return 0
}

func putOp(e, l string, want ...uint64) Op {
	op := Op{Record: rec(e, l)}
	if len(want) > 0 {
		op.If = &want[0]
	}
	return op
}

func deleteOp(e string, want ...uint64) Op {
	op := Op{EID: eid(e)}
	if len(want) > 0 {
		op.If = &want[0]
	}
	return op
}

func TestPreconditions(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	batch := func(ops ...Op) (uint64, error) { return b.s.Batch(t.Context(), ops) }
	begin := b.s.Snapshot().Revision
	first, err := batch(putOp("20.0.0.0/8", "203.0.113.1", 0), putOp("21.0.0.0/8", "203.0.113.1"))
	if err != nil || first != begin+1 || b.putRevision("20.0.0.0/8") != first || b.putRevision("21.0.0.0/8") != first {
		t.Fatalf("the first batch: revision %d, %v", first, err)
	}
	if again, err := batch(putOp("20.0.0.0/8", "203.0.113.1", first)); err != nil || again != first || b.putRevision("20.0.0.0/8") != first {
		t.Errorf("what is there put again: revision %d, %v", again, err)
	}
	second, err := batch(putOp("20.0.0.0/8", "203.0.113.2", first), deleteOp("21.0.0.0/8", first), putOp("22.0.0.0/8", "203.0.113.2", 0))
	if err != nil || second != first+1 || b.putRevision("20.0.0.0/8") != second || b.putRevision("21.0.0.0/8") != 0 {
		t.Fatalf("the second: revision %d, %v", second, err)
	}
	// A registration for the EID goes before what was put and does not change
	// its revision.
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
	third, err := batch(putOp("10.2.0.0/16", "203.0.113.3", 0))
	if err != nil || third != second+2 {
		t.Fatalf("the third: revision %d, %v", third, err)
	}
	if st, ok := b.s.Lookup(eid("10.2.0.0/16")); !ok || st.Origin != OriginRegistered || st.PutRevision != third {
		t.Errorf("what is put under a registration: %+v", st)
	}
	if _, err := batch(deleteOp("10.2.0.0/16", third)); err != nil {
		t.Error(err)
	}

	table, commits := b.s.table.Load(), b.store.commitCount()
	for _, c := range []struct {
		ops  []Op
		want []Conflict
		text string
	}{
		{[]Op{putOp("30.0.0.0/8", "203.0.113.1"), putOp("20.0.0.0/8", "203.0.113.9", first)}, []Conflict{{1, eid("20.0.0.0/8"), first, second}}, "is at revision"},
		{[]Op{putOp("20.0.0.0/8", "203.0.113.9", 0), putOp("30.0.0.0/8", "203.0.113.1")}, []Conflict{{0, eid("20.0.0.0/8"), 0, second}}, "is there already"},
		{[]Op{deleteOp("20.0.0.0/8"), deleteOp("21.0.0.0/8", first)}, []Conflict{{1, eid("21.0.0.0/8"), first, 0}}, "is not there"},
		{[]Op{deleteOp("20.0.0.0/8", 1<<40), deleteOp("29.0.0.0/8", 3), putOp("22.0.0.0/8", "203.0.113.1", second)},
			[]Conflict{{0, eid("20.0.0.0/8"), 1 << 40, second}, {1, eid("29.0.0.0/8"), 3, 0}}, "and 1 more"},
	} {
		_, err := batch(c.ops...)
		var bad *ConflictError
		if !errors.As(err, &bad) || !slices.Equal(bad.Conflicts, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v, want %v and %q", err, c.want, c.text)
		}
	}
	for _, c := range []struct {
		ops   []Op
		index int
		text  string
	}{
		{[]Op{putOp("30.0.0.0/8", "203.0.113.1"), deleteOp("21.0.0.0/8")}, 1, "no such API mapping"},
		{[]Op{deleteOp("10.9.0.0/16")}, 0, "no such API mapping"}, // of the configuration
		{[]Op{putOp("30.0.0.0/8", "203.0.113.1"), deleteOp("30.0.0.0/8")}, 1, "twice"},
		{[]Op{putOp("30.0.0.0/8", "203.0.113.1"), putOp("31.0.0.0/8", "224.0.0.1")}, 1, "224.0.0.1"},
	} {
		_, err := batch(c.ops...)
		var bad *OpError
		if !errors.As(err, &bad) || bad.Index != c.index || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v, want %q of operation %d", err, c.text, c.index)
		}
	}
	b.store.setFail(errDisk)
	if _, err := batch(putOp("30.0.0.0/8", "203.0.113.1", 0)); !errors.Is(err, errDisk) {
		t.Errorf("with a full disk: %v", err)
	}
	b.store.setFail(nil)
	if b.s.table.Load() != table || b.store.commitCount() != commits {
		t.Error("a batch that was refused has changed something")
	}
	var many []Op
	for i := range 100 {
		many = append(many, putOp(fmt.Sprintf("40.%d.0.0/16", i), "203.0.113.1", 5))
	}
	_, err = batch(many...)
	if bad, ok := errors.AsType[*ConflictError](err); !ok || len(bad.Conflicts) != maxConflicts {
		t.Errorf("a hundred conflicts: %v", err)
	}
	if _, err := batch(); err != nil {
		t.Errorf("an empty batch: %v", err)
	}
	// Revisions are there after a restart.
	b = b.restart(twoSites())
	if got := b.putRevision("20.0.0.0/8"); got != second {
		t.Errorf("revision %d after the restart, want %d", got, second)
	}
	if _, err := b.s.Batch(t.Context(), []Op{putOp("20.0.0.0/8", "203.0.113.7", second)}); err != nil {
		t.Error(err)
	}
	b.check()
}

// batchEnv tells the test binary that it is a map-server that makes batches
// until it is killed: the path of its store.
const batchEnv = "EIDOLON_SERVER_BATCH"

// batchWidth is how many mappings each batch of the child replaces.
const batchWidth = 50

// batchOps are those of batch n: each mapping is put in the place of what the
// batch before put.
func batchOps(n int, before uint64) (ops []Op) {
	for i := range batchWidth {
		ops = append(ops, putOp(fmt.Sprintf("10.0.%d.0/24", i), fmt.Sprintf("192.0.%d.%d", n>>8, n&0xff), before))
	}
	return ops
}

func batchChild() {
	path := os.Getenv(batchEnv)
	if path == "" {
		return
	}
	err := func() error {
		store, err := boltstore.Open(path)
		if err != nil {
			return err
		}
		s, err := New(context.Background(), Config{}, store)
		if err != nil {
			return err
		}
		n, before := batchState(s)
		for {
			n++
			if before, err = s.Batch(context.Background(), batchOps(n, before)); err != nil {
				return err
			}
			// One that must fail changes nothing, whatever is with it.
			if _, err := s.Batch(context.Background(), append(batchOps(60_000, before)[1:], putOp("11.0.0.0/8", "192.0.2.1", 1))); err == nil {
				return errors.New("a batch whose precondition does not hold succeeded")
			}
			fmt.Println(n, before)
		}
	}()
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// batchState returns the batch that the database holds and its revision; -1
// where it holds the parts of several.
func batchState(s *Server) (n int, revision uint64) {
	seen := 0
	for st := range s.Database(mapping.EID{}) {
		a := st.Record.Locators[0].Addr.As4()
		v := int(a[2])<<8 | int(a[3])
		if seen++; seen > 1 && (v != n || st.PutRevision != revision) {
			return -1, 0
		}
		n, revision = v, st.PutRevision
	}
	if seen != 0 && seen != batchWidth {
		return -1, 0
	}
	return n, revision
}

// TestBatchKilled kills a map-server in the middle of its batches, several times
// over, and finds the last one that it acknowledged or the next, whole.
func TestBatchKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	acked, revision := 0, uint64(0)
	for round := range 3 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), batchEnv+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for k := 0; ; k++ {
			var n int
			var r uint64
			if _, err := fmt.Fscan(out, &n, &r); err != nil {
				break
			}
			acked, revision = n, r
			if k == 5+5*round {
				cmd.Process.Kill() // what it wrote meanwhile is still read
			}
		}
		cmd.Wait()
		store, err := boltstore.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := New(t.Context(), Config{}, store)
		if err != nil {
			t.Fatal(err)
		}
		n, r := batchState(s)
		if n != acked && n != acked+1 || acked < 5 {
			t.Fatalf("round %d: batch %d was acknowledged, the database holds %d", round, acked, n)
		}
		if n == acked && r != revision || s.Snapshot().Revision != r {
			t.Fatalf("round %d: batch %d is at revision %d, acknowledged was %d, and the database is at %d", round, n, r, revision, s.Snapshot().Revision)
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
