package main

import (
	"context"
	"fmt"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
)

// showALT shows the sessions of a map-server with other ALT routers, and what is
// known by them.
func showALT(v view) error {
	ctx, cancel := context.WithTimeout(v.ctx, answerTime)
	defer cancel()
	resp, err := eidolonv1.NewALTServiceClient(v.c.conn).GetALT(ctx, &eidolonv1.GetALTRequest{})
	if err != nil {
		return err
	}
	if v.out.structured() {
		return v.out.object(resp)
	}
	fmt.Fprintf(v.out.w, "AS %d, router-id %s\n\n", resp.GetAs(), resp.GetRouterId())
	t := v.out.table("NEIGHBOUR", "AS", "STATE", "SINCE", "ANNOUNCED", "RECEIVED", "UPDATES-IN", "UPDATES-OUT")
	for _, n := range resp.GetNeighbours() {
		t.row(n.GetAddress(), n.GetAs(), enumText(n.GetState(), "BGP_STATE_"), ago(v.now, n.GetSince()), n.GetAnnounced(), n.GetReceived(),
			n.GetUpdatesIn(), n.GetUpdatesOut())
	}
	if err := t.end(); err != nil || len(resp.GetRoutes()) == 0 {
		return err
	}
	fmt.Fprintln(v.out.w)
	t = v.out.table("PREFIX", "IS", "NEXT-HOP", "TUNNEL", "ORIGIN-AS", "ORIGINATED")
	for _, r := range resp.GetRoutes() {
		origin := ""
		if r.GetOriginAs() > 0 {
			origin = fmt.Sprint(r.GetOriginAs())
		}
		t.row(r.GetPrefix(), enumText(r.GetKind(), "ALT_ROUTE_KIND_"), r.GetNextHop(), r.GetTunnel(), origin, yesNo(r.GetAnnounced()))
	}
	return t.end()
}
