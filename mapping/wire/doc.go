// Package wire reads and writes LISP control messages: the formats of RFC 9301
// (Map-Request, Map-Reply, Map-Register, Map-Notify, Map-Notify-Ack and the
// Encapsulated Control Message), the Info-Request and Info-Reply of the LISP
// NAT-traversal drafts, and the address encodings of RFC 8060.
//
// It holds formats only. Whether a message may be believed, answered or passed
// on is decided by its users; checking its authentication data is
// mapping/auth.
//
// # Ownership
//
// Decode borrows: the decoded value and every Address, Record and byte slice
// in it are views of the message's octets, and stay valid until the caller
// changes or reuses them. Decode assigns every field, so one value can be
// reused for message after message; the backing arrays of its slices are
// reused too, so that decoding allocates nothing. After an error the value
// must not be used.
//
// AppendBinary appends the encoded message to the caller's slice (the
// standard library's encoding.BinaryAppender) and borrows nothing. After an
// error it returns the slice as it was given.
//
// # What is accepted
//
// Every length and count is checked against the octets that are there.
// Reserved bits are ignored on receipt and zero when sent. An address family
// that is not known makes the whole message undecodable (RFC 9301 section
// 5.1: ErrUnknownAFI), because its length is not known either. So do an EID of
// an LCAF type that is not known, or is none for EIDs (RFC 9306 section 3:
// ErrUnknownLCAF), and a Vendor-Specific LCAF anywhere (section 4:
// ErrUnknownOUI): what must be dropped does not decode. A locator of an LCAF
// type that is not known keeps its octets and passes through unchanged;
// Address.IsLocator tells an ITR to ignore it, Address.RLOC what it can
// encapsulate to. Addresses inside the LCAFs of known types are checked with
// them, up to MaxDepth. Octets that follow a complete
// message are ignored, as a receiver of RFC 6833 had to do when RFC 9437
// appended the xTR-ID to Map-Requests under a bit reserved until then.
package wire
