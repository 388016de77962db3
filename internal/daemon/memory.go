package daemon

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What KeepSmall looks at (package runtime/metrics).
const (
	allocated = "/gc/heap/allocs:bytes"              // ever
	live      = "/gc/heap/live:bytes"                // found by the last collection
	objects   = "/memory/classes/heap/objects:bytes" // live or not collected yet
	free      = "/memory/classes/heap/free:bytes"    // not used, not given back
	unused    = "/memory/classes/heap/unused:bytes"
)

// memory is a look at the heap, in octets.
type memory struct{ allocated, live, objects, free, unused uint64 }

func look() memory {
	s := []metrics.Sample{{Name: allocated}, {Name: live}, {Name: objects}, {Name: free}, {Name: unused}}
	metrics.Read(s)
	return memory{s[0].Value.Uint64(), s[1].Value.Uint64(), s[2].Value.Uint64(), s[3].Value.Uint64(), s[4].Value.Uint64()}
}

const (
	// trimInterval is how often the heap is looked at.
	trimInterval = time.Second
	// quiet is how much may be allocated between two looks when the work that
	// made the garbage is over.
	quiet = 8 << 20
	// worthwhile is the least that is given back: a collection of a large heap
	// is work too.
	worthwhile = 16 << 20
)

// trimmer decides when a collection gives much memory back.
type trimmer struct{ last, trimmed memory }

// due reports whether the heap should be trimmed now. A daemon that has read a
// large table allocates little afterwards, so that the collector alone would
// leave what reading it needed for hours.
func (t *trimmer) due(now memory) bool {
	calm := now.allocated-t.last.allocated < quiet
	t.last = now
	waste := now.objects + now.free + now.unused - min(now.live, now.objects+now.free+now.unused)
	if !calm || now.allocated-t.trimmed.allocated < worthwhile || waste < max(worthwhile, now.live/8) {
		return false
	}
	t.trimmed = now
	return true
}

// KeepSmall gives memory that is not needed any more back to the system, soon
// after the work that needed it, until ctx is done.
func KeepSmall(ctx context.Context) {
	ticker := time.NewTicker(trimInterval)
	defer ticker.Stop()
	var t trimmer
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if t.due(look()) {
				debug.FreeOSMemory()
			}
		}
	}
}
