// Package dataplane is the forwarding core that every plane shares: the
// forwarding table compiled from the map-cache (FIB), the way of a packet from
// the host side to the underlay (Encap) and back (Decap), the queues of a
// map-cache miss, the reasons for which packets are dropped, and the counters.
//
// It opens no device and no socket. A plane joins it to the kernel through two
// narrow interfaces, Host and Underlay; dptest has both in memory.
package dataplane
