// Package encap holds what a LISP data packet is made of and the arithmetic
// that goes with it: the LISP header (RFC 9300 section 5.1), the parse and the
// hash of the inner flow (section 12), the TTL, DSCP and ECN rules (section
// 5.3, RFC 6040), fragmentation of inner packets and the ICMP messages for
// those that are too big (section 7.1).
//
// Everything here is a pure function of bytes: no socket, no clock, no table.
// Nothing allocates except where a method appends to a slice that is too small.
package encap
