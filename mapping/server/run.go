package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/udp"
)

const (
	// tickInterval is how late an expiry may be noticed and a refresh's
	// nonce saved.
	tickInterval = time.Second
	// gatherTime is how long the writer waits for what the readers have at
	// hand after a first Map-Register: it makes batches, and lets inOrder
	// undo their overtaking each other.
	gatherTime = 500 * time.Microsecond
	// maxBatch bounds the Map-Registers that share one edit of the table and
	// one commit.
	maxBatch = 512
	// stopTimeout bounds the last commit.
	stopTimeout = 10 * time.Second
)

// Run serves conn until ctx is done, with one reader goroutine for each queue of
// a udp.Batcher, or with the given number of them for any other Conn, and then closes conn, gives the store what it does not have yet, and returns
// nil, or the error of that last commit. It fails when conn is closed by
// somebody else. It may be called once.
func (s *Server) Run(ctx context.Context, conn udp.Conn, readers int) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	for _, q := range udp.Queues(conn, readers) {
		wg.Go(func() { s.read(q) })
	}
	gone := make(chan struct{})
	go func() { wg.Wait(); close(gone) }()
	across := make(chan struct{})
	go func() { defer close(across); s.readALT(ctx, udp.NewSender(conn)) }()

	// A commit that has begun is not called off: it would leave its
	// Map-Notifies unsent for nothing.
	commits := context.WithoutCancel(ctx)
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	err := error(nil)
	sender := udp.NewSender(conn)
	var out []udp.Message
	timer := time.NewTimer(0)
	defer timer.Stop()
	for running := true; running; {
		due, next, ok := s.advance(s.clock())
		out = s.send(sender, due, out)
		timer.Stop()
		if ok {
			timer.Reset(next.Sub(s.clock()))
		}
		select {
		case <-ctx.Done():
			running = false
		case <-gone:
			err = fmt.Errorf("serve LISP control messages: %w", net.ErrClosed)
			running = false
		case <-ticker.C:
			s.tick(commits, s.clock())
		case <-timer.C:
		case <-s.wake:
		case op := <-s.subscriptions:
			out = s.send(sender, s.subscribeAll(commits, s.clock(), gather(s.subscriptions, op)), out)
		case msg := <-s.acks:
			s.acknowledge(s.clock(), gather(s.acks, msg))
		case reg := <-s.queue:
			time.Sleep(gatherTime)
			batch := gather(s.queue, reg)
			inOrder(batch)
			notifies := s.registerAll(commits, s.clock(), batch)
			for _, reg := range batch {
				reg.site.queued.Add(-1)
			}
			out = s.send(sender, notifies, out)
		}
	}
	stop()
	<-across
	conn.Close()
	<-gone
	last, cancel := context.WithTimeout(commits, stopTimeout)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if ferr := s.flush(last); ferr != nil {
		err = errors.Join(err, fmt.Errorf("save the state of the map-server: %w", ferr))
	}
	return err
}

// gather takes what else waits in a queue.
func gather[T any](queue <-chan T, first T) []T {
	batch := []T{first}
	for len(batch) < maxBatch {
		select {
		case next := <-queue:
			batch = append(batch, next)
		default:
			return batch
		}
	}
	return batch
}

// inOrder sorts the Map-Registers of each xTR by nonce, and leaves those of
// different xTRs in the order they came in. An xTR with many EID-prefixes sends
// several at once; a reader that was a little slower must not make a replay of
// one of them.
func inOrder(batch []*register) {
	places := make(map[nonceKey][]int)
	for i, reg := range batch {
		places[reg.nonceKey()] = append(places[reg.nonceKey()], i)
	}
	for _, at := range places {
		regs := make([]*register, len(at))
		for i, p := range at {
			regs[i] = batch[p]
		}
		slices.SortStableFunc(regs, func(a, b *register) int { return cmp.Compare(a.msg.Nonce, b.msg.Nonce) })
		for i, p := range at {
			batch[p] = regs[i]
		}
	}
}

// read is a reader goroutine.
func (s *Server) read(q udp.Queue) {
	r := s.newReader()
	var out []udp.Message
	for failures := 0; ; {
		in, err := q.Receive()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.counters.inc(receiveErrors)
			// One datagram's error is nothing; a row of them must not
			// take a whole processor.
			if failures++; failures > 10 {
				time.Sleep(10 * time.Millisecond)
			}
			continue
		}
		failures = 0
		now := s.clock()
		r.begin()
		for i := range in {
			m := &in[i]
			if reg := r.take(now, m.Payload, m.Src, m.Dst); reg != nil {
				reg.site.queued.Add(1)
				select {
				case s.queue <- reg:
				default:
					reg.site.queued.Add(-1)
					s.refuse(now, reg.site, refusedQueueFull, m.Src)
				}
			}
		}
		out = s.send(q, r.out, out)
	}
}

// send sends what the state machines said. It uses batch, and returns it, to
// be used again.
func (s *Server) send(to udp.Sender, out []datagram, batch []udp.Message) []udp.Message {
	batch = batch[:0]
	for _, d := range out {
		batch = append(batch, udp.Message{Payload: d.payload, Src: d.src, Dst: d.dst})
	}
	if len(batch) > 0 {
		s.counters.add(sendErrors, uint64(to.Send(batch)))
	}
	return batch
}
