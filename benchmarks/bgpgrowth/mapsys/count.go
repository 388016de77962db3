package mapsys

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// Count is messages that were sent, by what they are for. The octets are those of
// the UDP payloads.
type Count struct {
	Registers, Notifies, Publications, Acks        int
	SMRs, Requests, Subscriptions, Probes, Replies int
	Infos, Other                                   int
	Bytes                                          int
	First, Last                                    time.Time
	News                                           time.Time // the last that is no probe and answers none
}

// Messages returns how many there are in all.
func (c *Count) Messages() int {
	return c.Registers + c.Notifies + c.Publications + c.Acks + c.SMRs + c.Requests + c.Subscriptions + c.Probes + c.Replies + c.Infos + c.Other
}

// counter reads the messages that go over the sockets.
type counter struct {
	owner map[netip.Prefix][]netip.Addr // constant: the RLOCs that each EID-prefix is registered from

	mu    sync.Mutex
	total Count
	about netip.Prefix // what event counts
	event Count
	// Decoded messages, used again.
	ecm      wire.ECM
	request  wire.MapRequest
	register wire.MapRegister
	notify   wire.MapNotify
	reply    wire.MapReply
}

// reset forgets what was counted and counts apart what is about an EID-prefix.
func (c *counter) reset(about netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total, c.event, c.about = Count{}, Count{}, about
}

func (c *counter) counts() (total, event Count) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total, c.event
}

// sent counts a message that was sent to dst.
func (c *counter) sent(msg []byte, dst netip.Addr) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	what, eids, probe := c.read(msg, dst)
	add := func(x *Count) {
		*what(x)++
		x.Bytes += len(msg)
		if x.First.IsZero() {
			x.First = now
		}
		x.Last = now
		if !probe {
			x.News = now
		}
	}
	add(&c.total)
	for _, e := range eids {
		if c.about.IsValid() && c.about.Overlaps(e) {
			add(&c.event)
			break
		}
	}
}

// read says what a message is, which EID-prefixes it is about, and whether it probes
// or answers a probe.
func (c *counter) read(msg []byte, dst netip.Addr) (what func(*Count) *int, eids []netip.Prefix, probe bool) {
	other := func(x *Count) *int { return &x.Other }
	records := func(rs wire.Records) {
		for r := range rs.All() {
			if e, err := r.EID.EID(r.MaskLen); err == nil {
				eids = append(eids, e.Prefix)
			}
		}
	}
	t, err := wire.PeekType(msg)
	if err != nil {
		return other, nil, false
	}
	switch t {
	case wire.TypeECM:
		if c.ecm.Decode(msg) != nil {
			return other, nil, false
		}
		return c.read(c.ecm.Message, dst)
	case wire.TypeMapRequest:
		if c.request.Decode(msg) != nil {
			return other, nil, false
		}
		what = func(x *Count) *int { return &x.Requests }
		for _, r := range c.request.EIDs {
			if e, err := r.EID.EID(r.MaskLen); err == nil {
				eids = append(eids, e.Prefix)
			}
			if r.Subscribe {
				what = func(x *Count) *int { return &x.Subscriptions }
			}
		}
		switch {
		case c.request.SMR:
			// The mapping that changed is named by the source EID.
			what, eids = func(x *Count) *int { return &x.SMRs }, nil
			if ip, ok := c.request.SourceEID.IP(); ok {
				eids = append(eids, netip.PrefixFrom(ip, ip.BitLen()))
			}
		case c.request.Probe:
			what, probe = func(x *Count) *int { return &x.Probes }, true
		}
	case wire.TypeMapReply:
		if c.reply.Decode(msg) != nil {
			return other, nil, false
		}
		records(c.reply.Records)
		probe = c.reply.Probe
		what = func(x *Count) *int { return &x.Replies }
	case wire.TypeMapRegister:
		if c.register.Decode(msg) != nil {
			return other, nil, false
		}
		records(c.register.Records)
		what = func(x *Count) *int { return &x.Registers }
	case wire.TypeMapNotify, wire.TypeMapNotifyAck:
		if c.notify.Decode(msg) != nil {
			return other, nil, false
		}
		records(c.notify.Records)
		switch {
		case t == wire.TypeMapNotifyAck:
			what = func(x *Count) *int { return &x.Acks }
		case len(eids) > 0 && !slices.Contains(c.owner[eids[0]], dst):
			what = func(x *Count) *int { return &x.Publications }
		default:
			what = func(x *Count) *int { return &x.Notifies }
		}
	case wire.TypeInfo:
		what = func(x *Count) *int { return &x.Infos }
	default:
		return other, nil, false
	}
	return what, eids, probe
}
