package server

import (
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// touch notes that what the table says about e may change with the next
// replace.
func (s *Server) touch(e mapping.EID) { s.touched = append(s.touched, e) }

// replace makes t the table that requests are answered from.
func (s *Server) replace(t *table) {
	if s.before == nil {
		s.before = s.table.Load()
	}
	s.table.Store(t)
}

// compactTouched leaves each touched EID once, in the order of EID.Compare.
func (s *Server) compactTouched() {
	slices.SortFunc(s.touched, mapping.EID.Compare)
	s.touched = slices.Compact(s.touched)
}

// announce calls published for everything that changed since it was last
// called. It is called when the store has taken the changes.
func (s *Server) announce(now time.Time) {
	if len(s.touched) > 0 {
		s.compactTouched()
		s.published(now, s.before, s.table.Load(), s.touched)
		s.touched = s.touched[:0]
	}
	s.before = nil
}

// published is called under mu after a change of the table is durable: old is
// the table that was published last, new the present one, and touched the EIDs,
// sorted and each once, whose entries may differ between the two. touched is
// valid until published returns. Refreshes do not come here.
func (s *Server) published(now time.Time, old, new *table, touched []mapping.EID) {
	s.history.append(s.revision, old, new, touched)
	s.tell(now, old, new, touched)
	s.publishAll(now, old, new, touched)
	for _, e := range touched {
		s.tellMerged(old, new, e, s.asked)
	}
}
