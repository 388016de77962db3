package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
)

// controlPort is the LISP control port (RFC 9301 section 12.1).
const controlPort = 4342

// XTR is the configuration of an xTR.
type XTR struct {
	// XTRID is zero when none is given; then SiteID is 0.
	XTRID  mapping.XTRID
	SiteID uint64
	// DatabaseMappings are the site's EID-prefixes: not empty but for a proxy, no
	// two the same, none overlapping one of another instance. None of instance 0
	// holds a locator, map-server or map-resolver.
	DatabaseMappings []DatabaseMapping
	// LocatorSets are what DatabaseMappings, Learned and the proxies name, in the
	// order of the file; maybe more.
	LocatorSets []LocatorSet
	// Learned are prefixes in which the neighbours of bgp announce EID-prefixes of
	// the site.
	Learned []LearnedMapping
	// Instances has one entry for each instance-ID, ascending, and one for
	// every instance-ID of DatabaseMappings and of the roles below.
	Instances []Instance
	// MapServers is where the EID-prefixes are registered.
	MapServers []XTRMapServer
	// Uplinks has an entry for each interface that a locator names, by name.
	Uplinks []Uplink
	// MapResolvers is where unknown EIDs are asked for; empty only for a
	// proxy-ETR.
	MapResolvers []netip.AddrPort
	// LISPSec is the policy of all instances that do not have their own.
	LISPSec auth.SecurityPolicy
	// ResolverKeys are shared with MapResolvers for LISP-SEC. None is one of
	// MapServers; there is one for each where LISP-SEC is required.
	ResolverKeys map[netip.AddrPort]auth.WrapKey `json:"-"`
	// MapCacheLimit is the largest number of map-cache entries.
	MapCacheLimit int
	Underlay      Underlay
	// MapVersioning is true only on a trusted underlay.
	MapVersioning bool
	// PubSub is nil when the xTR does not subscribe.
	PubSub *XTRPubSub
	// Miss is what happens to packets while their mapping is asked for.
	Miss Miss
	// RLOCProbing is how the locators of other sites are tested.
	RLOCProbing RLOCProbing
	// NoMapping is the policy of instances that do not have their own.
	NoMapping NoMapping
	// UsePETR are the proxy-ETRs of instances with NoMappingPETR, sorted.
	UsePETR []mapping.Locator
	// ProxyITR and ProxyETR are the roles that serve others; nil without.
	ProxyITR, ProxyETR *Proxy
	// BGP is nil for an xTR that does not speak it.
	BGP *BGP
	// Host is nil for a router.
	Host *Host
	// AcceptMapData is what is made of mappings in Map-Requests.
	AcceptMapData AcceptMapData
	// StateDir is the directory for what has to outlive the xTR; empty: nothing.
	StateDir string
	Plane    Plane
	API      API
	HTTP     HTTP
	Log      Log
	// Tracing is nil when nothing is traced.
	Tracing *Tracing
	// Warnings are doubts that did not stop the file from being used.
	Warnings Errors
	// Text is what was read.
	Text *Text
}

// fromBGP is the key of XTR.Learned.
const fromBGP = "database_mappings_from_bgp"

// LearnedMapping says which prefixes that are announced become EID-prefixes, and
// with which locators.
type LearnedMapping struct {
	Rule            bgp.Rule
	IID             uint32
	DatabaseMapping // without an EID
}

// EID is what the prefixes lie inside of.
func (l *LearnedMapping) EID() mapping.EID { return mapping.EID{IID: l.IID, Prefix: l.Rule.Prefix} }

// readLearned reads database_mappings_from_bgp, and returns where each prefix
// stands.
func (c *XTR) readLearned(v value, sets map[string]*locatorSet) (seen names[mapping.EID]) {
	seen = make(names[mapping.EID])
	for _, item := range v.list("prefixes, each with prefix and locator_set") {
		o, ok := item.object()
		if !ok {
			continue
		}
		at := o.need("prefix", wantEID)
		eid, eidOK := at.eid()
		bits := eid.Prefix.Addr().BitLen()
		ge, le := o.get("ge"), o.get("le")
		ge.form.is(integerForm(1, 128, 0)) // whatever prefix it is
		le.form.is(integerForm(1, 128, 0))
		l := LearnedMapping{IID: eid.IID, Rule: bgp.Rule{Prefix: eid.Prefix}}
		if eidOK {
			l.Rule.MinBits = int(ge.integer(uint64(eid.Prefix.Bits()), uint64(bits), uint64(eid.Prefix.Bits())))
			l.Rule.MaxBits = int(le.integer(uint64(l.Rule.MinBits), uint64(bits), uint64(l.Rule.MinBits)))
		}
		l.Rule.Max = int(o.get("max_prefixes").integer(1, bgp.MaxMaxPrefixes, bgp.DefaultMaxLearned))
		l.RecordTTL = o.get("record_ttl").recordTTL()
		ref := o.need("locator_set", "the name of one of the locator_sets")
		name, nameOK := ref.text("the name of one of the locator_sets")
		o.end()
		if set := sets[name]; set != nil {
			set.used, l.LocatorSet, l.Locators, l.Uplinks = true, name, set.locators, set.uplinks
		} else if nameOK {
			unknownReference(ref, name, "locator_sets", sets)
		}
		switch {
		case !eidOK:
		case eid.Prefix.Bits() == 0:
			at.fail("found a prefix that holds all addresses, expected one with the addresses of the site")
		case seen.add(eid, at, "prefix"):
			c.Learned = append(c.Learned, l)
		}
	}
	return seen
}

// LocatorSet is one entry of locator_sets. Locators and Uplinks are shared with what
// is made of it.
type LocatorSet struct {
	Name     string
	Locators []mapping.Locator
	Uplinks  []UplinkLocator
}

// DatabaseMapping is an EID-prefix of the site with its locators.
type DatabaseMapping struct {
	EID mapping.EID
	// LocatorSet is the name of the set that Locators are from.
	LocatorSet string
	// Locators is sorted, and shared with the mappings of the same set: it must
	// not be changed.
	Locators []mapping.Locator
	// Uplinks are the locators that are the addresses of an interface, shared as
	// well. One of the two is not empty.
	Uplinks []UplinkLocator
	// RecordTTL is in minutes.
	RecordTTL uint32
	// MapVersion is 0 without XTR.MapVersioning.
	MapVersion mapping.Version
}

// Underlay says who can send to the RLOCs.
type Underlay string

const (
	// UnderlayInternet: anybody. What RFC 9300 section 4.1 forbids there is
	// not used.
	UnderlayInternet Underlay = "internet"
	// UnderlayTrusted: only routers that forge nothing.
	UnderlayTrusted Underlay = "trusted"
)

// Instance is one instance-ID and its TUN device.
type Instance struct {
	IID uint32
	// Device is the interface name, at most 15 octets.
	Device string
	// LISPSec says whether Map-Requests of the instance are protected.
	LISPSec auth.SecurityPolicy
	// NoMapping is what happens to its packets without a mapping.
	NoMapping NoMapping
}

// XTRMapServer is one map-server that an xTR registers with.
type XTRMapServer struct {
	Address netip.AddrPort
	// Keys are the pre-shared keys, the preferred one first; not empty.
	Keys []auth.Key `json:"-"`
	// ProxyReply asks the map-server to answer Map-Requests itself.
	ProxyReply bool
	// WantMapNotify asks for an acknowledgement of registrations.
	WantMapNotify bool
	// Merge asks for the locators to be merged with those that other xTRs
	// of the site register.
	Merge bool
	// TTLFromRegister makes record_ttl how long a registration lasts, instead
	// of three minutes.
	TTLFromRegister bool
	// RegisterInterval is the time between two registrations.
	RegisterInterval time.Duration
}

// Miss is what happens to the packets of a map-cache miss.
type Miss string

const (
	MissHold Miss = "hold" // keep a few until the answer is there
	MissDrop Miss = "drop"
)

// RLOCProbing is how the locators of other sites are tested.
type RLOCProbing struct {
	Enabled bool
	// Interval is the time between two probes of a locator that answers.
	Interval time.Duration
	// Retries is how many probes without a reply make a locator down.
	Retries int
}

// AcceptMapData is what is made of the mapping of its sender that a Map-Request
// may carry.
type AcceptMapData string

const (
	MapDataOff    AcceptMapData = "off"    // nothing
	MapDataVerify AcceptMapData = "verify" // ask the mapping system for it
)

// SourceCheck is how inner sources of received packets are compared with their
// mappings.
type SourceCheck string

const (
	SourceLoose  SourceCheck = "loose"  // drop what a fresh mapping contradicts
	SourceOff    SourceCheck = "off"    // compare nothing
	SourceStrict SourceCheck = "strict" // drop what no mapping proves
)

// Plane is the configuration of the data plane.
type Plane struct {
	// Kind is "auto", "tun" or "bpf".
	Kind string
	// UnfinishedChecksums lets packets leave without finished checksums inside, and
	// super-packets in one piece: for network cards, and for who is behind virtual
	// links.
	UnfinishedChecksums bool
	// RouteTable is the kernel's routing table that the xTR's routes are in.
	RouteTable int
	// UplinkMTU in octets; 0 takes it from the interfaces.
	UplinkMTU int
	// SourceCheck is how inner sources of received packets are checked.
	SourceCheck SourceCheck
	// MSSClamp lowers the maximum segment size in TCP handshakes to what fits.
	MSSClamp bool
}

// LoadXTR reads the configuration of an xTR. The error is an Errors that holds
// everything wrong with the file, or says why the file can't be read.
func LoadXTR(path string) (*XTR, error) {
	text, err := readText(path)
	if err != nil {
		return nil, err
	}
	return ParseXTR(path, text)
}

// ParseXTR reads the text of a configuration of an xTR as if it stood at path. The
// error is an Errors that holds everything wrong with it.
func ParseXTR(path string, text []byte) (*XTR, error) {
	r, root, err := parse(path, text)
	if err != nil {
		return nil, err
	}
	c, err := readXTR(r, root)
	if err != nil {
		return nil, err
	}
	c.Text = &Text{kind: KindXTR, data: text, secrets: r.secrets, xtr: c}
	return c, nil
}

func readXTR(r *reader, root value) (*XTR, error) {
	c := new(XTR)
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

func (c *XTR) read(o *object) {
	id, site := o.get("xtr_id"), o.get("site_id")
	c.XTRID, c.SiteID = id.xtrID(), site.siteID()
	if c.SiteID != 0 && !id.given() {
		site.fail("found %d without an xtr_id; the two are sent together", c.SiteID)
	}
	if dir := o.get("state_dir"); dir.given() {
		c.StateDir = dir.directory()
		dir.needs(NeedDirectory, c.StateDir)
	}
	c.readUnderlay(o.get("underlay"), o.get("map_versioning"))
	underlay := make(names[netip.Addr])
	sets := c.readLocatorSets(o.get("locator_sets"), underlay)
	c.readUplinks(o.get("uplinks"), sets)
	c.readProxies(o, sets, underlay)
	learned := c.readLearned(o.get(fromBGP), sets)
	c.readMappings(o.needIf(o.site() && len(c.Learned) == 0, "database_mappings", "a list with at least one EID-prefix of the site; its locators tell the xtr which addresses to use"), sets, learned)
	c.LISPSec = o.get("lisp_sec").policy(auth.SecurityOff)
	c.readInstances(o.get("instances"))
	c.readMapServers(o.needIf(o.site(), "map_servers", "a list with at least one map-server to register the database_mappings with"), underlay)
	c.readMapResolvers(o.needIf(o.site() || c.ProxyITR != nil, "map_resolvers", "a list with at least one address of a map-resolver"), underlay)
	c.refuseInside(underlay)
	c.checkProxies(o, underlay)
	c.readBGP(o.get("bgp"))
	if from := o.get(fromBGP); len(c.Learned) > 0 && !o.get("bgp").given() {
		from.fail("found EID-prefixes to learn, and no bgp to learn them by")
	}

	c.MapCacheLimit = 100_000
	if m, ok := o.get("map_cache").object(); ok {
		c.MapCacheLimit = int(m.get("limit").integer(100, 10_000_000, 100_000))
		m.end()
	}
	c.readPubSub(o.get("pubsub"), id)
	c.Miss = Miss(o.get("miss").enum(string(MissHold), string(MissDrop)))
	c.RLOCProbing = RLOCProbing{Enabled: true, Interval: 30 * time.Second, Retries: 3}
	if p, ok := o.get("rloc_probing").object(); ok {
		c.RLOCProbing.Enabled = p.get("enabled").boolean(true)
		c.RLOCProbing.Interval = p.get("interval").duration(10*time.Second, time.Hour, 30*time.Second)
		c.RLOCProbing.Retries = int(p.get("retries").integer(2, 5, 3))
		p.end()
	}
	c.AcceptMapData = AcceptMapData(o.get("accept_map_data").enum(string(MapDataOff), string(MapDataVerify)))
	c.readPlane(o.get("plane"))
	c.API = o.get("api").api("/run/eidolon/xtr.sock", 9343)
	c.HTTP = o.get("http").http(9341)
	c.Log = o.get("log").log(KindXTR)
	c.Tracing = o.get("tracing").tracing()
}

func (c *XTR) readUnderlay(underlay, versioning value) {
	c.Underlay = Underlay(underlay.enum(string(UnderlayInternet), string(UnderlayTrusted)))
	c.MapVersioning = versioning.boolean(false)
	if c.MapVersioning && c.Underlay != UnderlayTrusted {
		versioning.fail("found true without underlay: trusted; map-versions must not be used where others can send packets (RFC 9302 section 8)")
	}
}

// mapVersion reads the version of a database_mapping; 0 is none.
func (c *XTR) mapVersion(v value) mapping.Version {
	n := mapping.Version(v.integer(1, mapping.MaxVersion, uint64(mapping.NullVersion)))
	if v.given() && !c.MapVersioning {
		v.fail("found a map_version without map_versioning: true")
	}
	return n
}

// locatorSet is one entry of locator_sets.
type locatorSet struct {
	name     value
	locators []mapping.Locator
	uplinks  []UplinkLocator
	at       []value // of uplinks
	used     bool
}

// readLocatorSets reads locator_sets, which database_mappings name.
func (c *XTR) readLocatorSets(v value, underlay names[netip.Addr]) map[string]*locatorSet {
	sets, seen := make(map[string]*locatorSet), make(names[string])
	for _, item := range v.list("locator-sets, each with name and locators") {
		o, ok := item.object()
		if !ok {
			continue
		}
		name := o.need("name", "a name for database_mappings to refer to")
		locators := o.need("locators", "a list of locators")
		s, ok := name.text("a name")
		set := &locatorSet{name: name}
		set.locators = locators.locators(underlay, set)
		o.end()
		if ok && seen.add(s, name, "locator-set") {
			sets[s] = set
			c.LocatorSets = append(c.LocatorSets, LocatorSet{Name: s, Locators: set.locators, Uplinks: set.uplinks})
		}
	}
	return sets
}

// readMappings reads database_mappings; learned are the prefixes of fromBGP.
func (c *XTR) readMappings(v value, sets map[string]*locatorSet, learned names[mapping.EID]) {
	seen := make(names[mapping.EID])
	for _, item := range v.atLeastOne("database-mappings, each with eid and locator_set") {
		o, ok := item.object()
		if !ok {
			continue
		}
		at := o.need("eid", wantEID)
		eid, eidOK := at.eid()
		ref := o.need("locator_set", "the name of one of the locator_sets")
		name, nameOK := ref.text("the name of one of the locator_sets")
		m := DatabaseMapping{EID: eid, LocatorSet: name, RecordTTL: o.get("record_ttl").recordTTL(), MapVersion: c.mapVersion(o.get("map_version"))}
		o.end()
		if set := sets[name]; set != nil {
			set.used, m.Locators, m.Uplinks = true, set.locators, set.uplinks
		} else if nameOK {
			unknownReference(ref, name, "locator_sets", sets)
		}
		if eidOK && seen.add(eid, at, "EID-prefix") {
			c.DatabaseMappings = append(c.DatabaseMappings, m)
		}
	}
	for e, at := range learned {
		if _, static := seen[e]; !static {
			seen[e] = at
		}
	}
	refuseOverlap(seen)
	for name, set := range sets {
		if !set.used {
			set.name.warn("locator-set %q is not used by any of the database_mappings", name)
		}
	}
}

func unknownReference[T any](v value, name, list string, sets map[string]T) {
	defined := make([]string, 0, len(sets))
	for n := range sets {
		defined = append(defined, n)
	}
	slices.Sort(defined)
	guess := nearest(name, defined)
	switch {
	case guess != "":
		v.fail("%q is not one of the %s, did you mean %q?", name, list, guess)
	case len(defined) > 0:
		v.fail("%q is not one of the %s, expected %s", name, list, oneOf(defined))
	default:
		v.fail("%q is not one of the %s, there are none", name, list)
	}
}

// refuseOverlap reports EID-prefixes of two instances that overlap: packets
// from the site could not be told apart without a VRF for each instance.
func refuseOverlap(given names[mapping.EID]) {
	byPrefix := make(map[netip.Prefix][]mapping.EID)
	for e := range given {
		byPrefix[e.Prefix] = append(byPrefix[e.Prefix], e)
	}
	for e, v := range given {
		for bits := e.Prefix.Bits(); bits >= 0; bits-- {
			p, _ := e.Prefix.Addr().Prefix(bits)
			for _, other := range byPrefix[p] {
				// Of two equal prefixes, the lower instance-ID is blamed.
				if other.IID == e.IID || other.Prefix == e.Prefix && other.IID < e.IID {
					continue
				}
				v.fail("%v overlaps %v of line %d; overlapping EID-prefixes of two instances need a VRF for each, which an xtr does not have: use one xtr for each",
					text(e), text(other), given[other].at.Line)
			}
		}
	}
}

// text is the text form with the instance-ID, also when that is 0.
func text(e mapping.EID) string { return fmt.Sprintf("[%d]%v", e.IID, e.Prefix) }

func (c *XTR) readInstances(v value) {
	iids, devices := make(names[uint32]), make(names[string])
	for _, item := range v.list("instances, each with iid and device") {
		o, ok := item.object()
		if !ok {
			continue
		}
		iid := o.need("iid", fmt.Sprintf("a number from 0 to %d", mapping.MaxIID))
		in := Instance{IID: iid.instanceID()}
		device := o.get("device")
		in.Device = device.interfaceName(deviceName(in.IID))
		security, noMapping := o.get("lisp_sec"), o.get("no_mapping")
		in.LISPSec, in.NoMapping = security.policy(c.LISPSec), noMapping.noMapping(c.NoMapping)
		security.form.otherwise("") // that of all instances
		noMapping.form.otherwise("")
		o.end()
		if !device.given() {
			device = iid
		}
		device.needs(NeedDevice, in.Device)
		if iid.given() && iids.add(in.IID, iid, "instance-ID") && devices.add(in.Device, device, "device") {
			c.Instances = append(c.Instances, in)
		}
	}
	need := func(what string, e mapping.EID) {
		if slices.ContainsFunc(c.Instances, func(in Instance) bool { return in.IID == e.IID }) {
			return
		}
		if _, listed := iids[e.IID]; v.given() && !listed {
			v.fail("instance-ID %d of the %s %s is not in the list", e.IID, what, text(e))
		}
		v.needs(NeedDevice, deviceName(e.IID))
		c.Instances = append(c.Instances, Instance{IID: e.IID, Device: deviceName(e.IID), LISPSec: c.LISPSec, NoMapping: c.NoMapping})
	}
	for _, m := range c.DatabaseMappings {
		need("database_mapping", m.EID)
	}
	for _, l := range c.Learned {
		need(fromBGP, l.EID())
	}
	for _, e := range c.proxied() {
		need("EID-prefix", e)
	}
	slices.SortFunc(c.Instances, func(a, b Instance) int { return cmp.Compare(a.IID, b.IID) })
}

// deviceName is the device of an instance for which none is configured; the
// largest instance-ID makes it just 15 octets.
func deviceName(iid uint32) string { return fmt.Sprintf("eidolon%d", iid) }

// interfaceName reads a name that Linux gives to an interface.
func (v value) interfaceName(otherwise string) string {
	v.form.is(interfaceForm)
	const want = "an interface name of 1 to 15 printable characters without / : and spaces"
	s, ok := v.text(want)
	if !ok {
		return otherwise
	}
	bad := strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || c == '/' || c == ':' || c == '%' })
	if len(s) < 1 || len(s) > 15 || bad || s == "." || s == ".." {
		v.fail("found %q, expected %s", s, want)
		return otherwise
	}
	return s
}

func (c *XTR) readMapServers(v value, underlay names[netip.Addr]) {
	seen := make(names[netip.AddrPort])
	for _, item := range v.atLeastOne("map-servers, each with address and authentication_key") {
		o, ok := item.object()
		if !ok {
			continue
		}
		address := o.need("address", "the IP address of a map-server")
		ap, apOK := address.addrPort(controlPort, false)
		keys, keysOK := o.registrationKeys()
		m := XTRMapServer{
			Address:          ap,
			Keys:             keys,
			ProxyReply:       o.get("proxy_reply").boolean(false),
			WantMapNotify:    o.get("want_map_notify").boolean(true),
			Merge:            o.get("merge").boolean(false),
			TTLFromRegister:  o.get("ttl_from_register").boolean(false),
			RegisterInterval: o.get("register_interval").duration(5*time.Second, 2*time.Minute, time.Minute),
		}
		for _, d := range c.DatabaseMappings {
			if lasts := time.Duration(d.RecordTTL) * time.Minute; m.TTLFromRegister && m.RegisterInterval >= lasts {
				o.get("register_interval").fail("with ttl_from_register a registration of %v ends after its record_ttl of %v, expected a shorter interval than %v", d.EID, shortDuration(lasts), shortDuration(m.RegisterInterval))
				break
			}
		}
		if len(keys) > 1 && !m.WantMapNotify {
			o.get("authentication_keys").fail("found %d keys without want_map_notify, which tells which of them the map-server has", len(keys))
		}
		o.end()
		if apOK && seen.add(ap, address, "map-server") && keysOK {
			underlay[ap.Addr()] = address
			c.MapServers = append(c.MapServers, m)
		}
	}
}

// registrationKeys reads authentication_key or authentication_keys.
func (o *object) registrationKeys() (keys []auth.Key, ok bool) {
	one, several := o.get("authentication_key"), o.get("authentication_keys")
	if !several.given() {
		key, ok := o.need("authentication_key", wantKey).authenticationKey()
		return []auth.Key{key}, ok
	}
	if one.given() {
		o.fail(several.key, "found both authentication_key and authentication_keys, expected one of them")
		return nil, false
	}
	ok, several.secret = true, true
	seen := make(names[uint8])
	for _, item := range several.atLeastOne("keys, each " + wantKey) {
		k, keyOK := item.authenticationKey()
		keyOK = keyOK && seen.add(k.ID, item, "key_id")
		keys, ok = append(keys, k), ok && keyOK
	}
	return keys, ok && len(keys) > 0
}

func (c *XTR) readMapResolvers(v value, underlay names[netip.Addr]) {
	seen := make(names[netip.AddrPort])
	for _, item := range v.atLeastOne("addresses of map-resolvers") {
		address, key, hasKey := item, auth.WrapKey{}, false
		if _, isMap := item.node.(ast.MapNode); isMap {
			o, _ := item.object()
			address = o.need("address", "the IP address of a map-resolver")
			if k := o.get("lisp_sec_key"); k.given() {
				key, hasKey = k.wrapKey()
			}
			o.end()
		}
		if ap, ok := address.addrPort(controlPort, false); ok && seen.add(ap, address, "map-resolver") {
			underlay[ap.Addr()] = address
			c.MapResolvers = append(c.MapResolvers, ap)
			if hasKey {
				if c.ResolverKeys == nil {
					c.ResolverKeys = make(map[netip.AddrPort]auth.WrapKey)
				}
				c.ResolverKeys[ap] = key
			}
		}
	}
	c.checkLISPSec(seen)
}

// refuseInside reports addresses of the underlay that are inside an EID-prefix
// of the site: packets to them would be encapsulated, for ever.
func (c *XTR) refuseInside(underlay names[netip.Addr]) {
	for a, v := range underlay {
		for _, m := range c.DatabaseMappings {
			if m.EID.Contains(0, a) {
				v.fail("%v is inside the EID-prefix %v of this site, so packets to it would be encapsulated", a, m.EID)
				break
			}
		}
		for _, l := range c.Learned {
			if l.EID().Contains(0, a) {
				v.fail("%v is inside %v of %s, whose addresses are the site's", a, l.EID(), fromBGP)
				break
			}
		}
	}
}

func (c *XTR) readPlane(v value) {
	const routeTable = 4341
	c.Plane = Plane{Kind: "auto", RouteTable: routeTable, SourceCheck: SourceLoose}
	o, ok := v.object()
	if !ok {
		v.needs(NeedPlane, c.Plane.Kind)
		return
	}
	kind := o.get("kind")
	c.Plane.Kind = kind.enum("auto", "tun", "bpf")
	kind.needs(NeedPlane, c.Plane.Kind)
	table := o.get("route_table")
	c.Plane.RouteTable = int(table.integer(1, 1<<31-1, routeTable))
	if c.Plane.RouteTable >= 253 && c.Plane.RouteTable <= 255 {
		table.fail("found %d, a table that the kernel keeps for itself (253 to 255), expected another", c.Plane.RouteTable)
	}
	mtu := o.get("uplink_mtu")
	c.Plane.UplinkMTU = int(mtu.integer(0, 65535, 0))
	// 576 is what every IPv4 host must take (RFC 791 section 3.1).
	if c.Plane.UplinkMTU > 0 && c.Plane.UplinkMTU < 576 {
		mtu.fail("found %d, expected 0 to take it from the interfaces, or a number from 576 to 65535", c.Plane.UplinkMTU)
	}
	c.Plane.SourceCheck = SourceCheck(o.get("source_check").enum(string(SourceLoose), string(SourceOff), string(SourceStrict)))
	c.Plane.MSSClamp = o.get("mss_clamp").boolean(false)
	c.Plane.UnfinishedChecksums = o.get("unfinished_checksums").boolean(false)
	o.end()
}
