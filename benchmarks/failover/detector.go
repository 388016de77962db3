package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The detector's timings are those of Eidolon's suspicion: traffic is looked at
// every 50 ms; a link that was used both ways and on which we send but have
// received nothing for 150 ms is probed up to five times, 100 ms apart; it is
// down when three probes are unanswered. A neighbour that probes us twice
// within a second suspects the link, so we test it too.
const (
	sampleEvery    = 50 * time.Millisecond
	silence        = 150 * time.Millisecond
	probeEvery     = 100 * time.Millisecond
	probeBurst     = 5
	probesLost     = 3
	retryEvery     = time.Second // of a link that is down
	suspicionFirst = 500 * time.Millisecond
	suspicionMax   = 10 * time.Second
	settleEvery    = 100 * time.Millisecond
)

// detector closes the sessions of a neighbour that can't be reached: at once
// when carrier or the own address is lost, as routers do, and, if probing is
// on, by the rules above. It opens them when the link is good again.
type detector struct {
	s       *speaker
	probing bool
	conn    *net.UDPConn
	links   []*linkState
}

// linkState is what is known of the link to one neighbour.
type linkState struct {
	n   neighborConfig
	dev int

	mu       sync.Mutex
	carrier  bool
	dead     bool      // by probes
	heard    time.Time // the neighbour's last probe
	asked    bool      // the neighbour suspects the link
	answered map[uint32]bool
	number   uint32
}

func newDetector(s *speaker, probing bool) (*detector, error) {
	d := &detector{s: s, probing: probing}
	links := make(chan netlink.LinkUpdate, 64)
	addrs := make(chan netlink.AddrUpdate, 64)
	if err := netlink.LinkSubscribe(links, nil); err != nil {
		return nil, err
	}
	if err := netlink.AddrSubscribe(addrs, nil); err != nil {
		return nil, err
	}
	for _, n := range s.c.Neighbors {
		l, err := netlink.LinkByName(n.Dev)
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", n.Dev, err)
		}
		d.links = append(d.links, &linkState{n: n, dev: l.Attrs().Index, carrier: true, answered: map[uint32]bool{}})
	}
	go d.watch(links, addrs)
	go d.settle()
	if !probing {
		return d, nil
	}
	var err error
	if d.conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: detectorPort}); err != nil {
		return nil, err
	}
	go d.receive()
	for _, l := range d.links {
		go d.probe(l)
	}
	return d, nil
}

// watch follows carrier and addresses.
func (d *detector) watch(links <-chan netlink.LinkUpdate, addrs <-chan netlink.AddrUpdate) {
	for {
		select {
		case u := <-links:
			for _, l := range d.links {
				if l.dev == u.Attrs().Index {
					d.setCarrier(l, u.Attrs().RawFlags&unix.IFF_RUNNING != 0)
				}
			}
		case u := <-addrs:
			for _, l := range d.links {
				// Sessions that are bound to an address end with it.
				if l.dev == u.LinkIndex && u.LinkAddress.IP.To4() != nil {
					d.setCarrier(l, u.NewAddr)
				}
			}
		}
	}
}

func (d *detector) setCarrier(l *linkState, up bool) {
	l.mu.Lock()
	changed := l.carrier != up
	l.carrier = up
	l.dead = l.dead && !up
	l.mu.Unlock()
	if changed {
		d.apply(l)
	}
}

// settle applies the state of all links again and again, because GoBGP drops a
// request that comes soon after another.
func (d *detector) settle() {
	for range time.Tick(settleEvery) {
		for _, l := range d.links {
			d.apply(l)
		}
	}
}

// apply opens the sessions over a good link and closes those over another.
func (d *detector) apply(l *linkState) {
	l.mu.Lock()
	good := l.carrier && !l.dead
	l.mu.Unlock()
	ctx := context.Background()
	var open, shut []string
	d.s.bgp.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		a, err := netip.ParseAddr(p.State.NeighborAddress)
		if err != nil || !l.has(a) {
			return
		}
		if down := p.State.AdminState == api.PeerState_DOWN; down && good {
			open = append(open, a.String())
		} else if !down && !good {
			shut = append(shut, a.String())
		}
	})
	for _, a := range open {
		d.s.bgp.EnablePeer(ctx, &api.EnablePeerRequest{Address: a})
	}
	for _, a := range shut {
		d.s.bgp.DisablePeer(ctx, &api.DisablePeerRequest{Address: a})
	}
}

// has tells whether an address is that of the neighbour.
func (l *linkState) has(a netip.Addr) bool {
	return slices.Contains(l.n.addrs(), a)
}

// target returns whom to probe: whom there is a session with, or else might be.
func (d *detector) target(l *linkState) netip.Addr {
	if peers, err := d.s.peers(context.Background()); err == nil {
		if a := l.n.established(peers); a.IsValid() {
			return a
		}
	}
	return l.n.Addr
}

// probe watches the traffic of a link and tests it when there is a reason.
func (d *detector) probe(l *linkState) {
	var rx, tx uint64
	var lastRX, lastTX, notBefore time.Time
	backoff := suspicionFirst
	for range time.Tick(sampleEvery) {
		link, err := netlink.LinkByIndex(l.dev)
		if err != nil || link.Attrs().Statistics == nil {
			continue
		}
		now := time.Now()
		st := link.Attrs().Statistics
		if st.RxPackets != rx {
			rx, lastRX = st.RxPackets, now
		}
		if st.TxPackets != tx {
			tx, lastTX = st.TxPackets, now
		}
		l.mu.Lock()
		carrier, dead, asked := l.carrier, l.dead, l.asked
		l.asked = false
		l.mu.Unlock()
		if !carrier {
			continue
		}
		if dead {
			d.revive(l)
			continue
		}
		oneWay := !lastRX.IsZero() && now.Sub(lastTX) < 2*sampleEvery && now.Sub(lastRX) >= silence && now.Sub(lastRX) < suspicionMax
		if !asked && !oneWay || now.Before(notBefore) {
			continue
		}
		to := d.target(l)
		if d.answers(l, to, probeBurst, probesLost) {
			backoff = min(2*backoff, suspicionMax)
			notBefore = time.Now().Add(backoff)
			continue
		}
		backoff = suspicionFirst
		l.mu.Lock()
		l.dead = true
		l.mu.Unlock()
		d.apply(l)
	}
}

// revive tests a link that is down once, and opens the sessions if the
// neighbour answers by one of its addresses.
func (d *detector) revive(l *linkState) {
	time.Sleep(retryEvery)
	if !slices.ContainsFunc(l.n.addrs(), func(to netip.Addr) bool { return d.answers(l, to, 3, 1) }) {
		return
	}
	l.mu.Lock()
	l.dead = false
	l.mu.Unlock()
	d.apply(l)
}

// answers sends up to n probes and tells whether fewer than lost of them stayed
// without an answer for 100 ms, which is longer than any link here takes.
func (d *detector) answers(l *linkState, to netip.Addr, n, lost int) bool {
	var sent []uint32
	l.mu.Lock()
	clear(l.answered)
	l.mu.Unlock()
	for range n {
		l.mu.Lock()
		l.number++
		id := l.number
		l.mu.Unlock()
		b := binary.BigEndian.AppendUint32([]byte{probeRequest}, id)
		d.conn.WriteToUDPAddrPort(b, netip.AddrPortFrom(to, detectorPort))
		sent = append(sent, id)
		time.Sleep(probeEvery) // the time-out too
		if missing := d.missing(l, sent); missing >= lost {
			return false
		} else if len(sent)-missing > n-lost {
			return true
		}
	}
	return d.missing(l, sent) < lost
}

func (d *detector) missing(l *linkState, sent []uint32) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range sent {
		if !l.answered[id] {
			n++
		}
	}
	return n
}

const (
	probeRequest = 1
	probeAnswer  = 2
)

func (d *detector) receive() {
	b := make([]byte, 64)
	for {
		n, from, err := d.conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if n != 5 {
			continue
		}
		for _, l := range d.links {
			if !l.has(from.Addr()) {
				continue
			}
			l.mu.Lock()
			switch id := binary.BigEndian.Uint32(b[1:]); b[0] {
			case probeAnswer:
				if id <= l.number {
					l.answered[id] = true
				}
			case probeRequest:
				now := time.Now()
				l.asked = l.asked || now.Sub(l.heard) < time.Second
				l.heard = now
			}
			l.mu.Unlock()
		}
		if b[0] == probeRequest {
			b[0] = probeAnswer
			d.conn.WriteToUDPAddrPort(b[:n], from)
		}
	}
}
