package config

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

// MapServer is the configuration of a map-server and map-resolver.
type MapServer struct {
	// Listen is not empty; wildcard addresses are possible.
	Listen []netip.AddrPort
	// StateDir is the directory of the database.
	StateDir string
	Sites    []Site
	// StaticMappings are answered as they are, without a registration. No
	// EID is also an EID-prefix of a site.
	StaticMappings []*mapping.Record
	RequestRate    RequestRate
	ReplyRate      ReplyRate
	LISPSec        LISPSec
	PubSub         PubSub
	// ALT is nil where there is none.
	ALT  *ALT
	API  API
	HTTP HTTP
	Log  Log
	// Warnings are doubts that did not stop the file from being used.
	Warnings Errors
	// Text is what was read.
	Text *Text
}

// Site is one site that may register.
type Site struct {
	Name string
	// MinimumAlgorithm is the weakest accepted; every key is at least as
	// strong.
	MinimumAlgorithm auth.Algorithm
	// Keys is not empty and has each key-id once.
	Keys []auth.Key `json:"-"`
	// XTRIDs are the xTR-IDs that may register; nil stands for all.
	XTRIDs      []mapping.XTRID
	EIDPrefixes []EIDPrefix
}

// EIDPrefix is what a site may register.
type EIDPrefix struct {
	Prefix mapping.EID
	// AcceptMoreSpecifics lets the site register prefixes inside Prefix too.
	AcceptMoreSpecifics bool
	ProxyReply          ProxyReply
	RequestPolicy       RequestPolicy
}

// RequestPolicy says whether Map-Requests get what a site registered.
type RequestPolicy string

const (
	// RequestPolicyAllow: they do.
	RequestPolicyAllow RequestPolicy = "allow"
	// RequestPolicyDeny answers that policy denies it.
	RequestPolicyDeny RequestPolicy = "deny"
	// RequestPolicyDenyTemporarily answers to ask again in a minute.
	RequestPolicyDenyTemporarily RequestPolicy = "deny-temporarily"
)

// ProxyReply says who answers Map-Requests for a registered EID-prefix.
type ProxyReply string

const (
	// ProxyReplyAsRegistered goes by the P bit of the Map-Register.
	ProxyReplyAsRegistered ProxyReply = "as-registered"
	// ProxyReplyAlways answers for the ETR whatever it asked for.
	ProxyReplyAlways ProxyReply = "always"
	// ProxyReplyNever forwards every Map-Request to an ETR.
	ProxyReplyNever ProxyReply = "never"
)

// RequestRate limits the Map-Requests that are answered.
type RequestRate struct {
	// PerSource is in Map-Requests a second from one address, Burst in
	// Map-Requests.
	PerSource, Burst int
}

// ReplyRate limits the Map-Replies to one ITR-RLOC about one EID-prefix.
type ReplyRate struct {
	// Every is the time that makes one Map-Reply, in whole milliseconds;
	// Burst is how many may follow each other.
	Every time.Duration
	Burst int
}

// LoadMapServer reads the configuration of a map-server. The error is an
// Errors that holds everything wrong with the file, or says why the file can't
// be read.
func LoadMapServer(path string) (*MapServer, error) {
	text, err := readText(path)
	if err != nil {
		return nil, err
	}
	return ParseMapServer(path, text)
}

// ParseMapServer reads the text of a configuration of a map-server as if it stood at path. The
// error is an Errors that holds everything wrong with it.
func ParseMapServer(path string, text []byte) (*MapServer, error) {
	r, root, err := parse(path, text)
	if err != nil {
		return nil, err
	}
	c, err := readMapServer(r, root)
	if err != nil {
		return nil, err
	}
	c.Text = &Text{kind: KindMapServer, data: text, secrets: r.secrets, server: c}
	return c, nil
}

func readMapServer(r *reader, root value) (*MapServer, error) {
	c := new(MapServer)
	if o, ok := root.object(); ok {
		c.read(o)
		o.end()
	}
	if err := r.result(); err != nil {
		return nil, err
	}
	c.Warnings = r.warnings
	return c, nil
}

func (c *MapServer) read(o *object) {
	const wantListen = "a list of addresses to listen on, such as [\"203.0.113.10:4342\"]"
	listen, seen := o.need("listen", wantListen), make(names[netip.AddrPort])
	for _, item := range listen.atLeastOne("addresses to listen on") {
		if ap, ok := item.addrPort(controlPort, true); ok && seen.add(ap, item, "address") {
			item.needsAddr(NeedUDP, ap)
			c.Listen = append(c.Listen, ap)
		}
	}
	c.StateDir = "/var/lib/eidolon"
	dir := o.get("state_dir")
	if dir.given() {
		c.StateDir = dir.directory()
		dir.form.otherwise("/var/lib/eidolon")
	}
	dir.needs(NeedDirectory, c.StateDir)
	owners := c.readSites(o.get("sites"))
	c.readStatic(o.get("static_mappings"), owners)

	c.RequestRate = RequestRate{PerSource: 10_000, Burst: 20_000}
	if m, ok := o.get("request_rate").object(); ok {
		c.RequestRate.PerSource = int(m.get("per_source").integer(1, 100_000_000, 10_000))
		c.RequestRate.Burst = int(m.get("burst").integer(1, 100_000_000, 20_000))
		m.end()
	}
	c.ReplyRate = ReplyRate{Every: 3 * time.Second, Burst: 3}
	if m, ok := o.get("reply_rate").object(); ok {
		every := m.get("every")
		if c.ReplyRate.Every = every.duration(time.Millisecond, time.Minute, 3*time.Second); c.ReplyRate.Every%time.Millisecond != 0 {
			every.fail("found %v, expected whole milliseconds", c.ReplyRate.Every)
		}
		c.ReplyRate.Burst = int(m.get("burst").integer(1, 1000, 3))
		m.end()
	}
	c.readLISPSec(o.get("lisp_sec"))
	c.readPubSub(o.get("pubsub"))
	c.readALT(o.get("alt"))
	c.API = o.get("api").api("/run/eidolon/mapserver.sock", 9344)
	c.HTTP = o.get("http").http(9342)
	c.Log = o.get("log").log(KindMapServer)
}

// owner is the site that an EID-prefix belongs to.
type owner struct {
	site string
	at   value
}

// maxSiteName is what the store keeps of a site's name, in octets.
const maxSiteName = 255

func (c *MapServer) readSites(v value) map[mapping.EID]owner {
	owners, seen := make(map[mapping.EID]owner), make(names[string])
	for _, item := range v.list("sites, each with name, authentication_keys and eid_prefixes") {
		o, ok := item.object()
		if !ok {
			continue
		}
		at := o.need("name", "the name of the site")
		s := Site{}
		if name, ok := at.text("the name of the site"); ok {
			if name == "" || len(name) > maxSiteName {
				at.fail("found a name of %d octets, expected 1 to %d", len(name), maxSiteName)
			}
			seen.add(name, at, "site")
			s.Name = name
		}
		s.MinimumAlgorithm = o.get("minimum_algorithm").algorithm(auth.DefaultMinimum)
		s.readKeys(o.need("authentication_keys", "a list of keys, each "+wantKey))
		ids := make(names[string])
		if list := o.get("xtr_ids"); list.given() {
			for _, item := range list.atLeastOne("xTR-IDs, each of 32 hexadecimal digits") {
				if id := item.xtrID(); id != (mapping.XTRID{}) && ids.add(fmt.Sprintf("%x", id), item, "xTR-ID") {
					s.XTRIDs = append(s.XTRIDs, id)
				}
			}
		}
		s.readPrefixes(o.need("eid_prefixes", "a list of EID-prefixes that the site may register"), owners)
		o.end()
		c.Sites = append(c.Sites, s)
	}
	return owners
}

func (s *Site) readKeys(v value) {
	v.secret = true
	seen := make(names[uint8])
	for _, item := range v.atLeastOne("keys, each " + wantKey) {
		k, ok := item.authenticationKey()
		if !ok {
			continue
		}
		if k.Algorithm < s.MinimumAlgorithm {
			item.fail("algorithm %v is weaker than the site's minimum_algorithm %v, so no registration with this key would be accepted", k.Algorithm, s.MinimumAlgorithm)
		}
		if seen.add(k.ID, item, "key_id") {
			s.Keys = append(s.Keys, k)
		}
	}
}

func (s *Site) readPrefixes(v value, owners map[mapping.EID]owner) {
	for _, item := range v.atLeastOne("EID-prefixes such as {prefix: 10.1.0.0/16}") {
		o, ok := item.object()
		if !ok {
			continue
		}
		at := o.need("prefix", wantEID)
		e, ok := at.eid()
		p := EIDPrefix{
			Prefix:              e,
			AcceptMoreSpecifics: o.get("accept_more_specifics").boolean(false),
			ProxyReply:          ProxyReply(o.get("proxy_reply").enum(string(ProxyReplyAsRegistered), string(ProxyReplyAlways), string(ProxyReplyNever))),
			RequestPolicy:       RequestPolicy(o.get("request_policy").enum(string(RequestPolicyAllow), string(RequestPolicyDeny), string(RequestPolicyDenyTemporarily))),
		}
		o.end()
		if !ok {
			continue
		}
		if first, taken := owners[e]; taken {
			at.fail("EID-prefix %v belongs to site %q already, see line %d", e, first.site, first.at.at.Line)
			continue
		}
		owners[e] = owner{s.Name, at}
		s.EIDPrefixes = append(s.EIDPrefixes, p)
	}
}

func (c *MapServer) readStatic(v value, owners map[mapping.EID]owner) {
	seen := make(names[mapping.EID])
	for _, item := range v.list("static mappings, each with eid, and locators or action") {
		o, ok := item.object()
		if !ok {
			continue
		}
		at := o.need("eid", wantEID)
		e, eidOK := at.eid()
		rec := &mapping.Record{EID: e, TTL: o.get("record_ttl").recordTTL()}
		locators, action := o.get("locators"), o.get("action")
		rec.Locators, rec.Action = locators.locators(nil, nil), action.action()
		action.form.otherwise("")
		switch {
		case locators.given() && action.given():
			o.fail(action.key, "found both locators and action, expected one of them")
		case !locators.given() && !action.given():
			o.fail(o.at, "found neither locators nor action, expected one of them")
		}
		o.end()
		if first, taken := owners[e]; eidOK && taken {
			at.fail("%v is an EID-prefix of site %q, see line %d; it can't be static too", e, first.site, first.at.at.Line)
			continue
		}
		if eidOK && seen.add(e, at, "EID") {
			c.StaticMappings = append(c.StaticMappings, rec)
		}
	}
}

// action reads what an ITR does with packets for a mapping without locators.
func (v value) action() mapping.Action {
	var all []string
	for a := mapping.NoAction; a <= mapping.DropAuth; a++ {
		all = append(all, a.String())
	}
	a, err := mapping.ParseAction(v.enum(all...))
	if err != nil {
		v.fail("%v", err)
	}
	return a
}
