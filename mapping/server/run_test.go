package server

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/eidolon-lisp/eidolon/internal/testnet"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

func TestMain(m *testing.M) {
	crashChild()
	batchChild()
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			println(err.Error())
			code = 1
		}
	}
	os.Exit(code)
}

const oneWay = 5 * time.Millisecond

// node is an xTR, or a tool, on the test network.
type xtrNode struct {
	*testnet.Conn
	mu  sync.Mutex
	got []arrived
}

type arrived struct {
	at  time.Time
	src netip.AddrPort
	msg []byte
}

func newXTR(t *testing.T, n *testnet.Network, wg *sync.WaitGroup, addrs ...string) *xtrNode {
	x := &xtrNode{Conn: n.MustListen(t, addrs...)}
	wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, src, _, err := x.Read(buf)
			if err != nil {
				return
			}
			x.mu.Lock()
			x.got = append(x.got, arrived{time.Now(), src, slices.Clone(buf[:n])})
			x.mu.Unlock()
		}
	})
	return x
}

// take returns what arrived since the last call.
func (x *xtrNode) take() []arrived {
	x.mu.Lock()
	defer x.mu.Unlock()
	got := x.got
	x.got = nil
	return got
}

// inBubble runs a server on a test network in virtual time.
func inBubble(t *testing.T, store *memStore, f func(t *testing.T, s *Server, n *testnet.Network, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		net := testnet.New(t, testnet.Path{Latency: oneWay})
		conn := net.MustListen(t, local4.String(), local6.String())
		var kept mapping.Store
		if store != nil {
			kept = store
		}
		s, err := New(t.Context(), twoSites(), kept)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx, conn, 3) }()
		f(t, s, net, &bench{t: t, nonce: 1000})
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// TestRun plays an xTR against the driver: exact instants of the Map-Notify,
// the Map-Reply, the expiry and the late nonce.
func TestRun(t *testing.T) {
	store := newMemStore()
	inBubble(t, store, func(t *testing.T, s *Server, n *testnet.Network, b *bench) {
		var wg sync.WaitGroup
		etr := newXTR(t, n, &wg, etr1.String())
		itr := newXTR(t, n, &wg, "192.0.2.10:61000", "[2001:db8:aa::10]:61000")
		defer wg.Wait()
		defer etr.Close()
		defer itr.Close()
		send := func(x *xtrNode, msg []byte, to netip.AddrPort) {
			t.Helper()
			if err := x.Write(msg, netip.AddrPort{}, to); err != nil {
				t.Fatal(err)
			}
		}
		ask := func(to netip.AddrPort) arrived {
			t.Helper()
			q := asking{eids: []mapping.EID{eid("2001:db8:1::1")}, to: to}.defaults()
			if to == local6 {
				q.itr = []netip.Addr{itr6.Addr()}
			}
			at := time.Now()
			send(itr, encodeRequest(t, q), to)
			time.Sleep(3 * oneWay)
			got := itr.take()
			if len(got) != 1 || got[0].at.Sub(at) != 2*oneWay || got[0].src != to {
				t.Fatalf("asked %v at %v, got %+v", to, at, got)
			}
			return got[0]
		}
		record := func(msg []byte) string { return texts(records(t, msg))[0] }
		reg := registering{proxy: true, records: []*mapping.Record{rec("2001:db8:1::/48", "192.0.2.1")}}

		at := time.Now()
		send(etr, b.encode(reg), local4)
		time.Sleep(3 * oneWay)
		got := etr.take()
		if len(got) != 1 || got[0].at.Sub(at) != 2*oneWay+gatherTime || got[0].src != local4 || b.notify([]datagram{{payload: got[0].msg}}, leftKey).Nonce != b.nonce {
			t.Fatalf("the ETR got %+v", got)
		}
		for _, to := range []netip.AddrPort{local4, local6} {
			if got := record(ask(to).msg); got != "2001:db8:1::/48 ttl 1440m, 192.0.2.1 1/100 R" {
				t.Errorf("answer: %s", got)
			}
		}

		// Changes that overtook each other on the way are all accepted.
		var several [][]byte
		for i := range 6 {
			changed := reg
			changed.records = []*mapping.Record{withTTL(uint32(1430+i), rec("2001:db8:1::/48", "192.0.2.1"))}
			several = append(several, b.encode(changed))
		}
		for _, msg := range slices.Backward(several) {
			send(etr, msg, local4)
		}
		time.Sleep(3 * oneWay)
		if got := etr.take(); len(got) != len(several) {
			t.Errorf("%d Map-Notifies for %d Map-Registers", len(got), len(several))
		}

		// A refresh is stored no more; its nonce follows within a second.
		time.Sleep(time.Minute - time.Since(at))
		commits := store.commitCount()
		refreshed := time.Now()
		reg.records = []*mapping.Record{withTTL(1435, rec("2001:db8:1::/48", "192.0.2.1"))}
		send(etr, b.encode(reg), local4)
		time.Sleep(2 * oneWay)
		time.Sleep(gatherTime)
		if got := store.commitCount() - commits; got != 0 {
			t.Errorf("%d commits for a refresh", got)
		}
		time.Sleep(time.Second)
		if nonce, _ := store.nonce("left", mapping.Registrant{RLOC: etr1.Addr()}, 1); nonce != b.nonce {
			t.Errorf("the store has the nonce %d a second after %d", nonce, b.nonce)
		}

		// It expires with the first tick three minutes after it came.
		time.Sleep(registrationTimeout - time.Since(refreshed) - oneWay)
		if got := record(ask(local4).msg); !strings.Contains(got, "192.0.2.1") {
			t.Errorf("expired too early: %s", got)
		}
		time.Sleep(tickInterval)
		if got := record(ask(local4).msg); got != "2001:db8:1::/48 ttl 1m natively-forward" {
			t.Errorf("not expired: %s", got)
		}
		if left := store.registrations(); len(left) > 0 {
			t.Errorf("in the store: %v", left)
		}
	})
}

// TestInOrder: an xTR's Map-Registers are processed by ascending nonce, however
// the readers overtook each other, and others keep their places.
func TestInOrder(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	var batch []*register
	for _, x := range []struct {
		nonce uint64
		src   netip.AddrPort
	}{{3, etr1}, {9, etr2}, {1, etr1}, {2, etr1}, {8, etr2}} {
		_, reg := b.r.handle(b.now, b.encode(registering{nonce: x.nonce, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}}), x.src, local4)
		batch = append(batch, reg)
	}
	inOrder(batch)
	var got []uint64
	for _, reg := range batch {
		got = append(got, reg.msg.Nonce)
	}
	if want := []uint64{1, 8, 2, 3, 9}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
	if n := len(b.s.registerAll(t.Context(), b.now, batch)); n != 5 {
		t.Errorf("%d of 5 were notified", n)
	}
}

// TestStopFlushes: an orderly stop saves the nonce that was to follow later.
func TestStopFlushes(t *testing.T) {
	store := newMemStore()
	var last uint64
	inBubble(t, store, func(t *testing.T, s *Server, n *testnet.Network, b *bench) {
		var wg sync.WaitGroup
		etr := newXTR(t, n, &wg, etr1.String())
		defer wg.Wait()
		defer etr.Close()
		for range 2 {
			msg := b.encode(registering{records: []*mapping.Record{rec("2001:db8:1::/48", "192.0.2.1")}})
			if err := etr.Write(msg, netip.AddrPort{}, local4); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * oneWay)
		}
		last = b.nonce
	})
	if nonce, _ := store.nonce("left", mapping.Registrant{RLOC: etr1.Addr()}, 1); nonce != last {
		t.Errorf("the store has the nonce %d, want %d", nonce, last)
	}
}

// TestStopWithFailingStore: Run says what could not be saved.
func TestStopWithFailingStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testnet.New(t, testnet.Path{Latency: oneWay})
		store := newMemStore()
		s, err := New(t.Context(), twoSites(), store)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx, n.MustListen(t, local4.String()), 1) }()
		etr := n.MustListen(t, etr1.String())
		store.setFail(errDisk)
		b := &bench{t: t}
		if err := etr.Write(b.encode(registering{records: []*mapping.Record{rec("2001:db8:1::/48", "192.0.2.1")}}), netip.AddrPort{}, local4); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		cancel()
		if err := <-done; !errors.Is(err, errDisk) {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestClosedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testnet.New(t, testnet.Path{})
		s, err := New(t.Context(), Config{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		conn := n.MustListen(t, local4.String())
		done := make(chan error, 1)
		go func() { done <- s.Run(t.Context(), conn, 2) }()
		time.Sleep(time.Second)
		conn.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Run: %v", err)
		}
	})
}

// stuckStore blocks in Commit until it is let go.
type stuckStore struct {
	*memStore
	gate chan struct{}
}

func (s *stuckStore) Commit(ctx context.Context, cs []mapping.Change) error {
	<-s.gate
	return s.memStore.Commit(ctx, cs)
}

// TestSlowStore: while the disk hangs, requests are answered, and the queue of
// Map-Registers is bounded and its losses are counted.
func TestSlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testnet.New(t, testnet.Path{Latency: oneWay})
		store := &stuckStore{newMemStore(), make(chan struct{}, 1)}
		store.gate <- struct{}{} // the start itself commits once
		cfg := twoSites()
		cfg.RegisterQueue = 8
		s, err := New(t.Context(), cfg, store)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx, n.MustListen(t, local4.String()), 2) }()
		var wg sync.WaitGroup
		etr := newXTR(t, n, &wg, etr1.String())
		b := &bench{t: t}
		send := func(msg []byte) {
			if err := etr.Write(msg, netip.AddrPort{}, local4); err != nil {
				t.Fatal(err)
			}
		}
		send(b.encode(registering{records: []*mapping.Record{rec("2001:db8:1::/48", "192.0.2.1")}}))
		time.Sleep(time.Second)
		const more = 20
		for range more {
			send(b.encode(registering{records: []*mapping.Record{rec("2001:db8:1::/48", "192.0.2.1")}}))
			time.Sleep(time.Millisecond)
		}
		send(encodeRequest(t, asking{eids: []mapping.EID{eid("2001:db8:1::1")}, itr: []netip.Addr{etr1.Addr()}, src: etr1}.defaults()))
		time.Sleep(time.Second)
		got := etr.take()
		if len(got) != 1 {
			t.Fatalf("%d datagrams while the disk hangs, want one forwarded Map-Request", len(got))
		}
		if ty, _ := wire.PeekType(got[0].msg); ty != wire.TypeECM {
			t.Errorf("got a %v", ty)
		}
		if dropped := s.counters[refusedQueueFull].Load(); dropped != more-8 {
			t.Errorf("%d Map-Registers did not fit, want %d", dropped, more-8)
		}
		close(store.gate)
		time.Sleep(time.Second)
		if got := etr.take(); len(got) != 1+8 {
			t.Errorf("%d Map-Notifies, want 9", len(got))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		etr.Close()
		wg.Wait()
	})
}

// TestEverythingAtOnce is for the race detector: readers, the writer, the API
// and expiry share one server, and it is consistent in the end.
func TestEverythingAtOnce(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	s, now := b.s, b.now
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			r := s.newReader()
			for i := range 400 {
				e := mapping.HostEID(0, netip.AddrFrom4([4]byte{10, byte(i % 4), byte(i), byte(w)}))
				r.handle(now, encodeRequest(t, asking{eids: []mapping.EID{e}}.defaults()), itr4, local4)
			}
		})
		wg.Go(func() {
			r := s.newReader()
			for i := range 200 {
				rc := mapping.Record{EID: eid("10.1.0.0/16"), TTL: uint32(i % 5), Locators: []mapping.Locator{loc("192.0.2.1")}}
				msg := encodeRegister(t, registering{key: leftKey, nonce: uint64(i + 1), xtr: xtrID(byte(w + 1)), merge: i%3 > 0, proxy: i%2 > 0, records: []*mapping.Record{&rc}})
				if _, reg := r.handle(now, msg, etr1, local4); reg != nil {
					s.registerAll(context.Background(), now, []*register{reg})
				}
			}
		})
		wg.Go(func() {
			for i := range 100 {
				e := mapping.HostEID(0, netip.AddrFrom4([4]byte{10, 1, byte(i % 9), byte(w)}))
				if err := s.Put(context.Background(), []*mapping.Record{{EID: e, TTL: uint32(i + 1)}}); err != nil {
					t.Error(err)
				}
				if i%3 == 0 {
					if err := s.Delete(context.Background(), []mapping.EID{e}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 50 {
			for st := range s.Database(mapping.EID{}) {
				_ = st.Record.String()
			}
			s.Sites()
			s.Lookup(eid("10.1.0.1"))
			for range s.Stats() {
			}
			s.tick(context.Background(), now.Add(time.Duration(i)*10*time.Second))
		}
	})
	wg.Wait()
	s.tick(context.Background(), now)
	b.check()
}
