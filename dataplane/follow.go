package dataplane

import (
	"iter"
	"net/netip"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// maxFollowed is how many changed EIDs a Follower remembers; when there are
// more, it says that all may have changed.
const maxFollowed = 1 << 17

// Follower tells what has changed in a FIB, to who keeps a copy of the table
// elsewhere. It belongs to one goroutine.
type Follower struct {
	fib *FIB
	// Changed gets a value after anything in the table has changed, path MTUs
	// of locators among it.
	Changed <-chan struct{}

	// Under fib.mu.
	eids []mapping.EID
	all  bool
}

// Follow returns a Follower that at first has everything to tell. It lives as
// long as the FIB.
func (f *FIB) Follow() *Follower {
	w := &Follower{fib: f, all: true, Changed: f.Watch()}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.followers = append(f.followers, w)
	return w
}

// Take returns the current state, and the EIDs whose entries may have changed
// since the last call, some of them more than once; all says that any may have,
// and eids is empty then.
func (w *Follower) Take() (s *Snapshot, eids []mapping.EID, all bool) {
	w.fib.mu.Lock()
	defer w.fib.mu.Unlock()
	eids, all = w.eids, w.all
	w.eids, w.all = nil, false
	return w.fib.snap.Load(), eids, all
}

// follow notes changes. Called under mu; no EIDs means all.
func (f *FIB) follow(changes []mapping.CacheChange) {
	for _, w := range f.followers {
		switch {
		case w.all:
		case changes == nil || len(w.eids)+len(changes) > maxFollowed:
			w.all, w.eids = true, nil
		default:
			for i := range changes {
				w.eids = append(w.eids, changes[i].EID)
			}
		}
	}
}

// OnRead sets a function that Active and Usage call first: it adds what was
// forwarded elsewhere, with the methods Sent, SentTo and Received. It is set
// once, before either is called.
func (f *FIB) OnRead(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onRead = fn
}

func (f *FIB) beforeRead() {
	f.mu.Lock()
	fn := f.onRead
	f.mu.Unlock()
	if fn != nil {
		fn()
	}
}

// Sent counts packets, and octets of them inside, that were forwarded by the
// entry elsewhere.
func (f *FIB) Sent(e *Entry, packets, bytes uint64) {
	f.sent(e.use, packets, bytes)
}

// Received counts packets, and octets of them inside, that came from the
// EID-prefix of the entry elsewhere.
func (f *FIB) Received(e *Entry, packets, bytes uint64) {
	e.use.received.Add(packets)
	e.use.receivedBytes.Add(bytes)
	f.activity.note(e.use)
}

// SentTo counts packets, and octets of them inside, that went to the locator
// elsewhere.
func (r *RLOC) SentTo(packets, bytes uint64) {
	r.packets.Add(packets)
	r.bytes.Add(bytes)
}

// AddLocal counts what was sent from an address of this router, and received on
// it, elsewhere.
func (s *Snapshot) AddLocal(a netip.Addr, n Traffic) {
	if t := s.tallyOf(a); t != nil {
		t.packetsOut.Add(n.PacketsOut)
		t.bytesOut.Add(n.BytesOut)
		t.packetsIn.Add(n.PacketsIn)
		t.bytesIn.Add(n.BytesIn)
	}
}

// Table returns which of the RLOCs has which slot of the flow hash; nil when there
// is but one or none.
func (e *Entry) Table() *[Slots]uint8 { return e.slots }

// Locals walks the local EIDs and their map-versions.
func (s *Snapshot) Locals() iter.Seq2[mapping.EID, mapping.Version] { return s.local.All() }

// Own returns the addresses of this router.
func (s *Snapshot) Own() []netip.Addr {
	list := make([]netip.Addr, len(s.own))
	for i := range s.own {
		list[i] = s.own[i].addr
	}
	return list
}

// SourceTable is how sources are chosen: Slots, indexed by the second octet pair
// of the flow hash (hash >> 16 % 256), gives one of Addrs; nil stands for the only one.
type SourceTable struct {
	Addrs []netip.Addr
	Slots *[Slots]uint8
}

// SourceTable returns the choice of sources toward a locator, which must not be
// changed; no Addrs when there is no source of its family.
func (s *Snapshot) SourceTable(rloc netip.Addr) SourceTable {
	if t := s.sourcesFor(rloc); t != nil {
		return SourceTable{t.addrs, t.slots}
	}
	return SourceTable{}
}

// Avoiding walks the locators toward which sources are chosen otherwise than
// toward the others of their family, as paths to them are down.
func (s *Snapshot) Avoiding() iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for a := range s.around {
			if !yield(a) {
				return
			}
		}
	}
}

// Settings are those parts of a Config that every plane obeys.
type Settings struct {
	MapVersioning bool
	SourceCheck   SourceCheck
	MSSClamp      bool
}

// Settings returns those of the configuration.
func (f *Forwarder) Settings() Settings {
	return Settings{MapVersioning: f.versioning, SourceCheck: f.check, MSSClamp: f.clamp}
}

// NoteHeard is for packets that were decapsulated elsewhere: it notes their
// outer source for Heard, or counts in c that there was no room.
func (f *Forwarder) NoteHeard(a netip.Addr, c *Counters) {
	if !f.heard.add(a) {
		c.Add(HeardLost, 1)
	}
}

// Ask says that a mapping is wanted, as a worker does that has none for a packet.
// How it went is counted in c.
func (f *Forwarder) Ask(m Miss, c *Counters) {
	c.Add(f.misses.offer(m, f.now(), nil), 1)
}
