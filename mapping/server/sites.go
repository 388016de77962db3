package server

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

// The sites are those of the configuration and those that the API put, which
// the store keeps. Both change while the server runs. What the configuration says
// goes first, as it does for mappings: a site of the API with a name or an
// EID-prefix of it is kept, and has no effect.

// Limits of our own: each change looks at all of them.
const (
	maxPutSites     = 4096
	maxSitePrefixes = 4096
	maxSiteName     = 255 // octets, as the store has it
	maxSiteKeys     = 64
	maxSiteXTRs     = 1024
	maxSecret       = 1024 // octets
)

// Errors about changing a site of the API.
var (
	ErrNoSite       = errors.New("there is no such site of the API")
	ErrConfigured   = errors.New("the site is of the configuration")
	ErrTooManySites = fmt.Errorf("%d sites are put already", maxPutSites)
)

// SiteError is what is wrong with a site.
type SiteError struct {
	Name string
	// Field is where, such as "prefixes[3].eid"; empty for the site as a whole.
	Field string
	Err   error
}

// Error implements error.
func (e *SiteError) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong.
func (e *SiteError) Unwrap() error { return e.Err }

// putSite is a site of the API.
type putSite struct {
	Site
	revision uint64 // of the database, when it was put
}

// SetSites makes cfg the sites of the configuration, whole or not at all. They
// are in effect when it returns: registrations that they do not admit have ended,
// in the store too. Others stay, also those by a key that is gone, until they
// expire. cfg must not be changed afterwards.
func (s *Server) SetSites(ctx context.Context, cfg []Site) error {
	c := Config{Sites: cfg, LISPSec: s.security.LISPSec}
	if err := c.Validate(); err != nil {
		return fmt.Errorf("the sites of the configuration: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changeSites(ctx, cfg, s.sites.Load().put)
}

// ChangeSite makes of the site of the API that has this name what change makes of
// it: nil is that there is none, and was is nil, and its revision 0, where there
// is none. Neither is changed afterwards. It is durable and in effect when
// ChangeSite returns the revision of the database with it, as with SetSites. An
// error of change is returned as it is; *SiteError is about the site, and
// ErrConfigured, ErrNoSite and ErrTooManySites keep it back, too. change must not
// call the server.
func (s *Server) ChangeSite(ctx context.Context, name string, change func(was *Site, revision uint64) (*Site, error)) (revision uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.sites.Load()
	var was *Site
	put := now.put[name]
	configured := slices.ContainsFunc(now.configured, func(o Site) bool { return o.Name == name })
	switch {
	case put != nil:
		was, revision = &put.Site, put.revision
	case configured:
		return 0, ErrConfigured
	}
	next, err := change(was, revision)
	if err != nil {
		return 0, err
	}
	all := maps.Clone(now.put)
	item := mapping.Item{Kind: mapping.ItemSite, Site: name}
	switch {
	case next != nil && configured:
		return 0, ErrConfigured
	case next != nil:
		if err := s.checkSite(next, name); err != nil {
			return 0, err
		}
		if was != nil && sameSite(was, next) {
			return s.revision, nil
		}
		if was == nil && len(all) >= maxPutSites {
			return 0, ErrTooManySites
		}
		item.Revision = s.revision + 1
		if item.Value, err = encodeSite(next); err != nil {
			return 0, err
		}
		if all == nil {
			all = make(map[string]*putSite)
		}
		all[name] = &putSite{*next, item.Revision}
	case was == nil:
		return 0, ErrNoSite
	default:
		delete(all, name)
	}
	if err := s.changeSites(ctx, now.configured, all, mapping.Change{Item: item, Delete: next == nil}); err != nil {
		return 0, err
	}
	return s.revision, nil
}

// checkSite explains why x can't be put.
func (s *Server) checkSite(x *Site, name string) error {
	now, bad := s.sites.Load(), func(field, format string, args ...any) error {
		return &SiteError{name, field, fmt.Errorf(format, args...)}
	}
	if x.Name != name || name == "" || len(name) > maxSiteName {
		return bad("name", "the name is %q, of 1 to %d octets", x.Name, maxSiteName)
	}
	for _, l := range []struct {
		field       string
		n, min, max int
	}{
		{"prefixes", len(x.Prefixes), 0, maxSitePrefixes}, {"keys", len(x.Keys), 1, maxSiteKeys}, {"xtr_ids", len(x.XTRIDs), 0, maxSiteXTRs},
	} {
		if l.n < l.min || l.n > l.max {
			return bad(l.field, "there are %d, expected %d to %d", l.n, l.min, l.max)
		}
	}
	for i, k := range x.Keys {
		switch {
		case len(k.Secret) == 0 || len(k.Secret) > maxSecret:
			return bad(fmt.Sprintf("keys[%d].secret", i), "%v has %d octets, expected 1 to %d", k, len(k.Secret), maxSecret)
		case k.Algorithm < atLeast(x.MinAlgorithm):
			return bad(fmt.Sprintf("keys[%d].algorithm", i), "%v is weaker than the minimum of the site, %v", k, atLeast(x.MinAlgorithm))
		case slices.ContainsFunc(x.Keys[:i], func(o auth.Key) bool { return o.ID == k.ID }):
			return bad(fmt.Sprintf("keys[%d].key_id", i), "%d is there twice", k.ID)
		}
	}
	seen := make(map[mapping.EID]bool, len(x.Prefixes))
	for i, p := range x.Prefixes {
		if seen[p.EID] {
			return bad(fmt.Sprintf("prefixes[%d].eid", i), "%v is there twice", p.EID)
		}
		seen[p.EID] = true
	}
	c := Config{Sites: []Site{*x}, LISPSec: s.security.LISPSec}
	if err := c.Validate(); err != nil {
		return bad("", "%w", err)
	}
	for i, p := range x.Prefixes {
		field := fmt.Sprintf("prefixes[%d].eid", i)
		if o, ok := now.table.Get(p.EID); ok && o.site.name != name {
			return bad(field, "%v belongs to site %s already", p.EID, o.site.name)
		}
		if n, ok := nodeOf(s.table.Load(), p.EID); ok && n.static != nil {
			return bad(field, "%v is a static mapping of the configuration", p.EID)
		}
	}
	for other := range now.shadowed {
		for _, p := range now.put[other].Prefixes {
			if other != name && seen[p.EID] {
				return bad("prefixes", "%v belongs to site %s already, which has no effect now", p.EID, other)
			}
		}
	}
	return nil
}

// atLeast is the weakest algorithm that a minimum of a site lets pass.
func atLeast(a auth.Algorithm) auth.Algorithm {
	if a == 0 {
		return auth.DefaultMinimum
	}
	return a
}

func nodeOf(t *table, e mapping.EID) (*node, bool) {
	v, _ := t.Get(e)
	n, ok := v.(*node)
	return n, ok
}

// effective returns the sites that have an effect, those of the configuration
// first and the others in the order of their names, and why the rest has none.
func effective(configured []Site, put map[string]*putSite) (all []Site, shadowed map[string]string) {
	all, shadowed = slices.Clone(configured), make(map[string]string)
	owner, names := make(map[mapping.EID]string), make(map[string]bool)
	for _, x := range configured {
		names[x.Name] = true
		for _, p := range x.Prefixes {
			owner[p.EID] = x.Name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(put)) {
		x := put[name].Site
		taken := slices.IndexFunc(x.Prefixes, func(p SitePrefix) bool { return owner[p.EID] != "" })
		switch {
		case names[name]:
			shadowed[name] = "the configuration has a site of this name"
		case taken >= 0:
			e := x.Prefixes[taken].EID
			shadowed[name] = fmt.Sprintf("%v belongs to site %s of the configuration", e, owner[e])
		default:
			all = append(all, x)
		}
	}
	return all, shadowed
}

// changeSites makes configured and put the sites. more is what the store takes
// with it; after an error all is as it was.
func (s *Server) changeSites(ctx context.Context, configured []Site, put map[string]*putSite, more ...mapping.Change) error {
	old, t := s.sites.Load(), s.table.Load()
	all, shadowed := effective(configured, put)
	ss, fresh := newSites(old, all)
	ss.configured, ss.put, ss.shadowed = configured, put, shadowed

	// Where something else may hold now.
	moved := make(map[mapping.EID]bool)
	mark := func(p *sitePrefix) {
		moved[p.EID] = true
		for e, v := range t.Covered(p.EID) {
			if _, ok := v.(*node); ok {
				moved[e] = true
			}
		}
	}
	for from, to := range map[*mapping.Table[*sitePrefix]]*mapping.Table[*sitePrefix]{old.table: ss.table, ss.table: old.table} {
		for e, p := range from.All() {
			if q, ok := to.Get(e); !ok || q != p {
				mark(p)
			}
		}
	}
	for x, r := range fresh {
		if was := x.rules.Load(); was != nil && !was.sameXTRs(r) {
			for _, p := range was.prefixes {
				mark(p)
			}
		}
	}
	var gone []*registration
	ended := func(x *registration) bool {
		p, why := ss.admit(x.eid)
		return why != 0 || p.site != x.site || !fresh[x.site].knows(x.by.XTRID)
	}
	for e := range moved {
		n, ok := nodeOf(t, e)
		if !ok {
			continue
		}
		for _, x := range n.regs {
			if ended(x) {
				gone = append(gone, x)
				more = append(more, mapping.Change{Item: x.item(), Delete: true})
			}
		}
	}

	before := s.digest
	if s.digest = digestOf(all, s.static); s.digest != before && len(more) == 0 {
		more = append(more, s.revisionItem(s.revision+1)) // or commit has nothing to do
	}
	if len(more) > 0 {
		if err := s.commit(ctx, more...); err != nil {
			s.digest = before
			return fmt.Errorf("change the sites: %w", err)
		}
	}
	// From here on nothing fails. The rules come before the sites: who has the
	// new ones of a site by the old sites is checked again (revised).
	added := make(map[string]*site)
	for x, r := range fresh {
		if x.rules.Swap(r) == nil {
			added[x.name] = x
		}
	}
	for _, x := range old.all {
		if ss.byName[x.name] == nil {
			x.rules.Store(new(rules))
		}
	}
	s.sites.Store(ss)
	for k := range s.nonces { // of a site of that name that was there before
		if x := added[k.site]; x != nil && k.by != (mapping.Registrant{}) {
			x.xtrs = append(x.xtrs, k)
		}
	}
	for _, x := range gone {
		s.delist(x)
		s.log.Info("registration ended: its site does not admit it any more", "eid", x.eid, "site", x.site.name, "xtr", x.by.String())
	}
	ed := t.Edit(len(moved))
	for e := range moved {
		n := s.nodeAt(ed, e)
		was := *n
		n.prefix = ss.longest(e)
		_, n.configured = ss.table.Get(e)
		n.regs = slices.DeleteFunc(slices.Clone(n.regs), ended)
		if n.prefix == was.prefix && n.configured == was.configured && len(n.regs) == len(was.regs) {
			continue
		}
		s.touch(e)
		place(ed, n)
	}
	s.replace(ed.Table())
	s.announce(s.clock())
	return nil
}

// beginSites makes the sites that a server has at its start.
func (s *Server) beginSites(configured []Site, put map[string]*putSite) {
	all, shadowed := effective(configured, put)
	for name, why := range shadowed {
		s.log.Warn("a site of the API has no effect", "site", name, "reason", why)
	}
	ss, fresh := newSites(&sites{table: new(mapping.Table[*sitePrefix])}, all)
	ss.configured, ss.put, ss.shadowed = configured, put, shadowed
	for x, r := range fresh {
		x.rules.Store(r)
	}
	s.sites.Store(ss)
}

func sameSite(a, b *Site) bool {
	return a.Name == b.Name && slices.EqualFunc(a.Keys, b.Keys, sameKey) && a.MinAlgorithm == b.MinAlgorithm &&
		slices.Equal(a.XTRIDs, b.XTRIDs) && (a.XTRIDs == nil) == (b.XTRIDs == nil) && slices.Equal(a.Prefixes, b.Prefixes) && a.MaxRegistrations == b.MaxRegistrations
}

// siteForm is a site in the store, as JSON: members may be added to it. Names of
// policies and algorithms are those of the configuration.
type siteForm struct {
	Keys             []keyForm    `json:"keys"`
	MinimumAlgorithm string       `json:"minimum_algorithm,omitempty"`
	XTRIDs           []string     `json:"xtr_ids,omitempty"` // of hexadecimal digits
	Prefixes         []prefixForm `json:"eid_prefixes"`
	MaxRegistrations int          `json:"max_registrations,omitempty"`
}

type keyForm struct {
	ID        uint8  `json:"key_id"`
	Algorithm string `json:"algorithm"`
	Secret    []byte `json:"key"` // base64
}

type prefixForm struct {
	Prefix              string `json:"prefix"`
	AcceptMoreSpecifics bool   `json:"accept_more_specifics,omitempty"`
	ProxyReply          string `json:"proxy_reply"`
	RequestPolicy       string `json:"request_policy"`
}

func encodeSite(x *Site) ([]byte, error) {
	f := siteForm{MaxRegistrations: x.MaxRegistrations}
	for _, k := range x.Keys {
		f.Keys = append(f.Keys, keyForm{k.ID, k.Algorithm.String(), k.Secret})
	}
	if x.MinAlgorithm != 0 {
		f.MinimumAlgorithm = x.MinAlgorithm.String()
	}
	for _, id := range x.XTRIDs {
		f.XTRIDs = append(f.XTRIDs, id.String())
	}
	for _, p := range x.Prefixes {
		f.Prefixes = append(f.Prefixes, prefixForm{p.EID.String(), p.AcceptMoreSpecifics, p.ProxyReply.String(), p.Requests.String()})
	}
	return json.Marshal(f)
}

func decodeSite(name string, b []byte) (x Site, err error) {
	var f siteForm
	if err := json.Unmarshal(b, &f); err != nil {
		return x, err
	}
	x = Site{Name: name, MaxRegistrations: f.MaxRegistrations}
	for _, k := range f.Keys {
		a, err := auth.ParseAlgorithm(k.Algorithm)
		if err != nil {
			return x, err
		}
		x.Keys = append(x.Keys, auth.Key{ID: k.ID, Algorithm: a, Secret: k.Secret})
	}
	if f.MinimumAlgorithm != "" {
		if x.MinAlgorithm, err = auth.ParseAlgorithm(f.MinimumAlgorithm); err != nil {
			return x, err
		}
	}
	for _, text := range f.XTRIDs {
		var id mapping.XTRID
		if n, err := hex.Decode(id[:], []byte(text)); err != nil || n != len(id) || len(text) != 2*len(id) {
			return x, fmt.Errorf("%q is no xTR-ID", text)
		}
		x.XTRIDs = append(x.XTRIDs, id)
	}
	for _, p := range f.Prefixes {
		sp := SitePrefix{AcceptMoreSpecifics: p.AcceptMoreSpecifics}
		if sp.EID, err = mapping.ParseEID(p.Prefix); err != nil {
			return x, err
		}
		if sp.ProxyReply, err = ParseProxyPolicy(p.ProxyReply); err != nil {
			return x, err
		}
		if sp.Requests, err = ParseRequestPolicy(p.RequestPolicy); err != nil {
			return x, err
		}
		x.Prefixes = append(x.Prefixes, sp)
	}
	return x, (&Config{Sites: []Site{x}}).Validate()
}
