package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// ErrNoMapping is wrapped by the error about deleting the mapping of an EID that
// has none of the API.
var ErrNoMapping = errors.New("no such API mapping")

// Op is one change of a batch.
type Op struct {
	// Record is put, in the place of what was put before for its EID. It is
	// copied, but its locators are not: they must not be changed afterwards.
	// Nil: the mapping that was put for EID is deleted.
	Record *mapping.Record
	// EID is what is deleted.
	EID mapping.EID
	// If, unless it is nil, is MappingStatus.PutRevision as it must be for the
	// batch to change anything; 0: nothing was put for the EID.
	If *uint64
}

func (op *Op) eid() mapping.EID {
	if op.Record != nil {
		return op.Record.EID
	}
	return op.EID
}

// OpError is what is wrong with one operation of a batch.
type OpError struct {
	Index int // in the batch
	EID   mapping.EID
	Err   error
}

// Error implements error.
func (e *OpError) Error() string { return fmt.Sprintf("%v: %v", e.EID, e.Err) }

// Unwrap returns what is wrong.
func (e *OpError) Unwrap() error { return e.Err }

// Conflict is a precondition that does not hold.
type Conflict struct {
	Index       int // of the operation in the batch
	EID         mapping.EID
	Want, Found uint64
}

// maxConflicts bounds the conflicts that one error names.
const maxConflicts = 64

// ConflictError says that preconditions of a batch do not hold.
type ConflictError struct {
	// Conflicts are the first 64 of them, in the order of the batch.
	Conflicts []Conflict
}

// Error implements error.
func (e *ConflictError) Error() string {
	c := e.Conflicts[0]
	text := fmt.Sprintf("%v is at revision %d, not %d", c.EID, c.Found, c.Want)
	switch {
	case c.Found == 0:
		text = fmt.Sprintf("%v is not there, and not at revision %d", c.EID, c.Want)
	case c.Want == 0:
		text = fmt.Sprintf("%v is there already, at revision %d", c.EID, c.Found)
	}
	if n := len(e.Conflicts) - 1; n > 0 {
		text += fmt.Sprintf(", and %d more", n)
	}
	return text
}

// Batch makes all changes, or none: one that is not valid, deletes what is not
// there (ErrNoMapping in an *OpError), or whose precondition does not hold
// (*ConflictError) keeps all of them back, and so does the store. When it
// returns nil they are durable and answered, and the database is at the revision
// returned; that is the one before where nothing had to change. An EID may be in
// a batch once. Mappings have no registrant and do not expire. Batches of some
// 10,000, sorted by EID, are the fastest.
func (s *Server) Batch(ctx context.Context, ops []Op) (revision uint64, err error) {
	fresh := make([]*plain, len(ops)) // nil: deleted
	seen := make(map[mapping.EID]bool, len(ops))
	for i := range ops {
		op := &ops[i]
		e := op.eid()
		if op.Record != nil {
			if err := checkRecord(op.Record); err != nil {
				return 0, &OpError{i, e, err}
			}
			fresh[i] = prepared(op.Record)
		}
		if seen[e] {
			return 0, &OpError{i, e, errors.New("it is in the batch twice")}
		}
		seen[e] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.table.Load()
	if err := judge(old, ops); err != nil {
		return 0, err
	}
	var altered []*plain // those of fresh that are not what is there
	changes := make([]mapping.Change, 0, len(ops))
	for i := range ops {
		e, p := ops[i].eid(), fresh[i]
		if p == nil {
			changes = append(changes, mapping.Change{Item: mapping.Item{Kind: mapping.ItemMapping, EID: e}, Delete: true})
			altered = append(altered, nil)
			continue
		}
		if was := apiMapping(old, e); was != nil && was.Equal(&p.Record) {
			continue
		}
		p.Locators = s.sharing.share(p.Locators)
		p.revision = s.revision + 1
		changes = append(changes, mapping.Change{Item: mapping.Item{Kind: mapping.ItemMapping, EID: e, Record: &p.Record, Revision: p.revision}})
		altered = append(altered, p)
	}
	if len(changes) == 0 {
		return s.revision, nil
	}
	if err := s.commit(ctx, changes...); err != nil {
		return 0, fmt.Errorf("change %d mappings: %w", len(changes), err)
	}
	ed := old.Edit(len(changes))
	for i, c := range changes {
		s.alter(ed, c.EID, altered[i])
	}
	s.replace(ed.Table())
	s.announce(s.clock())
	return s.revision, nil
}

// judge returns what keeps ops back in the table t.
func judge(t *table, ops []Op) error {
	var conflicts []Conflict
	for i := range ops {
		op, found := &ops[i], uint64(0)
		was := apiMapping(t, op.eid())
		if was != nil {
			found = was.revision
		}
		switch {
		case op.If != nil && *op.If != found:
			if conflicts = append(conflicts, Conflict{i, op.eid(), *op.If, found}); len(conflicts) == maxConflicts {
				return &ConflictError{conflicts}
			}
		case op.Record == nil && was == nil && len(conflicts) == 0:
			return &OpError{i, op.EID, ErrNoMapping}
		}
	}
	if len(conflicts) > 0 {
		return &ConflictError{conflicts}
	}
	return nil
}

// alter makes p the mapping of the API for e; nil: none.
func (s *Server) alter(ed *mapping.Editor[entry], e mapping.EID, p *plain) {
	s.touch(e)
	if _, ok := ed.Get(e); !ok {
		ed.Insert(e, p)
		s.mappings.Add(1)
		return
	}
	n := s.nodeAt(ed, e)
	switch {
	case p == nil:
		s.mappings.Add(-1)
	case n.api == nil:
		s.mappings.Add(1)
	}
	n.api = p
	place(ed, n)
}

// Put is a Batch that puts records. Of several for one EID the last counts.
func (s *Server) Put(ctx context.Context, recs []*mapping.Record) error {
	last := make(map[mapping.EID]int, len(recs))
	for i, r := range recs {
		if r == nil {
			return fmt.Errorf("put mapping %d: it is missing", i)
		}
		last[r.EID] = i
	}
	ops := make([]Op, 0, len(last))
	for i, r := range recs {
		if last[r.EID] == i {
			ops = append(ops, Op{Record: r})
		}
	}
	if _, err := s.Batch(ctx, ops); err != nil {
		return fmt.Errorf("put %d mappings: %w", len(recs), err)
	}
	return nil
}

// Delete is a Batch that deletes what was put for EIDs.
func (s *Server) Delete(ctx context.Context, eids []mapping.EID) error {
	ops := make([]Op, 0, len(eids))
	seen := make(map[mapping.EID]bool, len(eids))
	for _, e := range eids {
		if !seen[e] {
			seen[e] = true
			ops = append(ops, Op{EID: e})
		}
	}
	if _, err := s.Batch(ctx, ops); err != nil {
		return fmt.Errorf("delete %d mappings: %w", len(eids), err)
	}
	return nil
}

// prepared returns r as the table keeps it: a copy of its own, whose locators
// are r's where they are in order already.
func prepared(r *mapping.Record) *plain {
	c := &plain{Record: *r}
	for i, l := range r.Locators {
		if l.Flags&^mapping.Reachable != 0 || i > 0 && r.Locators[i-1].Compare(l) > 0 {
			c.Record = *r.Clone()
			break
		}
	}
	normalise(&c.Record)
	return c
}

// APIMapping returns the mapping that was put for exactly e, which is shared and
// must not be changed. It is there beside a registration of the same EID, too.
func (s *Server) APIMapping(e mapping.EID) (*mapping.Record, bool) {
	p := apiMapping(s.table.Load(), e)
	if p == nil {
		return nil, false
	}
	return &p.Record, true
}

// apiMapping returns the API mapping of exactly e, or nil.
func apiMapping(t *table, e mapping.EID) *plain {
	v, _ := t.Get(e)
	switch v := v.(type) {
	case *plain:
		return v
	case *node:
		return v.api
	}
	return nil
}
