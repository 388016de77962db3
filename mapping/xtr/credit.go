package xtr

import "net/netip"

// credits keep the ETR from amplifying: to an ITR-RLOC that has not proved to
// be there, it sends at most 1.5 times the octets of the Map-Requests that
// named it, whoever sent them. What an answer leaves is saved for the next one,
// so an ITR whose answer was too long has the credit of both when it asks
// again. Like a limiter, credits forget what was not used while many others
// were; who is forgotten has nothing.
type credits struct {
	young, old map[netip.Addr]int // octets
}

func newCredits() credits { return credits{young: make(map[netip.Addr]int)} }

// of returns the octets that a has saved.
func (c *credits) of(a netip.Addr) int {
	if n, ok := c.young[a]; ok {
		return n
	}
	return c.old[a]
}

// set keeps n octets for a.
func (c *credits) set(a netip.Addr, n int) {
	if _, ok := c.young[a]; !ok && len(c.young) >= limiterKeys {
		c.old, c.young = c.young, make(map[netip.Addr]int)
	}
	c.young[a] = min(n, maxCredit)
}

// earn adds the share of a message of received octets.
func (c *credits) earn(a netip.Addr, received int) { c.set(a, c.of(a)+received*3/2) }

// spend takes n octets, if they are there.
func (c *credits) spend(a netip.Addr, n int) bool {
	left := c.of(a) - n
	if left < 0 {
		return false
	}
	c.set(a, left)
	return true
}

// onWire returns the octets of the IP packet that carries n octets to or from
// a.
func onWire(n int, a netip.Addr) int {
	const udp = 8
	if a.Is4() {
		return 20 + udp + n
	}
	return 40 + udp + n
}
