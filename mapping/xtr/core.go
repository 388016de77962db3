package xtr

import (
	"encoding"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/fanout"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// datagram is one that the machine wants sent.
type datagram struct {
	src, dst netip.AddrPort
	data     []byte
}

// core is what the parts of the machine share.
type core struct {
	cfg   Config
	log   *slog.Logger
	stats *counters
	// own finds the index in cfg.Databases of an EID-prefix of the site.
	own *mapping.Table[int]
	// served finds the EID-prefixes of Config.ProxyETR.
	served *mapping.Table[struct{}]
	locals *locals
	// rlocs4 and rlocs6 are the sources of what is sent, those that can be
	// expected to work, the first first.
	rlocs4, rlocs6 []netip.Addr
	itrRLOCs       []wire.Address
	events         fanout.Fanout[Event]

	out  []datagram
	logs limiter[counter]
}

// part is core for one part of the machine, which may have a logger of its own.
type part struct {
	*core
	log *slog.Logger
}

func (c *core) part(name string) part {
	if log := c.cfg.PartLoggers[name]; log != nil {
		return part{c, log}
	}
	return part{c, c.log}
}

func newCore(cfg Config, stats *counters) *core {
	c := &core{cfg: cfg, log: cfg.Logger, stats: stats, own: cfg.databaseTable(), served: prefixTable(cfg.ProxyETR), logs: newLimiter[counter](logSpacing, 1, int(numCounters))}
	c.locals = &locals{were: make(map[netip.Addr]bool), steered: make(map[string]steering), stats: stats}
	c.locals.replace(time.Time{}, cfg.Uplinks, cfg.fixed)
	c.refresh()
	return c
}

// source returns the local address and port to send to a from; ok is false
// when there is no RLOC of its family.
func (c *core) source(to netip.Addr) (netip.AddrPort, bool) { return c.sourceFor(to, 0) }

// sourceFor is source for the transmission after try others without an answer:
// each takes the next uplink.
func (c *core) sourceFor(to netip.Addr, try int) (netip.AddrPort, bool) {
	from := c.rlocs6
	if to.Is4() {
		from = c.rlocs4
	}
	if len(from) == 0 {
		return netip.AddrPortFrom(netip.Addr{}, c.cfg.Port), false
	}
	return netip.AddrPortFrom(from[try%len(from)], c.cfg.Port), true
}

// isLocal reports whether a is an RLOC of this xTR.
func (c *core) isLocal(a netip.Addr) bool {
	for _, r := range c.cfg.RLOCs {
		if r == a {
			return true
		}
	}
	return false
}

// ownEID returns the index of the longest EID-prefix of the site that covers e.
func (c *core) ownEID(e mapping.EID) (int, bool) {
	_, i, ok := c.own.LookupPrefix(e)
	return i, ok
}

// encode returns m as octets. The machine encodes only what it has built
// itself from checked parts, so an error is a bug and is logged as one.
func (c *core) encode(m encoding.BinaryAppender) ([]byte, bool) {
	b, err := m.AppendBinary(nil)
	if err != nil {
		c.stats.inc(sendErrors)
		c.log.Error("message could not be encoded", "err", err)
		return nil, false
	}
	return b, true
}

func (c *core) send(src, dst netip.AddrPort, b []byte) {
	c.out = append(c.out, datagram{src, dst, b})
}

// nonce returns a random one (RFC 9301 section 5.2).
func (c *core) nonce() (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(c.cfg.Rand, b[:]); err != nil {
		return 0, fmt.Errorf("read a nonce: %w", err)
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

// refuse counts a received message that is dropped, and logs it when nothing
// of its kind was logged for a while: a flood must not fill the disk.
func (c *core) refuse(now time.Time, why counter, from netip.AddrPort, err error) {
	c.stats.inc(why)
	if c.logs.allow(now, why) {
		c.log.Info("control message dropped", "reason", counterTable[why].name, "from", from, "err", err)
	}
}

// hex writes a nonce as other LISP tools do.
type hex uint64

func (h hex) String() string { return fmt.Sprintf("0x%016x", uint64(h)) }

// LogValue keeps the conversion off the path when the line is not logged.
func (h hex) LogValue() slog.Value { return slog.StringValue(h.String()) }
