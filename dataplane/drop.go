package dataplane

// DropReason says why a packet was not forwarded. Every dropped packet has
// exactly one and is counted under it; all planes use the same.
type DropReason uint8

// The values are an interface to the kernel plane and to what reads the
// counters: new ones are added at the end.
const (
	// NotDropped is the zero value: the packet went on.
	NotDropped DropReason = iota

	// Of the inner packet, in both directions.

	DropInnerVersion   // neither IPv4 nor IPv6
	DropInnerTruncated // shorter than its headers or its length field say
	DropInnerHeader    // impossible header length, or a fragment beyond the largest datagram
	DropInnerTrailing  // octets follow the inner packet, such as another LISP packet glued to it
	DropMulticast      // multicast source or destination
	DropNotRoutable    // unspecified, loopback, link-local, broadcast or reserved address
	DropTTLExpired     // TTL or hop limit 0

	// On the way out.

	DropSourceNotEID     // the source is not a local EID of the instance
	DropDestinationLocal // the destination is a local EID: the site has no route to it
	DropNoMapping        // nothing in the map-cache, and packets are not held, or no longer
	DropHoldFull         // nothing in the map-cache, and the hold queue is full
	DropHoldTimeout      // no mapping came while the packet was held
	DropNoAction         // negative mapping: no-action
	DropNativelyForward  // negative mapping: natively-forward, which policy does not allow
	DropNegative         // negative mapping: drop
	DropPolicyDenied     // negative mapping: drop-policy-denied
	DropAuthFailure      // negative mapping: drop-auth-failure
	DropNoLocator        // the mapping has locators, none of them usable
	DropNoSource         // usable locators only of a family that we have no source RLOC for
	DropTooBig           // larger than the path takes; the source is told

	// Of the underlay, sending.

	DropSendTooBig      // the kernel knows a smaller path MTU than we did
	DropSendUnreachable // no route to the locator
	DropSendDenied      // refused by a firewall or by permissions
	DropSendBuffer      // no buffer space
	DropSendNoSocket    // no socket for the source RLOC: its address is missing
	DropSendError       // any other error

	// On the way in.

	DropOuterTruncated      // no whole LISP header, or the datagram did not fit its buffer
	DropEncrypted           // key-id set; payloads are not decrypted
	DropMapVersion          // V bit for a mapping that has no version, or a null destination version (RFC 9302 section 6.1)
	DropOuterSource         // an outer source that can't be a tunnel router, or is ourselves
	DropUnknownInstance     // no such instance-ID here
	DropDestinationNotLocal // the inner destination is no local EID of the instance
	DropSourceLocal         // the inner source claims to be a local EID
	DropCongestion          // outer CE on an inner packet without ECN (RFC 6040 section 4.2)

	// Of the host side.

	DropHostRead  // offload metadata of the host side that makes no sense
	DropHostWrite // the host side refused the packet

	// Of the kernel, before a plane saw the packet.

	DropHostQueue     // the host side's queue was full
	DropReceiveBuffer // a receiving socket's buffer was full, or the outer checksum wrong

	// Of map-versions, on the way in.

	DropVersionNewer // a destination version that this site has not reached (RFC 9302 section 7.1)
	DropVersionOld   // an old source version, or an old destination version that telling did not change

	// Of the check of inner sources, on the way in.

	DropSourceNoMapping // the map-cache has no mapping of the inner source (strict)
	DropSourceUnlisted  // the outer source is not a locator of the inner source's mapping

	// Of the proxies between LISP sites and the rest of the Internet.

	DropProxySource // proxy-ETR: the inner source is of none of the sites that it serves
	DropProxyLoop   // proxy-ITR: the source is in what it attracts; proxy-ETR: the destination is an EID

	numDropReasons
)

var dropNames = [numDropReasons]string{
	NotDropped:              "not_dropped",
	DropInnerVersion:        "inner_version",
	DropInnerTruncated:      "inner_truncated",
	DropInnerHeader:         "inner_header",
	DropInnerTrailing:       "inner_trailing",
	DropMulticast:           "multicast",
	DropNotRoutable:         "not_routable",
	DropTTLExpired:          "ttl_expired",
	DropSourceNotEID:        "source_not_eid",
	DropDestinationLocal:    "destination_local",
	DropNoMapping:           "no_mapping",
	DropHoldFull:            "hold_full",
	DropHoldTimeout:         "hold_timeout",
	DropNoAction:            "no_action",
	DropNativelyForward:     "natively_forward",
	DropNegative:            "negative",
	DropPolicyDenied:        "policy_denied",
	DropAuthFailure:         "auth_failure",
	DropNoLocator:           "no_locator",
	DropNoSource:            "no_source",
	DropTooBig:              "too_big",
	DropSendTooBig:          "send_too_big",
	DropSendUnreachable:     "send_unreachable",
	DropSendDenied:          "send_denied",
	DropSendBuffer:          "send_buffer",
	DropSendNoSocket:        "send_no_socket",
	DropSendError:           "send_error",
	DropOuterTruncated:      "outer_truncated",
	DropEncrypted:           "encrypted",
	DropMapVersion:          "map_version",
	DropOuterSource:         "outer_source",
	DropUnknownInstance:     "unknown_instance",
	DropDestinationNotLocal: "destination_not_local",
	DropSourceLocal:         "source_local",
	DropCongestion:          "congestion",
	DropHostRead:            "host_read",
	DropHostWrite:           "host_write",
	DropHostQueue:           "host_queue",
	DropReceiveBuffer:       "receive_buffer",
	DropVersionNewer:        "version_newer",
	DropVersionOld:          "version_old",
	DropSourceNoMapping:     "source_no_mapping",
	DropSourceUnlisted:      "source_unlisted",
	DropProxySource:         "proxy_source",
	DropProxyLoop:           "proxy_loop",
}

// String returns the stable snake_case name; the counter's name is "drop_"
// and this.
func (r DropReason) String() string {
	if r < numDropReasons {
		return dropNames[r]
	}
	return "unknown"
}

// DropReasons returns all reasons in the order of their values.
func DropReasons() []DropReason {
	all := make([]DropReason, 0, numDropReasons-1)
	for r := NotDropped + 1; r < numDropReasons; r++ {
		all = append(all, r)
	}
	return all
}
