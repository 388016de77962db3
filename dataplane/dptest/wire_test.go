//go:build linux

package dptest

import "testing"

// What a router says of a neighbour that it did not find is not about the packet
// that is looked at by then; other errors are.
func TestChatter(t *testing.T) {
	for dst, want := range map[string]bool{"fe80::1": true, "2001:db8:5::1": false} {
		pkt := Flow("[2001:db8:1::1]:7", "["+dst+"]:7", UDP, 20)
		if got := chatter(icmpError(pkt.Bytes(), 1, 3, 0)); got != want {
			t.Errorf("an error about a packet to %s is left out: %v, want %v", dst, got, want)
		}
		if chatter(pkt.Bytes()) {
			t.Errorf("a packet to %s is left out", dst)
		}
	}
}
