package server

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/eidolon-lisp/eidolon/mapping"
)

const (
	// firstRevision is that of an empty database: 0 means none.
	firstRevision = 1
	// historyLength is how many of the last changes are kept for those who
	// follow: more than a batch of the API has.
	historyLength = 1 << 15
	// maxFollowers bounds those who follow at the same time. Each may hold a
	// snapshot, and what of it has changed since.
	maxFollowers = 64
)

// ErrTooManyFollow is returned by Follow when maxFollowers follow already.
var ErrTooManyFollow = errors.New("too many follow the database already")

// ResyncError says that the changes after a revision can't be told: who wants
// to follow begins again with a snapshot.
type ResyncError struct {
	// After is the revision asked for, or the last one that was told of.
	After uint64
	// Oldest and Revision are the lowest and the highest for which they can.
	Oldest, Revision uint64
}

// Error implements error.
func (e *ResyncError) Error() string {
	if e.After > e.Revision {
		return fmt.Sprintf("the database is at revision %d, and knows nothing of %d: begin again with a snapshot", e.Revision, e.After)
	}
	return fmt.Sprintf("the changes after revision %d are not kept any more, only those after %d: begin again with a snapshot", e.After, e.Oldest)
}

// history is the database as it is in the store, the table that was published
// last, and the changes that made it. Whoever follows reads them here, at his
// own pace: nothing is queued for him, and when he is too slow he is told.
type history struct {
	mu       sync.Mutex
	table    *table
	revision uint64
	// ring holds the changes first to next-1, number n in place n mod
	// historyLength. Those of one revision are beside each other.
	ring        []alteration
	first, next uint64
	// floor is the highest revision that ring lacks a change of.
	floor     uint64
	more      chan struct{} // closed with the next change; nil: nobody waits
	followers int
}

// alteration is a change of the database: what is shown of an EID since a
// revision, nil when that is nothing.
type alteration struct {
	revision uint64
	eid      mapping.EID
	now      entry
}

// shown returns the entry of e in t, or nil where a walk of the database leaves
// it out.
func shown(t *table, e mapping.EID) entry {
	v, ok := t.Get(e)
	if !ok {
		return nil
	}
	if _, origin := v.current(); origin == OriginNone {
		return nil
	}
	return v
}

// sameShown reports whether a walk of the database shows the same, but for who
// registered it: of xTRs that register the same in turns the store has one.
func sameShown(a, b entry) bool {
	if a == b {
		return true
	}
	x, _ := a.(*node)
	y, _ := b.(*node)
	return x != nil && y != nil && x.origin == y.origin && x.forward == y.forward && x.api == y.api &&
		x.prefix == y.prefix && x.shown().Equal(y.shown())
}

// append notes the step from old to new, which only the touched EIDs differ in.
func (h *history) append(revision uint64, old, new *table, touched []mapping.EID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range touched {
		was, now := shown(old, e), shown(new, e)
		if sameShown(was, now) {
			continue
		}
		a := alteration{revision, e, now}
		if len(h.ring) < historyLength {
			h.ring = append(h.ring, a)
		} else {
			slot := &h.ring[h.next%historyLength]
			h.floor = slot.revision
			*slot = a
			h.first++
		}
		h.next++
	}
	h.table, h.revision = new, revision
	if h.more != nil {
		close(h.more)
		h.more = nil
	}
}

// at returns the change with the number n, which is there.
func (h *history) at(n uint64) *alteration { return &h.ring[n%historyLength] }

// resync is the error of one who knows the changes up to a revision.
func (h *history) resync(after uint64) *ResyncError {
	return &ResyncError{After: after, Oldest: h.floor, Revision: h.revision}
}

// beginHistory makes the loaded table the first of the history. Where the
// configuration is another than that of the last revision, the database may
// have changed without a change of its own, and is at the next one.
func (s *Server) beginHistory(ctx context.Context) error {
	h := &s.history
	all, _ := effective(s.sites.Load().configured, s.sites.Load().put)
	digest := digestOf(all, s.static)
	switch {
	case s.store == nil:
		// No revision of an earlier life is taken for one of this.
		s.revision = uint64(s.epoch.UnixNano())
	case s.digest != digest || s.revision == 0:
		s.digest = digest
		revision := max(s.revision+1, firstRevision)
		// Before anybody hears of it: the next start must not use it again.
		if err := s.store.Commit(ctx, []mapping.Change{s.revisionItem(revision)}); err != nil {
			return err
		}
		s.revision = revision
	}
	h.table, h.revision, h.floor = s.table.Load(), s.revision, s.revision
	return nil
}

// revisionItem is what the store keeps of a revision.
func (s *Server) revisionItem(revision uint64) mapping.Change {
	return mapping.Change{Item: mapping.Item{Kind: mapping.ItemRevision, Revision: revision, Digest: s.digest}}
}

// digestOf tells configurations apart that show another database.
func digestOf(sites []Site, static []*mapping.Record) uint64 {
	h := sha256.New()
	for _, site := range sites {
		fmt.Fprintf(h, "site %q %v\n", site.Name, site.XTRIDs)
		for _, p := range site.Prefixes {
			fmt.Fprintf(h, "prefix %+v\n", p)
		}
	}
	for _, r := range static {
		fmt.Fprintf(h, "static %+v\n", *r)
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// Snapshot is the database at one moment, as it is in the store.
type Snapshot struct {
	// Revision counts the changes of the database. It survives a restart.
	Revision uint64

	s *Server
	t *table
}

// Snapshot returns the database as it is now. It holds nothing up, and the
// memory of what changes meanwhile.
func (s *Server) Snapshot() Snapshot {
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	return Snapshot{Revision: s.history.revision, s: s, t: s.history.table}
}

// Mappings walks the mappings inside within, or all with the zero EID, as
// Server.Database does; with a valid after only those that come after it in the
// walk, whether it is there itself or not.
func (d Snapshot) Mappings(within, after mapping.EID) iter.Seq[MappingStatus] {
	return func(yield func(MappingStatus) bool) {
		for _, v := range d.t.After(within, after) {
			if _, origin := v.current(); origin == OriginNone {
				continue
			}
			if !yield(d.s.status(v)) {
				return
			}
		}
	}
}

// Covering returns the mappings that hold e, e itself included, in the order of
// a walk.
func (d Snapshot) Covering(e mapping.EID) []MappingStatus {
	var out []MappingStatus
	for _, v := range d.t.Covering(e) {
		if _, origin := v.current(); origin != OriginNone {
			out = append(out, d.s.status(v))
		}
	}
	// Most-specific first, those with a source last.
	slices.SortStableFunc(out, func(a, b MappingStatus) int {
		if x, y := a.Record.EID.Source.IsValid(), b.Record.EID.Source.IsValid(); x != y {
			return map[bool]int{false: -1, true: 1}[x]
		}
		return a.Record.EID.Compare(b.Record.EID)
	})
	return out
}

// MappingChange is what the database says of an EID since a revision. Who
// registered it, and when, may have changed without one.
type MappingChange struct {
	EID      mapping.EID
	Revision uint64
	// Mapping is nil where there is nothing any more. It has no Registrants.
	Mapping *MappingStatus
}

// Follower reads the changes of the database in the order they were made. It is
// for one goroutine.
type Follower struct {
	s     *Server
	next  uint64 // the number of the next change
	after uint64 // the revision that is told of in whole
}

// Follow returns a follower that begins after a revision: that of a snapshot,
// or the last one that an earlier follower told of. It fails with a
// *ResyncError when the changes since then are not kept, as after a restart
// that came before they were told, and with ErrTooManyFollow. The caller closes
// it.
func (s *Server) Follow(after uint64) (*Follower, error) {
	h := &s.history
	h.mu.Lock()
	defer h.mu.Unlock()
	if after < h.floor || after > h.revision {
		s.counters.inc(resyncs)
		return nil, h.resync(after)
	}
	if h.followers >= maxFollowers {
		return nil, ErrTooManyFollow
	}
	h.followers++
	// The last changes are the likely ones.
	n := h.next
	for n > h.first && h.at(n-1).revision > after {
		n--
	}
	return &Follower{s: s, next: n, after: after}, nil
}

// Next waits for changes and returns those that are there, but at most limit.
// told is the revision that is told of in whole by now; it does not grow with
// changes that are a part of one only. There may be a revision without a
// change. It returns the cause of ctx's end, or a *ResyncError when the follower
// was too slow: then changes are lost, and what it knows is worth nothing.
func (f *Follower) Next(ctx context.Context, limit int) (changes []MappingChange, told uint64, err error) {
	h := &f.s.history
	for {
		h.mu.Lock()
		if f.next < h.first {
			err := h.resync(f.after)
			h.mu.Unlock()
			f.s.counters.inc(resyncs)
			return nil, f.after, err
		}
		n := min(h.next-f.next, uint64(max(limit, 1)))
		found := make([]alteration, 0, n)
		for ; n > 0; n-- {
			found = append(found, *h.at(f.next))
			f.next++
		}
		before := f.after
		switch {
		case f.next == h.next:
			f.after = h.revision
		case h.at(f.next).revision != found[len(found)-1].revision:
			f.after = found[len(found)-1].revision
		case h.at(f.next).revision > 0:
			// Only what came before the revision that is cut is whole.
			if i := slices.IndexFunc(found, func(a alteration) bool { return a.revision == h.at(f.next).revision }); i > 0 {
				f.after = found[i-1].revision
			}
		}
		if len(found) > 0 || f.after != before {
			h.mu.Unlock()
			return f.s.mappingChanges(found), f.after, nil
		}
		if h.more == nil {
			h.more = make(chan struct{})
		}
		more := h.more
		h.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return nil, f.after, context.Cause(ctx)
		}
	}
}

// Lagging reports whether the follower has lost changes already.
func (f *Follower) Lagging() bool {
	f.s.history.mu.Lock()
	defer f.s.history.mu.Unlock()
	return f.next < f.s.history.first
}

// Close ends the follower.
func (f *Follower) Close() {
	f.s.history.mu.Lock()
	defer f.s.history.mu.Unlock()
	f.s.history.followers--
}

func (s *Server) mappingChanges(found []alteration) []MappingChange {
	out := make([]MappingChange, len(found))
	for i, a := range found {
		out[i] = MappingChange{EID: a.eid, Revision: a.revision}
		if a.now != nil {
			st := s.status(a.now)
			st.Registrants = nil
			out[i].Mapping = &st
		}
	}
	return out
}
