// Package boltstore keeps what a map-server must know after a crash in one
// bbolt file. It is the default mapping.Store.
package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// Errors of Open that a caller may want to tell apart.
var (
	ErrLocked  = errors.New("another process has it open")
	ErrCorrupt = errors.New("the file is damaged")
	ErrVersion = errors.New("the file was written with another layout")
)

// Limits of our own.
const (
	// lockTimeout is long enough for a predecessor that is just being stopped.
	lockTimeout = time.Second
	// mapSize is the address space reserved for the file. A commit that grows
	// the file beyond it must wait for the walks that are under way.
	mapSize = 4 << 30
	// bulkOps is the size from which a batch counts as a sorted load: pages
	// are filled to bulkFill instead of half.
	bulkOps  = 1000
	bulkFill = 0.9
)

// Store is a mapping.Store in one file.
type Store struct {
	path string
	db   *bbolt.DB

	// writer is held by the goroutine that runs a transaction.
	writer chan struct{}

	mu     sync.Mutex
	queue  []*commit
	closed bool

	calls sync.WaitGroup // Commits and walks under way; Add under mu
	once  sync.Once
}

// commit is one call of Commit, waiting for the transaction that it shares
// with others.
type commit struct {
	ops  []op
	err  error
	done chan struct{}
}

// op is a change in the file's terms; a nil value deletes.
type op struct {
	kind       mapping.ItemKind
	key, value []byte
}

var _ mapping.Store = (*Store)(nil)

// Open opens the file at path, and creates it with mode 0600 where there is
// none; its directory must exist. It fails with ErrLocked when another process
// holds it for longer than a second, with ErrCorrupt when it is not a sound
// bbolt file, and with ErrVersion when its layout is not this one; none of
// these changes the file.
func Open(path string) (*Store, error) {
	s, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return s, nil
}

func open(path string) (_ *Store, err error) {
	fi, err := os.Stat(path)
	fresh := errors.Is(err, fs.ErrNotExist) || err == nil && fi.Size() == 0
	if err != nil && !fresh {
		return nil, err
	}
	opts := &bbolt.Options{
		Timeout:      lockTimeout,
		FreelistType: bbolt.FreelistMapType,
		NoStatistics: true,
		PageSize:     os.Getpagesize(),
	}
	if math.MaxInt > math.MaxInt32 {
		size := int64(mapSize) // a constant would not compile for 32 bits
		opts.InitialMmapSize = int(size)
	}
	// A panic inside bbolt.Open leaves the file open, and locked.
	var file *os.File
	opts.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		var err error
		file, err = os.OpenFile(name, flag, mode)
		return file, err
	}
	s := &Store{path: path, writer: make(chan struct{}, 1)}
	defer func() {
		switch {
		case err == nil:
		case s.db != nil:
			_ = s.db.Close()
		case file != nil:
			_ = file.Close()
		}
	}()
	if err := guard(func() error {
		var err error
		s.db, err = bbolt.Open(path, 0o600, opts)
		return err
	}); err != nil {
		return nil, explain(err)
	}
	if err := guard(s.checkSize); err != nil {
		return nil, err
	}
	if err := guard(s.prepare); err != nil {
		return nil, err
	}
	if fresh {
		// The file's name must survive a loss of power as well.
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// explain gives bbolt's errors our words.
func explain(err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return ErrLocked
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

// guard runs f and turns a panic of bbolt about a damaged page, and a fault on
// a page beyond the end of the file, into ErrCorrupt.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrCorrupt, r)
		}
	}()
	return f()
}

// checkSize finds a file that was cut.
func (s *Store) checkSize() error {
	fi, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	return s.db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > fi.Size() {
			return fmt.Errorf("%w: it has %d octets, its pages need %d", ErrCorrupt, fi.Size(), tx.Size())
		}
		return nil
	})
}

// prepare creates the buckets of an empty file, also of one that was killed
// while it was created, and checks the layout of any other.
func (s *Store) prepare() error {
	empty := false
	err := s.db.View(func(tx *bbolt.Tx) error {
		name, _ := tx.Cursor().First()
		empty = name == nil
		return nil
	})
	switch {
	case err != nil:
		return err
	case empty:
		return createLayout(s.db)
	}
	if err := upgradeLayout(s.db); err != nil {
		return err
	}
	return checkLayout(s.db)
}

// upgradeLayout makes a file of an earlier version one of this.
func upgradeLayout(db *bbolt.DB) error {
	old := false
	err := db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(layoutBucket)
		old = b != nil && slices.Contains([]string{"\x01", "\x02", "\x03"}, string(b.Get(versionKey)))
		return nil
	})
	if err != nil || !old {
		return err
	}
	return db.Update(func(tx *bbolt.Tx) error {
		for _, kind := range []mapping.ItemKind{mapping.ItemSubscription, mapping.ItemRevision, mapping.ItemSite} {
			if _, err := tx.CreateBucketIfNotExists(buckets[kind]); err != nil {
				return fmt.Errorf("create bucket %q: %w", buckets[kind], err)
			}
		}
		return tx.Bucket(layoutBucket).Put(versionKey, []byte{layoutVersion})
	})
}

func checkLayout(db *bbolt.DB) error {
	return db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(layoutBucket)
		if b == nil {
			return fmt.Errorf("%w: it is a bbolt file of another program", ErrVersion)
		}
		if v := b.Get(versionKey); len(v) != 1 || v[0] != layoutVersion {
			return fmt.Errorf("%w: version %d, this program reads %d", ErrVersion, v, layoutVersion)
		}
		for _, name := range buckets[1:] {
			if tx.Bucket(name) == nil {
				return fmt.Errorf("%w: bucket %q is missing", ErrCorrupt, name)
			}
		}
		return nil
	})
}

func createLayout(db *bbolt.DB) error {
	return db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets[1:] {
			if _, err := tx.CreateBucket(name); err != nil {
				return fmt.Errorf("create bucket %q: %w", name, err)
			}
		}
		b, err := tx.CreateBucket(layoutBucket)
		if err != nil {
			return fmt.Errorf("create bucket %q: %w", layoutBucket, err)
		}
		return b.Put(versionKey, []byte{layoutVersion})
	})
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// begin counts a call in, unless the store is closed.
func (s *Store) begin(c *commit) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("store %s: %w", s.path, mapping.ErrStoreClosed)
	}
	s.calls.Add(1)
	if c != nil {
		s.queue = append(s.queue, c)
	}
	return nil
}

// Commit implements mapping.Store. Commits that wait at the same time share
// one transaction, and so one fsync.
func (s *Store) Commit(ctx context.Context, changes []mapping.Change) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("commit to store %s: %w", s.path, err)
	}
	c := &commit{done: make(chan struct{})}
	var err error
	if c.ops, err = encode(changes); err != nil {
		return fmt.Errorf("commit to store %s: %w", s.path, err)
	}
	if err := s.begin(c); err != nil {
		return err
	}
	defer s.calls.Done()
	select {
	case s.writer <- struct{}{}:
		s.commitQueue()
		<-s.writer
	case <-c.done:
	case <-ctx.Done():
		if s.withdraw(c) {
			return fmt.Errorf("commit to store %s: %w", s.path, ctx.Err())
		}
	}
	<-c.done
	if c.err != nil {
		return fmt.Errorf("commit to store %s: %w", s.path, c.err)
	}
	return nil
}

// withdraw takes c out of the queue; false when a transaction already has it.
func (s *Store) withdraw(c *commit) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.queue, c)
	if i < 0 {
		return false
	}
	s.queue = slices.Delete(s.queue, i, i+1)
	return true
}

// commitQueue runs one transaction with all commits that wait. The caller
// holds writer.
func (s *Store) commitQueue() {
	s.mu.Lock()
	batch := s.queue
	s.queue = nil
	s.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	err := guard(func() error { return s.db.Update(func(tx *bbolt.Tx) error { return apply(tx, batch) }) })
	for _, c := range batch {
		c.err = err
		close(c.done)
	}
}

// encode turns changes into ops that only the disk can still refuse.
func encode(changes []mapping.Change) ([]op, error) {
	ops := make([]op, len(changes))
	for i := range changes {
		it := &changes[i].Item
		o := op{kind: it.Kind}
		b, err := appendKey(nil, it)
		if err != nil {
			return nil, fmt.Errorf("key of change %d: %w", i, err)
		}
		o.key = b
		if !changes[i].Delete {
			if o.value, err = appendValue(nil, o.key, it); err != nil {
				return nil, fmt.Errorf("value of change %d, %s: %w", i, describe(it), err)
			}
		}
		ops[i] = o
	}
	return ops, nil
}

func describe(it *mapping.Item) string {
	switch it.Kind {
	case mapping.ItemMapping:
		return fmt.Sprintf("mapping %v", it.EID)
	case mapping.ItemRegistration:
		return fmt.Sprintf("registration of %v by %v", it.EID, it.By)
	case mapping.ItemSubscription:
		return fmt.Sprintf("subscription of %v to %v", it.By, it.EID)
	case mapping.ItemRevision:
		return "revision"
	case mapping.ItemSite:
		return fmt.Sprintf("site %q", it.Site)
	}
	return fmt.Sprintf("nonce of %v of site %q", it.By, it.Site)
}

func apply(tx *bbolt.Tx, batch []*commit) error {
	var ops []op
	for _, c := range batch {
		ops = append(ops, c.ops...)
	}
	// In the order of the keys the pages are visited once each. The sort is
	// stable: changes of one item keep their order.
	slices.SortStableFunc(ops, func(a, b op) int {
		if a.kind != b.kind {
			return int(a.kind) - int(b.kind)
		}
		return bytes.Compare(a.key, b.key)
	})
	for len(ops) > 0 {
		kind := ops[0].kind
		b := tx.Bucket(buckets[kind])
		if b == nil {
			return fmt.Errorf("%w: bucket %q is missing", ErrCorrupt, buckets[kind])
		}
		if len(ops) >= bulkOps {
			b.FillPercent = bulkFill
		}
		for len(ops) > 0 && ops[0].kind == kind {
			o := ops[0]
			ops = ops[1:]
			var err error
			if o.value == nil {
				err = b.Delete(o.key)
			} else {
				err = b.Put(o.key, o.value)
			}
			if err != nil {
				return fmt.Errorf("bucket %q, key %x: %w", buckets[kind], o.key, err)
			}
		}
	}
	return nil
}

// Items implements mapping.Store. After the sites come mappings, then
// registrations, both in the order of EID.Compare, then nonces. A walk reads one snapshot and
// holds no commit up, but it must not call Close.
func (s *Store) Items(ctx context.Context) iter.Seq2[mapping.Item, error] {
	return func(yield func(mapping.Item, error) bool) {
		if err := s.begin(nil); err != nil {
			yield(mapping.Item{}, err)
			return
		}
		defer s.calls.Done()
		tx, err := s.db.Begin(false)
		if err != nil {
			yield(mapping.Item{}, fmt.Errorf("walk store %s: %w", s.path, err))
			return
		}
		defer tx.Rollback()
		if !s.walk(ctx, tx, mapping.ItemSite, yield) {
			return
		}
		for kind := mapping.ItemMapping; int(kind) < len(buckets); kind++ {
			if kind != mapping.ItemSite && !s.walk(ctx, tx, kind, yield) {
				return
			}
		}
	}
}

// walk yields the items of one bucket and reports whether to go on.
func (s *Store) walk(ctx context.Context, tx *bbolt.Tx, kind mapping.ItemKind, yield func(mapping.Item, error) bool) bool {
	c := tx.Bucket(buckets[kind]).Cursor()
	for first := true; ; first = false {
		var it mapping.Item
		var key []byte
		// The consumer's own panics are not ours to explain, so only the
		// reading is guarded.
		err := guard(func() (err error) {
			if err = ctx.Err(); err != nil {
				return err
			}
			var value []byte
			if first {
				key, value = c.First()
			} else {
				key, value = c.Next()
			}
			if key == nil {
				return nil
			}
			if it, err = decodeItem(kind, key, value); err != nil {
				return fmt.Errorf("%w: item %x of %q: %w", ErrCorrupt, key, buckets[kind], err)
			}
			return nil
		})
		if err != nil {
			yield(mapping.Item{}, fmt.Errorf("walk store %s: %w", s.path, err))
			return false
		}
		if key == nil {
			return true
		}
		if !yield(it, nil) {
			return false
		}
	}
}

// Close implements mapping.Store. It waits for commits and walks.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.calls.Wait()
	var err error
	s.once.Do(func() { err = s.db.Close() })
	if err != nil {
		return fmt.Errorf("close store %s: %w", s.path, err)
	}
	return nil
}
