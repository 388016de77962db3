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
	if v.json {
		line, err := marshal(resp)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(v.w, "%s\n", line)
		return err
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
	fmt.Fprintf(v.w, "AS %d, router-id %s; the mapping system %s\n\n", resp.GetAs(), resp.GetRouterId(), system)
	t := newTable(v.w, "NEIGHBOUR", "AS", "STATE", "SINCE", "ANNOUNCED", "RECEIVED", "UPDATES-IN", "UPDATES-OUT", "GRACEFUL-RESTART")
	for _, n := range resp.GetNeighbours() {
		t.row(n.GetAddress(), n.GetAs(), enumText(n.GetState(), "BGP_STATE_"), ago(v.now, n.GetSince()), n.GetAnnounced(), n.GetReceived(),
			n.GetUpdatesIn(), n.GetUpdatesOut(), yesNo(n.GetGracefulRestart()))
	}
	if err := t.end(); err != nil || len(resp.GetAnnouncements()) == 0 {
		return err
	}
	fmt.Fprintln(v.w)
	t = newTable(v.w, "PREFIX", "ANNOUNCED", "ORIGIN-AS", "COMMUNITIES")
	for _, a := range resp.GetAnnouncements() {
		t.row(a.GetPrefix(), yesNo(a.GetAnnounced()), a.GetOriginAs(), strings.Join(a.GetCommunities(), ","))
	}
	return t.end()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
