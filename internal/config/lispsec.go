package config

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

// LISPSec is how a map-server has Map-Requests protected (RFC 9303).
type LISPSec struct {
	// Policy is that of all instances but those in Instances.
	Policy    auth.SecurityPolicy
	Instances map[uint32]auth.SecurityPolicy
	// Keys are shared with ITRs, and none is that of a site.
	Keys []auth.WrapKey `json:"-"`
	// AcceptUnwrappedFrom are the map-resolvers whose one-time keys need not
	// be wrapped.
	AcceptUnwrappedFrom []netip.Prefix
}

const wantWrapKey = "a mapping with key_id, and key or key_file"

// wrapKey reads a key to wrap one-time keys with.
func (v value) wrapKey() (k auth.WrapKey, ok bool) {
	v.secret = true
	o, ok := v.object()
	if !ok {
		return k, false
	}
	before := len(v.r.errors)
	k.ID = uint8(o.need("key_id", "a number from 0 to 255").integer(0, 255, 0))
	k.Secret = o.secret()
	o.end()
	return k, len(v.r.errors) == before
}

// policy reads a LISP-SEC policy.
func (v value) policy(otherwise auth.SecurityPolicy) auth.SecurityPolicy {
	all := []auth.SecurityPolicy{otherwise}
	for p := auth.SecurityOff; p <= auth.SecurityRequired; p++ {
		if p != otherwise {
			all = append(all, p)
		}
	}
	var list []string
	for _, p := range all {
		list = append(list, p.String())
	}
	p, err := auth.ParseSecurityPolicy(v.enum(list...))
	if err != nil {
		return otherwise
	}
	return p
}

// readLISPSec reads the map-server's lisp_sec. It runs after the sites were
// read. With a key, protection is preferred unless something else is said.
func (c *MapServer) readLISPSec(v value) {
	o, ok := v.object()
	if !ok {
		return
	}
	l := &c.LISPSec
	ids := make(names[uint8])
	keys := o.get("keys")
	keys.secret = true
	for _, item := range keys.list("keys shared with ITRs, each " + wantWrapKey) {
		k, ok := item.wrapKey()
		if !ok || !ids.add(k.ID, item, "key_id") {
			continue
		}
		for _, s := range c.Sites {
			if slices.ContainsFunc(s.Keys, func(x auth.Key) bool { return bytes.Equal(x.Secret, k.Secret) }) {
				item.fail("the key is an authentication_key of site %q too; the two must be independent", s.Name)
			}
		}
		l.Keys = append(l.Keys, k)
	}
	for _, item := range o.get("accept_unwrapped_from").list("addresses or prefixes of map-resolvers") {
		if p, ok := item.prefix(); ok {
			l.AcceptUnwrappedFrom = append(l.AcceptUnwrappedFrom, p)
		}
	}
	usable := len(l.Keys)+len(l.AcceptUnwrappedFrom) > 0
	otherwise := auth.SecurityOff
	if usable {
		otherwise = auth.SecurityPreferred
	}
	policy := o.get("policy")
	l.Policy = policy.policy(otherwise)
	policy.form.otherwise("") // which depends on the keys
	on := policy
	seen := make(names[uint32])
	for _, item := range o.get("instances").list("instances, each with iid and policy") {
		in, ok := item.object()
		if !ok {
			continue
		}
		at := in.need("iid", fmt.Sprintf("a number from 0 to %d", mapping.MaxIID))
		iid := at.instanceID()
		p := in.need("policy", "off, preferred or required")
		if seen.add(iid, at, "instance-ID") {
			if l.Instances == nil {
				l.Instances = make(map[uint32]auth.SecurityPolicy)
			}
			l.Instances[iid] = p.policy(auth.SecurityOff)
			if l.Instances[iid] != auth.SecurityOff {
				on = p
			}
		}
		in.end()
	}
	strictest := l.Policy
	for _, p := range l.Instances {
		strictest = max(strictest, p)
	}
	if strictest != auth.SecurityOff && !usable && len(v.r.errors) == 0 {
		on.fail("there are no keys to unwrap the keys of ITRs with, expected some in lisp_sec.keys")
	}
	o.end()
}

// prefix reads an address or a prefix of the underlay.
func (v value) prefix() (netip.Prefix, bool) {
	v.form.is(prefixForm)
	const want = "an IP address or a prefix such as 203.0.113.0/24"
	s, ok := v.text(want)
	if !ok {
		return netip.Prefix{}, false
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		v.fail("found %q, expected %s", s, want)
	case p != p.Masked():
		v.fail("found %q, which has host bits set; expected %v", s, p.Masked())
	default:
		return p, true
	}
	return netip.Prefix{}, false
}

// checkLISPSec compares the policies of an xTR with the keys of its
// map-resolvers, which stand at the given places.
func (c *XTR) checkLISPSec(resolvers names[netip.AddrPort]) {
	strictest := c.LISPSec
	for _, in := range c.Instances {
		strictest = max(strictest, in.LISPSec)
	}
	for _, a := range c.MapResolvers {
		k, ok := c.ResolverKeys[a]
		switch at := resolvers[a]; {
		case !ok && strictest == auth.SecurityRequired:
			at.fail("lisp_sec is required, and there is no lisp_sec_key; expected {address: %v, lisp_sec_key: {...}}", a.Addr())
		case ok && strictest == auth.SecurityOff:
			at.warn("lisp_sec_key is not used: lisp_sec is off")
		case ok:
			for _, m := range c.MapServers {
				if slices.ContainsFunc(m.Keys, func(x auth.Key) bool { return bytes.Equal(x.Secret, k.Secret) }) {
					at.fail("the lisp_sec_key is an authentication_key of map-server %v too; the two must be independent", m.Address.Addr())
				}
			}
		}
	}
	if len(c.ResolverKeys) == 0 && strictest == auth.SecurityPreferred && len(c.MapResolvers) > 0 {
		resolvers[c.MapResolvers[0]].warn("lisp_sec is preferred, but no map-resolver has a lisp_sec_key: Map-Requests are not protected")
	}
}
