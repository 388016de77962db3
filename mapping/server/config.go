package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/alt"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// Config is what a Server is made of. The zero value serves nothing and refuses
// every registration.
type Config struct {
	// Listen are the local addresses of the connection that is given to Run.
	// They tell in which families a Map-Reply can be sent; none means both.
	Listen []netip.AddrPort
	// Sites may register.
	Sites []Site
	// Static mappings are answered as they are. They go before registrations
	// and mappings of the API.
	Static []*mapping.Record
	// RequestRate limits Map-Requests by source. A zero field takes the
	// default.
	RequestRate RequestRate
	// ReplyRate limits Map-Replies by ITR-RLOC and EID-prefix. A zero field
	// takes the default.
	ReplyRate ReplyRate
	// MaxReply4 and MaxReply6 are the octets of a Map-Reply sent over IPv4
	// and IPv6 that may not be exceeded by adding more-specifics; 0 takes
	// what fits in a packet of 576 or 1280 octets (RFC 9301 section 5).
	MaxReply4, MaxReply6 int
	// RegisterQueue is the number of authenticated Map-Registers that may
	// wait; 0 takes the default, 1024. Further ones are dropped and counted.
	RegisterQueue int
	// PubSub says who may subscribe to mappings.
	PubSub PubSub
	// LISPSec is how Map-Requests are protected.
	LISPSec LISPSec
	// ALT, if not nil, is where Map-Requests of instance 0 go that nothing here is
	// the longest match for, and where others come from (RFC 6836).
	ALT *alt.Router
	// Logger; nil discards.
	Logger *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Site is a site that may register (RFC 9301 section 8.2).
type Site struct {
	// Name is unique, and at most 255 octets.
	Name string
	// Keys are the pre-shared keys, told apart by their ID; at least one.
	Keys []auth.Key
	// MinAlgorithm is the weakest algorithm accepted; 0 stands for
	// auth.DefaultMinimum.
	MinAlgorithm auth.Algorithm
	// XTRIDs are the xTR-IDs that may register, checked against what the
	// Map-Register says after its authentication; nil stands for all, and
	// for xTRs without one.
	XTRIDs []mapping.XTRID
	// Prefixes are the EID-prefixes that the site may register.
	Prefixes []SitePrefix
	// MaxRegistrations bounds how many pairs of EID-prefix and xTR the site
	// may have registered at once; 0 takes DefaultMaxRegistrations.
	MaxRegistrations int
}

// SitePrefix is an EID-prefix of a site.
type SitePrefix struct {
	EID mapping.EID
	// AcceptMoreSpecifics lets the site register EID-prefixes inside EID too.
	AcceptMoreSpecifics bool
	ProxyReply          ProxyPolicy
	// Requests says whether Map-Requests get what is registered.
	Requests RequestPolicy
}

// ProxyPolicy says who answers Map-Requests for what a site registered.
type ProxyPolicy uint8

const (
	// ProxyAsRegistered follows the P bit of the registrations: one that has
	// it is enough (RFC 9301 section 8.3).
	ProxyAsRegistered ProxyPolicy = iota
	// ProxyAlways answers for the ETRs, whatever they asked for.
	ProxyAlways
	// ProxyNever forwards every Map-Request to an ETR.
	ProxyNever
)

var proxyPolicies = [...]string{"as-registered", "always", "never"}

// String returns the name used in configuration, the API and output.
func (p ProxyPolicy) String() string {
	if int(p) < len(proxyPolicies) {
		return proxyPolicies[p]
	}
	return fmt.Sprintf("proxy-policy-%d", uint8(p))
}

// ParseProxyPolicy is the inverse of String.
func ParseProxyPolicy(s string) (ProxyPolicy, error) {
	if i := slices.Index(proxyPolicies[:], s); i >= 0 {
		return ProxyPolicy(i), nil
	}
	return 0, fmt.Errorf("unknown proxy_reply %q, expected as-registered, always or never", s)
}

// RequestPolicy says whether Map-Requests for an EID-prefix of a site get what
// is registered there. Static and API mappings are answered in any case.
type RequestPolicy uint8

const (
	// RequestsAllowed: they do.
	RequestsAllowed RequestPolicy = iota
	// RequestsDenied: they get the action drop-policy-denied (RFC 9301
	// section 8.3).
	RequestsDenied
	// RequestsPostponed: they get send-map-request for a minute, which that
	// section has for a denial that will not last.
	RequestsPostponed
)

var requestPolicies = [...]string{"allow", "deny", "deny-temporarily"}

// String returns the name used in configuration, the API and output.
func (p RequestPolicy) String() string {
	if int(p) < len(requestPolicies) {
		return requestPolicies[p]
	}
	return fmt.Sprintf("request-policy-%d", uint8(p))
}

// ParseRequestPolicy is the inverse of String.
func ParseRequestPolicy(s string) (RequestPolicy, error) {
	if i := slices.Index(requestPolicies[:], s); i >= 0 {
		return RequestPolicy(i), nil
	}
	return 0, fmt.Errorf("unknown request_policy %q, expected allow, deny or deny-temporarily", s)
}

// RequestRate is a token bucket for each source of Map-Requests: an IPv4
// address or an IPv6 /64. The buckets are a table of fixed size that sources
// are hashed to, so now and then two sources share one.
type RequestRate struct {
	// PerSource is in EID-prefixes asked for a second, Burst in EID-prefixes.
	PerSource, Burst int
}

// ReplyRate is a token bucket for each pair of ITR-RLOC and EID-prefix (RFC
// 9301 section 5.4).
type ReplyRate struct {
	// Every is the time that makes one Map-Reply, in whole milliseconds up
	// to a minute; Burst, up to 1000, is how many may follow each other.
	Every time.Duration
	Burst int
}

// Bounds of ReplyRate.
const (
	MaxReplyEvery = time.Minute
	MaxReplyBurst = 1000
)

// Limits of our own.
const (
	// DefaultMaxRegistrations is generous for a site of any size, and still
	// little memory.
	DefaultMaxRegistrations = 65536
	// maxRegistrants bounds the xTRs of a site whose nonces are remembered.
	maxRegistrants = 4096
	// defaultPerSource and defaultBurst are more than an xTR needs, and less
	// than what keeps the server busy.
	defaultPerSource, defaultBurst = 10_000, 20_000
	// replyBurst is how many Map-Replies to one (ITR-RLOC, EID-prefix) may
	// follow each other: an ITR asks again after 1 s when one was lost.
	replyBurst = 3
	// mapReplyRate is how many Map-Replies a second may come in without a
	// word in the log.
	mapReplyRate = 10
	// defaultRegisterQueue is some tenths of a second of registrations.
	defaultRegisterQueue = 1024
	// maxRequestRecords bounds the work for one Map-Request; senders put one
	// record in (RFC 9301 section 5.2).
	maxRequestRecords = 8
)

// Constants of RFC 9301.
const (
	// registrationTimeout is the life of a registration without the T bit
	// (section 8.2).
	registrationTimeout = 3 * time.Minute
	// replySpacing: one Map-Reply in 3 s for each destination RLOC (section
	// 5.4); here for each (RLOC, EID-prefix), so that questions about
	// several EIDs do not starve each other.
	replySpacing = 3 * time.Second
	// maxReply4 and maxReply6 are the payloads of IP packets of 576 and 1280
	// octets (section 5).
	maxReply4 = 576 - 20 - 8
	maxReply6 = 1280 - 40 - 8
)

// Validate finds everything that is wrong with the configuration. New calls
// it.
func (c *Config) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	owner := make(map[mapping.EID]string)
	names := make(map[string]bool)
	for i, s := range c.Sites {
		switch {
		case s.Name == "":
			fail("site %d has no name", i)
		case len(s.Name) > 255:
			fail("site %.20s...: the name has %d octets, the limit is 255", s.Name, len(s.Name))
		case names[s.Name]:
			fail("site %s is there twice", s.Name)
		}
		names[s.Name] = true
		if s.MinAlgorithm > auth.SHA256HKDF {
			fail("site %s: unknown minimum algorithm %v", s.Name, s.MinAlgorithm)
		}
		if s.MaxRegistrations < 0 {
			fail("site %s: the limit of registrations is %d", s.Name, s.MaxRegistrations)
		}
		if len(s.Keys) == 0 {
			fail("site %s has no authentication_key", s.Name)
		}
		ids := make(map[uint8]bool)
		for _, k := range s.Keys {
			if len(k.Secret) == 0 {
				fail("site %s: %v is empty", s.Name, k)
			}
			if ids[k.ID] {
				fail("site %s: key-id %d is there twice", s.Name, k.ID)
			}
			ids[k.ID] = true
		}
		if slices.Contains(s.XTRIDs, mapping.XTRID{}) {
			fail("site %s: an xTR-ID of zeros, which names no xTR", s.Name)
		}
		for _, p := range s.Prefixes {
			if err := checkEID(p.EID); err != nil {
				fail("site %s: %w", s.Name, err)
				continue
			}
			if int(p.ProxyReply) >= len(proxyPolicies) {
				fail("site %s, %v: unknown %v", s.Name, p.EID, p.ProxyReply)
			}
			if int(p.Requests) >= len(requestPolicies) {
				fail("site %s, %v: unknown %v", s.Name, p.EID, p.Requests)
			}
			if other, ok := owner[p.EID]; ok {
				fail("site %s: %v belongs to site %s already", s.Name, p.EID, other)
			}
			owner[p.EID] = s.Name
		}
	}
	c.LISPSec.validate(c.Sites, fail)
	static := make(map[mapping.EID]bool)
	for i, r := range c.Static {
		if r == nil {
			fail("static mapping %d is missing", i)
			continue
		}
		if err := checkRecord(r); err != nil {
			fail("static mapping %v: %w", r.EID, err)
		}
		if static[r.EID] {
			fail("static mapping %v is there twice", r.EID)
		}
		static[r.EID] = true
	}
	if c.RequestRate.PerSource < 0 || c.RequestRate.Burst < 0 || c.MaxReply4 < 0 || c.MaxReply6 < 0 || c.RegisterQueue < 0 {
		fail("a limit is negative")
	}
	if r := c.ReplyRate; r.Every < 0 || r.Every > MaxReplyEvery || r.Every%time.Millisecond != 0 || r.Burst < 0 || r.Burst > MaxReplyBurst {
		fail("a reply rate of one every %v, %d at once; possible are whole milliseconds up to %v, and up to %d at once", r.Every, r.Burst, MaxReplyEvery, MaxReplyBurst)
	}
	c.validatePubSub(fail)
	return errors.Join(errs...)
}

// checkEID explains why e can't be a key of the table.
func checkEID(e mapping.EID) error {
	made, err := mapping.MakeEID(e.IID, e.Prefix)
	if err != nil {
		return err
	}
	if e.Source.IsValid() && (e.Source != e.Source.Masked() || e.Source.Addr().Is4() != e.Prefix.Addr().Is4()) || made.Prefix != e.Prefix {
		return fmt.Errorf("%w: %v has host bits or a source of another family", mapping.ErrBadEID, e)
	}
	return nil
}

// checkRecord explains why r can't be a mapping of its own: one that a
// Map-Reply carries until somebody deletes it.
func checkRecord(r *mapping.Record) error {
	if err := checkEID(r.EID); err != nil {
		return err
	}
	if r.TTL == 0 {
		return errors.New("record_ttl is 0, which would withdraw it")
	}
	for _, l := range r.Locators {
		if l.Addr.IsValid() {
			if err := checkRLOC(l.Addr, true); err != nil {
				return fmt.Errorf("locator: %w", err)
			}
		}
	}
	b, err := wire.AppendRecord(make([]byte, 0, 512), r)
	if n := replyHeader + len(b); err == nil && n > wire.MaxMessage {
		return fmt.Errorf("a Map-Reply with it has %d octets, the limit is %d", n, wire.MaxMessage)
	}
	return err
}

// checkRLOC explains why a can't be a locator. Loopback addresses are for
// tools and tests on one machine: they are accepted from there only.
func checkRLOC(a netip.Addr, fromLoopback bool) error {
	if fromLoopback && a.IsLoopback() {
		return nil
	}
	return mapping.ValidRLOC(a)
}
