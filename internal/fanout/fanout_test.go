package fanout

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

func TestEventsInOrderToAll(t *testing.T) {
	var f Fanout[int]
	f.Publish(0) // nobody watches
	a, err := f.Subscribe(8)
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.Subscribe(8)
	if err != nil {
		t.Fatal(err)
	}
	f.Publish(1)
	f.Publish(2)
	for name, s := range map[string]*Subscription[int]{"a": a, "b": b} {
		items, err := s.Next(t.Context())
		if err != nil || len(items) != 2 || items[0] != (Item[int]{Event: 1}) || items[1] != (Item[int]{Event: 2}) {
			t.Errorf("%s got %v, %v", name, items, err)
		}
	}
	a.Close()
	f.Publish(3)
	if items, err := b.Next(t.Context()); err != nil || len(items) != 1 || items[0].Event != 3 {
		t.Errorf("after a closed, b got %v, %v", items, err)
	}
	if len(a.queue) != 0 {
		t.Error("a closed subscription got an event")
	}
	if !f.Watched() {
		t.Error("b does not count as watching")
	}
	b.Close()
	if f.Watched() {
		t.Error("closed subscriptions count as watching")
	}
}

// A slow reader loses events at the place where its queue was full, is told
// how many, and its queue does not grow.
func TestSlowReaderIsTold(t *testing.T) {
	var f Fanout[int]
	s, err := f.Subscribe(4)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		f.Publish(i)
	}
	if len(s.queue) != 4 || cap(s.queue) > 8 {
		t.Errorf("queue of %d, capacity %d, want 4", len(s.queue), cap(s.queue))
	}
	items, err := s.Next(t.Context())
	if err != nil || len(items) != 4 || items[2].Event != 2 || items[2].Lost != 0 || items[3].Lost != 997 {
		t.Errorf("got %v, %v, want 3 events and 997 lost", items, err)
	}
	f.Publish(1000)
	if items, err = s.Next(t.Context()); err != nil || len(items) != 1 || items[0] != (Item[int]{Event: 1000}) {
		t.Errorf("got %v, %v, want event 1000", items, err)
	}
}

func TestNextWaitsAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Fanout[int]
		s, err := f.Subscribe(4)
		if err != nil {
			t.Fatal(err)
		}
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		got := make(chan error, 2)
		go func() {
			items, err := s.Next(ctx)
			if err == nil && items[0].Event != 7 {
				err = errors.New("another event")
			}
			got <- err
			_, err = s.Next(ctx)
			got <- err
		}()
		synctest.Wait()
		f.Publish(7)
		if err := <-got; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		cancel(cause)
		if err := <-got; !errors.Is(err, cause) {
			t.Errorf("Next ended with %v, want %v", err, cause)
		}
	})
}

func TestTooManySubscriptions(t *testing.T) {
	var f Fanout[int]
	for range MaxSubscriptions {
		if _, err := f.Subscribe(2); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Subscribe(2); !errors.Is(err, ErrTooMany) {
		t.Errorf("one more: %v, want %v", err, ErrTooMany)
	}
}

// Every event is either read or counted as lost, whoever is faster.
func TestNothingVanishes(t *testing.T) {
	const publishers, each = 4, 2000
	var f Fanout[int]
	s, err := f.Subscribe(16)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range publishers {
		wg.Go(func() {
			for i := range each {
				f.Publish(i)
			}
		})
	}
	var read, lost uint64
	for read+lost < publishers*each {
		items, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range items {
			if lost += it.Lost; it.Lost == 0 {
				read++
			}
		}
	}
	wg.Wait()
	if read+lost != publishers*each {
		t.Errorf("read %d and lost %d of %d", read, lost, publishers*each)
	}
}
