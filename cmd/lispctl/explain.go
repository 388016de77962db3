package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

func newExplain() *cobra.Command {
	var q explainQuery
	var sockets []string
	var source, protocol, resolver string
	cmd := &cobra.Command{
		Use:   "explain EID",
		Short: "Tell what becomes of packets to an address, and why",
		Long: `explain follows the whole chain for an address: which site may register it, who
did, what a Map-Request for it gets, what the xTR has in its map-cache, and which
locator it sends the packets of a flow to; each with the reason.

It asks the daemons that run on this host. Where there is an xTR and no
map-server, it also asks the xTR's map-resolver, as lig does, unless --local is
given; --resolver names another one. The choice of the locator needs --source,
and for TCP, UDP and SCTP the ports.`,
		Example: `  lispctl explain 10.2.0.10
  lispctl explain 10.2.0.10 --source 10.1.0.10 --protocol tcp --sport 40000 --dport 443
  lispctl explain '[7]2001:db8:2::1' --resolver 203.0.113.10`,
		Args: arguments(1, 1),
	}
	completes(cmd, 1, liveEIDs, programXTR, programMapServer)
	f := cmd.Flags()
	f.StringVar(&source, "source", "", "source address of the flow")
	f.StringVar(&protocol, "protocol", "", "tcp, udp, sctp or a number (default: none, the addresses alone are the flow)")
	f.Uint16Var(&q.sport, "sport", 0, "source port")
	f.Uint16Var(&q.dport, "dport", 0, "destination port")
	f.StringSliceVar(&sockets, "socket", nil, "Unix socket of a daemon, may be repeated (default "+defaultSocket(programXTR)+" and "+defaultSocket(programMapServer)+", what there is of them)")
	f.StringVar(&resolver, "resolver", "", "address of a map-resolver to ask, with or without a port")
	f.BoolVar(&q.local, "local", false, "ask only daemons of this host")
	completeWords(cmd, "protocol", slices.Sorted(maps.Keys(protocols))...)
	remote := addressFlags(cmd)
	out := formatFlag(cmd, formatTable)
	every := watchFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := q.parse(args[0], source, protocol, resolver); err != nil {
			return err
		}
		return every.repeat(cmd, out.output(cmd), func(o output) error {
			clients, err := daemons(cmd.Context(), sockets, *remote)
			if err != nil {
				return err
			}
			for _, c := range clients {
				defer c.close()
			}
			if len(clients) == 0 && !q.resolver.IsValid() {
				return noDaemon([]string{defaultSocket(programXTR), defaultSocket(programMapServer)}, "name a socket with --socket, a daemon elsewhere with --address or a map-resolver with --resolver")
			}
			x, err := q.ask(cmd.Context(), clients)
			if err != nil {
				return err
			}
			if o.structured() {
				return o.object(x.json())
			}
			return x.print(o.w, time.Now())
		})
	}
	return cmd
}

// explainQuery is what is asked about.
type explainQuery struct {
	eid          mapping.EID
	source       netip.Addr // not valid: none given
	protocol     uint8
	sport, dport uint16
	resolver     netip.AddrPort // not valid: none given
	local        bool
}

var protocols = map[string]uint8{"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}

func (q *explainQuery) parse(eid, source, protocol, resolver string) (err error) {
	if q.eid, err = mapping.ParseEID(eid); err != nil {
		return err
	}
	if q.eid.Source.IsValid() {
		return fmt.Errorf("%v has a source prefix; give the source as --source", q.eid)
	}
	if source != "" {
		if q.source, err = netip.ParseAddr(source); err != nil || q.source.Is4() != q.eid.Prefix.Addr().Is4() {
			return fmt.Errorf("--source: found %q, expected an address of the family of %v", source, q.eid)
		}
	}
	if protocol != "" {
		var known bool
		if q.protocol, known = protocols[strings.ToLower(protocol)]; !known {
			n, err := strconv.ParseUint(protocol, 10, 8)
			if err != nil {
				return fmt.Errorf("--protocol: found %q, expected tcp, udp, sctp, icmp, icmpv6 or a number up to 255", protocol)
			}
			q.protocol = uint8(n)
		}
	}
	if (q.sport != 0 || q.dport != 0) && !q.hasPorts() {
		return errors.New("--sport and --dport need --protocol tcp, udp or sctp")
	}
	if resolver != "" {
		if q.local {
			return errors.New("--local and --resolver exclude each other")
		}
		if q.resolver, err = parseAddrPort(resolver); err != nil {
			return err
		}
	}
	return nil
}

func (q *explainQuery) hasPorts() bool {
	return q.protocol == 6 || q.protocol == 17 || q.protocol == 132
}

// destination is the address that packets go to: of a prefix, the first one.
func (q *explainQuery) destination() mapping.EID {
	return mapping.HostEID(q.eid.IID, q.eid.Prefix.Addr())
}

// daemons connects to the daemons on the given sockets, to the one at a remote
// address, or to those that have their usual sockets.
func daemons(ctx context.Context, sockets []string, remote target) (out []*client, err error) {
	given := len(sockets) > 0
	if given {
		remote.socket = sockets[0]
	}
	if remote, err = remote.complete(); err != nil {
		return nil, err
	}
	if remote.address != "" {
		c, err := dialRemote(ctx, remote, []string{programXTR, programMapServer})
		if err != nil {
			return nil, err
		}
		return []*client{c}, nil
	}
	if !given {
		sockets = []string{defaultSocket(programMapServer), defaultSocket(programXTR)}
	}
	for _, s := range sockets {
		if _, err := os.Stat(s); !given && errors.Is(err, os.ErrNotExist) {
			continue
		}
		c, err := dialOne(ctx, s, []string{programXTR, programMapServer})
		if err != nil {
			for _, c := range out {
				c.close()
			}
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// explanation is all that could be found out.
type explanation struct {
	q              explainQuery
	mapServer, xtr *client
	mapping        *eidolonv1.ExplainMappingResponse // with mapServer
	flow           *eidolonv1.ExplainFlowResponse    // with xtr
	lig            *ligJSON
	ligRecord      *mapping.Record   // with lig
	ligRecords     []*mapping.Record // ligRecord is among them
	ligErr         error
	ligResolver    netip.AddrPort
	asked          bool // a map-resolver
}

func (q explainQuery) ask(ctx context.Context, clients []*client) (explanation, error) {
	x := explanation{q: q}
	timed, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	for _, c := range clients {
		var err error
		if c.program == programMapServer {
			x.mapServer = c
			x.mapping, err = eidolonv1.NewMappingServiceClient(c.conn).ExplainMapping(timed, &eidolonv1.ExplainMappingRequest{Eid: q.eid.String()})
		} else {
			x.xtr = c
			req := &eidolonv1.ExplainFlowRequest{Destination: q.destination().String(), Protocol: uint32(q.protocol), SourcePort: uint32(q.sport), DestinationPort: uint32(q.dport)}
			if q.source.IsValid() {
				req.Source = q.source.String()
			}
			x.flow, err = eidolonv1.NewRouterServiceClient(c.conn).ExplainFlow(timed, req)
		}
		if err != nil {
			return x, fmt.Errorf("%s: %w", c.at, explain(err))
		}
	}
	resolver := q.resolver
	if !resolver.IsValid() && !q.local && x.xtr != nil && x.mapServer == nil {
		resolver, x.ligErr = chooseResolver(ctx, "", x.xtr.at)
		x.asked = x.ligErr != nil
	}
	if resolver.IsValid() {
		x.asked = true
		x.askResolver(ctx, resolver)
	}
	return x, ctx.Err()
}

func (x *explanation) askResolver(ctx context.Context, resolver netip.AddrPort) {
	x.ligResolver = resolver
	lq := xtr.LigQuery{Resolver: resolver, EID: x.q.eid, Source: x.q.source, Count: 2, Timeout: time.Second}
	res, err := xtr.LigDial(ctx, lq)
	if err != nil {
		x.ligErr = err
		return
	}
	if x.ligRecord = covering(res.Records, x.q.eid); x.ligRecord == nil {
		x.ligErr = fmt.Errorf("%v answered for something else than %v", res.From, x.q.eid)
		return
	}
	a, err := ligAnswer(lq, res, x.ligRecord)
	if err != nil {
		x.ligErr = err
		return
	}
	x.lig, x.ligRecords = &a, res.Records
}

// json is what -o json prints: the answers of the daemons as they are in the
// .proto files, and that of the map-resolver as lig prints it.
func (x explanation) json() any {
	var out struct {
		EID         string          `json:"eid"`
		MapServer   json.RawMessage `json:"map_server,omitempty"`
		MapResolver any             `json:"map_resolver,omitempty"`
		XTR         json.RawMessage `json:"xtr,omitempty"`
	}
	raw := func(m proto.Message) json.RawMessage {
		b, err := marshal(m)
		if err != nil {
			b, _ = json.Marshal(err.Error())
		}
		return b
	}
	out.EID = x.q.eid.String()
	if x.mapping != nil {
		out.MapServer = raw(x.mapping)
	}
	if x.flow != nil {
		out.XTR = raw(x.flow)
	}
	switch {
	case x.lig != nil:
		out.MapResolver = x.lig
	case x.ligErr != nil:
		out.MapResolver = map[string]string{"error": x.ligErr.Error()}
	}
	return out
}

// section prints facts with a label each; what has no label belongs to the one
// before.
type section struct{ w io.Writer }

func (s section) title(format string, args ...any) { fmt.Fprintf(s.w, "\n"+format+"\n", args...) }

func (s section) fact(label, format string, args ...any) {
	fmt.Fprintf(s.w, "  %-14s%s\n", label, fmt.Sprintf(format, args...))
}

func (x explanation) print(w io.Writer, now time.Time) error {
	var b strings.Builder
	s := section{&b}
	b.WriteString(x.subject() + "\n")
	if x.mapping != nil {
		x.printMapServer(s, now)
	}
	if x.asked {
		x.printResolver(s)
	}
	if x.flow != nil {
		x.printXTR(s, now)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (x explanation) subject() string {
	q := x.q
	text := strings.TrimSuffix(strings.TrimSuffix(q.eid.String(), "/32"), "/128")
	if !q.eid.IsHost() {
		text = q.eid.String()
		if x.flow != nil {
			text += ", for the xTR its first address"
		}
	}
	if q.source.IsValid() {
		text += " from " + q.source.String()
	}
	if q.hasPorts() {
		text += fmt.Sprintf(", protocol %d, port %d to %d", q.protocol, q.sport, q.dport)
	} else if q.protocol != 0 {
		text += fmt.Sprintf(", protocol %d", q.protocol)
	}
	return text
}

func (x explanation) printMapServer(s section, now time.Time) {
	m := x.mapping
	s.title("map-server (%s)", x.mapServer.at)
	if p := m.GetSitePrefix(); p != nil {
		more := "more-specifics refused"
		if p.GetAcceptMoreSpecifics() {
			more = fmt.Sprintf("more-specifics accepted, %d EID-prefixes registered", p.GetRegistered())
		}
		if policy := p.GetRequestPolicy(); policy != eidolonv1.RequestPolicy_REQUEST_POLICY_ALLOW {
			more += ", request_policy " + enumText(policy, "REQUEST_POLICY_")
		}
		s.fact("site", "%s may register %s: proxy_reply %s, %s", m.GetSite(), p.GetEid(), enumText(p.GetProxyReply(), "PROXY_REPLY_POLICY_"), more)
	} else {
		s.fact("site", "none has an EID-prefix that holds it")
	}
	label := "registration"
	for _, r := range m.GetMapping().GetRegistrations() {
		refreshed := "not refreshed since a restart"
		if r.GetRefreshed() != nil {
			refreshed = fmt.Sprintf("refreshed %s ago from %s", ago(now, r.GetRefreshed()), r.GetFrom())
		}
		who := "xTR"
		if r.GetXtrId() != "" {
			who += " " + r.GetXtrId()
		}
		flags := ""
		if r.GetProxyReply() {
			flags += ", proxy-reply"
		}
		if r.GetMerge() {
			flags += ", merge"
		}
		s.fact(label, "%s by %s: %s", r.GetRecord().GetEid(), who, locatorsText(r.GetRecord()))
		s.fact("", "changed %s ago, %s, expires in %s%s", ago(now, r.GetChanged()), refreshed, until(now, r.GetExpires()), flags)
		label = ""
	}
	if label != "" {
		s.fact(label, "none")
	}
	switch m.GetOutcome() {
	case eidolonv1.MapRequestOutcome_MAP_REQUEST_OUTCOME_FORWARD:
		s.fact("map-request", "is forwarded to an ETR: %s", cmp.Or(strings.Join(m.GetEtrs(), ", "), "none can be sent to"))
	case eidolonv1.MapRequestOutcome_MAP_REQUEST_OUTCOME_ALT:
		s.fact("map-request", "goes on over the ALT, to a map-server that knows more")
	case eidolonv1.MapRequestOutcome_MAP_REQUEST_OUTCOME_NEGATIVE:
		s.fact("map-request", "gets a negative answer:")
	default:
		s.fact("map-request", "is answered by the map-server:")
	}
	for i, r := range m.GetRecords() {
		if i == 4 && len(m.GetRecords()) > 5 {
			s.fact("", "and %d more-specifics more", len(m.GetRecords())-i)
			break
		}
		s.fact("", "%s: %s", r.GetEid(), recordText(r))
	}
	label = "because"
	for _, r := range m.GetReasons() {
		s.fact(label, "%s", r)
		label = ""
	}
	label = "told"
	for i, sub := range m.GetSubscriptions() {
		if i == 4 && len(m.GetSubscriptions()) > 5 {
			s.fact("", "and %d xTRs more", len(m.GetSubscriptions())-i)
			break
		}
		s.fact(label, "of changes is xTR %s, subscribed to %s for %s, %d map-notifies unacknowledged", sub.GetXtrId(), sub.GetEid(), ago(now, sub.GetSince()), sub.GetWaiting())
		label = ""
	}
}

func (x explanation) printResolver(s section) {
	if x.ligErr != nil {
		s.title("map-resolver")
		s.fact("no answer", "%v", x.ligErr)
		return
	}
	s.title("map-resolver (%v)", x.ligResolver)
	s.fact("map-reply", "%s: %s, ttl %s", x.ligRecord.EID, recordLocators(x.ligRecord), ttlText(x.ligRecord.TTL))
	s.fact("", "from %s in %.2f ms%s", x.lig.AnsweredBy, x.lig.RTTMilliseconds, attempts(x.lig.MapRequests))
	others := slices.DeleteFunc(slices.Clone(x.ligRecords), func(r *mapping.Record) bool { return r == x.ligRecord })
	for i, r := range others {
		if i == 3 && len(others) > 4 {
			s.fact("", "and %d records more", len(others)-i)
			break
		}
		s.fact("", "with it %s", r.EID)
	}
}

// recordLocators is locatorsText for a record of the domain.
func recordLocators(r *mapping.Record) string {
	if r.Negative() {
		return r.Action.String()
	}
	texts := make([]string, len(r.Locators))
	for i, l := range r.Locators {
		texts[i] = fmt.Sprintf("%s %d/%d", locatorName(l), l.Priority, l.Weight)
		if l.Flags&mapping.Reachable == 0 {
			texts[i] += " unreachable"
		}
	}
	return strings.Join(texts, ", ")
}

// dropMeaning says in words why an xTR drops packets, by the names of the
// counters.
var dropMeaning = map[string]string{
	"inner_version":         "it is neither IPv4 nor IPv6",
	"inner_truncated":       "it is shorter than its headers say",
	"inner_header":          "its header has an impossible length, or it is a fragment beyond the largest datagram",
	"inner_trailing":        "octets follow the inner packet",
	"multicast":             "it is a multicast address",
	"not_routable":          "it is an address that no packet may have",
	"ttl_expired":           "its TTL or hop limit is 0",
	"source_not_eid":        "the source is not an EID of this site",
	"destination_local":     "it is an EID of this site, to which the kernel routes",
	"no_mapping":            "no mapping is known, and packets are not held",
	"hold_full":             "no mapping is known, and too many packets are held",
	"hold_timeout":          "no mapping came while they were held",
	"no_action":             "the mapping system says: no action",
	"natively_forward":      "no LISP site has it, and there is no proxy-ETR for it; with no_mapping: native the kernel forwards them",
	"negative":              "the mapping system says: drop",
	"policy_denied":         "the mapping system says: a policy denies it",
	"auth_failure":          "the mapping system says: the authentication failed",
	"no_locator":            "the mapping has no usable locator",
	"no_source":             "the mapping has no locator of an address family that this xTR has an RLOC of",
	"too_big":               "they are larger than the path takes, and the source is told",
	"send_too_big":          "the kernel knows a smaller path MTU",
	"send_unreachable":      "the kernel has no route to the locator",
	"send_denied":           "a firewall refuses them",
	"send_buffer":           "the kernel has no buffer space",
	"send_no_socket":        "the source RLOC is not on any interface",
	"send_error":            "the kernel refuses them",
	"outer_truncated":       "there is no whole LISP header",
	"encrypted":             "the payload is encrypted",
	"map_version":           "it speaks of a map-version of a mapping that has none",
	"outer_source":          "the outer source can't be a tunnel router",
	"unknown_instance":      "the instance-ID is not configured here",
	"destination_not_local": "the inner destination is no EID of this site",
	"source_local":          "the inner source claims to be an EID of this site",
	"congestion":            "routers on the way saw congestion, and the flow does not know ECN",
	"host_read":             "the offload metadata of the host side makes no sense",
	"host_write":            "the host side refused them",
	"host_queue":            "the queue of the TUN device was full",
	"receive_buffer":        "the buffer of a receiving socket was full, or the UDP checksum outside was wrong",
	"version_newer":         "it speaks of a map-version that this site has not reached",
	"version_old":           "it speaks of an old map-version",
	"source_no_mapping":     "there is no mapping of the inner source (source_check: strict)",
	"source_unlisted":       "the outer source is not a locator of the inner source (source_check)",
	"proxy_source":          "the inner source is of none of the sites that this proxy-ETR serves",
	"proxy_loop":            "both ends are in what this proxy serves: it would go round",
}

func (x explanation) printXTR(s section, now time.Time) {
	f := x.flow
	s.title("xTR (%s)", x.xtr.at)
	if d := f.GetDatabaseMapping(); d != nil {
		s.fact("own EID", "%s: %s", d.GetRecord().GetEid(), locatorsText(d.GetRecord()))
		for _, r := range d.GetRegistrations() {
			notified := "no map-notify yet"
			if r.GetLastNotify() != nil {
				notified = fmt.Sprintf("map-notify %s ago", ago(now, r.GetLastNotify()))
			}
			s.fact("", "%s at %s, %s", registrationText(r.GetState()), r.GetMapServer(), notified)
		}
	}
	if e := f.GetEntry(); e != nil {
		s.fact("map-cache", "%s: %s", e.GetRecord().GetEid(), recordText(e.GetRecord()))
		usedAgo := "not used yet"
		if e.GetLastUsed() != nil {
			usedAgo = fmt.Sprintf("used %s ago", ago(now, e.GetLastUsed()))
		}
		s.fact("", "learned %s ago, expires in %s, %s", ago(now, e.GetInstalled()), until(now, e.GetExpires()), usedAgo)
		x.compare(s, e.GetRecord())
	} else if f.GetDatabaseMapping() == nil {
		s.fact("map-cache", "nothing")
	}
	if r := f.GetResolution(); r != nil {
		if r.GetGivenUp() {
			s.fact("map-request", "%s: %d were not answered, none before %s", r.GetEid(), r.GetTries(), until(now, r.GetNext()))
		} else {
			s.fact("map-request", "%s: %d sent, the next in %s unless an answer comes", r.GetEid(), r.GetTries(), until(now, r.GetNext()))
		}
	}
	if f.FlowHash != nil && len(f.GetLocators()) > 0 {
		s.fact("flow", "hash 0x%08x, slot %d of %d", f.GetFlowHash(), f.GetSlot(), f.GetSlots())
	}
	label := "locators"
	for _, u := range f.GetLocators() {
		text := locatorText(u.GetLocator())
		switch {
		case u.GetReason() != "":
			text += ": not used, " + u.GetReason()
		default:
			text += fmt.Sprintf(": %d of %d slots", u.GetSlots(), f.GetSlots())
			if u.GetLocator().GetAddress() == f.GetRloc() {
				text += ", chosen"
			}
			if p := u.GetRemoteLocator(); p != nil && !p.GetUp() {
				text += fmt.Sprintf(", although it does not answer probes, %d in a row: no other does", p.GetFailures())
			}
		}
		s.fact(label, "%s", text)
		label = ""
	}
	switch {
	case f.GetRloc() != "":
		s.fact("packets", "go from %s to %s; the path MTU of %d takes %d octets of a host", f.GetSourceRloc(), f.GetRloc(), f.GetPathMtu(), f.GetRoom())
	case f.GetDrop() == "":
		s.fact("packets", "go to one of these; which depends on the source (--source)")
	case f.GetDrop() == "no_mapping" && f.GetUnresolvable() != "":
		s.fact("packets", "are dropped: no mapping is known, and none is asked for: %s", f.GetUnresolvable())
	case f.GetDrop() == "no_mapping":
		s.fact("packets", "wait or are dropped, as configured, and make the xTR ask for a mapping")
	default:
		s.fact("packets", "are not encapsulated: %s (drop_%s)", cmp.Or(dropMeaning[f.GetDrop()], f.GetDrop()), f.GetDrop())
	}
}

// compare says whether the map-cache has what the mapping system answers now.
func (x explanation) compare(s section, cached *eidolonv1.Record) {
	var eid, locators string
	switch {
	case x.ligRecord != nil:
		eid, locators = x.ligRecord.EID.String(), recordLocators(x.ligRecord)
	case len(x.mapping.GetRecords()) > 0:
		eid, locators = x.mapping.GetRecords()[0].GetEid(), locatorsText(x.mapping.GetRecords()[0])
	default:
		return
	}
	if eid == cached.GetEid() && locators == locatorsText(cached) {
		s.fact("", "the mapping system answers the same now")
		return
	}
	s.fact("", "the mapping system answers differently now: %s: %s", eid, locators)
}
