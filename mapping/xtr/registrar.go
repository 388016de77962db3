package xtr

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// registrar keeps the site registered with its map-servers (RFC 9301 sections
// 5.6, 5.7 and 8.2).
//
// For each map-server the EID-prefixes are divided into as many Map-Registers
// as the message size asks for. Each of them goes its own way in rounds: a
// round begins with a fresh nonce, and while no Map-Notify comes, the same
// message is retransmitted with a doubling interval. A round lasts 20 s until
// the first Map-Notify, for at most 5 minutes, and RegisterInterval from then
// on. The doubling begins anew with each round: a registration lives for three
// of them, and on a path with loss one message in each is not enough. A
// retransmission gets a fresh nonce where another Map-Register to the same
// map-server has a higher one: the original, if it was lost, is a replay by now
// (section 5.6).
//
// Each retransmission goes out of the next uplink.
type registrar struct {
	part
	regs []*registration
	acks limiter[netip.AddrPort]
	last uint64 // the last nonce used
	// newest is the highest nonce of each map-server, of what may be withdrawn
	// and forgotten since, too.
	newest map[netip.AddrPort]uint64
	floor  uint64    // the last floor saved
	quick  time.Time // when the last quick registration begins
	// lost is told of a local RLOC from which a Map-Register was not confirmed.
	lost func(now time.Time, from netip.Addr)

	started bool
}

// registration is one Map-Register of one map-server.
type registration struct {
	server    *MapServer
	databases []int // indexes in Config.Databases
	// gone are database-mappings that the site no longer has, instead of
	// databases; such a registration withdraws them and then is removed.
	gone []Database

	msg         []byte        // the message of this round
	nonce       uint64        // its nonce
	previous    uint64        // the nonce of the message before
	sent        time.Time     // last transmission; zero before the first
	resends     int           // retransmissions of this message
	confirmed   bool          // this round has its Map-Notify
	tries       int           // transmissions since the last Map-Notify
	backoff     time.Duration // until the next retransmission
	hurry       time.Duration // until the first one after a change, if not 0
	turn        int           // which uplink it goes out of
	from        netip.Addr    // the RLOC that it went out of last
	silent      bool          // the map-server did not confirm what was before the change
	renew       time.Time     // when the next round begins
	resend      time.Time     // when to retransmit; zero for never
	lastNotify  time.Time
	rtt         time.Duration
	unconfirmed bool
	key         int       // index in server.keys of the one in use
	withdrawn   bool      // the message deregisters
	expires     time.Time // when the withdrawal of gone is given up
}

// registerOverhead is the size of a Map-Register without its records at most:
// header, the longest MAC, xTR-ID and Site-ID.
const registerOverhead = wire.AuthenticationOffset + 32 + 24

func newRegistrar(c *core) *registrar {
	r := &registrar{
		part:   c.part(LogRegister),
		acks:   newLimiter[netip.AddrPort](notifyAckSpacing, notifyAckBurst, len(c.cfg.MapServers)+1),
		last:   c.cfg.NonceFloor,
		newest: make(map[netip.AddrPort]uint64),
		floor:  c.cfg.NonceFloor,
		lost:   func(time.Time, netip.Addr) {},
	}
	for i := range c.cfg.MapServers {
		s := &c.cfg.MapServers[i]
		for _, batch := range c.batches(s, c.cfg.Databases) {
			r.regs = append(r.regs, &registration{server: s, databases: batch})
		}
	}
	return r
}

// batches divides databases into messages to s; it returns their indexes.
func (c *core) batches(s *MapServer, databases []Database) [][]int {
	room := c.cfg.maxPayload(s.Addr.Addr()) - registerOverhead
	var all [][]int
	var batch []int
	used := 0
	for i := range databases {
		if len(databases[i].Locators) == 0 {
			continue // no uplink has an address
		}
		size := recordSize(databases[i].record())
		if len(batch) > 0 && (used+size > room || len(batch) == wire.MaxRecords) {
			all, batch, used = append(all, batch), nil, 0
		}
		batch, used = append(batch, i), used+size
	}
	if len(batch) > 0 {
		all = append(all, batch)
	}
	return all
}

func (r *registrar) start(now time.Time) {
	r.started, r.quick = true, now.Add(quickPeriod)
	for _, g := range r.regs {
		g.renew = now
	}
}

// advance begins rounds and retransmits.
func (r *registrar) advance(now time.Time) {
	r.regs = slices.DeleteFunc(r.regs, func(g *registration) bool { return g.gone != nil && g.over(now) })
	for _, g := range r.regs {
		switch {
		case !g.renew.IsZero() && !now.Before(g.renew):
			r.begin(now, g)
		case !g.resend.IsZero() && !now.Before(g.resend):
			g.resends++
			g.turn++
			r.lost(now, g.from)
			next := r.nextKey(g)
			if (next || r.overtaken(g)) && !r.compose(now, g) {
				g.resend = time.Time{}
				continue
			}
			r.stats.inc(mapRegistersRetransmitted)
			r.transmit(now, g)
		}
	}
}

// nextKey takes the next key for g, if the map-server did not answer to
// several messages with this one: it may not have it yet, or no more.
func (r *registrar) nextKey(g *registration) bool {
	if g.resends < keyTries || len(g.server.OtherKeys) == 0 {
		return false
	}
	g.key = (g.key + 1) % len(g.server.keys())
	r.log.Debug("registration tries another key", "map_server", g.server.Addr, "key_id", g.authKey().ID)
	return true
}

// authKey returns the key that g uses.
func (g *registration) authKey() auth.Key { return g.server.keys()[g.key] }

// keyOf returns the key that registrations with s use now.
func (r *registrar) keyOf(s *MapServer) auth.Key {
	for _, g := range r.regs {
		if g.server.Addr == s.Addr {
			return g.authKey()
		}
	}
	return s.Key
}

// overtaken reports whether another Map-Register to the map-server of g had a
// higher nonce.
func (r *registrar) overtaken(g *registration) bool {
	return r.newest[g.server.Addr] > g.nonce
}

// next returns when advance has something to do.
func (r *registrar) next() (t time.Time, ok bool) {
	for _, g := range r.regs {
		for _, at := range [...]time.Time{g.renew, g.resend} {
			if !at.IsZero() && (!ok || at.Before(t)) {
				t, ok = at, true
			}
		}
	}
	return t, ok
}

// begin starts a round of g.
func (r *registrar) begin(now time.Time, g *registration) {
	g.renew, g.backoff = r.renewal(now, g), notifyBackoff
	if r.compose(now, g) {
		r.transmit(now, g)
	}
}

// compose makes the message of g, with a fresh nonce.
func (r *registrar) compose(now time.Time, g *registration) bool {
	var recs []*mapping.Record
	for _, d := range g.databases {
		recs = append(recs, r.cfg.Databases[d].record())
	}
	for _, d := range g.gone {
		recs = append(recs, d.record())
	}
	if g.withdrawn {
		for _, rec := range recs {
			rec.TTL = 0
		}
	}
	rs, err := wire.NewRecords(recs...)
	if err != nil {
		r.stats.inc(sendErrors)
		r.log.Error("map-register could not be encoded", "map_server", g.server.Addr, "err", err)
		return false
	}
	g.previous, g.nonce = g.nonce, r.registerNonce(now)
	r.newest[g.server.Addr] = g.nonce
	msg, ok := r.encode(&wire.MapRegister{
		ProxyReply:      g.server.ProxyReply,
		TTLFromRegister: g.server.TTLFromRegister && !g.withdrawn,
		Merge:           g.server.Merge,
		WantNotify:      g.server.WantNotify,
		Security:        r.cfg.LISPSec.signs(),
		Nonce:           g.nonce,
		Auth:            g.authKey().Template(),
		Records:         rs,
		HasXTRID:        r.cfg.XTRID != mapping.XTRID{},
		XTRID:           r.cfg.XTRID,
		SiteID:          r.cfg.SiteID,
	})
	if !ok {
		return false
	}
	if err := auth.Sign(msg, g.authKey()); err != nil {
		r.stats.inc(sendErrors)
		r.log.Error("map-register could not be signed", "map_server", g.server.Addr, "err", err)
		return false
	}
	g.msg, g.confirmed, g.resends = msg, false, 0
	return true
}

// renewal is when the round after one that begins at now begins.
func (r *registrar) renewal(now time.Time, g *registration) time.Time {
	quick := now.Add(min(quickInterval, g.server.RegisterInterval))
	if g.lastNotify.IsZero() && !quick.After(r.quick) {
		return quick
	}
	return now.Add(g.server.RegisterInterval)
}

func (r *registrar) transmit(now time.Time, g *registration) {
	if g.tries >= unconfirmedTries && g.server.WantNotify {
		if !g.unconfirmed {
			r.tell(now, EventLost, g, fmt.Sprintf("%d map-registers in a row had no map-notify", g.tries))
		}
		g.unconfirmed = true
		// Say so at once, then ever more rarely.
		if g.tries == unconfirmedTries || g.tries >= 8 && bits.OnesCount(uint(g.tries)) == 1 {
			r.log.Warn("registration not confirmed", "map_server", g.server.Addr, "tries", g.tries, "eids", len(g.databases))
		}
	}
	g.tries++
	g.sent, g.resend = now, time.Time{}
	if g.server.WantNotify {
		if g.hurry > 0 {
			g.resend = now.Add(min(g.hurry, g.backoff))
			g.hurry = 0
		} else {
			g.resend = now.Add(g.backoff)
			g.backoff = min(2*g.backoff, notifyBackoffMax)
		}
	}
	src, _ := r.sourceFor(g.server.Addr.Addr(), g.turn)
	g.from = src.Addr()
	r.send(src, g.server.Addr, g.msg)
	r.stats.inc(mapRegistersOut)
	r.log.Debug("map-register sent", "map_server", g.server.Addr, "eids", len(g.databases), "nonce", hex(g.nonce), "try", g.tries)
}

// registerNonce returns the next nonce of a Map-Register: the time in
// nanoseconds, or one more than the last nonce if that is more.
func (r *registrar) registerNonce(now time.Time) uint64 {
	clock := uint64(max(now.UnixNano(), 1))
	n := max(r.last+1, clock)
	r.last = n
	if r.cfg.SaveNonceFloor != nil && n > r.floor {
		r.floor = n + nonceReserve
		if n > clock {
			r.floor = n + nonceReserveAhead
		}
		if err := r.cfg.SaveNonceFloor(r.floor); err != nil {
			r.log.Error("nonce floor not saved", "err", err)
		}
	}
	return n
}

// expects reports whether a Map-Notify has the nonce of a Map-Register, or none
// at all.
func (r *registrar) expects(msg []byte) bool {
	nonce, ok := wire.PeekNonce(msg)
	return !ok || slices.ContainsFunc(r.regs, func(g *registration) bool {
		return !g.sent.IsZero() && (nonce == g.nonce || nonce == g.previous)
	})
}

// notify handles a Map-Notify (section 5.7). One with the nonce of an
// outstanding Map-Register confirms it; any other that a map-server of ours
// has signed is unsolicited and is acknowledged.
func (r *registrar) notify(now time.Time, msg []byte, from netip.AddrPort) {
	r.stats.inc(mapNotifiesIn)
	nonce, ok := wire.PeekNonce(msg)
	if !ok {
		r.stats.inc(controlMalformed)
		return
	}
	for _, g := range r.regs {
		switch {
		case g.sent.IsZero():
		case nonce == g.nonce && !g.confirmed:
			r.confirm(now, g, msg, from)
			return
		case nonce == g.nonce, nonce == g.previous:
			r.stats.inc(mapNotifiesDuplicate)
			return
		}
	}
	r.unsolicited(now, msg, from)
}

func (r *registrar) confirm(now time.Time, g *registration, msg []byte, from netip.AddrPort) {
	if err := r.verify(msg, g.authKey()); err != nil {
		r.refuseNotify(now, from, err)
		return
	}
	first := g.lastNotify.IsZero() || g.unconfirmed
	g.confirmed, g.unconfirmed, g.silent, g.tries = true, false, false, 0
	g.lastNotify, g.resend = now, time.Time{}
	if g.resends == 0 { // else it is not known which copy is answered
		g.rtt = now.Sub(g.sent)
	}
	if g.renew.IsZero() {
		r.log.Debug("registration withdrawn", "map_server", g.server.Addr, "eids", len(g.databases))
		return
	}
	g.renew = g.sent.Add(g.server.RegisterInterval)
	if first {
		r.tell(now, EventConfirmed, g, "")
	}
	for _, d := range g.databases {
		if first {
			r.log.Info("registered", "eid", r.cfg.Databases[d].EID, "map_server", g.server.Addr)
		} else {
			r.log.Debug("registration refreshed", "eid", r.cfg.Databases[d].EID, "map_server", g.server.Addr)
		}
	}
}

// unsolicited acknowledges a Map-Notify that no Map-Register of ours caused.
// What it says is not used.
func (r *registrar) unsolicited(now time.Time, msg []byte, from netip.AddrPort) {
	var server *MapServer
	for i := range r.cfg.MapServers {
		if s := &r.cfg.MapServers[i]; s.Addr.Addr() == from.Addr() {
			server = s
			break
		}
	}
	if server == nil {
		r.stats.inc(mapNotifiesUnknownServer)
		return
	}
	if !r.acks.ready(now, server.Addr) {
		r.stats.inc(mapNotifyAcksRateLimited)
		return
	}
	key, err := r.verifyAny(msg, server)
	if err != nil {
		r.refuseNotify(now, from, err)
		return
	}
	var m wire.MapNotify
	if err := m.Decode(msg); err != nil {
		r.refuse(now, controlMalformed, from, err)
		return
	}
	r.acks.take(now, server.Addr)
	m.Ack, m.Auth = true, key.Template()
	ack, ok := r.encode(&m)
	if !ok {
		return
	}
	if err := auth.Sign(ack, key); err != nil {
		r.stats.inc(sendErrors)
		r.log.Error("map-notify-ack could not be signed", "map_server", server.Addr, "err", err)
		return
	}
	src, _ := r.source(from.Addr())
	r.send(src, from, ack)
	r.stats.inc(mapNotifyAcksOut)
	r.log.Debug("map-notify acknowledged", "map_server", server.Addr, "nonce", hex(m.Nonce))
}

// verify checks a Map-Notify with the key that its Map-Register was signed
// with; the answer must not be weaker.
func (r *registrar) verify(msg []byte, k auth.Key) error {
	_, err := auth.Verify(msg, []auth.Key{k}, k.Algorithm)
	return err
}

// verifyAny checks a Map-Notify that answers nothing with the keys of a
// map-server and returns the one that signed it.
func (r *registrar) verifyAny(msg []byte, s *MapServer) (k auth.Key, err error) {
	for _, k = range s.keys() {
		if err = r.verify(msg, k); err == nil {
			return k, nil
		}
	}
	return auth.Key{}, err
}

func (r *registrar) refuseNotify(now time.Time, from netip.AddrPort, err error) {
	why := mapNotifiesAuthFailed
	if errors.Is(err, auth.ErrMessage) {
		why = controlMalformed
	}
	r.refuse(now, why, from, err)
}

// stop withdraws all registrations, if that is configured, and starts nothing
// any more.
func (r *registrar) stop(now time.Time) {
	for _, g := range r.regs {
		if g.gone != nil {
			continue // being withdrawn
		}
		g.resend = time.Time{}
		if !r.cfg.KeepRegistered && !g.sent.IsZero() {
			g.tries, g.withdrawn = 0, true
			r.begin(now, g)
		}
		g.renew = time.Time{}
	}
}

// stopped reports whether every withdrawal is confirmed that can be.
func (r *registrar) stopped() bool {
	for _, g := range r.regs {
		if !g.resend.IsZero() {
			return false
		}
	}
	return true
}
