package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/eidolon-lisp/eidolon/api"
	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
)

func newShow() *cobra.Command {
	return group("show", "Show the state of a daemon",
		showCommand("site [NAME|EID]", "Show the sites of a map-server and who registered",
			`Shows the EID-prefixes of the sites, whether each is registered (or how many
prefixes inside it are, where more-specifics are accepted), when the last
Map-Register of the site was accepted, and how many were refused.

With the name of a site or an EID, also each registration of that site, or of
EID-prefixes that hold the EID or lie inside it. As JSON, without an argument
the sites are printed, with one the registrations.`,
			showSites, programMapServer),
		showCommand("database [EID]", "Show the database-mappings of an xTR, or the mappings of a map-server",
			`On an xTR, shows the site's own EID-prefixes and how their registration with
each map-server stands. On a map-server, shows all mappings: static, registered
and put over the API.

With an argument only EID-prefixes that hold the EID or lie inside it; on a
map-server, the EID's longest match and all that lie inside it.`,
			showDatabase, programXTR, programMapServer),
		showCommand("map-cache [EID]", "Show the map-cache of an xTR",
			`Shows what an xTR has learned, and the packets and octets that it sent by each
entry and received from there. With an argument only entries that hold the EID or
lie inside it.`,
			showMapCache, programXTR),
		showCommand("map-server", "Show the map-servers of an xTR", "", showMapServers, programXTR),
		showCommand("bgp", "Show the BGP sessions of an xTR and what it announces",
			`Shows the neighbours and how the sessions with them stand, the prefixes that there
are to announce, and whether the mapping system answers, on which they depend.`,
			showBGP, programXTR),
		showCommand("alt", "Show the place of a map-server in LISP+ALT",
			`Shows the sessions with other ALT routers (RFC 6836), and for each prefix what
becomes of Map-Requests that nothing longer covers: forwarded over a tunnel, dealt
with here, or answered that there is no EID, or none now (down).`,
			showALT, programMapServer),
		showCommand("map-resolver", "Show the map-resolvers of an xTR", "", showMapResolvers, programXTR),
		showCommand("subscriptions [EID]", "Show who a map-server tells of changes",
			`Shows the xTRs that subscribed to EIDs (RFC 9437) and so are told when a mapping
changes. With an argument only subscriptions to what holds the EID or lies inside
it.`, showSubscriptions, programMapServer),
		showLocatorCommand(),
		showLocatorSetCommand(),
		showCommand("drops", "Show what an xTR dropped, and why",
			`Shows for each reason how many packets the data plane of an xTR dropped since it
started, and what its queues had no room for. As JSON also the reasons for which
there were none.`,
			showDrops, programXTR),
		showCommand("statistics [PREFIX]", "Show the counters of a daemon",
			`Shows all counters, or those whose names begin with PREFIX; with -o wide also what
they count, if this lispctl knows it.`,
			showStatistics, programXTR, programMapServer),
	)
}

// view is what a show command works with.
type view struct {
	ctx context.Context
	c   *client
	arg string
	out output
	now time.Time
}

func showCommand(use, short, long string, show func(view) error, programs ...string) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: arguments(0, 0)}
	if strings.Contains(use, "[") {
		cmd.Args = arguments(0, 1)
	}
	_, argument, _ := strings.Cut(use, " ")
	of := map[string]candidate{"[EID]": liveEIDs, "[NAME|EID]": liveSitesAndEIDs, "[PREFIX]": liveStatistics, "[NAME]": liveLocatorSets}[argument]
	if strings.HasPrefix(use, "map-cache") {
		of = cachedEIDs
	}
	completes(cmd, 1, of, programs...)
	socket := socketFlag(cmd, programs...)
	out := formatFlag(cmd, formatTable)
	every := watchFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		v := view{ctx: cmd.Context(), out: out.output(cmd)}
		if len(args) > 0 {
			v.arg = args[0]
		}
		if strings.HasSuffix(use, " [EID]") && v.arg != "" {
			if _, err := mapping.ParseEID(v.arg); err != nil {
				return err
			}
		}
		return every.repeat(cmd, v.out, func(o output) (err error) {
			v := v
			v.out, v.now = o, time.Now()
			if v.c, err = dial(v.ctx, *socket, programs...); err != nil {
				return err
			}
			defer v.c.close()
			if err := show(v); err != nil {
				return explain(err)
			}
			return nil
		})
	}
	return cmd
}

// received walks the messages of a stream.
func received[M any](recv func() (*M, error), each func(*M) error) error {
	for {
		m, err := recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(m); err != nil {
			return err
		}
	}
}

// showSites shows all sites in short, or one site or EID with the xTRs that
// registered.
func showSites(v view) error {
	ctx, cancel := context.WithTimeout(v.ctx, answerTime)
	defer cancel()
	client := eidolonv1.NewSiteServiceClient(v.c.conn)
	sites, regs := &eidolonv1.ListSitesRequest{}, &eidolonv1.ListRegistrationsRequest{}
	if _, err := mapping.ParseEID(v.arg); err == nil {
		sites.Eid = v.arg
	} else {
		sites.Name, regs.Site = v.arg, v.arg
	}
	list, err := allSites(ctx, client, sites)
	if err != nil {
		return err
	}
	if sites.Eid != "" && len(list) == 0 {
		return fmt.Errorf("no site has an EID-prefix that holds %s or lies inside it", v.arg)
	}
	switch {
	case v.out.structured() && v.arg == "":
		l := v.out.list()
		for _, s := range list {
			if err := l.add(s); err != nil {
				return err
			}
		}
		return l.end()
	case v.out.structured():
		return showRegistrations(v, client, regs, sites.Eid)
	}
	t := v.out.table("SITE", "EID-PREFIX", "REGISTERED", "LAST", "REFUSED", "+ACCEPTED", "+AUTH-FAILURES", "+MORE-SPECIFICS", "+PROXY-REPLY", "+REQUESTS", "+ORIGIN")
	for _, s := range list {
		origin := enumText(s.GetOrigin(), "SITE_ORIGIN_")
		if s.GetShadowed() != "" {
			origin += ", no effect: " + s.GetShadowed()
		}
		for _, p := range s.GetPrefixes() {
			registered := "no"
			switch {
			case p.GetAcceptMoreSpecifics() && p.GetRegistered() > 0:
				registered = fmt.Sprint(p.GetRegistered())
			case p.GetRegistered() > 0:
				registered = "yes"
			}
			t.row(s.GetName(), p.GetEid(), registered, ago(v.now, s.GetLastRegistration()), s.GetRefused(),
				s.GetAccepted(), s.GetAuthFailures(), yesNo(p.GetAcceptMoreSpecifics()), enumText(p.GetProxyReply(), "PROXY_REPLY_POLICY_"), enumText(p.GetRequestPolicy(), "REQUEST_POLICY_"), origin)
		}
	}
	if err := t.end(); err != nil || v.arg == "" {
		return err
	}
	fmt.Fprintln(v.out.w)
	return showRegistrations(v, client, regs, sites.Eid)
}

// allSites returns the sites that a request selects, page after page.
func allSites(ctx context.Context, client eidolonv1.SiteServiceClient, req *eidolonv1.ListSitesRequest) (list []*eidolonv1.Site, err error) {
	req.PageSize = maxPage
	err = pages(func(token string) (*eidolonv1.ListSitesResponse, error) {
		req.PageToken = token
		return client.ListSites(ctx, req)
	}, (*eidolonv1.ListSitesResponse).GetSites, func(s *eidolonv1.Site) error {
		if n := len(list); n > 0 && list[n-1].GetName() == s.GetName() && list[n-1].GetOrigin() == s.GetOrigin() {
			list[n-1].Prefixes = append(list[n-1].Prefixes, s.GetPrefixes()...) // it goes on in this page
		} else {
			list = append(list, s)
		}
		return nil
	})
	return list, err
}

// databaseMappings walks the database-mappings of an xTR that hold an EID or lie
// inside of it, all with "".
func databaseMappings(ctx context.Context, c *client, eid string, each func(*eidolonv1.DatabaseMapping) error) error {
	client := eidolonv1.NewRouterServiceClient(c.conn)
	return pages(func(token string) (*eidolonv1.ListDatabaseMappingsResponse, error) {
		return client.ListDatabaseMappings(ctx, &eidolonv1.ListDatabaseMappingsRequest{Eid: eid, PageSize: maxPage, PageToken: token})
	}, (*eidolonv1.ListDatabaseMappingsResponse).GetDatabaseMappings, each)
}

// showRegistrations shows registrations; those that filter, an EID, lies
// inside of or that lie inside it, unless it is empty.
func showRegistrations(v view, client eidolonv1.SiteServiceClient, req *eidolonv1.ListRegistrationsRequest, filter string) error {
	within, err := mapping.ParseEID(filter)
	all := err != nil
	stream, err := client.ListRegistrations(v.ctx, req)
	if err != nil {
		return err
	}
	l := v.out.list("EID-PREFIX", "XTR", "FROM", "LOCATORS", "REFRESHED", "EXPIRES", "+CHANGED", "+SITE", "+SITE-ID", "+PROXY-REPLY", "+MERGE", "+VERSION")
	err = received(stream.Recv, func(resp *eidolonv1.ListRegistrationsResponse) error {
		for _, r := range resp.GetRegistrations() {
			if e, err := mapping.ParseEID(r.GetRecord().GetEid()); !all && (err != nil || !e.Covers(within) && !within.Covers(e)) {
				continue
			}
			if err := l.add(r, r.GetRecord().GetEid(), r.GetXtrId(), r.GetFrom(), locatorsText(r.GetRecord()), ago(v.now, r.GetRefreshed()), until(v.now, r.GetExpires()),
				ago(v.now, r.GetChanged()), r.GetSite(), r.GetSiteId(), yesNo(r.GetProxyReply()), yesNo(r.GetMerge()), r.GetRecord().GetMapVersion()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return l.end()
}

func showDatabase(v view) error {
	if v.c.program == programMapServer {
		return showMappings(v)
	}
	ctx, cancel := context.WithTimeout(v.ctx, answerTime)
	defer cancel()
	t := v.out.table("EID-PREFIX", "LOCATORS", "TTL", "MAP-SERVER", "STATE", "NOTIFIED", "NEXT", "+SENT", "+UNANSWERED", "+RTT", "+VERSION", "+LOCATOR-SET")
	l := v.out.list()
	err := databaseMappings(ctx, v.c, v.arg, func(d *eidolonv1.DatabaseMapping) error {
		if v.out.structured() {
			return l.add(d)
		}
		rec := d.GetRecord()
		for _, r := range d.GetRegistrations() {
			t.row(rec.GetEid(), locatorsText(rec), ttlText(rec.GetRecordTtl()), r.GetMapServer(), registrationText(r.GetState()), ago(v.now, r.GetLastNotify()), until(v.now, r.GetNext()),
				ago(v.now, r.GetLastSent()), r.GetFailures(), rtt(r.GetRoundTripTime()), rec.GetMapVersion(), d.GetLocatorSet())
		}
		if len(d.GetRegistrations()) == 0 {
			t.row(rec.GetEid(), locatorsText(rec), ttlText(rec.GetRecordTtl()), "", "", "", "", "", "", "", rec.GetMapVersion(), d.GetLocatorSet())
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

// showMappings shows the mappings of a map-server: all, or the longest match of
// an EID and what lies inside it.
func showMappings(v view) error {
	client := eidolonv1.NewMappingServiceClient(v.c.conn)
	stream, err := client.ListMappings(v.ctx, &eidolonv1.ListMappingsRequest{Within: v.arg})
	if err != nil {
		return err
	}
	l := v.out.list(mappingColumns...)
	add := func(m *eidolonv1.Mapping) error { return addMapping(l, m) }
	if v.arg != "" {
		ctx, cancel := context.WithTimeout(v.ctx, answerTime)
		defer cancel()
		resp, err := client.LookupMapping(ctx, &eidolonv1.LookupMappingRequest{Eid: v.arg})
		e, _ := mapping.ParseEID(v.arg)
		// The EID itself comes with the list.
		if err == nil && resp.GetMapping().GetRecord().GetEid() != e.String() {
			if err := add(resp.GetMapping()); err != nil {
				return err
			}
		}
	}
	err = received(stream.Recv, func(resp *eidolonv1.ListMappingsResponse) error {
		for _, m := range resp.GetMappings() {
			if err := add(m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return l.end()
}

var mappingColumns = []string{"EID-PREFIX", "ORIGIN", "SITE", "TTL", "LOCATORS", "+XTRS", "+ANSWERED-BY", "+VERSION", "+PUT-REVISION"}

// addMapping prints a mapping of a map-server.
func addMapping(l *listing, m *eidolonv1.Mapping) error {
	r, by, put := m.GetRecord(), "map-server", ""
	if m.GetPutRevision() > 0 {
		put = fmt.Sprint(m.GetPutRevision())
	}
	if m.GetForwarded() {
		by = "xtr"
	}
	return l.add(m, r.GetEid(), originText(m.GetOrigin()), m.GetSite(), ttlText(r.GetRecordTtl()), locatorsText(r), len(m.GetRegistrations()), by, r.GetMapVersion(), put)
}

func showMapCache(v view) error {
	stream, err := eidolonv1.NewRouterServiceClient(v.c.conn).ListMapCache(v.ctx, &eidolonv1.ListMapCacheRequest{Eid: v.arg})
	if err != nil {
		return err
	}
	l := v.out.list("EID-PREFIX", "LOCATORS", "AGE", "EXPIRES", "USED", "SENT", "RECEIVED", "+TTL", "+AUTHORITATIVE", "+VERSION")
	err = received(stream.Recv, func(resp *eidolonv1.ListMapCacheResponse) error {
		for _, e := range resp.GetEntries() {
			r := e.GetRecord()
			if err := l.add(e, r.GetEid(), locatorsText(r), ago(v.now, e.GetInstalled()), until(v.now, e.GetExpires()), used(v.now, e.GetLastUsed()), sentText(e.GetTraffic()), receivedText(e.GetTraffic()),
				ttlText(r.GetRecordTtl()), yesNo(r.GetAuthoritative()), r.GetMapVersion()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return l.end()
}

func used(now time.Time, t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	return ago(now, t)
}

func showMapServers(v view) error {
	ctx, cancel := context.WithTimeout(v.ctx, answerTime)
	defer cancel()
	resp, err := eidolonv1.NewRouterServiceClient(v.c.conn).ListMapServers(ctx, &eidolonv1.ListMapServersRequest{})
	if err != nil {
		return err
	}
	l := v.out.list("MAP-SERVER", "REGISTERED", "SENT", "NOTIFIED", "UNANSWERED", "RTT")
	for _, m := range resp.GetMapServers() {
		if err := l.add(m, m.GetAddress(), fmt.Sprintf("%d of %d", m.GetRegistered(), m.GetDatabaseMappings()), ago(v.now, m.GetLastSent()), ago(v.now, m.GetLastNotify()), m.GetFailures(), rtt(m.GetRoundTripTime())); err != nil {
			return err
		}
	}
	return l.end()
}

func showMapResolvers(v view) error {
	ctx, cancel := context.WithTimeout(v.ctx, answerTime)
	defer cancel()
	resp, err := eidolonv1.NewRouterServiceClient(v.c.conn).ListMapResolvers(ctx, &eidolonv1.ListMapResolversRequest{})
	if err != nil {
		return err
	}
	l := v.out.list("MAP-RESOLVER", "STATE", "REQUESTS", "REPLIES", "TIMEOUTS", "RTT", "LAST-REPLY", "+UNANSWERED")
	for _, m := range resp.GetMapResolvers() {
		if err := l.add(m, m.GetAddress(), upText(m.GetUp()), m.GetRequests(), m.GetReplies(), m.GetTimeouts(), rtt(m.GetRoundTripTime()), ago(v.now, m.GetLastReply()), m.GetFailures()); err != nil {
			return err
		}
	}
	return l.end()
}

func showSubscriptions(v view) error {
	stream, err := eidolonv1.NewMappingServiceClient(v.c.conn).ListSubscriptions(v.ctx, &eidolonv1.ListSubscriptionsRequest{Eid: v.arg})
	if err != nil {
		return err
	}
	l := v.out.list("EID", "XTR", "ITR-RLOCS", "SINCE", "ENDS", "UNACKNOWLEDGED", "+SITE-ID")
	err = received(stream.Recv, func(resp *eidolonv1.ListSubscriptionsResponse) error {
		for _, s := range resp.GetSubscriptions() {
			if err := l.add(s, s.GetEid(), s.GetXtrId(), strings.Join(s.GetItrRlocs(), ","), ago(v.now, s.GetSince()), until(v.now, s.GetUntil()), s.GetWaiting(), s.GetSiteId()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return l.end()
}

func showStatistics(v view) error {
	ctx, cancel := context.WithTimeout(v.ctx, answerTime)
	defer cancel()
	resp, err := eidolonv1.NewAdminServiceClient(v.c.conn).GetStatistics(ctx, &eidolonv1.GetStatisticsRequest{Prefix: v.arg})
	if err != nil {
		return err
	}
	if v.out.structured() {
		values := make(map[string]uint64, len(resp.GetStatistics()))
		for _, s := range resp.GetStatistics() {
			values[s.GetName()] = s.GetValue()
		}
		return v.out.object(values)
	}
	t, meaning := v.out.table("STATISTIC", "VALUE", "+MEANING"), api.Meanings(v.c.program)
	for _, s := range resp.GetStatistics() {
		of := meaning(s.GetName())
		if reason, ok := strings.CutPrefix(s.GetName(), "drop_"); ok && dropMeaning[reason] != "" {
			of = "packets dropped: " + dropMeaning[reason]
		}
		t.row(s.GetName(), s.GetValue(), of)
	}
	return t.end()
}

// overflows says what the queues of an xTR lose when they are full, by the names
// of the counters.
var overflows = map[string]struct{ queue, of string }{
	"miss_lost":          {"misses", "destinations without a mapping, from the data plane"},
	"misses_table_full":  {"resolutions", "destinations to ask the mapping system for"},
	"version_lost":       {"findings", "what packets say of map-versions and sources"},
	"unreachable_lost":   {"unreachable", "paths that ICMP calls unreachable"},
	"heard_lost":         {"heard", "RLOCs that packets came from, to be told of changes"},
	"control_queue_full": {"control", "control messages"},
}

func showDrops(v view) error {
	ctx, cancel := context.WithTimeout(v.ctx, answerTime)
	defer cancel()
	resp, err := eidolonv1.NewAdminServiceClient(v.c.conn).GetStatistics(ctx, &eidolonv1.GetStatisticsRequest{})
	if err != nil {
		return err
	}
	values := make(map[string]uint64)
	human := v.out
	human.format = formatTable
	drops, lost := human.table("REASON", "PACKETS", "MEANING"), human.table("QUEUE", "LOST", "OF")
	for _, s := range resp.GetStatistics() {
		name, n := s.GetName(), s.GetValue()
		if reason, ok := strings.CutPrefix(name, "drop_"); ok {
			if values[name] = n; n > 0 {
				drops.row(reason, n, dropMeaning[reason])
			}
		} else if q, ok := overflows[name]; ok {
			if values[name] = n; n > 0 {
				lost.row(q.queue, n, q.of)
			}
		}
	}
	switch {
	case v.out.structured():
		return v.out.object(values)
	case drops.rows+lost.rows == 0:
		_, err := fmt.Fprintln(v.out.w, "nothing was dropped")
		return err
	case lost.rows == 0:
		return drops.end()
	case drops.rows == 0:
		return lost.end()
	}
	if err := drops.end(); err != nil {
		return err
	}
	fmt.Fprintln(v.out.w)
	return lost.end()
}

func newClear() *cobra.Command {
	mapCache := &cobra.Command{
		Use:   "map-cache [EID]",
		Short: "Remove entries from the map-cache of an xTR",
		Long: `Removes the entries that lie inside the EID, or all of them. The next packets ask
the mapping system again.`,
		Args: arguments(0, 1),
	}
	completes(mapCache, 1, cachedEIDs, programXTR)
	socket := socketFlag(mapCache, programXTR)
	out := formatFlag(mapCache, formatTable)
	mapCache.RunE = func(cmd *cobra.Command, args []string) error {
		req := &eidolonv1.ClearMapCacheRequest{}
		if len(args) > 0 {
			if _, err := mapping.ParseEID(args[0]); err != nil {
				return err
			}
			req.Within = args[0]
		}
		c, err := dial(cmd.Context(), *socket, programXTR)
		if err != nil {
			return err
		}
		defer c.close()
		ctx, cancel := context.WithTimeout(cmd.Context(), answerTime)
		defer cancel()
		resp, err := eidolonv1.NewRouterServiceClient(c.conn).ClearMapCache(ctx, req)
		if err != nil {
			return explain(err)
		}
		return out.output(cmd).done(resp, "%d entries removed", resp.GetRemoved())
	}
	return group("clear", "Clear state of a daemon", mapCache)
}
