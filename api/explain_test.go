package api

import (
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

func TestExplainMapping(t *testing.T) {
	db := newDatabase()
	rec := &mapping.Record{EID: mapping.MustParseEID("10.1.0.0/16"), TTL: 60, Locators: []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("192.0.2.1"), 1, 100)}}
	db.explained = server.Explanation{
		Site:   "a",
		Prefix: server.PrefixStatus{SitePrefix: server.SitePrefix{EID: rec.EID, ProxyReply: server.ProxyNever}, Registered: 1},
		Match:  server.MappingStatus{Record: rec, Origin: server.OriginRegistered, Site: "a", Forwarded: true}, Matched: true,
		Outcome: server.OutcomeForward, ETRs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Reasons: []string{"one", "two"},
	}
	c := eidolonv1.NewMappingServiceClient(serve(t, Mappings(db)))
	x, err := c.ExplainMapping(t.Context(), &eidolonv1.ExplainMappingRequest{Eid: "10.1.2.3", ItrRloc: "2001:db8::1"})
	if err != nil {
		t.Fatal(err)
	}
	if x.GetEid() != "10.1.2.3/32" || x.GetSite() != "a" || x.GetSitePrefix().GetProxyReply() != eidolonv1.ProxyReplyPolicy_PROXY_REPLY_POLICY_NEVER ||
		x.GetMapping().GetRecord().GetEid() != "10.1.0.0/16" || !x.GetMapping().GetForwarded() || x.GetOutcome() != eidolonv1.MapRequestOutcome_MAP_REQUEST_OUTCOME_FORWARD ||
		len(x.GetRecords()) != 0 || len(x.GetEtrs()) != 1 || x.GetEtrs()[0] != "192.0.2.1" || len(x.GetReasons()) != 2 {
		t.Errorf("explanation %v", x)
	}
	if db.itr != netip.MustParseAddr("2001:db8::1") {
		t.Errorf("the ITR is %v", db.itr)
	}
	db.explained = server.Explanation{Outcome: server.OutcomeNegative, Records: []*mapping.Record{mapping.NegativeRecord(mapping.MustParseEID("11.0.0.0/8"), mapping.NativelyForward, 15)}}
	x, err = c.ExplainMapping(t.Context(), &eidolonv1.ExplainMappingRequest{Eid: "11.1.2.3"})
	if err != nil || x.GetSitePrefix() != nil || x.GetMapping() != nil || len(x.GetRecords()) != 1 || x.GetOutcome() != eidolonv1.MapRequestOutcome_MAP_REQUEST_OUTCOME_NEGATIVE {
		t.Errorf("explanation %v, %v", x, err)
	}
	_, err = c.ExplainMapping(t.Context(), &eidolonv1.ExplainMappingRequest{Eid: "x"})
	wantField(t, err, "eid")
	_, err = c.ExplainMapping(t.Context(), &eidolonv1.ExplainMappingRequest{Eid: "10.1.2.3", ItrRloc: "x"})
	wantField(t, err, "itr_rloc")
}

func TestExplainFlow(t *testing.T) {
	at := time.Unix(1700000000, 0)
	rec := &mapping.Record{EID: mapping.MustParseEID("[7]10.2.0.0/16"), TTL: 60, Locators: []mapping.Locator{
		mapping.MakeLocator(netip.MustParseAddr("192.0.2.2"), 1, 50), mapping.MakeLocator(netip.MustParseAddr("192.0.2.3"), 1, 50), mapping.MakeLocator(netip.MustParseAddr("192.0.2.4"), 2, 50)}}
	fib := dataplane.NewFIB()
	fib.SetSources([]dataplane.Source{{Addr: netip.MustParseAddr("192.0.2.1"), Priority: 1, Weight: 100}})
	fib.SetLocal([]dataplane.LocalEID{{EID: mapping.MustParseEID("[7]10.1.0.0/16")}})
	fib.Apply([]mapping.CacheChange{{EID: rec.EID, Record: rec, Expires: time.Now().Add(time.Hour)}})
	x := &fakeXTR{explained: xtr.Explanation{
		Entry: mapping.CacheEntry{Record: rec, Installed: at, Expires: at.Add(time.Hour)}, Cached: true,
		Resolution: xtr.Resolution{EID: rec.EID, Tries: 2, GivenUp: true, Next: at}, Resolving: true,
	}}
	c := eidolonv1.NewRouterServiceClient(serve(t, Router(x, fib)))
	f, err := c.ExplainFlow(t.Context(), &eidolonv1.ExplainFlowRequest{Destination: "[7]10.2.0.1", Source: "10.1.0.1", Protocol: 6, SourcePort: 1000, DestinationPort: 443})
	if err != nil {
		t.Fatal(err)
	}
	if f.GetDatabaseMapping() != nil || f.GetEntry().GetRecord().GetEid() != "[7]10.2.0.0/16" || f.GetResolution().GetTries() != 2 || !f.GetResolution().GetGivenUp() ||
		f.GetDrop() != "" || f.GetSlots() != dataplane.Slots || f.FlowHash == nil || f.GetSlot() != f.GetFlowHash()%dataplane.Slots ||
		f.GetSourceRloc() != "192.0.2.1" || f.GetPathMtu() != f.GetRoom()+36 {
		t.Errorf("flow %v", f)
	}
	ls := f.GetLocators()
	if len(ls) != 3 || ls[0].GetSlots()+ls[1].GetSlots() != dataplane.Slots || ls[2].GetSlots() != 0 || ls[2].GetReason() == "" || f.GetRloc() != "192.0.2.2" && f.GetRloc() != "192.0.2.3" {
		t.Errorf("locators %v, chosen %v", ls, f.GetRloc())
	}
	f, err = c.ExplainFlow(t.Context(), &eidolonv1.ExplainFlowRequest{Destination: "[7]10.2.0.1"})
	if err != nil || f.FlowHash != nil || f.GetRloc() != "" || f.GetDrop() != "" || len(f.GetLocators()) != 3 {
		t.Errorf("without a source: %v, %v", f, err)
	}
	// One of them does not answer probes: the plane was told so by the R bit.
	silent := rec.Clone()
	silent.Locators[0].Flags &^= mapping.Reachable
	fib.Apply([]mapping.CacheChange{{EID: rec.EID, Record: silent, Expires: time.Now().Add(time.Hour)}})
	x.rlocs = []xtr.RLOCStatus{{Addr: rec.Locators[0].Addr, Failures: 3, Probes: 9, Replies: 6, LastProbe: at}, {Addr: rec.Locators[1].Addr, Up: true, RTT: time.Millisecond}}
	f, err = c.ExplainFlow(t.Context(), &eidolonv1.ExplainFlowRequest{Destination: "[7]10.2.0.1"})
	if err != nil || len(f.GetLocators()) != 3 || f.GetRloc() != "192.0.2.3" {
		t.Fatalf("with a silent locator: %v, %v", f, err)
	}
	if l := f.GetLocators()[0]; l.GetSlots() != 0 || l.GetReason() != "it does not answer probes, 3 in a row" || !l.GetLocator().GetReachable() || l.GetRemoteLocator().GetUp() || l.GetRemoteLocator().GetFailures() != 3 {
		t.Errorf("the silent locator: %v", l)
	}
	if l := f.GetLocators()[1]; l.GetSlots() != dataplane.Slots || !l.GetRemoteLocator().GetUp() {
		t.Errorf("the other one: %v", l)
	}
	list, err := c.ListRemoteLocators(t.Context(), &eidolonv1.ListRemoteLocatorsRequest{})
	if err != nil || len(list.GetRemoteLocators()) != 2 {
		t.Fatalf("ListRemoteLocators: %v, %v", list, err)
	}
	if l := list.GetRemoteLocators()[0]; l.GetAddress() != "192.0.2.2" || l.GetProbes() != 9 || l.GetReplies() != 6 || l.GetLastReply() != nil || l.GetRoundTripTime() != nil || !l.GetLastProbe().AsTime().Equal(at) {
		t.Errorf("remote locator %v", l)
	}
	x.explained = xtr.Explanation{Own: true, Database: xtr.DatabaseStatus{EID: mapping.MustParseEID("[7]10.1.0.0/16")}, Unresolvable: "own"}
	f, err = c.ExplainFlow(t.Context(), &eidolonv1.ExplainFlowRequest{Destination: "[7]10.1.0.2", Source: "10.1.0.1"})
	if err != nil || f.GetDrop() != "destination_local" || f.GetDatabaseMapping().GetRecord().GetEid() != "[7]10.1.0.0/16" || f.GetUnresolvable() != "own" || f.GetEntry() != nil || f.GetResolution() != nil {
		t.Errorf("an EID of the site: %v, %v", f, err)
	}
	for field, req := range map[string]*eidolonv1.ExplainFlowRequest{
		"destination":      {Destination: "10.2.0.0/16"},
		"source":           {Destination: "10.2.0.1", Source: "2001:db8::1"},
		"protocol":         {Destination: "10.2.0.1", Protocol: 256},
		"source_port":      {Destination: "10.2.0.1", Protocol: 6, SourcePort: 65536},
		"destination_port": {Destination: "10.2.0.1", Protocol: 6, DestinationPort: 65536},
	} {
		_, err := c.ExplainFlow(t.Context(), req)
		wantField(t, err, field)
	}
	_, err = c.ExplainFlow(t.Context(), &eidolonv1.ExplainFlowRequest{Destination: "10.2.0.1", Protocol: 1, SourcePort: 1})
	wantCode(t, err, codes.InvalidArgument, "found ports with protocol 1")
}
