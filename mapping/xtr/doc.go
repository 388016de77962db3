// Package xtr is the site side of the LISP control plane (RFC 9301): the ITR
// that asks the mapping system for the locators of a destination, and the ETR
// that registers the site's EID-prefixes and answers for them.
//
// The protocol is a machine: a pure function of its state, an input and the
// time, which puts out datagrams and changes of the map-cache and says when it
// wants to be woken. XTR drives it over a udp.Conn and a clock, and is what
// others use. The parts of the machine are
//
//   - itr: outstanding Map-Requests, the map-cache, SMRs, the choice of a
//     map-resolver;
//   - subscriber: subscriptions to mappings, and what is published (RFC 9437);
//   - registrar: Map-Registers, Map-Notifies, and what is known of each
//     registration;
//   - etr: answers to Map-Requests for the site's own EIDs, RLOC-probes
//     included.
//
// # What a Map-Reply must be to change the map-cache
//
// Its nonce must be one of an outstanding Map-Request (RFC 9301 section 5.3);
// one of its records must cover the EID that was asked; all other records must
// lie inside that one (section 5.5), be of its instance and family, and not lie
// inside an EID-prefix of this site. A record that covers an EID-prefix of the
// site is accepted: the site's own prefix is longer and wins. Locators that no
// underlay routes (section 5.4), and locators inside an EID-prefix of the site
// itself, which would encapsulate for ever, are taken out of the record; a
// record that has none left counts as one without locators. Locators of an LCAF
// type that is not known, or is none for locators, are ignored (RFC 9306
// section 3); where an LCAF adds something to an address (a name, a place), the
// address is used and the whole is kept to be shown. An EID with a source
// (RFC 8060 section 4.8) holds for some senders only, and the ITR does not ask
// for one: such a record is left out, and the others of the Map-Reply hold.
//
// Where cached entries lie between the record that answers and the EID that
// was asked, the mapping system has just said that they are gone, and they are
// removed.
package xtr
