package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
)

func showLocatorCommand() *cobra.Command {
	cmd := showCommand("locator", "Show the locators of an xTR, those of other sites, and the paths between them",
		`Shows the locators of the xTR itself: up, or why they are not used (no-carrier;
dead, when nothing comes back over the uplink; held, just back or coming and
going; gone, when the address is not there any more), and what an operator wants
of them. Then the locators of other sites that carry traffic and those that do
not answer, with the state that probing found, and each path between the two.
SENT and RECEIVED are packets and octets of hosts by each locator since the xTR
started.`, showLocators, programXTR)
	cmd.Aliases = []string{"locators"}
	return cmd
}

func showLocators(v view) error {
	ctx, cancel := context.WithTimeout(v.ctx, answerTime)
	defer cancel()
	client := eidolonv1.NewRouterServiceClient(v.c.conn)
	locals, err := client.ListLocalLocators(ctx, &eidolonv1.ListLocalLocatorsRequest{})
	if err != nil {
		return err
	}
	var remotes []*eidolonv1.RemoteLocator
	if err := pages(func(token string) (*eidolonv1.ListRemoteLocatorsResponse, error) {
		return client.ListRemoteLocators(ctx, &eidolonv1.ListRemoteLocatorsRequest{PageSize: maxPage, PageToken: token})
	}, (*eidolonv1.ListRemoteLocatorsResponse).GetRemoteLocators, func(l *eidolonv1.RemoteLocator) error {
		remotes = append(remotes, l)
		return nil
	}); err != nil {
		return err
	}
	d := &document{o: v.out}
	local, err := d.list("local_locators", "local_locator", localColumns...)
	if err != nil {
		return err
	}
	if err := addLocals(local, v.now, locals.GetLocalLocators()); err != nil {
		return err
	}
	remote, err := d.list("remote_locators", "remote_locator", "LOCATOR", "STATE", "PROBES", "REPLIES", "UNANSWERED", "RTT", "LAST-REPLY", "USED", "SENT", "+LAST-PROBE")
	if err != nil {
		return err
	}
	for _, l := range remotes {
		state := upText(l.GetUp())
		if len(l.GetPaths()) == 0 {
			state = "" // it is not probed
		}
		if err := remote.add(l, l.GetAddress(), state, l.GetProbes(), l.GetReplies(), l.GetFailures(), rtt(l.GetRoundTripTime()), ago(v.now, l.GetLastReply()), used(v.now, l.GetLastUsed()), sentText(l.GetTraffic()),
			ago(v.now, l.GetLastProbe())); err != nil {
			return err
		}
	}
	if err := remote.end(); err != nil {
		return err
	}
	if paths := d.table("FROM", "TO", "STATE", "UNANSWERED", "RTT", "LAST-PROBE", "LAST-REPLY"); paths != nil {
		for _, l := range remotes {
			for _, p := range l.GetPaths() {
				paths.row(p.GetLocal(), l.GetAddress(), upText(p.GetUp()), p.GetFailures(), rtt(p.GetRoundTripTime()), ago(v.now, p.GetLastProbe()), ago(v.now, p.GetLastReply()))
			}
		}
		if err := paths.end(); err != nil {
			return err
		}
	}
	return d.end()
}

var localColumns = []string{"LOCAL", "INTERFACE", "STATE", "PRIORITY", "WEIGHT", "OPERATOR", "FLAPS", "PATHS-UP", "LAST-REPLY", "SENT", "RECEIVED", "+LAST-LEFT"}

// addLocals prints local locators and ends the list.
func addLocals(l *listing, now time.Time, locals []*eidolonv1.LocalLocator) error {
	for _, x := range locals {
		if err := l.add(x, x.GetAddress(), x.GetInterface(), localStateText(now, x), x.GetPriority(), x.GetWeight(), operatorText(x), x.GetFlaps(),
			fmt.Sprintf("%d of %d", x.GetPaths()-x.GetPathsDown(), x.GetPaths()), ago(now, x.GetLastReply()), sentText(x.GetTraffic()), receivedText(x.GetTraffic()),
			ago(now, x.GetLastLeft())); err != nil {
			return err
		}
	}
	return l.end()
}

func showLocatorSetCommand() *cobra.Command {
	cmd := showCommand("locator-set [NAME]", "Show the locator-sets of an xTR, and what uses them",
		`Shows the locators of each locator-set as they are registered now: with what an
operator has set, and with priority 255 while drained. A locator of another router
of the site has no state here. USED-BY names the EID-prefixes that have the set;
with -o wide the first 256 of them.`, showLocatorSets, programXTR)
	cmd.Aliases = []string{"locator-sets"}
	return cmd
}

func showLocatorSets(v view) error {
	ctx, cancel := context.WithTimeout(v.ctx, answerTime)
	defer cancel()
	t := v.out.table("LOCATOR-SET", "LOCATOR", "INTERFACE", "STATE", "PRIORITY", "WEIGHT", "USED-BY", "+REACHABLE", "+EID-PREFIXES")
	l := v.out.list()
	err := locatorSets(ctx, v.c, v.arg, func(s *eidolonv1.LocatorSet) error {
		if v.out.structured() {
			return l.add(s)
		}
		for _, m := range s.GetLocators() {
			state := ""
			if m.GetState() != eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_UNSPECIFIED {
				state = enumText(m.GetState(), "LOCAL_LOCATOR_STATE_")
			}
			t.row(s.GetName(), m.GetLocator().GetAddress(), m.GetInterface(), state, m.GetLocator().GetPriority(), m.GetLocator().GetWeight(), usersText(s), yesNo(m.GetLocator().GetReachable()),
				strings.Join(s.GetDatabaseMappings(), ", "))
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case v.out.structured():
		return l.end()
	}
	return t.end()
}

// locatorSets walks the locator-sets of an xTR, or the one of a name.
func locatorSets(ctx context.Context, c *client, name string, each func(*eidolonv1.LocatorSet) error) error {
	client := eidolonv1.NewRouterServiceClient(c.conn)
	return pages(func(token string) (*eidolonv1.ListLocatorSetsResponse, error) {
		return client.ListLocatorSets(ctx, &eidolonv1.ListLocatorSetsRequest{Name: name, PageSize: maxPage, PageToken: token})
	}, (*eidolonv1.ListLocatorSetsResponse).GetLocatorSets, each)
}

// maxPage is the largest page that a daemon gives.
const maxPage = 1000

// pages calls each for what of is in one page after the other; ask gets a page by its
// token.
func pages[R interface{ GetNextPageToken() string }, T any](ask func(token string) (R, error), of func(R) []T, each func(T) error) error {
	for token := ""; ; {
		resp, err := ask(token)
		if err != nil {
			return err
		}
		for _, x := range of(resp) {
			if err := each(x); err != nil {
				return err
			}
		}
		if token = resp.GetNextPageToken(); token == "" {
			return nil
		}
	}
}

// usersText returns which EID-prefixes use a locator-set, or how many.
func usersText(s *eidolonv1.LocatorSet) string {
	if n := s.GetDatabaseMappingCount(); n > 2 {
		return fmt.Sprintf("%d EID-prefixes", n)
	}
	return strings.Join(s.GetDatabaseMappings(), ", ")
}

func upText(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

// localStateText returns the state of a local locator, and how long one that is
// held is held yet.
func localStateText(now time.Time, l *eidolonv1.LocalLocator) string {
	s := enumText(l.GetState(), "LOCAL_LOCATOR_STATE_")
	if t := l.GetHeldUntil(); t != nil {
		s += " " + until(now, t)
	}
	return s
}

// operatorText returns what an operator wants of a local locator.
func operatorText(l *eidolonv1.LocalLocator) string {
	var s []string
	if l.GetDrained() {
		s = append(s, "drained")
	}
	if l.SetPriority != nil {
		s = append(s, fmt.Sprintf("priority %d", l.GetSetPriority()))
	}
	if l.SetWeight != nil {
		s = append(s, fmt.Sprintf("weight %d", l.GetSetWeight()))
	}
	return strings.Join(s, ", ")
}

func newLocator() *cobra.Command {
	drain := locatorCommand("drain NAME", "Move traffic away from locators before maintenance",
		`Publishes the locators with priority 255, so that other sites stop sending to them
at once, and sends nothing from them while another locator can be used. Packets
that still come are taken. Where a mapping has no other locator that can be used,
it is published as it was.`,
		func(ctx context.Context, c eidolonv1.RouterServiceClient, name string) ([]*eidolonv1.LocalLocator, error) {
			resp, err := c.DrainLocator(ctx, &eidolonv1.DrainLocatorRequest{Locator: name})
			return resp.GetLocalLocators(), err
		})
	undrain := locatorCommand("undrain NAME", "Let traffic come back to locators that were drained", "",
		func(ctx context.Context, c eidolonv1.RouterServiceClient, name string) ([]*eidolonv1.LocalLocator, error) {
			resp, err := c.UndrainLocator(ctx, &eidolonv1.UndrainLocatorRequest{Locator: name})
			return resp.GetLocalLocators(), err
		})
	var priority, weight *uint32
	var set *cobra.Command
	set = locatorCommand("set NAME", "Replace priority and weight of locators",
		`Replaces priority and weight of the locators, for traffic both ways. What is left
out is as configured; so without flags, both are.`,
		func(ctx context.Context, c eidolonv1.RouterServiceClient, name string) ([]*eidolonv1.LocalLocator, error) {
			req := &eidolonv1.SetLocatorRequest{Locator: name}
			if set.Flags().Changed("priority") {
				req.Priority = priority
			}
			if set.Flags().Changed("weight") {
				req.Weight = weight
			}
			resp, err := c.SetLocator(ctx, req)
			return resp.GetLocalLocators(), err
		})
	priority = set.Flags().Uint32("priority", 0, "0 to 255, the lowest is used first, 255 never (default: as configured)")
	weight = set.Flags().Uint32("weight", 0, "0 to 255, the share among locators of one priority (default: as configured)")
	return group("locator", "Steer the locators of an xTR", drain, undrain, set)
}

// locatorCommand returns a command that changes local locators and prints what
// they are then.
func locatorCommand(use, short, long string, change func(context.Context, eidolonv1.RouterServiceClient, string) ([]*eidolonv1.LocalLocator, error)) *cobra.Command {
	const names = `NAME is the address of a local locator, or an interface for all the locators that
it has now or gets later. The order holds until it is taken back or the xTR ends.`
	cmd := &cobra.Command{Use: use, Short: short, Long: strings.TrimSpace(long + "\n\n" + names), Args: arguments(1, 1)}
	completes(cmd, 1, liveLocators, programXTR)
	socket := socketFlag(cmd, programXTR)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := dial(cmd.Context(), *socket, programXTR)
		if err != nil {
			return err
		}
		defer c.close()
		ctx, cancel := context.WithTimeout(cmd.Context(), answerTime)
		defer cancel()
		changed, err := change(ctx, eidolonv1.NewRouterServiceClient(c.conn), args[0])
		if err != nil {
			return explain(err)
		}
		return addLocals(out.output(cmd).list(localColumns...), time.Now(), changed)
	}
	return cmd
}
