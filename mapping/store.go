package mapping

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"time"
)

// XTRID is the 128-bit xTR-ID of RFC 9301 section 5.6; the zero value means
// that none was sent.
type XTRID [16]byte

// String returns the 32 hexadecimal digits of configuration and output.
func (x XTRID) String() string { return fmt.Sprintf("%x", x[:]) }

// Registrant tells one registering xTR from another: by its xTR-ID and Site-ID
// when it sends them (I bit), else by the RLOC that it registers from.
type Registrant struct {
	XTRID  XTRID
	SiteID uint64
	// RLOC is set only when XTRID is zero.
	RLOC netip.Addr
}

// String returns the xTR-ID in hex, or the RLOC.
func (r Registrant) String() string {
	if r.XTRID != (XTRID{}) {
		return fmt.Sprintf("%x", r.XTRID[:])
	}
	return r.RLOC.String()
}

// ItemKind says what an Item is.
type ItemKind uint8

const (
	// ItemMapping is a mapping that an operator or the API put: it has no
	// registrant and does not expire. Key: EID.
	ItemMapping ItemKind = iota + 1
	// ItemRegistration is what one xTR registered for one EID-prefix.
	// Key: EID and By.
	ItemRegistration
	// ItemNonce is the last Map-Register nonce accepted from one xTR with one
	// key of one site (RFC 9301 section 5.6). Key: Site, By and KeyID.
	ItemNonce
	// ItemSubscription is the last nonce of one xTR's subscription to one
	// EID-prefix (RFC 9437), and while it is active where Map-Notifies go.
	// Key: EID and By.
	ItemSubscription
	// ItemRevision is the revision of the whole: there is one, without a key.
	ItemRevision
	// ItemSite is a site that the API put. Key: Site.
	ItemSite
)

// Item is one thing that a Store keeps. Kind decides which fields make its key
// (see ItemKind); two items of the same kind and key replace each other.
type Item struct {
	Kind ItemKind
	EID  EID
	By   Registrant
	Site string
	// KeyID names the authentication key of a nonce.
	KeyID uint8
	// Record is the value of a mapping or a registration; its EID is EID.
	Record *Record
	// Flags are the flags of the Map-Register that count for a registration.
	Flags RegisterFlags
	// Nonce is the value of an ItemNonce or an ItemSubscription.
	Nonce uint64
	// RLOCs are the ITR-RLOCs of an active subscription, at most 255; none
	// says that it ended.
	RLOCs []netip.Addr
	// At is when a registration was last changed, to the second.
	At time.Time
	// Revision is that of the database: of an ItemMapping and an ItemSite when
	// it was put, 0 where nobody noted it, and the last one of an ItemRevision.
	Revision uint64
	// Digest is that of the configuration that an ItemRevision was made with.
	Digest uint64
	// Value is what an ItemSite is, in a form of the server's own. There are keys
	// in it.
	Value []byte
}

// RegisterFlags are the Map-Register flags that outlive the message.
type RegisterFlags uint8

const (
	ProxyReply  RegisterFlags = 1 << iota // P: the map-server may answer for the ETR
	MergeSet                              // a: merge with the sets of the site's other xTRs
	TTLFromReg                            // T: the Record TTL is the registration timeout
	SecurityCap                           // S: the ETR can do LISP-SEC
)

// Change puts or deletes one item.
type Change struct {
	Item
	// Delete removes the item with this key; the value fields are not read.
	Delete bool
}

// Store keeps what a map-server must still know after a crash. It is not the
// database that answers requests: that is in memory, and a store is read once
// at the start.
//
// All implementations pass the suite of mapping/storetest.
type Store interface {
	// Commit makes all changes durable, or none: when it returns nil, they
	// survive a kill -9 and a loss of power. Changes apply in order. A
	// deleted item need not exist. It keeps nothing of the slice. It may be
	// called from several goroutines. After Close it fails with
	// ErrStoreClosed.
	Commit(ctx context.Context, changes []Change) error
	// Items walks every item, sites first and then in an order of the store's
	// choosing, as one consistent snapshot. A yielded item is the caller's to keep. An item
	// that can't be read ends the walk with an error that names it.
	Items(ctx context.Context) iter.Seq2[Item, error]
	// Close releases the store; it waits for commits that are under way.
	// Closing twice is an error-free no-op.
	Close() error
}

// ErrStoreClosed is returned by a Store that has been closed.
var ErrStoreClosed = errors.New("store is closed")
