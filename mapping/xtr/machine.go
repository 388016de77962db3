package xtr

import (
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// machine is the whole protocol: a function of state, input and time. Every
// input method does first what is due at now; afterwards take returns what has
// to be sent and what has changed, and next says when advance is due. Time
// must not go back from input to input.
type machine struct {
	*core
	itr      *itr
	etr      *etr
	reg      *registrar
	smrs     *solicitor
	probes   *prober
	infos    *infos
	mtus     *pathMTUs
	answers  *answering
	ecm      wire.ECM // reused
	stopping bool
	// declared are the database-mappings as they were given; cfg.Databases has
	// them as they are now.
	declared         []Database
	sets             []LocatorSet // as they were given
	sourcesChanged   bool
	databasesChanged bool
	locators         map[netip.Addr]string // how the local ones are, as last told
}

func newMachine(cfg Config, stats *counters) *machine {
	c := newCore(cfg, stats)
	m := &machine{core: c, declared: cfg.Databases, sets: cfg.LocatorSets, sourcesChanged: true}
	if cfg.leftOut != nil {
		c.log.Warn("addresses of uplinks not used", "err", cfg.leftOut)
	}
	c.cfg.Databases = m.effective(m.declared)
	i := newITR(c)
	m.itr, m.etr, m.reg, m.smrs, m.probes = i, newETR(c), newRegistrar(c), newSolicitor(c), newProber(c, i.cache)
	m.infos = newInfos(c, m.probes, m.reg)
	m.probes.failing = m.infos.want
	m.reg.lost = func(now time.Time, from netip.Addr) {
		if l := m.locals.get(from); l != nil {
			m.infos.want(now, l)
		}
	}
	m.mtus = newPathMTUs(c, m.probes)
	m.answers = newAnswering(c, i)
	i.heardOf = m.answers.heardOf
	m.etr.verified = m.probes.verified
	m.tellLocals(time.Time{}) // nobody watches yet
	return m
}

// start begins to register.
func (m *machine) start(now time.Time) {
	m.reg.start(now)
	m.advance(now)
}

// stop withdraws the registrations; afterwards only Map-Notifies are handled.
func (m *machine) stop(now time.Time) {
	m.stopping = true
	m.reg.stop(now)
}

// advance does what is due at now.
func (m *machine) advance(now time.Time) {
	m.reg.advance(now)
	if !m.stopping {
		m.itr.advance(now)
		m.itr.subs.advance(now)
		m.smrs.advance(now)
		m.itr.changes = append(m.itr.changes, m.probes.advance(now)...)
		m.infos.advance(now)
		m.settle(now)
		m.mtus.advance(now)
		m.answers.advance(now)
	}
}

// next returns when advance has something to do; ok is false for never.
func (m *machine) next() (t time.Time, ok bool) {
	t, ok = m.reg.next()
	if m.stopping {
		return t, ok
	}
	for _, next := range [...]func() (time.Time, bool){m.itr.next, m.itr.subs.next, m.smrs.next, m.probes.next, m.infos.next, m.locals.next, m.mtus.next, m.answers.next} {
		if u, has := next(); has && (!ok || u.Before(t)) {
			t, ok = u, true
		}
	}
	return t, ok
}

// take returns the datagrams and the changes of the map-cache since the last
// call; both belong to the caller.
func (m *machine) take() (out []datagram, changes []mapping.CacheChange) {
	out, changes = m.out, m.itr.changes
	m.out, m.itr.changes = nil, nil
	m.probes.adjust(changes)
	return out, changes
}

func (m *machine) miss(now time.Time, miss Miss) {
	m.advance(now)
	if !m.stopping {
		m.itr.miss(now, miss)
	}
}

func (m *machine) used(now time.Time, eids []mapping.EID) {
	m.advance(now)
	if !m.stopping {
		m.itr.used(now, eids)
		m.probes.used(now, eids)
		m.hear(now)
	}
}

// hear asks the data plane from where packets came.
func (m *machine) hear(now time.Time) {
	if m.cfg.Heard != nil {
		m.smrs.note(now, m.cfg.Heard())
	}
}

// pathMTUs takes what the planes use.
func (m *machine) pathMTUs(now time.Time, list []PathMTU) {
	m.advance(now)
	if !m.stopping {
		m.mtus.inUse(now, list)
	}
}

// clear removes exactly eid from the map-cache.
func (m *machine) clear(now time.Time, eid mapping.EID) bool {
	m.advance(now)
	gone := m.itr.cache.Delete(eid)
	m.itr.removed(now, gone, "it was cleared")
	return len(gone) > 0
}

// receive handles one datagram from src, that was sent to the local address
// dst. It keeps nothing of msg.
func (m *machine) receive(now time.Time, msg []byte, src, dst netip.AddrPort) {
	m.advance(now)
	t, err := wire.PeekType(msg)
	if err != nil {
		m.refuse(now, controlMalformed, src, err)
		return
	}
	if m.stopping && t != wire.TypeMapNotify {
		return
	}
	switch t {
	case wire.TypeMapReply:
		if ours, changes := m.probes.reply(now, msg, src, dst); ours {
			m.itr.changes = append(m.itr.changes, changes...)
			m.settle(now)
			return
		}
		if !m.mtus.reply(now, msg, src) && !m.answers.reply(now, msg, src) {
			m.itr.reply(now, msg, src)
		}
	case wire.TypeInfo:
		m.infos.reply(now, msg, src, dst)
		m.settle(now)
	case wire.TypeMapNotify:
		m.notify(now, msg, src, dst)
		m.solicitSettled(now)
	case wire.TypeMapRequest:
		m.request(now, msg, arrival{from: src, at: dst, size: onWire(len(msg), src.Addr()), port: src.Port()})
	case wire.TypeECM:
		if err := m.ecm.Decode(msg); err != nil {
			m.refuse(now, controlMalformed, src, err)
			return
		}
		inner, _ := wire.PeekType(m.ecm.Message)
		if inner != wire.TypeMapRequest || m.ecm.Dst.Port() != wire.Port {
			m.refuse(now, controlUnexpected, src, nil)
			return
		}
		m.request(now, m.ecm.Message, arrival{from: src, at: dst, size: onWire(len(msg), src.Addr()), port: m.ecm.Src.Port(), encapsulated: true, security: m.ecm.SecurityData})
	default:
		m.refuse(now, controlUnexpected, src, nil)
	}
}

// notify hands a Map-Notify to whom it is for: the registrar, if it answers a
// Map-Register or is about the site's own EIDs, and the subscriber otherwise
// (RFC 9437 section 6).
func (m *machine) notify(now time.Time, msg []byte, src, dst netip.AddrPort) {
	if m.stopping || !m.itr.subs.on() || m.reg.expects(msg) || !m.itr.subs.notify(now, msg, src, dst) {
		m.reg.notify(now, msg, src)
	}
}

func (m *machine) request(now time.Time, msg []byte, how arrival) {
	m.stats.inc(mapRequestsIn)
	req := &m.etr.req
	if err := req.Decode(msg); err != nil {
		m.refuse(now, controlMalformed, how.from, err)
		return
	}
	switch {
	case req.SMR && how.encapsulated: // not sent through the mapping system
		m.refuse(now, controlUnexpected, how.from, nil)
	case req.SMR:
		m.itr.solicited(now, req)
		if eid, ok := m.itr.cachedFor(req); ok {
			m.probes.suspectEntry(now, eid)
		}
	default:
		m.smrs.asked(req)
		if req.HasMapData {
			m.itr.mapData(now, req)
		}
		m.etr.request(now, req, how)
		// Larger ones measure the path MTU: that they are repeated is no hint.
		if req.Probe && !how.encapsulated && len(msg) < maxPayload4 {
			m.probes.probedBy(now, how.at.Addr(), how.from.Addr())
		}
	}
}
