// Package mapping is the model that every other room of Eidolon speaks:
// endpoint identifiers (EID), routing locators (Locator), the records that
// bind them (Record), and the three places records are kept: Table, the
// immutable longest-prefix table that readers use without a lock; Cache, the
// map-cache of an ITR; and Store, what survives a crash.
//
// The package knows no wire format, no socket and no clock: encodings are in
// mapping/wire, and every method that depends on time takes it as an argument.
package mapping
