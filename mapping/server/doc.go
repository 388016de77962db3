// Package server is the map-server and map-resolver (RFC 9301 sections 8.2 to
// 8.4): it takes the registrations of sites, keeps them and what an operator
// put, and answers Map-Requests or forwards them to an ETR.
//
// # The two paths
//
// Requests are read-only: any number of reader goroutines answer them from one
// immutable table behind an atomic pointer, without a lock. Everything that
// changes the table (Map-Registers, expiry, Put and Delete, changes of sites)
// goes through one mutex: a batch edits the table, publishes it, commits what
// changed to the store, and only then are the Map-Notifies sent. Map-Registers
// are authenticated by the readers before they queue for the writer.
//
// # Sites
//
// The sites of the configuration and those that the API put, which the store
// keeps, change while the server runs (SetSites, ChangeSite). Readers take one
// snapshot of all; the writer checks again what was checked by an older one.
// Registrations that the new rules do not admit end with the change.
//
// # What is known about an EID
//
// One table holds all EIDs that are known to exist: the configured EID-prefixes
// of the sites, registered or not, static mappings, and mappings that were put
// over the API. The longest match decides; where one EID has several origins, a
// static mapping goes before a registration, and that before an API mapping.
//
// # Choices where RFC 9301 leaves one, or contradicts itself
//
//   - A Map-Notify goes to port 4342 when the Map-Register came from there, or
//     from one of the RLOCs that it registers, which no NAT can have
//     translated (sections 3, 5.7 and 8.2). In all other cases it goes to the
//     source port of the Map-Register (section 5), the only one that a NAT
//     lets back in.
//   - A Map-Register with the nonce and the authentication data of the last one
//     accepted is a retransmission (section 5.7), not a replay (section 5.6):
//     it is answered by the Map-Notify again, and not processed, as long as
//     what it asks for is registered. A lower nonce, or the same one with other
//     contents, is a replay.
//   - An xTR without an xTR-ID is known by its source address, which anybody can
//     forge. After three minutes of silence, and after a restart, its nonce must
//     be above those of all such xTRs of the site with that key. Where a site has
//     several xTRs, xTR-IDs are better.
//   - Nonces are counted for each key, so that an xTR that lost its nonce can
//     begin anew with a new key. Once it has used another key, what comes with
//     the old one must be above that key's nonce too.
//   - Record TTL 0 withdraws a registration.
//   - Without the merge bit a registration replaces those of all xTRs for its
//     EID-prefix; with it, only those that were made without the bit.
//   - A Map-Request is forwarded to any usable RLOC of the registration, chosen
//     by a hash of EID and nonce: a retry of the ITR, which has a new nonce,
//     may reach another ETR.
//   - The A bit of a Map-Request turns a proxy reply into forwarding, unless the
//     site is configured for proxy replies only.
//   - LISP-SEC (RFC 9303): a protected Map-Request asks for one EID-prefix. The
//     A bit of it has no effect, as the order of section 6.7 has none; "some ETR
//     registered P" is as the proxy policy of the site has it. When no ETR can
//     sign, the negative reply is drop/auth-failure, for 1 minute. An
//     unprotected Map-Request for an instance that requires protection is
//     answered by drop/policy-denied, unprotected. The key that a one-time key
//     is wrapped with for an ETR is the one it registered with. Where LISP-SEC
//     is off, a protected Map-Request is dropped: its ITR could not use an
//     answer without protection.
//   - A Map-Reply holds the longest match and all its more-specifics (section
//     5.5), all with the lowest of their TTLs. Where they do not fit in one
//     packet, or one of them is not ours to answer for, it holds one record:
//     the longest match, narrowed to the largest part that holds the requested
//     address and none of the more-specifics.
//
// # What an attacker can make it send
//
// The ITR-RLOC of a Map-Request and the source of any message may be forged.
// So no address gets more than 1.5 times the octets of the IP packets that
// asked to be answered there: see credits. A Map-Reply that would be longer is
// reduced to one record, and dropped when that is too long as well; a
// Map-Notify that would be longer acknowledges the xTR's own records, without
// the sets that were merged in. Map-Requests are forwarded only to RLOCs that a
// site registered with its key.
package server
