package api

import (
	"encoding/hex"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// All conversion between the domain and protobuf is in this file.

// Limits of one record: Locator Count and map-version as they stand on the wire
// (RFC 9301 section 5.4).
const (
	maxLocators   = 255
	maxMapVersion = 1<<12 - 1
	// maxSetMappings bounds the database-mappings that are told of a locator-set.
	maxSetMappings = 256
)

// RecordMessage is a record as the API has it, for who did not get it from the API;
// what it returns shares nothing with r.
func RecordMessage(r *mapping.Record) *eidolonv1.Record { return recordToProto(r) }

// recordToProto converts a record; what it returns shares nothing with r.
func recordToProto(r *mapping.Record) *eidolonv1.Record {
	ttl := r.TTL
	p := &eidolonv1.Record{
		Eid:           r.EID.String(),
		RecordTtl:     &ttl,
		Authoritative: r.Authoritative,
		MapVersion:    uint32(r.Version),
		Locators:      make([]*eidolonv1.Locator, len(r.Locators)),
	}
	if r.Negative() {
		p.Action = eidolonv1.Action(r.Action) + eidolonv1.Action_ACTION_NO_ACTION
	}
	for i, l := range r.Locators {
		p.Locators[i] = locatorToProto(l)
	}
	return p
}

func locatorToProto(l mapping.Locator) *eidolonv1.Locator {
	multicast, reachable := uint32(l.MPriority), l.Flags&mapping.Reachable != 0
	p := &eidolonv1.Locator{
		Opaque:            []byte(l.Opaque),
		Priority:          uint32(l.Priority),
		Weight:            uint32(l.Weight),
		MulticastPriority: &multicast,
		MulticastWeight:   uint32(l.MWeight),
		Reachable:         &reachable,
		Probed:            l.Flags&mapping.Probed != 0,
		Local:             l.Flags&mapping.Local != 0,
	}
	if l.Addr.IsValid() {
		p.Address = l.Addr.String()
	}
	return p
}

// recordFromProto converts and checks a record that somebody wants to put.
func recordFromProto(p *eidolonv1.Record) (*mapping.Record, *fieldError) {
	e, ferr := eidFromProto("eid", p.GetEid())
	if ferr != nil {
		return nil, ferr
	}
	r := &mapping.Record{EID: e, TTL: mapping.DefaultTTL, Authoritative: p.GetAuthoritative()}
	if p.RecordTtl != nil {
		if r.TTL = p.GetRecordTtl(); r.TTL == 0 {
			return nil, badField("record_ttl", "0 would withdraw the record, expected at least 1 minute")
		}
	}
	if v := p.GetMapVersion(); v > maxMapVersion {
		return nil, badField("map_version", "found %d, expected 0 to %d", v, maxMapVersion)
	}
	r.Version = uint16(p.GetMapVersion())
	if n := len(p.GetLocators()); n > maxLocators {
		return nil, badField("locators", "found %d, expected at most %d", n, maxLocators)
	}
	switch a := p.GetAction(); {
	case a < 0 || a > eidolonv1.Action_ACTION_NO_ACTION+mapping.MaxAction:
		return nil, badField("action", "found %d, which is not an action", a)
	case a == eidolonv1.Action_ACTION_UNSPECIFIED:
	case len(p.GetLocators()) > 0:
		return nil, badField("action", "found an action and locators, expected one of them")
	default:
		r.Action = mapping.Action(a - eidolonv1.Action_ACTION_NO_ACTION)
	}
	for i, pl := range p.GetLocators() {
		l, ferr := locatorFromProto(pl)
		if ferr != nil {
			return nil, ferr.within(fmt.Sprintf("locators[%d]", i))
		}
		r.Locators = append(r.Locators, l)
	}
	r.SortLocators()
	for i, l := range r.Locators {
		if i > 0 && r.Locators[i-1].Compare(l) == 0 {
			return nil, badField("locators", "%v is there twice", l)
		}
	}
	return r, nil
}

func locatorFromProto(p *eidolonv1.Locator) (l mapping.Locator, ferr *fieldError) {
	octet := func(field string, v uint32) uint8 {
		if v > 255 && ferr == nil {
			ferr = badField(field, "found %d, expected 0 to 255", v)
		}
		return uint8(v)
	}
	l = mapping.Locator{
		Opaque:    string(p.GetOpaque()),
		Priority:  octet("priority", p.GetPriority()),
		Weight:    octet("weight", p.GetWeight()),
		MPriority: mapping.PriorityUnusable,
		MWeight:   octet("multicast_weight", p.GetMulticastWeight()),
		Flags:     mapping.Reachable,
	}
	if p.MulticastPriority != nil {
		l.MPriority = octet("multicast_priority", p.GetMulticastPriority())
	}
	if p.Reachable != nil && !p.GetReachable() {
		l.Flags = 0
	}
	if p.GetProbed() {
		l.Flags |= mapping.Probed
	}
	if p.GetLocal() {
		l.Flags |= mapping.Local
	}
	if ferr != nil {
		return l, ferr
	}
	if l.Opaque != "" {
		if ferr := checkOpaque(l.Opaque); ferr != nil {
			return l, ferr
		}
		// The address in it is given too where the record was read before.
		a, _, _ := wire.DecodeAddress([]byte(l.Opaque))
		ip, has := a.RLOC()
		if s := p.GetAddress(); s != "" && (!has || s != ip.String()) {
			return l, badField("address", "found %q, which is not the address in opaque, %v", s, a)
		}
		if !has {
			return l, nil
		}
		if err := mapping.ValidRLOC(ip); err != nil {
			return l, badField("opaque", "%w", err)
		}
		l.Addr = ip
		return l, nil
	}
	a, err := netip.ParseAddr(p.GetAddress())
	if err != nil {
		return l, badField("address", "found %q, expected an IPv4 or IPv6 address", p.GetAddress())
	}
	if err := mapping.ValidRLOC(a); err != nil {
		return l, badField("address", "%w", err)
	}
	l.Addr = a
	return l, nil
}

// checkOpaque refuses octets that would not be read back as one address that
// is not a plain one.
func checkOpaque(s string) *fieldError {
	a, n, err := wire.DecodeAddress([]byte(s))
	switch {
	case err != nil:
		return badField("opaque", "%w", err)
	case n != len(s):
		return badField("opaque", "found %d octets after the address", len(s)-n)
	}
	switch a.AFI() {
	case wire.AFIIPv4, wire.AFIIPv6, wire.AFINone:
		return badField("opaque", "found an address of family %v, which is not an opaque locator", a.AFI())
	}
	return nil
}

// eidFromProto reads an EID that must be given.
func eidFromProto(field, s string) (mapping.EID, *fieldError) {
	e, err := mapping.ParseEID(s)
	if err != nil {
		return e, &fieldError{field, err}
	}
	return e, nil
}

// optionalEID reads an EID; the zero EID stands for none.
func optionalEID(field, s string) (mapping.EID, *fieldError) {
	if s == "" {
		return mapping.EID{}, nil
	}
	return eidFromProto(field, s)
}

// timeToProto leaves the zero time unset.
func timeToProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// durationToProto leaves 0 unset.
func durationToProto(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// cacheEntryToProto tells of an entry with the traffic that fib has of it, if any.
func cacheEntryToProto(e mapping.CacheEntry, fib *dataplane.Snapshot) *eidolonv1.MapCacheEntry {
	p := &eidolonv1.MapCacheEntry{
		Record:    recordToProto(e.Record),
		Installed: timeToProto(e.Installed),
		Expires:   timeToProto(e.Expires),
		LastUsed:  timeToProto(e.LastUsed),
	}
	if f := fib.Entry(e.Record.EID); f != nil {
		p.Traffic = trafficToProto(f.Traffic())
	}
	return p
}

func trafficToProto(t dataplane.Traffic) *eidolonv1.Traffic {
	return &eidolonv1.Traffic{PacketsOut: t.PacketsOut, BytesOut: t.BytesOut, PacketsIn: t.PacketsIn, BytesIn: t.BytesIn}
}

func databaseToProto(d xtr.DatabaseStatus) *eidolonv1.DatabaseMapping {
	p := &eidolonv1.DatabaseMapping{
		Record:     recordToProto(&mapping.Record{EID: d.EID, TTL: d.TTL, Authoritative: true, Version: uint16(d.Version), Locators: d.Locators}),
		LocatorSet: d.LocatorSet,
	}
	for _, r := range d.Registrations {
		p.Registrations = append(p.Registrations, &eidolonv1.DatabaseRegistration{
			MapServer:     r.MapServer.String(),
			State:         registrationStateToProto(r.State),
			LastSent:      timeToProto(r.LastSent),
			LastNotify:    timeToProto(r.LastNotify),
			Next:          timeToProto(r.Next),
			Failures:      uint32(r.Failures),
			RoundTripTime: durationToProto(r.RTT),
		})
	}
	return p
}

func registrationStateToProto(s xtr.RegistrationState) eidolonv1.RegistrationState {
	switch s {
	case xtr.RegistrationPending:
		return eidolonv1.RegistrationState_REGISTRATION_STATE_PENDING
	case xtr.RegistrationRegistered:
		return eidolonv1.RegistrationState_REGISTRATION_STATE_REGISTERED
	case xtr.RegistrationUnconfirmed:
		return eidolonv1.RegistrationState_REGISTRATION_STATE_UNCONFIRMED
	case xtr.RegistrationSent:
		return eidolonv1.RegistrationState_REGISTRATION_STATE_SENT
	case xtr.RegistrationWithdrawn:
		return eidolonv1.RegistrationState_REGISTRATION_STATE_WITHDRAWN
	}
	return eidolonv1.RegistrationState_REGISTRATION_STATE_UNSPECIFIED
}

func mapServerToProto(s xtr.MapServerStatus) *eidolonv1.MapServer {
	return &eidolonv1.MapServer{
		Address:          s.Addr.String(),
		Registered:       uint32(s.Registered),
		DatabaseMappings: uint32(s.Databases),
		LastSent:         timeToProto(s.LastSent),
		LastNotify:       timeToProto(s.LastNotify),
		Failures:         uint32(s.Failures),
		RoundTripTime:    durationToProto(s.RTT),
	}
}

func mapResolverToProto(s xtr.MapResolverStatus) *eidolonv1.MapResolver {
	return &eidolonv1.MapResolver{
		Address:       s.Addr.String(),
		Up:            s.Up,
		Requests:      s.Requests,
		Replies:       s.Replies,
		Timeouts:      s.Timeouts,
		Failures:      uint32(s.Failures),
		RoundTripTime: durationToProto(s.RTT),
		LastReply:     timeToProto(s.LastReply),
	}
}

// originWanted checks an origin that a list is filtered by.
func originWanted(o eidolonv1.MappingOrigin) *fieldError {
	if _, ok := eidolonv1.MappingOrigin_name[int32(o)]; !ok {
		return badField("origin", "found %d, which is no origin", o)
	}
	return nil
}

func originToProto(o server.Origin) eidolonv1.MappingOrigin {
	switch o {
	case server.OriginStatic:
		return eidolonv1.MappingOrigin_MAPPING_ORIGIN_STATIC
	case server.OriginRegistered:
		return eidolonv1.MappingOrigin_MAPPING_ORIGIN_REGISTERED
	case server.OriginAPI:
		return eidolonv1.MappingOrigin_MAPPING_ORIGIN_API
	case server.OriginNone:
		return eidolonv1.MappingOrigin_MAPPING_ORIGIN_NONE
	}
	return eidolonv1.MappingOrigin_MAPPING_ORIGIN_UNSPECIFIED
}

func mappingToProto(st server.MappingStatus) *eidolonv1.Mapping {
	return &eidolonv1.Mapping{
		Record:        recordToProto(st.Record),
		Origin:        originToProto(st.Origin),
		Site:          st.Site,
		Forwarded:     st.Forwarded,
		Registrations: registrationsToProto(st),
		PutRevision:   st.PutRevision,
	}
}

func registrationsToProto(st server.MappingStatus) []*eidolonv1.Registration {
	var out []*eidolonv1.Registration
	for _, r := range st.Registrants {
		p := &eidolonv1.Registration{
			Site:       st.Site,
			SiteId:     r.By.SiteID,
			Record:     recordToProto(r.Record),
			ProxyReply: r.Flags&mapping.ProxyReply != 0,
			Merge:      r.Flags&mapping.MergeSet != 0,
			Changed:    timeToProto(r.Since),
			Refreshed:  timeToProto(r.LastRegistration),
			Expires:    timeToProto(r.Expires),
		}
		if r.By.XTRID != (mapping.XTRID{}) {
			p.XtrId = fmt.Sprintf("%x", r.By.XTRID[:])
		}
		if r.From.IsValid() {
			p.From = r.From.String()
		}
		out = append(out, p)
	}
	return out
}

// siteToProto converts all but the EID-prefixes.
func siteToProto(st server.SiteStatus) *eidolonv1.Site {
	out := &eidolonv1.Site{
		Name:             st.Name,
		Registrations:    uint32(st.Registrations),
		MaxRegistrations: uint32(st.MaxRegistrations),
		LastRegistration: timeToProto(st.LastRegistration),
		Accepted:         st.Accepted,
		AuthFailures:     st.AuthFailures,
		Refused:          st.Refused,
		Origin:           eidolonv1.SiteOrigin_SITE_ORIGIN_CONFIGURATION,
		MinimumAlgorithm: eidolonv1.AuthenticationAlgorithm(st.MinAlgorithm),
		PutRevision:      st.Put,
		Shadowed:         st.Shadowed,
	}
	if st.Put != 0 {
		out.Origin = eidolonv1.SiteOrigin_SITE_ORIGIN_API
	}
	for _, k := range st.Keys {
		out.Keys = append(out.Keys, &eidolonv1.SiteKey{KeyId: uint32(k.ID), Algorithm: eidolonv1.AuthenticationAlgorithm(k.Algorithm)})
	}
	for _, id := range st.XTRIDs {
		out.XtrIds = append(out.XtrIds, id.String())
	}
	return out
}

// siteFromProto converts a site that is put. Keys may be missing.
func siteFromProto(req *eidolonv1.PutSiteRequest) (*server.Site, *fieldError) {
	x := &server.Site{Name: req.GetName()}
	n := req.GetMaxRegistrations()
	if n > math.MaxInt32 {
		return nil, badField("max_registrations", "%d is more than %d", n, math.MaxInt32)
	}
	x.MaxRegistrations = int(n)
	var ferr *fieldError
	if x.MinAlgorithm, ferr = algorithmFromProto("minimum_algorithm", req.GetMinimumAlgorithm(), auth.DefaultMinimum); ferr != nil {
		return nil, ferr
	}
	for i, p := range req.GetPrefixes() {
		sp, ferr := sitePrefixFromProto(p)
		if ferr != nil {
			return nil, ferr.within(fmt.Sprintf("prefixes[%d]", i))
		}
		x.Prefixes = append(x.Prefixes, sp)
	}
	for i, k := range req.GetKeys() {
		key, ferr := keyFromProto(k)
		if ferr != nil {
			return nil, ferr.within(fmt.Sprintf("keys[%d]", i))
		}
		x.Keys = append(x.Keys, key)
	}
	for i, text := range req.GetXtrIds() {
		var id mapping.XTRID
		b, err := hex.DecodeString(text)
		if err != nil || len(b) != len(id) || mapping.XTRID(b) == id {
			return nil, badField(fmt.Sprintf("xtr_ids[%d]", i), "found %q, expected 32 hexadecimal digits that are not all 0", text)
		}
		x.XTRIDs = append(x.XTRIDs, mapping.XTRID(b))
	}
	return x, nil
}

func algorithmFromProto(field string, a eidolonv1.AuthenticationAlgorithm, otherwise auth.Algorithm) (auth.Algorithm, *fieldError) {
	if a == 0 {
		return otherwise, nil
	}
	if _, ok := eidolonv1.AuthenticationAlgorithm_name[int32(a)]; !ok {
		return 0, badField(field, "%d is not known", a)
	}
	return auth.Algorithm(a), nil
}

// keyFromProto says nothing of the secret in its errors.
func keyFromProto(k *eidolonv1.AuthenticationKey) (key auth.Key, ferr *fieldError) {
	if k.GetKeyId() > math.MaxUint8 {
		return key, badField("key_id", "%d is more than 255", k.GetKeyId())
	}
	if k.GetSecret() == "" {
		return key, badField("secret", "it is required")
	}
	key = auth.Key{ID: uint8(k.GetKeyId()), Secret: []byte(k.GetSecret())}
	key.Algorithm, ferr = algorithmFromProto("algorithm", k.GetAlgorithm(), auth.SHA256HKDF)
	return key, ferr
}

func sitePrefixFromProto(p *eidolonv1.SitePrefix) (out server.SitePrefix, ferr *fieldError) {
	e, ferr := eidFromProto("eid", p.GetEid())
	if ferr != nil {
		return out, ferr
	}
	out = server.SitePrefix{EID: e, AcceptMoreSpecifics: p.GetAcceptMoreSpecifics()}
	// The values come in the order of the server's own, after an unspecified one
	// that stands for the first.
	reply, request := p.GetProxyReply(), p.GetRequestPolicy()
	switch {
	case reply < 0 || reply > eidolonv1.ProxyReplyPolicy_PROXY_REPLY_POLICY_NEVER:
		return out, badField("proxy_reply", "%d is not known", reply)
	case request < 0 || request > eidolonv1.RequestPolicy_REQUEST_POLICY_DENY_TEMPORARILY:
		return out, badField("request_policy", "%d is not known", request)
	}
	out.ProxyReply, out.Requests = server.ProxyPolicy(max(reply, 1)-1), server.RequestPolicy(max(request, 1)-1)
	return out, nil
}

func sitePrefixToProto(p server.PrefixStatus) *eidolonv1.SitePrefix {
	out := &eidolonv1.SitePrefix{Eid: p.EID.String(), AcceptMoreSpecifics: p.AcceptMoreSpecifics, Registered: uint32(p.Registered)}
	switch p.ProxyReply {
	case server.ProxyAsRegistered:
		out.ProxyReply = eidolonv1.ProxyReplyPolicy_PROXY_REPLY_POLICY_AS_REGISTERED
	case server.ProxyAlways:
		out.ProxyReply = eidolonv1.ProxyReplyPolicy_PROXY_REPLY_POLICY_ALWAYS
	case server.ProxyNever:
		out.ProxyReply = eidolonv1.ProxyReplyPolicy_PROXY_REPLY_POLICY_NEVER
	}
	switch p.Requests {
	case server.RequestsAllowed:
		out.RequestPolicy = eidolonv1.RequestPolicy_REQUEST_POLICY_ALLOW
	case server.RequestsDenied:
		out.RequestPolicy = eidolonv1.RequestPolicy_REQUEST_POLICY_DENY
	case server.RequestsPostponed:
		out.RequestPolicy = eidolonv1.RequestPolicy_REQUEST_POLICY_DENY_TEMPORARILY
	}
	return out
}

// batchFromProto converts and checks records that are to be put together.
func batchFromProto(ps []*eidolonv1.Record) ([]*mapping.Record, *fieldError) {
	if n := len(ps); n < 1 || n > maxBatch {
		return nil, badField("records", "found %d, expected 1 to %d", n, maxBatch)
	}
	recs := make([]*mapping.Record, len(ps))
	first := make(map[mapping.EID]int, len(ps))
	for i, p := range ps {
		r, ferr := recordFromProto(p)
		if ferr != nil {
			return nil, ferr.within(fmt.Sprintf("records[%d]", i))
		}
		if j, twice := first[r.EID]; twice {
			return nil, badField(fmt.Sprintf("records[%d].eid", i), "%v is in the batch twice, first as records[%d]", r.EID, j)
		}
		first[r.EID] = i
		recs[i] = r
	}
	return recs, nil
}

func explanationToProto(x server.Explanation) *eidolonv1.ExplainMappingResponse {
	p := &eidolonv1.ExplainMappingResponse{Eid: x.EID.String(), Site: x.Site, Reasons: x.Reasons}
	if x.Prefix.EID.IsValid() {
		p.SitePrefix = sitePrefixToProto(x.Prefix)
	}
	if x.Matched {
		p.Mapping = mappingToProto(x.Match)
	}
	switch x.Outcome {
	case server.OutcomeReply:
		p.Outcome = eidolonv1.MapRequestOutcome_MAP_REQUEST_OUTCOME_REPLY
	case server.OutcomeForward:
		p.Outcome = eidolonv1.MapRequestOutcome_MAP_REQUEST_OUTCOME_FORWARD
	case server.OutcomeNegative:
		p.Outcome = eidolonv1.MapRequestOutcome_MAP_REQUEST_OUTCOME_NEGATIVE
	case server.OutcomeALT:
		p.Outcome = eidolonv1.MapRequestOutcome_MAP_REQUEST_OUTCOME_ALT
	}
	for _, r := range x.Records {
		p.Records = append(p.Records, recordToProto(r))
	}
	for _, a := range x.ETRs {
		p.Etrs = append(p.Etrs, a.String())
	}
	for _, st := range x.Subscriptions {
		p.Subscriptions = append(p.Subscriptions, subscriptionToProto(st))
	}
	return p
}

func subscriptionToProto(st server.SubscriptionStatus) *eidolonv1.Subscription {
	p := &eidolonv1.Subscription{
		Eid:     st.EID.String(),
		XtrId:   fmt.Sprintf("%x", st.XTRID[:]),
		SiteId:  st.SiteID,
		Since:   timeToProto(st.Since),
		Until:   timeToProto(st.Until),
		Waiting: uint32(st.Waiting),
	}
	for _, a := range st.ITRRLOCs {
		p.ItrRlocs = append(p.ItrRlocs, a.String())
	}
	return p
}

// flowToProto puts together what the control plane knows of a flow's
// destination, what the data plane does, and what probing found.
func flowToProto(k encap.Key, known xtr.Explanation, d dataplane.Decision, probed []xtr.RLOCStatus, fib *dataplane.Snapshot) *eidolonv1.ExplainFlowResponse {
	p := &eidolonv1.ExplainFlowResponse{Unresolvable: known.Unresolvable, Slots: dataplane.Slots, Slot: uint32(d.Slot)}
	if known.Own {
		p.DatabaseMapping = databaseToProto(known.Database)
	}
	if known.Cached {
		p.Entry = cacheEntryToProto(known.Entry, fib)
	}
	if known.Resolving {
		r := known.Resolution
		p.Resolution = &eidolonv1.PendingResolution{Eid: r.EID.String(), Tries: uint32(r.Tries), GivenUp: r.GivenUp, Next: timeToProto(r.Next)}
	}
	if d.Drop != dataplane.NotDropped {
		p.Drop = d.Drop.String()
	}
	for _, u := range d.Locators {
		pu := &eidolonv1.LocatorUse{Locator: locatorToProto(u.Locator), Slots: uint32(u.Slots), Reason: u.Why}
		if i := slices.IndexFunc(probed, func(r xtr.RLOCStatus) bool { return r.Addr == u.Locator.Addr }); i >= 0 {
			pu.RemoteLocator = remoteLocatorToProto(probed[i])
			// The plane was given the locator with the R bit off, which
			// in the mapping it may not be.
			if u.Slots == 0 && !probed[i].Up && cachedReachable(known, u.Locator.Addr) {
				pu.Locator.Reachable = proto.Bool(true)
				pu.Reason = fmt.Sprintf("it does not answer probes, %d in a row", probed[i].Failures)
			}
		}
		p.Locators = append(p.Locators, pu)
	}
	if k.Src.IsValid() {
		hash := k.Hash()
		p.FlowHash = &hash
	}
	if d.RLOC != nil {
		p.Rloc = d.RLOC.Addr().String()
		if d.Source.IsValid() {
			p.SourceRloc = d.Source.String()
		}
		p.PathMtu, p.Room = uint32(d.RLOC.MTU()), uint32(d.RLOC.Room())
	}
	return p
}

// cachedReachable reports whether the map-cache entry says that a locator is
// reachable.
func cachedReachable(known xtr.Explanation, a netip.Addr) bool {
	return known.Cached && slices.ContainsFunc(known.Entry.Record.Locators, func(l mapping.Locator) bool {
		return l.Addr == a && l.Flags&mapping.Reachable != 0
	})
}

func remoteLocatorToProto(r xtr.RLOCStatus) *eidolonv1.RemoteLocator {
	p := &eidolonv1.RemoteLocator{
		Address:       r.Addr.String(),
		Up:            r.Up,
		Failures:      uint32(r.Failures),
		Probes:        r.Probes,
		Replies:       r.Replies,
		LastProbe:     timeToProto(r.LastProbe),
		LastReply:     timeToProto(r.LastReply),
		LastUsed:      timeToProto(r.LastUsed),
		RoundTripTime: durationToProto(r.RTT),
	}
	for _, w := range r.Paths {
		p.Paths = append(p.Paths, &eidolonv1.LocatorPath{
			Local:         w.Local.String(),
			Up:            w.Up,
			Failures:      uint32(w.Failures),
			LastProbe:     timeToProto(w.LastProbe),
			LastReply:     timeToProto(w.LastReply),
			RoundTripTime: durationToProto(w.RTT),
		})
	}
	return p
}

var localLocatorStates = map[xtr.LocatorState]eidolonv1.LocalLocatorState{
	xtr.LocatorUp:        eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_UP,
	xtr.LocatorNoCarrier: eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_NO_CARRIER,
	xtr.LocatorDead:      eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_DEAD,
	xtr.LocatorHeld:      eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_HELD,
	xtr.LocatorGone:      eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_GONE,
}

func localLocatorsToProto(list []xtr.LocalLocator, fib *dataplane.Snapshot) []*eidolonv1.LocalLocator {
	out := make([]*eidolonv1.LocalLocator, len(list))
	for i, l := range list {
		out[i] = &eidolonv1.LocalLocator{
			Address:     l.Addr.String(),
			Interface:   l.Uplink,
			State:       localLocatorStates[l.State],
			HeldUntil:   timeToProto(l.Held),
			Flaps:       uint32(l.Flaps),
			LastLeft:    timeToProto(l.Left),
			Drained:     l.Drained,
			SetPriority: octetToProto(l.SetPriority),
			SetWeight:   octetToProto(l.SetWeight),
			Priority:    uint32(l.Priority),
			Weight:      uint32(l.Weight),
			Paths:       uint32(l.Paths),
			PathsDown:   uint32(l.PathsDown),
			LastReply:   timeToProto(l.LastReply),
			Traffic:     trafficToProto(fib.LocalTraffic(l.Addr)),
		}
	}
	return out
}

func locatorSetToProto(s xtr.LocatorSetStatus) *eidolonv1.LocatorSet {
	p := &eidolonv1.LocatorSet{Name: s.Name, DatabaseMappingCount: uint32(len(s.Databases))}
	for _, m := range s.Members {
		o := &eidolonv1.LocatorSetMember{Locator: locatorToProto(m.Locator), Interface: m.Uplink}
		if m.Here {
			o.State = localLocatorStates[m.State]
		}
		p.Locators = append(p.Locators, o)
	}
	for _, e := range s.Databases[:min(len(s.Databases), maxSetMappings)] {
		p.DatabaseMappings = append(p.DatabaseMappings, e.String())
	}
	return p
}

// octetToProto leaves nil unset.
func octetToProto(v *uint8) *uint32 {
	if v == nil {
		return nil
	}
	return proto.Uint32(uint32(*v))
}

// optionalOctet reads a number of 0 to 255; nil stands for none.
func optionalOctet(field string, v *uint32) (*uint8, *fieldError) {
	if v == nil {
		return nil, nil
	}
	if *v > 255 {
		return nil, badField(field, "found %d, expected 0 to 255", *v)
	}
	o := uint8(*v)
	return &o, nil
}

// optionalRecord leaves a record that is not there unset.
func optionalRecord(r *mapping.Record) *eidolonv1.Record {
	if r == nil {
		return nil
	}
	return recordToProto(r)
}

var serverEventKinds = map[server.EventKind]eidolonv1.EventKind{
	server.EventRegistered:   eidolonv1.EventKind_EVENT_KIND_REGISTERED,
	server.EventChanged:      eidolonv1.EventKind_EVENT_KIND_REGISTRATION_CHANGED,
	server.EventWithdrawn:    eidolonv1.EventKind_EVENT_KIND_WITHDRAWN,
	server.EventExpired:      eidolonv1.EventKind_EVENT_KIND_EXPIRED,
	server.EventPut:          eidolonv1.EventKind_EVENT_KIND_PUT,
	server.EventDeleted:      eidolonv1.EventKind_EVENT_KIND_DELETED,
	server.EventSubscribed:   eidolonv1.EventKind_EVENT_KIND_SUBSCRIBED,
	server.EventUnsubscribed: eidolonv1.EventKind_EVENT_KIND_UNSUBSCRIBED,
	server.EventPublished:    eidolonv1.EventKind_EVENT_KIND_PUBLISHED,
	server.EventRefused:      eidolonv1.EventKind_EVENT_KIND_REGISTRATION_REFUSED,
}

func serverEventToProto(e server.Event) *eidolonv1.Event {
	p := &eidolonv1.Event{
		Time:       timeToProto(e.Time),
		Kind:       serverEventKinds[e.Kind],
		Site:       e.Site,
		Record:     optionalRecord(e.Record),
		Previous:   optionalRecord(e.Previous),
		Reason:     e.Reason,
		Suppressed: e.Suppressed,
	}
	if e.EID.IsValid() {
		p.Eid = e.EID.String()
	}
	if e.By != (mapping.Registrant{}) {
		p.Registrant = e.By.String()
	}
	if e.Peer.IsValid() {
		p.Peer = e.Peer.String()
	}
	return p
}

var routerEventKinds = map[xtr.EventKind]eidolonv1.EventKind{
	xtr.EventInstalled: eidolonv1.EventKind_EVENT_KIND_CACHE_INSTALLED,
	xtr.EventRemoved:   eidolonv1.EventKind_EVENT_KIND_CACHE_REMOVED,
	xtr.EventConfirmed: eidolonv1.EventKind_EVENT_KIND_REGISTRATION_CONFIRMED,
	xtr.EventLost:      eidolonv1.EventKind_EVENT_KIND_REGISTRATION_LOST,
	xtr.EventSMR:       eidolonv1.EventKind_EVENT_KIND_SMR_RECEIVED,
	xtr.EventUp:        eidolonv1.EventKind_EVENT_KIND_RLOC_UP,
	xtr.EventDown:      eidolonv1.EventKind_EVENT_KIND_RLOC_DOWN,
	xtr.EventLocator:   eidolonv1.EventKind_EVENT_KIND_LOCATOR_CHANGED,
}

func routerEventToProto(e xtr.Event) *eidolonv1.Event {
	p := &eidolonv1.Event{
		Time:     timeToProto(e.Time),
		Kind:     routerEventKinds[e.Kind],
		Record:   optionalRecord(e.Record),
		Previous: optionalRecord(e.Previous),
		Reason:   e.Reason,
	}
	if e.EID.IsValid() {
		p.Eid = e.EID.String()
	}
	switch {
	case e.Peer.IsValid():
		p.Peer = e.Peer.String()
	case e.RLOC.IsValid():
		p.Peer = e.RLOC.String()
	}
	return p
}
