package xtr

import (
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// infos tests the uplinks of this router where no remote RLOC is probed over
// them, with Info-Requests to a map-server: probes it must not answer (RFC 9301
// section 5.2). There is one for each local RLOC every 10 s; three without an
// answer, 1 s apart, while another uplink has answers, say that the uplink
// carries no packets. A path that begins to fail is a reason to ask too: an
// answer says that it is not for the uplink.
//
// Where no map-server answers over any uplink, nothing is concluded, and it is
// asked once a minute.
type infos struct {
	part
	probes *prober
	reg    *registrar
	worked time.Time // last Info-Reply
}

// infoState is the state of the test of one local RLOC.
type infoState struct {
	at       time.Time // when to do something
	waiting  bool      // the last request has neither an answer nor timed out
	wanted   bool      // ask though remote RLOCs are probed
	sent     time.Time
	failures int       // in a row
	failing  time.Time // when the first of them was sent
	turn     int       // which map-server
	nonces   []infoNonce
	seen     netip.AddrPort // where the map-server says that packets come from
}

type infoNonce struct {
	nonce  uint64
	server *MapServer
}

// infoBody is the body of an Info-Request: no address. The answer is less than
// half as long again, with any of the MACs, which is all that a map-server may
// send to an address that could be forged.
var infoBody = func() wire.Address {
	a, _, err := wire.DecodeAddress([]byte("\x00\x00"))
	if err != nil {
		panic(err) // it is a constant
	}
	return a
}()

func newInfos(c *core, p *prober, r *registrar) *infos {
	return &infos{part: c.part(LogRegister), probes: p, reg: r}
}

// servers returns the map-servers that l can ask.
func (i *infos) servers(l *localRLOC) []*MapServer {
	var out []*MapServer
	for n := range i.cfg.MapServers {
		if s := &i.cfg.MapServers[n]; s.Addr.Addr().Is4() == l.addr.Is4() {
			out = append(out, s)
		}
	}
	return out
}

// forgetServers takes it that no answer comes from map-servers that are ones no
// more: that one is missing says nothing of the uplink.
func (i *infos) forgetServers() {
	for _, l := range i.locals.list {
		n := len(l.info.nonces)
		l.info.nonces = slices.DeleteFunc(l.info.nonces, func(o infoNonce) bool {
			return !slices.ContainsFunc(i.cfg.MapServers, func(s MapServer) bool { return s.Addr == o.server.Addr })
		})
		if len(l.info.nonces) < n {
			l.info.waiting = false
		}
	}
}

// due returns when there is something to do for l. With one uplink there is
// nothing to conclude.
func (i *infos) due(l *localRLOC) (at time.Time, ok bool) {
	if i.cfg.RLOCProbing.Off || !i.cfg.dynamic() || !l.up || len(i.cfg.Databases) == 0 || len(i.servers(l)) == 0 ||
		!slices.ContainsFunc(i.locals.list, func(o *localRLOC) bool { return o != l && o.up }) {
		return time.Time{}, false
	}
	return l.info.at, l.info.waiting || l.info.wanted || !i.probed(l)
}

// probed reports whether remote RLOCs are probed from l.
func (i *infos) probed(l *localRLOC) bool { return i.probes.from[l.addr] > 0 }

func (i *infos) next() (t time.Time, ok bool) {
	for _, l := range i.locals.list {
		if at, due := i.due(l); due && (!ok || at.Before(t)) {
			t, ok = at, true
		}
	}
	return t, ok
}

func (i *infos) advance(now time.Time) {
	for _, l := range i.locals.list {
		if at, ok := i.due(l); ok && !now.Before(at) {
			i.fire(now, l)
		}
	}
}

// want asks over l soon, though remote RLOCs are probed over it.
func (i *infos) want(now time.Time, l *localRLOC) {
	if s := &l.info; !s.waiting && !s.wanted && s.failures < infoTries {
		s.wanted, s.at = true, latest(now, s.sent.Add(infoRetry))
	}
}

// fire handles the timer of l: no answer came, or the next request is due.
func (i *infos) fire(now time.Time, l *localRLOC) {
	s := &l.info
	if s.waiting {
		s.waiting = false
		s.failures++
		s.turn++
		i.stats.inc(infoRequestsUnanswered)
		if s.failures == 1 {
			s.failing = s.sent
			for _, o := range i.locals.list { // do they work?
				if o != l {
					i.want(now, o)
				}
			}
		}
		i.probes.judge(now)
		if s.failures >= infoTries {
			s.wanted = false
			pause := infoInterval
			if now.Sub(i.worked) > infoSilent {
				pause = infoSilent
			}
			s.at = s.sent.Add(pause)
			return
		}
		if !s.wanted && i.probed(l) {
			return
		}
	}
	s.wanted = false
	i.ask(now, l)
}

// ask sends an Info-Request from l.
func (i *infos) ask(now time.Time, l *localRLOC) {
	s, servers := &l.info, i.servers(l)
	server := servers[s.turn%len(servers)]
	s.sent, s.at = now, now.Add(infoRetry)
	nonce, err := i.nonce()
	if err != nil {
		i.stats.inc(sendErrors)
		i.log.Error("info-request not sent", "from", l.addr, "err", err)
		return
	}
	key := i.reg.keyOf(server).ForInfo()
	m := wire.Info{Nonce: nonce, Auth: key.Template(), Body: infoBody}
	m.EID, m.MaskLen = wire.PrefixAddress(i.cfg.Databases[0].EID)
	msg, ok := i.encode(&m)
	if !ok {
		return
	}
	if err := auth.Sign(msg, key); err != nil {
		i.stats.inc(sendErrors)
		i.log.Error("info-request could not be signed", "map_server", server.Addr, "err", err)
		return
	}
	if len(s.nonces) == infoTries {
		s.nonces = slices.Delete(s.nonces, 0, 1)
	}
	s.nonces = append(s.nonces, infoNonce{nonce, server})
	s.waiting = true
	i.send(netip.AddrPortFrom(l.addr, i.cfg.Port), server.Addr, msg)
	i.stats.inc(infoRequestsOut)
	i.log.Debug("info-request sent", "from", l.addr, "map_server", server.Addr, "nonce", hex(nonce))
}

// reply handles an Info-Reply that came to dst.
func (i *infos) reply(now time.Time, msg []byte, src, dst netip.AddrPort) {
	var m wire.Info
	if err := m.Decode(msg); err != nil {
		i.refuse(now, controlMalformed, src, err)
		return
	}
	l := i.locals.get(dst.Addr())
	if !m.Reply || l == nil {
		i.refuse(now, controlUnexpected, src, nil)
		return
	}
	n := slices.IndexFunc(l.info.nonces, func(o infoNonce) bool { return o.nonce == m.Nonce })
	if n < 0 {
		i.stats.inc(infoRepliesUnmatched)
		return
	}
	key := i.reg.keyOf(l.info.nonces[n].server).ForInfo()
	if _, err := auth.Verify(msg, []auth.Key{key}, key.Algorithm); err != nil {
		i.refuse(now, infoRepliesAuthFailed, src, err)
		return
	}
	i.stats.inc(infoRepliesIn)
	i.worked, l.lastInfo = now, now
	l.info = infoState{sent: l.info.sent, turn: l.info.turn, at: now.Add(i.probes.jitter(infoInterval)), seen: i.seen(&m)}
	if s := l.info.seen; s.IsValid() && s.Addr() != l.addr {
		i.log.Debug("a NAT is on the way to the map-server", "rloc", l.addr, "seen", s)
	}
	i.probes.judge(now)
}

// seen returns where the map-server says that packets come from.
func (i *infos) seen(m *wire.Info) netip.AddrPort {
	f, _ := m.Body.LCAF()
	var nat wire.NAT
	if nat.Decode(f) != nil {
		return netip.AddrPort{}
	}
	a, _ := nat.GlobalETR.IP()
	return netip.AddrPortFrom(a, nat.ETRPort)
}
