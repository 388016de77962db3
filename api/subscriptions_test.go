package api

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

func TestListSubscriptions(t *testing.T) {
	at := time.Unix(1700000000, 0)
	db := newDatabase()
	for i := range listBatch + 1 {
		db.subscriptions = append(db.subscriptions, server.SubscriptionStatus{EID: mapping.MustParseEID(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)), XTRID: mapping.XTRID{15: 1}, Since: at})
	}
	db.subscriptions = append(db.subscriptions, server.SubscriptionStatus{
		EID: mapping.MustParseEID("[7]10.0.0.0/8"), XTRID: mapping.XTRID{15: 2}, SiteID: 9, ITRRLOCs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Temporary: true, Since: at, Until: at.Add(time.Minute), Waiting: 3})
	c := eidolonv1.NewMappingServiceClient(serve(t, Mappings(db)))
	all := func(eid string) (out []*eidolonv1.Subscription, messages int) {
		stream, err := c.ListSubscriptions(t.Context(), &eidolonv1.ListSubscriptionsRequest{Eid: eid})
		if err != nil {
			t.Fatal(err)
		}
		for m, err := stream.Recv(); err == nil; m, err = stream.Recv() {
			out = append(out, m.GetSubscriptions()...)
			messages++
		}
		return out, messages
	}
	if out, messages := all(""); len(out) != listBatch+2 || messages != 2 {
		t.Errorf("%d subscriptions in %d messages", len(out), messages)
	}
	out, _ := all("[7]10.1.2.3")
	if len(out) != 1 {
		t.Fatalf("of an EID: %v", out)
	}
	if s := out[0]; s.GetEid() != "[7]10.0.0.0/8" || s.GetXtrId() != "00000000000000000000000000000002" || s.GetSiteId() != 9 || len(s.GetItrRlocs()) != 1 ||
		!s.GetSince().AsTime().Equal(at) || !s.GetUntil().AsTime().Equal(at.Add(time.Minute)) || s.GetWaiting() != 3 {
		t.Errorf("subscription %v", s)
	}
	if out, _ := all("10.0.0.0/24"); len(out) != 1 || out[0].GetUntil() != nil {
		t.Errorf("of a prefix: %v", out)
	}
	stream, err := c.ListSubscriptions(t.Context(), &eidolonv1.ListSubscriptionsRequest{Eid: "x"})
	if err == nil {
		_, err = stream.Recv()
	}
	wantField(t, err, "eid")
}
