package xtr

import (
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// checkProxies refuses proxies that could not work, and sorts ProxyETRs.
func (c *Config) checkProxies(bad func(string, ...any)) {
	own := c.databaseTable()
	c.ProxyETRs = slices.Clone(c.ProxyETRs)
	for i, l := range c.ProxyETRs {
		switch {
		case mapping.ValidRLOC(l.Addr) != nil || !l.Usable():
			bad("proxy_etr %v: no locator that can be used", l.Addr)
		case slices.ContainsFunc(c.ProxyETRs[:i], func(o mapping.Locator) bool { return o.Addr == l.Addr }):
			bad("proxy_etr %v: given twice", l.Addr)
		case slices.Contains(c.RLOCs, l.Addr):
			bad("proxy_etr %v: it is this xTR", l.Addr)
		}
		if e, ok := insideEID(own, l.Addr); ok {
			bad("proxy_etr %v: inside the eid %v", l.Addr, e)
		}
	}
	slices.SortFunc(c.ProxyETRs, mapping.Locator.Compare)
	attracted := prefixTable(c.ProxyITR)
	for _, e := range slices.Concat(c.ProxyITR, c.ProxyETR) {
		if !e.IsValid() || e.Source.IsValid() {
			bad("proxy: %v is no eid-prefix", e)
		}
	}
	underlay := slices.Clone(c.RLOCs)
	for _, r := range c.MapResolvers {
		underlay = append(underlay, r.Addr())
	}
	for _, a := range underlay {
		if e, _, ok := attracted.LookupPrefix(mapping.HostEID(0, a)); ok && a.IsValid() {
			bad("proxy_itr: %v is inside %v, so packets to it would be encapsulated", a, e)
		}
	}
}

// prefixTable returns a table of the valid EIDs in list.
func prefixTable(list []mapping.EID) *mapping.Table[struct{}] {
	ed := new(mapping.Table[struct{}]).Edit(len(list))
	for _, e := range list {
		if e.IsValid() && !e.Source.IsValid() {
			ed.Insert(e, struct{}{})
		}
	}
	return ed.Table()
}

// toProxy reports whether packets that match r go to the proxy-ETRs.
func (c *core) toProxy(r *mapping.Record) bool {
	return r.Negative() && r.Action == mapping.NativelyForward && c.cfg.UsePETR[r.EID.IID] && len(c.cfg.ProxyETRs) > 0
}

// locators returns where packets that match r go: to its locators, or to
// proxy-ETRs. They must not be changed.
func (c *core) locators(r *mapping.Record) []mapping.Locator {
	if c.toProxy(r) {
		return c.cfg.ProxyETRs
	}
	return r.Locators
}

// alive returns list without the R bit of those that are down, unless all are.
func (p *prober) alive(list []mapping.Locator) []mapping.Locator {
	down := func(l mapping.Locator) bool { return p.isDown(l.Addr) }
	up := func(l mapping.Locator) bool { return !down(l) }
	if !slices.ContainsFunc(list, down) || !slices.ContainsFunc(list, up) {
		return list
	}
	list = slices.Clone(list)
	for i := range list {
		if down(list[i]) {
			list[i].Flags &^= mapping.Reachable
		}
	}
	return list
}

// forProxy reports whether a proxy-ITR asks q: a packet that it attracted, or a
// xTR that has no EIDs of its own (RFC 9301 section 5.2, p bit). Its source is
// no EID, and so not named.
func (i *itr) forProxy(q *query) bool {
	if len(i.cfg.ProxyITR) == 0 {
		return false
	}
	if q.why != forMiss || !q.by.addr.IsValid() {
		return len(i.cfg.Databases) == 0
	}
	_, own := i.own.Lookup(q.by.iid, q.by.addr)
	return !own
}

// proxyProbe answers an RLOC-probe about a destination that is not of the LISP
// sites that this proxy-ETR serves: an ITR that sends such packets here wants to know
// whether they arrive. The one locator of the answer is the RLOC that was
// probed; no ITR makes a mapping of it (section 7.1). It reports whether the
// probe was its business.
func (e *etr) proxyProbe(now time.Time, m *wire.MapRequest, how arrival, to netip.Addr, src netip.AddrPort) bool {
	if len(e.cfg.ProxyETR) == 0 || len(m.EIDs) == 0 || !e.isLocal(how.at.Addr()) {
		return false
	}
	eid, err := m.EIDs[0].EID.EID(m.EIDs[0].MaskLen)
	if err != nil {
		return false
	}
	if _, _, served := e.served.LookupPrefix(eid); served {
		return false
	}
	e.credit.earn(to, how.size)
	if !e.probes.allow(now, replyKey{rloc: to}) {
		e.stats.inc(mapRepliesRateLimited)
		return true
	}
	rs, err := wire.NewRecords(&mapping.Record{EID: eid, TTL: mapping.DefaultTTL, Authoritative: true, Locators: []mapping.Locator{
		{Addr: how.at.Addr(), Priority: 1, Weight: 100, MPriority: 255, Flags: mapping.Reachable | mapping.Local | mapping.Probed},
	}})
	if err != nil {
		e.stats.inc(sendErrors)
		e.log.Error("map-reply could not be encoded", "err", err)
		return true
	}
	msg, ok := e.encode(&wire.MapReply{Probe: true, Nonce: m.Nonce, Records: rs})
	if !ok {
		return true
	}
	if !e.verified(now, to) && !e.credit.spend(to, onWire(len(msg), to)) {
		e.stats.inc(mapRepliesTooLarge)
		return true
	}
	e.send(src, netip.AddrPortFrom(to, how.port), msg)
	e.stats.inc(mapRepliesOut)
	return true
}
