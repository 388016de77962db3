package api

import (
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// TestLocators: the locators of the router and the paths from them to others.
func TestLocators(t *testing.T) {
	at := time.Unix(1700000000, 0)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	x := &fakeXTR{
		locals: []xtr.LocalLocator{
			{Addr: a, Uplink: "eth2", Priority: 1, Weight: 70, Paths: 3, PathsDown: 1, LastReply: at},
			{Addr: b, State: xtr.LocatorHeld, Held: at.Add(time.Second), Flaps: 2, Left: at, Drained: true, Priority: 255},
			{Addr: a.Next(), State: xtr.LocatorNoCarrier}, {Addr: a.Next(), State: xtr.LocatorDead}, {Addr: a.Next(), State: xtr.LocatorGone},
		},
		rlocs: []xtr.RLOCStatus{{Addr: netip.MustParseAddr("203.0.113.1"), Up: true, Paths: []xtr.PathStatus{
			{Local: a, Failures: 3, LastProbe: at}, {Local: b, Up: true, LastProbe: at, LastReply: at.Add(time.Second), RTT: time.Millisecond},
		}}},
	}
	c := eidolonv1.NewRouterServiceClient(serve(t, Router(x, dataplane.NewFIB())))
	locals, err := c.ListLocalLocators(t.Context(), &eidolonv1.ListLocalLocatorsRequest{})
	if err != nil || len(locals.GetLocalLocators()) != len(x.locals) {
		t.Fatalf("ListLocalLocators: %v, %v", locals, err)
	}
	if l := locals.GetLocalLocators()[0]; l.GetAddress() != "192.0.2.1" || l.GetInterface() != "eth2" || l.GetPriority() != 1 || l.GetWeight() != 70 ||
		l.GetPaths() != 3 || l.GetPathsDown() != 1 || !l.GetLastReply().AsTime().Equal(at) || l.GetDrained() || l.SetPriority != nil || l.SetWeight != nil ||
		l.GetHeldUntil() != nil || l.GetLastLeft() != nil {
		t.Errorf("a locator that is up: %v", l)
	}
	if l := locals.GetLocalLocators()[1]; l.GetInterface() != "" || !l.GetHeldUntil().AsTime().Equal(at.Add(time.Second)) || l.GetFlaps() != 2 ||
		!l.GetLastLeft().AsTime().Equal(at) || !l.GetDrained() || l.GetPriority() != 255 || l.GetLastReply() != nil {
		t.Errorf("a locator that is held: %v", l)
	}
	for i, want := range []eidolonv1.LocalLocatorState{
		eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_UP, eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_HELD,
		eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_NO_CARRIER, eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_DEAD,
		eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_GONE,
	} {
		if got := locals.GetLocalLocators()[i].GetState(); got != want {
			t.Errorf("%v is told as %v", x.locals[i].State, got)
		}
	}
	remotes, err := c.ListRemoteLocators(t.Context(), &eidolonv1.ListRemoteLocatorsRequest{})
	if err != nil || len(remotes.GetRemoteLocators()) != 1 || len(remotes.GetRemoteLocators()[0].GetPaths()) != 2 {
		t.Fatalf("ListRemoteLocators: %v, %v", remotes, err)
	}
	paths := remotes.GetRemoteLocators()[0].GetPaths()
	if p := paths[0]; p.GetLocal() != "192.0.2.1" || p.GetUp() || p.GetFailures() != 3 || !p.GetLastProbe().AsTime().Equal(at) || p.GetLastReply() != nil || p.GetRoundTripTime() != nil {
		t.Errorf("a path that is down: %v", p)
	}
	if p := paths[1]; p.GetLocal() != "2001:db8::1" || !p.GetUp() || !p.GetLastReply().AsTime().Equal(at.Add(time.Second)) || p.GetRoundTripTime().AsDuration() != time.Millisecond {
		t.Errorf("a path that is up: %v", p)
	}
}

// TestSteerLocators: an operator's orders reach the locators that they name, and
// the answer shows them.
func TestSteerLocators(t *testing.T) {
	x := &fakeXTR{locals: []xtr.LocalLocator{
		{Addr: netip.MustParseAddr("192.0.2.1"), Uplink: "eth2"}, {Addr: netip.MustParseAddr("2001:db8::1"), Uplink: "eth2"},
		{Addr: netip.MustParseAddr("198.51.100.1"), Uplink: "eth3"},
	}}
	c := eidolonv1.NewRouterServiceClient(serve(t, Router(x, dataplane.NewFIB())))
	ctx := t.Context()
	drained, err := c.DrainLocator(ctx, &eidolonv1.DrainLocatorRequest{Locator: "eth2"})
	if ls := drained.GetLocalLocators(); err != nil || len(ls) != 2 || !ls[0].GetDrained() || !ls[1].GetDrained() || x.locals[2].Drained {
		t.Fatalf("DrainLocator: %v, %v", drained, err)
	}
	undrained, err := c.UndrainLocator(ctx, &eidolonv1.UndrainLocatorRequest{Locator: "192.0.2.1"})
	if ls := undrained.GetLocalLocators(); err != nil || len(ls) != 1 || ls[0].GetAddress() != "192.0.2.1" || ls[0].GetDrained() || !x.locals[1].Drained {
		t.Fatalf("UndrainLocator: %v, %v", undrained, err)
	}
	set, err := c.SetLocator(ctx, &eidolonv1.SetLocatorRequest{Locator: "eth3", Priority: proto.Uint32(0), Weight: proto.Uint32(255)})
	if ls := set.GetLocalLocators(); err != nil || len(ls) != 1 || ls[0].SetPriority == nil || ls[0].GetSetPriority() != 0 || ls[0].GetSetWeight() != 255 {
		t.Fatalf("SetLocator: %v, %v", set, err)
	}
	set, err = c.SetLocator(ctx, &eidolonv1.SetLocatorRequest{Locator: "eth3", Weight: proto.Uint32(7)})
	if ls := set.GetLocalLocators(); err != nil || len(ls) != 1 || ls[0].SetPriority != nil || ls[0].GetSetWeight() != 7 {
		t.Errorf("SetLocator without a priority: %v, %v", set, err)
	}

	_, err = c.SetLocator(ctx, &eidolonv1.SetLocatorRequest{Locator: "eth3", Priority: proto.Uint32(256)})
	wantField(t, err, "priority")
	_, err = c.SetLocator(ctx, &eidolonv1.SetLocatorRequest{Locator: "eth3", Weight: proto.Uint32(256)})
	wantField(t, err, "weight")
	for call, errs := range map[string][2]error{
		"DrainLocator":   {second(c.DrainLocator(ctx, &eidolonv1.DrainLocatorRequest{})), second(c.DrainLocator(ctx, &eidolonv1.DrainLocatorRequest{Locator: "eth9"}))},
		"UndrainLocator": {second(c.UndrainLocator(ctx, &eidolonv1.UndrainLocatorRequest{})), second(c.UndrainLocator(ctx, &eidolonv1.UndrainLocatorRequest{Locator: "eth9"}))},
		"SetLocator":     {second(c.SetLocator(ctx, &eidolonv1.SetLocatorRequest{})), second(c.SetLocator(ctx, &eidolonv1.SetLocatorRequest{Locator: "eth9"}))},
	} {
		t.Run(call, func(t *testing.T) {
			wantField(t, errs[0], "locator")
			wantCode(t, errs[1], codes.NotFound, "eth9")
		})
	}
	if l := x.locals[2]; l.SetPriority != nil || *l.SetWeight != 7 {
		t.Errorf("what was refused changed %+v", l)
	}
}

func second[T any](_ T, err error) error { return err }
