package api

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// TestTraffic: what the data plane counted is told with the map-cache and with
// the locators, of which those that packets were sent to are listed though
// nothing probes them.
func TestTraffic(t *testing.T) {
	own := netip.MustParseAddr("192.0.2.1")
	rlocs := []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("198.51.100.3"), netip.MustParseAddr("198.51.100.4")}
	fib := dataplane.NewFIB()
	fib.SetSources([]dataplane.Source{{Addr: own, Priority: 1, Weight: 100}})
	fib.SetLocal([]dataplane.LocalEID{{EID: mapping.MustParseEID("10.1.0.0/16")}})
	x := &fakeXTR{
		locals: []xtr.LocalLocator{{Addr: own}, {Addr: own.Next(), State: xtr.LocatorGone}},
		rlocs:  []xtr.RLOCStatus{{Addr: rlocs[0]}, {Addr: rlocs[2]}},
	}
	for i, e := range []string{"10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"} {
		r := &mapping.Record{EID: mapping.MustParseEID(e), TTL: 60, Locators: []mapping.Locator{mapping.MakeLocator(rlocs[i+1], 1, 100)}}
		x.cache = append(x.cache, mapping.CacheEntry{Record: r})
		fib.Apply([]mapping.CacheChange{{EID: r.EID, Record: r, Expires: time.Now().Add(time.Hour)}})
	}
	x.cache = append(x.cache, mapping.CacheEntry{Record: mapping.NegativeRecord(mapping.MustParseEID("10.9.0.0/16"), mapping.Drop, 60)})
	fwd := dataplane.NewForwarder(fib, dataplane.Config{})
	out, in := fwd.NewEncap(0, dptest.NewHost(), dptest.NewUnderlay()), fwd.NewDecap(map[uint32]dataplane.HostWriter{0: dptest.NewHost()})
	there, other := dptest.Flow("10.1.0.5:1", "10.2.0.5:2", 17, 72), dptest.Flow("10.1.0.5:1", "10.3.0.5:2", 17, 172)
	out.Batch(time.Now(), []dataplane.HostPacket{dptest.HostPacket(there.Bytes(), 0), dptest.HostPacket(there.Bytes(), 0), dptest.HostPacket(other.Bytes(), 0)})
	in.Batch([]dataplane.Packet{dptest.Flow("10.2.0.5:2", "10.1.0.5:1", 17, 272).Lisp(0, rlocs[1].String(), own.String())})

	c := eidolonv1.NewRouterServiceClient(serve(t, Router(x, fib)))
	text := func(p *eidolonv1.Traffic) [4]uint64 {
		return [4]uint64{p.GetPacketsOut(), p.GetBytesOut(), p.GetPacketsIn(), p.GetBytesIn()}
	}
	first, none := [4]uint64{2, 200, 1, 300}, [4]uint64{}
	stream, err := c.ListMapCache(t.Context(), &eidolonv1.ListMapCacheRequest{})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil || len(resp.GetEntries()) != 4 {
		t.Fatalf("ListMapCache: %v, %v", resp, err)
	}
	for i, want := range [][4]uint64{first, {1, 200}, none, none} {
		e := resp.GetEntries()[i]
		if got := text(e.GetTraffic()); got != want || (e.GetTraffic() == nil) != (i == 3) { // the plane does not have the last
			t.Errorf("%s: traffic %v, want %v", e.GetRecord().GetEid(), e.GetTraffic(), want)
		}
	}
	found, err := c.LookupMapCache(t.Context(), &eidolonv1.LookupMapCacheRequest{Eid: "10.2.0.7"})
	if err != nil || text(found.GetEntry().GetTraffic()) != first {
		t.Errorf("LookupMapCache: %v, %v", found, err)
	}
	x.explained = xtr.Explanation{Entry: x.cache[0], Cached: true}
	flow, err := c.ExplainFlow(t.Context(), &eidolonv1.ExplainFlowRequest{Destination: "10.2.0.7"})
	if err != nil || text(flow.GetEntry().GetTraffic()) != first {
		t.Errorf("ExplainFlow: %v, %v", flow, err)
	}

	remotes, err := c.ListRemoteLocators(t.Context(), &eidolonv1.ListRemoteLocatorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	want := map[string][4]uint64{rlocs[1].String(): {2, 200}, rlocs[2].String(): {1, 200}}
	for _, r := range remotes.GetRemoteLocators() {
		listed = append(listed, r.GetAddress())
		if got := text(r.GetTraffic()); got != want[r.GetAddress()] {
			t.Errorf("remote %s: traffic %v", r.GetAddress(), got)
		}
	}
	// The last carried nothing and is not probed.
	if w := []string{"198.51.100.1", "198.51.100.2", "198.51.100.3"}; !slices.Equal(listed, w) || !remotes.GetRemoteLocators()[1].GetUp() {
		t.Errorf("remote locators %v, want %v", remotes, w)
	}
	locals, err := c.ListLocalLocators(t.Context(), &eidolonv1.ListLocalLocatorsRequest{})
	if err != nil || text(locals.GetLocalLocators()[0].GetTraffic()) != [4]uint64{3, 400, 1, 300} || text(locals.GetLocalLocators()[1].GetTraffic()) != none {
		t.Errorf("ListLocalLocators: %v, %v", locals, err)
	}
}
