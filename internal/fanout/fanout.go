// Package fanout hands events to whoever watches: from one place that must not
// wait, to several that may be slow.
package fanout

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// MaxSubscriptions bounds the subscriptions of one Fanout.
const MaxSubscriptions = 64

// ErrTooMany is returned by Subscribe when there are MaxSubscriptions already.
var ErrTooMany = errors.New("too many watch already")

// Fanout hands each event to all subscriptions. It never blocks the publisher
// and does not grow: a subscription whose queue is full loses events, and is
// told how many. The zero Fanout is ready; its methods may be called from
// several goroutines.
type Fanout[E any] struct {
	watched atomic.Int32 // len(subs), to be read without the lock

	mu   sync.Mutex
	subs map[*Subscription[E]]struct{}
}

// Watched reports whether anybody subscribed. A publisher that has to work for
// an event asks before.
func (f *Fanout[E]) Watched() bool { return f.watched.Load() > 0 }

// Publish hands e to all subscriptions.
func (f *Fanout[E]) Publish(e E) {
	if !f.Watched() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.subs {
		s.put(e)
	}
}

// Subscribe returns a subscription to the events from now on, that holds at
// most queue of them; queue is at least 2. It is the caller's to close.
func (f *Fanout[E]) Subscribe(queue int) (*Subscription[E], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.subs) >= MaxSubscriptions {
		return nil, ErrTooMany
	}
	s := &Subscription[E]{f: f, limit: max(queue, 2), some: make(chan struct{}, 1)}
	if f.subs == nil {
		f.subs = make(map[*Subscription[E]]struct{})
	}
	f.subs[s] = struct{}{}
	f.watched.Store(int32(len(f.subs)))
	return s, nil
}

// Item is an event, or the news that some were lost at this place.
type Item[E any] struct {
	Event E
	// Lost is how many events were lost here; Event means nothing unless it
	// is 0.
	Lost uint64
}

// Subscription is a queue of events. It is for one reader.
type Subscription[E any] struct {
	f     *Fanout[E]
	limit int
	some  chan struct{} // holds a token when the queue may hold something

	mu    sync.Mutex
	queue []Item[E] // the last place is only taken by what is lost
}

func (s *Subscription[E]) put(e E) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch n := len(s.queue); {
	case n < s.limit-1:
		s.queue = append(s.queue, Item[E]{Event: e})
	case n == s.limit:
		s.queue[n-1].Lost++
	default:
		s.queue = append(s.queue, Item[E]{Lost: 1})
	}
	select {
	case s.some <- struct{}{}:
	default:
	}
}

// Next waits for events and returns all that are there, in order, or the cause
// of ctx's end. What it returns is the caller's.
func (s *Subscription[E]) Next(ctx context.Context) ([]Item[E], error) {
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-s.some:
		}
		if items := s.Take(); len(items) > 0 {
			return items, nil
		}
	}
}

// Take is Next without waiting: it may return nothing.
func (s *Subscription[E]) Take() []Item[E] {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := s.queue
	s.queue = nil
	return items
}

// Close ends the subscription.
func (s *Subscription[E]) Close() {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	delete(s.f.subs, s)
	s.f.watched.Store(int32(len(s.f.subs)))
}
