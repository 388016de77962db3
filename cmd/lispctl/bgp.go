package main

import (
	"context"
	"fmt"
	"strings"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
)

// showBGP shows the sessions of an xTR, what is announced, and on what that depends.
func showBGP(v view) error {
	ctx, cancel := context.WithTimeout(v.ctx, answerTime)
	defer cancel()
	resp, err := eidolonv1.NewBGPServiceClient(v.c.conn).GetBGP(ctx, &eidolonv1.GetBGPRequest{})
	if err != nil {
		return err
	}
	if v.out.structured() {
		return v.out.object(resp)
	}
	system := "does not answer"
	switch {
	case resp.GetMappingSystemSince() == nil:
		system = "is not known yet"
	case resp.GetHeldUntil() != nil:
		system = "answers again, which is believed in " + until(v.now, resp.GetHeldUntil())
	case resp.GetMappingSystemAnswers():
		system = "answers"
	}
	if resp.GetLastAnswer() != nil {
		system += fmt.Sprintf(" (last answer %s ago)", ago(v.now, resp.GetLastAnswer()))
	}
	fmt.Fprintf(v.out.w, "AS %d, router-id %s; the mapping system %s\n\n", resp.GetAs(), resp.GetRouterId(), system)
	t := v.out.table("NEIGHBOUR", "AS", "STATE", "SINCE", "ANNOUNCED", "RECEIVED", "UPDATES-IN", "UPDATES-OUT", "GRACEFUL-RESTART")
	for _, n := range resp.GetNeighbours() {
		t.row(n.GetAddress(), n.GetAs(), enumText(n.GetState(), "BGP_STATE_"), ago(v.now, n.GetSince()), n.GetAnnounced(), n.GetReceived(),
			n.GetUpdatesIn(), n.GetUpdatesOut(), yesNo(n.GetGracefulRestart()))
	}
	if err := t.end(); err != nil {
		return err
	}
	if len(resp.GetAnnouncements()) > 0 {
		fmt.Fprintln(v.out.w)
		t = v.out.table("PREFIX", "ANNOUNCED", "ORIGIN-AS", "COMMUNITIES")
		for _, a := range resp.GetAnnouncements() {
			t.row(a.GetPrefix(), yesNo(a.GetAnnounced()), a.GetOriginAs(), strings.Join(a.GetCommunities(), ","))
		}
		if err := t.end(); err != nil {
			return err
		}
	}
	if len(resp.GetLearned()) == 0 {
		return nil
	}
	fmt.Fprintln(v.out.w)
	t = v.out.table("HEARD-PREFIX", "NEIGHBOUR", "EID-PREFIX", "ORIGIN-AS", "SINCE")
	for _, l := range resp.GetLearned() {
		state := "yes"
		switch {
		case !l.GetAccepted():
			state = "no: " + refusedRoute(l.GetReason())
		case l.GetLeaving() != nil:
			state = "withdrawn, kept for " + until(v.now, l.GetLeaving())
		}
		t.row(l.GetPrefix(), l.GetNeighbour(), state, l.GetOriginAs(), ago(v.now, l.GetSince()))
	}
	return t.end()
}

// refusedRoute says why a route makes no EID-prefix.
func refusedRoute(reason string) string {
	switch reason {
	case "default_route":
		return "a default route"
	case "outside_filter":
		return "outside of database_mappings_from_bgp"
	case "length":
		return "shorter or longer than is accepted"
	case "underlay":
		return "holds an address of the underlay"
	case "configured":
		return "one of database_mappings already"
	case "too_many":
		return "more than max_prefixes"
	}
	return reason
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
