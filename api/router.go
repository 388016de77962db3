package api

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/internal/fanout"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// XTR is what the RouterService needs of an xTR; *xtr.XTR has it. The methods
// are called from several goroutines.
type XTR interface {
	Databases() []xtr.DatabaseStatus
	LocatorSets() []xtr.LocatorSetStatus
	MapServers() []xtr.MapServerStatus
	MapResolvers() []xtr.MapResolverStatus
	// MapCache returns entries whose records are shared and not changed.
	MapCache() []mapping.CacheEntry
	Lookup(iid uint32, dst netip.Addr) (mapping.CacheEntry, bool)
	Clear(eid mapping.EID) (found bool)
	// RLOCs returns the locators that are probed, ascending.
	RLOCs() []xtr.RLOCStatus
	// LocalLocators returns the RLOCs of the router itself.
	LocalLocators() []xtr.LocalLocator
	// DrainLocator and SetLocator fail with xtr.ErrNoLocator.
	DrainLocator(name string, drain bool) error
	SetLocator(name string, priority, weight *uint8) error
	// Explain tells what is known about a destination.
	Explain(iid uint32, dst netip.Addr) xtr.Explanation
	// Watch subscribes to what happens.
	Watch(queue int) (*fanout.Subscription[xtr.Event], error)
}

// Forwarding is the forwarding table of an xTR; *dataplane.FIB has it.
type Forwarding interface {
	Snapshot() *dataplane.Snapshot
	// RLOCs returns the locators that mappings use, ascending.
	RLOCs() iter.Seq[*dataplane.RLOC]
}

var _ XTR = (*xtr.XTR)(nil)

type router struct {
	eidolonv1.UnimplementedRouterServiceServer
	xtr XTR
	fib Forwarding
	// steering is held while orders change, so that the audit log knows what was
	// there before.
	steering sync.Mutex
}

// Router is the RouterService of an xTR that forwards by fib.
func Router(x XTR, fib Forwarding) Service { return &router{xtr: x, fib: fib} }

func (s *router) register(r grpc.ServiceRegistrar) { eidolonv1.RegisterRouterServiceServer(r, s) }

// related reports whether one of two EIDs lies inside the other; the zero EID
// stands for all.
func related(filter, e mapping.EID) bool {
	return !filter.IsValid() || filter.Covers(e) || e.Covers(filter)
}

func (s *router) ListDatabaseMappings(_ context.Context, req *eidolonv1.ListDatabaseMappingsRequest) (*eidolonv1.ListDatabaseMappingsResponse, error) {
	filter, ferr := optionalEID("eid", req.GetEid())
	if ferr != nil {
		return nil, invalid(ferr)
	}
	list := slices.DeleteFunc(s.xtr.Databases(), func(d xtr.DatabaseStatus) bool { return !related(filter, d.EID) })
	resp := new(eidolonv1.ListDatabaseMappingsResponse)
	var err error
	resp.DatabaseMappings, resp.NextPageToken, err = listed(req, filter.String(), eidKeys(func(d xtr.DatabaseStatus) mapping.EID { return d.EID }), list, databaseToProto)
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (s *router) ListLocatorSets(_ context.Context, req *eidolonv1.ListLocatorSetsRequest) (*eidolonv1.ListLocatorSetsResponse, error) {
	list := s.xtr.LocatorSets()
	if name := req.GetName(); name != "" {
		list = slices.DeleteFunc(list, func(l xtr.LocatorSetStatus) bool { return l.Name != name })
		if len(list) == 0 {
			return nil, notFound("name", "there is no locator-set %q", name)
		}
	}
	resp := new(eidolonv1.ListLocatorSetsResponse)
	var err error
	resp.LocatorSets, resp.NextPageToken, err = page(req, req.GetName(), locatorSetKeys, list, locatorSetToProto)
	if err != nil {
		return nil, err
	}
	return resp, nil
}

var locatorSetKeys = keys[xtr.LocatorSetStatus, string]{
	of:      func(s xtr.LocatorSetStatus) string { return s.Name },
	compare: strings.Compare,
	text:    func(s string) string { return s },
	parse:   func(s string) (string, error) { return s, nil },
}

func (s *router) ListMapServers(context.Context, *eidolonv1.ListMapServersRequest) (*eidolonv1.ListMapServersResponse, error) {
	resp := new(eidolonv1.ListMapServersResponse)
	for _, m := range s.xtr.MapServers() {
		resp.MapServers = append(resp.MapServers, mapServerToProto(m))
	}
	return resp, nil
}

func (s *router) ListMapResolvers(context.Context, *eidolonv1.ListMapResolversRequest) (*eidolonv1.ListMapResolversResponse, error) {
	resp := new(eidolonv1.ListMapResolversResponse)
	for _, m := range s.xtr.MapResolvers() {
		resp.MapResolvers = append(resp.MapResolvers, mapResolverToProto(m))
	}
	return resp, nil
}

func (s *router) ListMapCache(req *eidolonv1.ListMapCacheRequest, stream grpc.ServerStreamingServer[eidolonv1.ListMapCacheResponse]) error {
	filter, ferr := optionalEID("eid", req.GetEid())
	if ferr != nil {
		return invalid(ferr)
	}
	entries, fib := s.xtr.MapCache(), s.fib.Snapshot()
	out := batches[*eidolonv1.MapCacheEntry]{send: func(list []*eidolonv1.MapCacheEntry) error {
		return stream.Send(&eidolonv1.ListMapCacheResponse{Entries: list})
	}}
	for _, e := range entries {
		if related(filter, e.Record.EID) {
			if err := out.add(cacheEntryToProto(e, fib)); err != nil {
				return err
			}
		}
	}
	return out.flush()
}

func (s *router) LookupMapCache(_ context.Context, req *eidolonv1.LookupMapCacheRequest) (*eidolonv1.LookupMapCacheResponse, error) {
	e, ferr := eidFromProto("eid", req.GetEid())
	if ferr != nil {
		return nil, invalid(ferr)
	}
	if !e.IsHost() {
		return nil, invalid(badField("eid", "found the prefix %v, expected an address, which packets are sent to", e))
	}
	if entry, ok := s.xtr.Lookup(e.IID, e.Prefix.Addr()); ok {
		return &eidolonv1.LookupMapCacheResponse{Entry: cacheEntryToProto(entry, s.fib.Snapshot())}, nil
	}
	return nil, notFound("eid", "no map-cache entry holds %v", e)
}

func (s *router) ClearMapCache(ctx context.Context, req *eidolonv1.ClearMapCacheRequest) (*eidolonv1.ClearMapCacheResponse, error) {
	within, ferr := optionalEID("within", req.GetWithin())
	if ferr != nil {
		return nil, invalid(ferr)
	}
	resp := new(eidolonv1.ClearMapCacheResponse)
	for _, e := range s.xtr.MapCache() {
		if (!within.IsValid() || within.Covers(e.Record.EID)) && s.xtr.Clear(e.Record.EID) {
			resp.Removed++
		}
	}
	what := "map-cache"
	if within.IsValid() {
		what += " within " + within.String()
	}
	type entries struct {
		Entries uint32 `json:"entries"`
	}
	callOf(ctx).changed(what, entries{resp.Removed}, entries{})
	return resp, nil
}

func (s *router) ExplainFlow(_ context.Context, req *eidolonv1.ExplainFlowRequest) (*eidolonv1.ExplainFlowResponse, error) {
	iid, key, ferr := flowFromProto(req)
	if ferr != nil {
		return nil, invalid(ferr)
	}
	known, fib := s.xtr.Explain(iid, key.Dst), s.fib.Snapshot()
	return flowToProto(key, known, fib.Explain(iid, key, time.Now()), s.xtr.RLOCs(), fib), nil
}

func (s *router) ListRemoteLocators(_ context.Context, req *eidolonv1.ListRemoteLocatorsRequest) (*eidolonv1.ListRemoteLocatorsResponse, error) {
	resp := new(eidolonv1.ListRemoteLocatorsResponse)
	var err error
	resp.RemoteLocators, resp.NextPageToken, err = listed(req, "", remoteLocatorKeys, s.remoteLocators(), func(l *eidolonv1.RemoteLocator) *eidolonv1.RemoteLocator { return l })
	if err != nil {
		return nil, err
	}
	return resp, nil
}

var remoteLocatorKeys = keys[*eidolonv1.RemoteLocator, netip.Addr]{
	of:      func(l *eidolonv1.RemoteLocator) netip.Addr { return netip.MustParseAddr(l.GetAddress()) },
	compare: netip.Addr.Compare,
	text:    netip.Addr.String,
	parse:   netip.ParseAddr,
}

// remoteLocators returns the locators of others in the order of their addresses.
func (s *router) remoteLocators() (list []*eidolonv1.RemoteLocator) {
	byAddr := make(map[netip.Addr]*eidolonv1.RemoteLocator)
	add := func(r xtr.RLOCStatus) {
		p := remoteLocatorToProto(r)
		byAddr[r.Addr], list = p, append(list, p)
	}
	probed := s.xtr.RLOCs()
	for r := range s.fib.RLOCs() {
		for len(probed) > 0 && probed[0].Addr.Compare(r.Addr()) <= 0 {
			add(probed[0])
			probed = probed[1:]
		}
		packets, bytes := r.Count()
		if byAddr[r.Addr()] == nil && packets > 0 {
			add(xtr.RLOCStatus{Addr: r.Addr(), Up: true})
		}
		if p := byAddr[r.Addr()]; p != nil {
			p.Traffic = trafficToProto(dataplane.Traffic{PacketsOut: packets, BytesOut: bytes})
		}
	}
	for _, r := range probed {
		add(r)
	}
	return list
}

func (s *router) ListLocalLocators(context.Context, *eidolonv1.ListLocalLocatorsRequest) (*eidolonv1.ListLocalLocatorsResponse, error) {
	return &eidolonv1.ListLocalLocatorsResponse{LocalLocators: localLocatorsToProto(s.xtr.LocalLocators(), s.fib.Snapshot())}, nil
}

func (s *router) DrainLocator(ctx context.Context, req *eidolonv1.DrainLocatorRequest) (*eidolonv1.DrainLocatorResponse, error) {
	named, err := s.steer(ctx, req.GetLocator(), func(name string) error { return s.xtr.DrainLocator(name, true) })
	if err != nil {
		return nil, err
	}
	return &eidolonv1.DrainLocatorResponse{LocalLocators: named}, nil
}

func (s *router) UndrainLocator(ctx context.Context, req *eidolonv1.UndrainLocatorRequest) (*eidolonv1.UndrainLocatorResponse, error) {
	named, err := s.steer(ctx, req.GetLocator(), func(name string) error { return s.xtr.DrainLocator(name, false) })
	if err != nil {
		return nil, err
	}
	return &eidolonv1.UndrainLocatorResponse{LocalLocators: named}, nil
}

func (s *router) SetLocator(ctx context.Context, req *eidolonv1.SetLocatorRequest) (*eidolonv1.SetLocatorResponse, error) {
	priority, ferr := optionalOctet("priority", req.Priority)
	if ferr != nil {
		return nil, invalid(ferr)
	}
	weight, ferr := optionalOctet("weight", req.Weight)
	if ferr != nil {
		return nil, invalid(ferr)
	}
	named, err := s.steer(ctx, req.GetLocator(), func(name string) error { return s.xtr.SetLocator(name, priority, weight) })
	if err != nil {
		return nil, err
	}
	return &eidolonv1.SetLocatorResponse{LocalLocators: named}, nil
}

// steer changes the local locators of a name and returns what they are then.
func (s *router) steer(ctx context.Context, name string, change func(name string) error) ([]*eidolonv1.LocalLocator, error) {
	if name == "" {
		return nil, invalid(badField("locator", "found nothing, expected the address of a local locator or an interface"))
	}
	s.steering.Lock()
	defer s.steering.Unlock()
	before := s.orders(name)
	if err := change(name); err != nil {
		if errors.Is(err, xtr.ErrNoLocator) {
			return nil, notFound("locator", "%v", err)
		}
		return nil, failed("steer a locator", err)
	}
	callOf(ctx).changed("locator "+name, before, s.orders(name))
	return localLocatorsToProto(s.named(name), s.fib.Snapshot()), nil
}

// named returns the local locators of an address or interface.
func (s *router) named(name string) []xtr.LocalLocator {
	a, err := netip.ParseAddr(name)
	return slices.DeleteFunc(s.xtr.LocalLocators(), func(l xtr.LocalLocator) bool {
		if err == nil {
			return l.Addr != a.Unmap()
		}
		return l.Uplink != name
	})
}

// order is what an operator wants of a local locator; nil is as configured.
type order struct {
	Address  netip.Addr `json:"address"`
	Drained  bool       `json:"drained"`
	Priority *uint8     `json:"priority"`
	Weight   *uint8     `json:"weight"`
}

// orders returns what operators want of the local locators of a name.
func (s *router) orders(name string) []order {
	list := []order{}
	for _, l := range s.named(name) {
		list = append(list, order{l.Addr, l.Drained, l.SetPriority, l.SetWeight})
	}
	return list
}

// flowFromProto reads the flow of a request as the data plane sees it.
func flowFromProto(req *eidolonv1.ExplainFlowRequest) (iid uint32, k encap.Key, ferr *fieldError) {
	e, ferr := eidFromProto("destination", req.GetDestination())
	if ferr != nil {
		return 0, k, ferr
	}
	if !e.IsHost() || e.Source.IsValid() {
		return 0, k, badField("destination", "found %v, expected an address, which packets are sent to", e)
	}
	k.Dst = e.Prefix.Addr()
	if text := req.GetSource(); text != "" {
		src, err := netip.ParseAddr(text)
		if src = src.Unmap(); err != nil || src.Zone() != "" || src.Is4() != k.Dst.Is4() {
			return 0, k, badField("source", "found %q, expected an address of the family of %v", text, k.Dst)
		}
		k.Src = src
	}
	if p := req.GetProtocol(); p > 255 {
		return 0, k, badField("protocol", "found %d, expected 0 to 255", p)
	}
	for _, p := range []struct {
		field string
		port  uint32
	}{{"source_port", req.GetSourcePort()}, {"destination_port", req.GetDestinationPort()}} {
		if p.port > 65535 {
			return 0, k, badField(p.field, "found %d, expected 0 to 65535", p.port)
		}
	}
	switch req.GetProtocol() {
	case 6, 17, 132:
		k.Protocol, k.HasPorts = uint8(req.GetProtocol()), true
		k.Ports = req.GetSourcePort()<<16 | req.GetDestinationPort()
	default:
		if req.GetSourcePort() != 0 || req.GetDestinationPort() != 0 {
			return 0, k, badField("protocol", "found ports with protocol %d, expected 6, 17 or 132", req.GetProtocol())
		}
	}
	return e.IID, k, nil
}

func (s *router) MonitorRouter(req *eidolonv1.MonitorRouterRequest, stream grpc.ServerStreamingServer[eidolonv1.MonitorRouterResponse]) error {
	filter, ferr := optionalEID("eid", req.GetEid())
	if ferr != nil {
		return invalid(ferr)
	}
	sub, err := s.xtr.Watch(monitorQueue)
	return monitor(stream.Context(), sub, err, func(e xtr.Event) *eidolonv1.Event {
		if !wanted(filter, e.EID, true) {
			return nil
		}
		return routerEventToProto(e)
	}, func(events []*eidolonv1.Event) error {
		return stream.Send(&eidolonv1.MonitorRouterResponse{Events: events})
	})
}
