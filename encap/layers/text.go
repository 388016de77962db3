package layers

import (
	"fmt"
	"strings"
)

// Text returns the packet for people: a line that says who speaks to whom, and
// indented lines of what is said.
func (p *Packet) Text() string {
	t := &text{}
	t.b.WriteString(fmt.Sprintf("%d  %s  ", p.Number, p.Time.UTC().Format("2006-01-02 15:04:05.000000")))
	if p.Source.IsValid() {
		t.b.WriteString(fmt.Sprintf("%v > %v  ", p.Source, p.Destination))
	}
	what := p.Other
	switch {
	case p.Control != nil:
		what = p.Control.Type
	case p.Data != nil:
		what = "lisp-data"
	}
	t.b.WriteString(what)
	if p.Source.IsValid() {
		t.b.WriteString(fmt.Sprintf(", %d octets", p.Length))
	}
	if p.Missing > 0 {
		t.b.WriteString(fmt.Sprintf(" (%d more on the wire were not captured)", p.Missing))
	}
	t.b.WriteByte('\n')
	t.depth++
	if p.Control != nil {
		t.control(p.Control)
	}
	if p.Data != nil {
		t.data(p.Data)
	}
	return t.b.String()
}

// text writes indented lines.
type text struct {
	b     strings.Builder
	depth int
}

func (t *text) line(format string, args ...any) {
	t.b.WriteString(strings.Repeat("    ", t.depth))
	fmt.Fprintf(&t.b, format, args...)
	t.b.WriteByte('\n')
}

func (t *text) failure(f *Failure) {
	if f != nil {
		t.line("error: %s", f.Message)
	}
}

func (t *text) control(s *ControlSummary) {
	head := ""
	if s.Nonce != "" {
		head = "nonce " + s.Nonce
	}
	if s.Flags != "" {
		head = strings.TrimPrefix(head+", flags "+s.Flags, ", ")
	}
	if head != "" {
		t.line("%s", head)
	}
	if s.Authentication != nil {
		a := s.Authentication
		t.line("authentication: key-id %d, algorithm %d (%s), %d octets", a.KeyID, a.AlgorithmID, a.Algorithm, a.Length)
	}
	if s.SourceEID != "" {
		t.line("source-eid %s, itr-rlocs %s", s.SourceEID, strings.Join(s.ITRRLOCs, " "))
	}
	for _, r := range s.EIDs {
		subscribe := ""
		if r.Subscribe {
			subscribe = ", subscribe"
		}
		t.line("eid %s%s", r.EID, subscribe)
	}
	for i := range s.Records {
		t.record("record", &s.Records[i])
	}
	if s.MapData != nil {
		t.record("map-data", s.MapData)
	}
	if s.SiteID != nil {
		t.line("xtr-id %s, site-id %d", s.XTRID, *s.SiteID)
	}
	if s.SecurityData > 0 {
		t.line("lisp-sec data: %d octets", s.SecurityData)
	}
	if s.EID != "" {
		t.line("eid %s", s.EID)
	}
	if s.TTL > 0 {
		t.line("ttl %d min", s.TTL)
	}
	if s.Body != "" {
		t.line("%s", s.Body)
	}
	if s.Inner != nil {
		t.line("inner %s > %s  %s", s.InnerSource, s.InnerDestination, s.Inner.Type)
		t.depth++
		t.control(s.Inner)
		t.depth--
	}
	if s.Undecoded > 0 {
		t.line("%d octets, not decoded", s.Undecoded)
	}
	if s.Trailing > 0 {
		t.line("%d octets after the message", s.Trailing)
	}
	t.failure(s.Error)
}

func (t *text) record(what string, r *RecordSummary) {
	s := fmt.Sprintf("%s %s: ttl %d min", what, r.EID, r.TTL)
	if r.Authoritative {
		s += ", authoritative"
	}
	if len(r.Locators) == 0 || r.Action != "no-action" {
		s += ", " + r.Action
	}
	if r.Version != 0 {
		s += fmt.Sprintf(", map-version %d", r.Version)
	}
	t.line("%s", s)
	t.depth++
	for _, l := range r.Locators {
		s := fmt.Sprintf("locator %s priority %d weight %d mpriority %d mweight %d", l.Locator, l.Priority, l.Weight, l.MPriority, l.MWeight)
		if l.Flags != "" {
			s += " flags " + l.Flags
		}
		t.line("%s", s)
	}
	t.depth--
}

func (t *text) data(d *DataSummary) {
	if d.Flags != "" || d.KeyID != 0 {
		var s []string
		if d.Flags != "" {
			s = append(s, "flags "+d.Flags)
		}
		if strings.Contains(d.Flags, "I") {
			s = append(s, fmt.Sprintf("instance-id %d", d.InstanceID))
		}
		if d.Nonce != "" {
			s = append(s, "nonce "+d.Nonce)
		}
		if strings.Contains(d.Flags, "V") {
			s = append(s, fmt.Sprintf("map-versions %d > %d", d.SrcVersion, d.DstVersion))
		}
		if d.Status != "" {
			s = append(s, "locator-status-bits "+d.Status)
		}
		if d.KeyID != 0 {
			s = append(s, fmt.Sprintf("encrypted with key-id %d", d.KeyID))
		}
		if d.NextProtocol != 0 {
			s = append(s, fmt.Sprintf("next-protocol %d", d.NextProtocol))
		}
		t.line("%s", strings.Join(s, ", "))
	}
	switch in := d.Inner; {
	case in != nil && in.SourcePort != nil:
		t.line("inner %s %s port %d > %s port %d, ttl %d, %d octets", in.Protocol, in.Source, *in.SourcePort, in.Destination, *in.DestinationPort, in.TTL, in.Length)
	case in != nil:
		t.line("inner %s %s > %s, ttl %d, %d octets", in.Protocol, in.Source, in.Destination, in.TTL, in.Length)
	case d.Error == nil:
		t.line("payload of %d octets", d.Payload)
	}
	t.failure(d.Error)
}
