package server

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// What Explain tells is what a Map-Request gets, and its reasons are the right
// ones.
func TestExplain(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	b.register(registering{proxy: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1"), withTTL(60, rec("10.1.1.0/24", "192.0.2.3"))}})
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.3.0.0/16", "192.0.2.2")}})
	b.register(registering{key: rightKey, proxy: true, records: []*mapping.Record{rec("10.4.0.0/16", "192.0.2.2")}})
	put := []*mapping.Record{rec("10.64.0.0/10", "203.0.113.1"), rec("10.96.0.0/16", "203.0.113.2"), rec("10.9.0.0/16", "203.0.113.3"), rec("10.3.0.0/16", "203.0.113.4"),
		mapping.NegativeRecord(eid("10.97.0.0/16"), mapping.Drop, 5)}
	if err := b.s.Put(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ask, site, match string
		outcome          Outcome
		reasons          []string // parts of them, in order
	}{
		{"10.1.1.5", "left", "10.1.1.0/24", OutcomeReply, []string{"10.1.1.0/24 is registered by one xTR", "a registration has the P bit: the map-server answers, unless"}},
		{"10.1.2.5", "left", "10.1.0.0/16", OutcomeReply, []string{"registered by one xTR", "P bit", "3 EID-prefixes inside it go along"}},
		{"10.2.3.4", "right", "10.2.0.0/16", OutcomeForward, []string{"registered by one xTR", "as-registered and no registration has the P bit: an ETR answers"}},
		{"10.3.3.4", "right", "10.3.0.0/16", OutcomeReply, []string{"goes before what was put over the API", "proxy_reply is always: the map-server answers"}},
		{"10.4.3.4", "right", "10.4.0.0/16", OutcomeForward, []string{"registered", "proxy_reply is never: an ETR answers"}},
		{"10.1.64.5", "right", "10.1.64.0/20", OutcomeNegative, []string{"is an EID-prefix of a site, and not registered"}},
		{"10.9.9.9", "", "10.9.0.0/16", OutcomeReply, []string{"static mapping of the configuration"}},
		{"10.8.9.9", "", "10.8.0.0/16", OutcomeReply, []string{"static mapping"}},
		{"10.96.0.1", "", "10.96.0.0/16", OutcomeReply, []string{"put over the API"}},
		{"11.0.0.1", "", "", OutcomeNegative, []string{"no EID-prefix of a site and no mapping covers it", "11.0.0.0/8 is the largest prefix around it that overlaps nothing known"}},
	} {
		t.Run(c.ask, func(t *testing.T) {
			b.t = t
			x := b.s.Explain(eid(c.ask), itr4.Addr())
			match := ""
			if x.Matched {
				match = x.Match.Record.EID.String()
			}
			if x.EID != eid(c.ask) || x.Site != c.site || match != c.match || x.Outcome != c.outcome {
				t.Errorf("site %q, match %q, outcome %v, want %q, %q, %v", x.Site, match, x.Outcome, c.site, c.match, c.outcome)
			}
			if len(x.Reasons) != len(c.reasons) {
				t.Fatalf("reasons %q, want %q", x.Reasons, c.reasons)
			}
			for i, want := range c.reasons {
				if !strings.Contains(x.Reasons[i], want) {
					t.Errorf("reason %d: %q, want %q", i, x.Reasons[i], want)
				}
			}
			b.wantAnswer(c.ask, outcomeText(x)...)
		})
	}
	if before, _ := b.s.counters[mapRequests].Load(), b.s.Explain(eid("10.1.1.5"), netip.Addr{}); b.s.counters[mapRequests].Load() != before {
		t.Error("Explain counts as a Map-Request")
	}
}

// outcomeText is x as wantAnswer has it.
func outcomeText(x Explanation) (out []string) {
	for _, a := range x.ETRs {
		out = append(out, "forwarded to "+netip.AddrPortFrom(a, 4342).String())
	}
	for _, r := range x.Records {
		out = append(out, r.String())
	}
	return out
}

// An EID-prefix that does not fit into a Map-Reply with its more-specifics is
// narrowed, depending on the family that the reply goes over.
func TestExplainNarrowing(t *testing.T) {
	b := newBench(t, twoSites(), newMemStore())
	put := []*mapping.Record{rec("10.64.0.0/10", "203.0.113.1")}
	for i := range 20 {
		put = append(put, rec(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64, byte(i), 0}), 24).String(), "203.0.113.2"))
	}
	if err := b.s.Put(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	x := b.s.Explain(eid("10.100.0.1"), itr4.Addr())
	if len(x.Records) != 1 || x.Records[0].EID != eid("10.96.0.0/11") || !strings.Contains(x.Reasons[1], "10.96.0.0/11 is the largest part of 10.64.0.0/10") {
		t.Errorf("over IPv4: %v, %q", x.Records, x.Reasons)
	}
	if x := b.s.Explain(eid("10.100.0.1"), itr6.Addr()); len(x.Records) != 21 {
		t.Errorf("over IPv6: %d records, %q", len(x.Records), x.Reasons)
	}
}

// Where nobody can answer, Explain says so.
func TestExplainNobodyToAnswer(t *testing.T) {
	cfg := twoSites()
	cfg.Listen = []netip.AddrPort{local4}
	b := newBench(t, cfg, newMemStore())
	unreachable := rec("10.4.0.0/16", "192.0.2.2")
	unreachable.Locators[0].Flags = 0
	b.register(registering{key: rightKey, records: []*mapping.Record{unreachable, rec("10.2.0.0/16", "2001:db8::2")}})
	x := b.s.Explain(eid("10.4.0.1"), netip.Addr{})
	if x.Outcome != OutcomeNegative || len(x.Records) != 1 || !x.Records[0].Negative() || !strings.Contains(x.Reasons[1], "no ETR can be reached") {
		t.Errorf("no usable locator: %v, %v, %q", x.Outcome, x.Records, x.Reasons)
	}
	x = b.s.Explain(eid("10.2.0.1"), netip.Addr{})
	if x.Outcome != OutcomeForward || len(x.ETRs) != 0 || !strings.Contains(x.Reasons[2], "no socket of the address family") {
		t.Errorf("no socket for the ETR: %v, %v, %q", x.Outcome, x.ETRs, x.Reasons)
	}
}

// Where a policy denies what is registered, Explain names it.
func TestExplainRequestPolicy(t *testing.T) {
	cfg := twoSites()
	for i := range cfg.Sites {
		for j := range cfg.Sites[i].Prefixes {
			cfg.Sites[i].Prefixes[j].Requests = RequestsDenied
		}
	}
	b := newBench(t, cfg, newMemStore())
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2"), rec("10.3.0.0/16", "192.0.2.2")}})
	if err := b.s.Put(t.Context(), []*mapping.Record{rec("10.3.0.0/16", "203.0.113.4")}); err != nil {
		t.Fatal(err)
	}
	x := b.s.Explain(eid("10.2.0.1"), netip.Addr{})
	if x.Outcome != OutcomeNegative || x.Records[0].Action != mapping.DropPolicy || x.Prefix.Requests != RequestsDenied || x.Reasons[1] != "request_policy is deny: the answer is drop-policy-denied" {
		t.Errorf("registered: %v, %v, %q", x.Outcome, x.Records, x.Reasons)
	}
	if x = b.s.Explain(eid("10.3.0.1"), netip.Addr{}); x.Outcome != OutcomeReply || !strings.Contains(x.Reasons[0], "what is registered is not answered, because request_policy is deny") {
		t.Errorf("registered and put: %v, %q", x.Outcome, x.Reasons)
	}
	if x = b.s.Explain(eid("10.4.0.1"), netip.Addr{}); x.Outcome != OutcomeNegative || !strings.Contains(x.Reasons[0], "not registered, and request_policy is deny") {
		t.Errorf("not registered: %v, %q", x.Outcome, x.Reasons)
	}
}
