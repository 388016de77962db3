package dataplane

import (
	"sync"
	"sync/atomic"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// Limits of the list of active entries that are ours.
const (
	maxActive = 1024
	// idleCalls is after how many calls of Active without traffic an entry
	// leaves the list: 10 s with a call every 50 ms.
	idleCalls = 200
)

// Activity is the traffic of one entry of the map-cache since it came.
type Activity struct {
	EID mapping.EID
	// Sent is how many packets went to locators of the mapping, Received how
	// many came that an address of the EID-prefix sent.
	Sent, Received uint64
}

// activity is the list of entries with traffic. Workers put entries in when
// they see the first packet; one caller looks at what is there.
type activity struct {
	fresh chan *usage

	mu   sync.Mutex
	list []*usage
}

// usage are the counters of an EID in the map-cache; they outlive the Entry
// when a record is replaced.
type usage struct {
	eid mapping.EID

	packets, bytes atomic.Uint64
	listed         atomic.Bool  // in activity
	native         atomic.Int64 // since when the kernel forwards natively, in ms; 0: it does not
	gone           atomic.Bool  // no longer in the map-cache
	marked         atomic.Bool  // in carried
	next           *usage       // there

	toldPackets, toldBytes uint64 // what Usage has reported

	// Under activity.mu: what Active has seen, and since how many calls.
	seenSent, seenReceived uint64
	idle                   int

	_                       [64]byte // another worker's cache line
	received, receivedBytes atomic.Uint64
}

// sent adds packets that went out, and their octets, to u, and puts it into the
// lists of what has traffic. It never waits.
func (f *FIB) sent(u *usage, packets, bytes uint64) {
	u.packets.Add(packets)
	u.bytes.Add(bytes)
	f.carried.push(u)
	f.activity.note(u)
}

// carried is a list of the entries that packets went out by since it was taken.
// Workers put each entry in once, without waiting for each other; one caller takes
// all of them, so that it does not have to look at the entries without traffic.
type carried struct{ head atomic.Pointer[usage] }

func (c *carried) push(u *usage) {
	if u.marked.Load() || !u.marked.CompareAndSwap(false, true) {
		return
	}
	for {
		u.next = c.head.Load()
		if c.head.CompareAndSwap(u.next, u) {
			return
		}
	}
}

// take empties the list and calls fn for each entry that was in it. What went out
// after the call of fn has put the entry in again.
func (c *carried) take(fn func(*usage)) {
	for u := c.head.Swap(nil); u != nil; {
		next := u.next
		u.next = nil
		u.marked.Store(false) // before its counters are read
		fn(u)
		u = next
	}
}

// note puts u into the list, if there is room. It never waits.
func (a *activity) note(u *usage) {
	if u.listed.Load() || len(a.fresh) == cap(a.fresh) || !u.listed.CompareAndSwap(false, true) {
		return
	}
	select {
	case a.fresh <- u:
	default:
		u.listed.Store(false)
	}
}

// Active appends the entries of the map-cache that had traffic in the last 200
// calls, at most 1024: when there are more, those with traffic since the last
// call are preferred, and of these the ones that were there before. Counters of
// an entry that left the cache and came back begin anew. It is meant to be
// called every 50 ms or so, by one caller.
func (f *FIB) Active(buf []Activity) []Activity {
	f.beforeRead()
	a := &f.activity
	a.mu.Lock()
	defer a.mu.Unlock()
	kept := a.list[:0]
	for _, u := range a.list {
		sent, received := u.packets.Load(), u.received.Load()
		if u.idle++; sent != u.seenSent || received != u.seenReceived {
			u.seenSent, u.seenReceived, u.idle = sent, received, 0
		}
		full := len(a.list)+len(a.fresh) > maxActive
		if u.gone.Load() || u.idle >= idleCalls || full && u.idle > 0 {
			u.listed.Store(false)
			continue
		}
		kept = append(kept, u)
	}
	clear(a.list[len(kept):])
	a.list = kept
	for range len(a.fresh) {
		u := <-a.fresh
		if len(a.list) == maxActive {
			u.listed.Store(false)
			continue
		}
		u.seenSent, u.seenReceived, u.idle = u.packets.Load(), u.received.Load(), 0
		a.list = append(a.list, u)
	}
	for _, u := range a.list {
		buf = append(buf, Activity{u.eid, u.seenSent, u.seenReceived})
	}
	return buf
}
