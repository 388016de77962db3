package mapsys

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// registrar registers the sites that have no xTR of their own: for each of them it
// sends the Map-Registers that its xTR would, with an xTR-ID of its own and at the
// same intervals.
type registrar struct {
	port   *port
	server netip.AddrPort
	list   []registrant

	mu        sync.Mutex
	nonces    map[uint64]int // of the Map-Registers that are not confirmed, and whose
	confirmed []bool
	missing   int
	nonce     uint64

	still atomic.Bool // nothing is renewed
}

type registrant struct {
	record *mapping.Record
	id     mapping.XTRID
	key    auth.Key
}

// refresh is how often a registration is renewed (RFC 9301 section 8.2).
const refresh = time.Minute

// Bounds of the first registrations: how many are on their way at once, and when one
// is sent again.
const (
	registerWindow = 200
	registerRetry  = time.Second
	registerTries  = 20
)

// register registers all, and returns when all are confirmed.
func (r *registrar) register(ctx context.Context) error {
	r.mu.Lock()
	r.nonces, r.confirmed, r.missing = make(map[uint64]int), make([]bool, len(r.list)), len(r.list)
	r.nonce = uint64(time.Now().UnixNano())
	r.mu.Unlock()
	go r.receive()
	for range registerTries {
		for i := range r.list {
			if r.isConfirmed(i) {
				continue
			}
			if err := r.send(i); err != nil {
				return err
			}
			// Wait for room, or give those up that do not come.
			for until := time.Now().Add(registerRetry); r.outstanding() >= registerWindow && time.Now().Before(until); {
				if err := sleep(ctx, time.Millisecond); err != nil {
					return err
				}
			}
		}
		for until := time.Now().Add(registerRetry); r.left() > 0 && time.Now().Before(until); {
			if err := sleep(ctx, time.Millisecond); err != nil {
				return err
			}
		}
		if r.left() == 0 {
			return nil
		}
		r.mu.Lock()
		clear(r.nonces)
		r.mu.Unlock()
	}
	return fmt.Errorf("%d of %d registrations are not confirmed", r.left(), len(r.list))
}

func (r *registrar) isConfirmed(i int) bool { r.mu.Lock(); defer r.mu.Unlock(); return r.confirmed[i] }
func (r *registrar) outstanding() int       { r.mu.Lock(); defer r.mu.Unlock(); return len(r.nonces) }
func (r *registrar) left() int              { r.mu.Lock(); defer r.mu.Unlock(); return r.missing }

// send sends a Map-Register for one site.
func (r *registrar) send(i int) error {
	r.mu.Lock()
	x := r.list[i]
	r.mu.Unlock()
	recs, err := wire.NewRecords(x.record)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.nonce++
	nonce := r.nonce
	r.nonces[nonce] = i
	r.mu.Unlock()
	m := wire.MapRegister{ProxyReply: true, WantNotify: true, Nonce: nonce, Auth: x.key.Template(), Records: recs, HasXTRID: true, XTRID: x.id}
	b, err := m.AppendBinary(nil)
	if err != nil {
		return err
	}
	if err := auth.Sign(b, x.key); err != nil {
		return err
	}
	return r.port.Write(b, control(registrarAddr(r.server.Addr())), r.server)
}

// change gives a site another record, for the next Map-Register.
func (r *registrar) change(i int, rec *mapping.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list[i].record = rec
}

// receive notes what is confirmed, until the port is closed.
func (r *registrar) receive() {
	buf := make([]byte, wire.MaxMessage)
	for {
		n, _, _, err := r.port.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 12 || wire.Type(buf[0]>>4) != wire.TypeMapNotify {
			continue
		}
		nonce := binary.BigEndian.Uint64(buf[4:])
		r.mu.Lock()
		if i, ok := r.nonces[nonce]; ok {
			delete(r.nonces, nonce)
			if !r.confirmed[i] {
				r.confirmed[i] = true
				r.missing--
			}
		}
		r.mu.Unlock()
	}
}

// keep renews the registrations, evenly over time, until ctx ends.
func (r *registrar) keep(ctx context.Context) {
	const tick = 50 * time.Millisecond
	t := time.NewTicker(tick)
	defer t.Stop()
	begin, sent := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			if r.still.Load() {
				continue
			}
			for due := int(now.Sub(begin).Seconds() / refresh.Seconds() * float64(len(r.list))); sent < due; sent++ {
				r.send(sent % len(r.list)) // a failure shows as a registration that expires
			}
			r.mu.Lock()
			if len(r.nonces) > 2*len(r.list) {
				clear(r.nonces)
			}
			r.mu.Unlock()
		}
	}
}
