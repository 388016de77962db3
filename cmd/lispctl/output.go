package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// format is what -o says.
type format string

const (
	formatTable format = "table"
	formatText  format = "text"
	formatJSON  format = "json"
	formatJSONL format = "jsonl"
)

// formatFlag adds -o to a command; the first format is the default.
func formatFlag(cmd *cobra.Command, formats ...format) *formatValue {
	v := &formatValue{format: formats[0], allowed: formats}
	cmd.Flags().VarP(v, "output", "o", "how to print: "+v.Type())
	return v
}

// formatValue implements pflag.Value.
type formatValue struct {
	format
	allowed []format
}

func (v *formatValue) String() string { return string(v.format) }

func (v *formatValue) Type() string {
	names := make([]string, len(v.allowed))
	for i, f := range v.allowed {
		names[i] = string(f)
	}
	return strings.Join(names, "|")
}

func (v *formatValue) Set(s string) error {
	for _, f := range v.allowed {
		if string(f) == s {
			v.format = f
			return nil
		}
	}
	return fmt.Errorf("found %q, expected %s", s, v.Type())
}

// table prints rows under a header, columns aligned. Long tables go out in
// pieces, so that they need not be in memory whole.
type table struct {
	w    *tabwriter.Writer
	rows int
}

// tablePiece is how many rows are aligned with one another at least.
const tablePiece = 4096

func newTable(w io.Writer, header ...string) *table {
	t := &table{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	fmt.Fprintln(t.w, strings.Join(header, "\t"))
	return t
}

// row adds a row. An empty cell becomes "-", so that columns can be cut apart
// by programs.
func (t *table) row(cells ...any) {
	texts := make([]string, len(cells))
	for i, c := range cells {
		if texts[i] = fmt.Sprint(c); texts[i] == "" {
			texts[i] = "-"
		}
	}
	fmt.Fprintln(t.w, strings.Join(texts, "\t"))
	if t.rows++; t.rows%tablePiece == 0 {
		t.w.Flush()
	}
}

func (t *table) end() error { return t.w.Flush() }

// jsonList prints messages as one JSON array, as they come.
type jsonList struct {
	w    io.Writer
	some bool
}

func (l *jsonList) add(m proto.Message) error {
	before := ",\n"
	if !l.some {
		before, l.some = "[\n", true
	}
	b, err := marshal(m)
	if err == nil {
		_, err = fmt.Fprintf(l.w, "%s%s", before, b)
	}
	return err
}

func (l *jsonList) end() error {
	text := "\n]\n"
	if !l.some {
		text = "[]\n"
	}
	_, err := io.WriteString(l.w, text)
	return err
}

// marshal returns one line of JSON with the names of the .proto files. protojson
// varies its white space on purpose, so that is taken out.
func marshal(m proto.Message) ([]byte, error) {
	b, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var line bytes.Buffer
	err = json.Compact(&line, b)
	return line.Bytes(), err
}

// printJSON prints v indented.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// enumText returns the value of an enumeration as it is written elsewhere:
// ACTION_NATIVELY_FORWARD is "natively-forward".
func enumText(e fmt.Stringer, prefix string) string {
	s := strings.TrimPrefix(e.String(), prefix)
	return strings.ReplaceAll(strings.ToLower(s), "_", "-")
}

func actionText(a eidolonv1.Action) string { return enumText(a, "ACTION_") }

func originText(o eidolonv1.MappingOrigin) string { return enumText(o, "MAPPING_ORIGIN_") }

func registrationText(s eidolonv1.RegistrationState) string {
	return enumText(s, "REGISTRATION_STATE_")
}

// locatorText returns an address, its priority and weight, and what is unusual
// about it.
func locatorText(l *eidolonv1.Locator) string {
	s := l.GetAddress()
	if len(l.GetOpaque()) > 0 {
		s = "opaque"
		if a, _, err := wire.DecodeAddress(l.GetOpaque()); err == nil {
			s = a.String()
		}
	}
	s += fmt.Sprintf(" %d/%d", l.GetPriority(), l.GetWeight())
	if l.Reachable != nil && !l.GetReachable() {
		s += " unreachable"
	}
	return s
}

// locatorsText returns the locators of a record, or its action.
func locatorsText(r *eidolonv1.Record) string {
	if len(r.GetLocators()) == 0 {
		return actionText(r.GetAction())
	}
	texts := make([]string, len(r.GetLocators()))
	for i, l := range r.GetLocators() {
		texts[i] = locatorText(l)
	}
	return strings.Join(texts, ", ")
}

// ttlText returns a Record TTL in minutes as a duration.
func ttlText(minutes uint32) string {
	if minutes == 1<<32-1 {
		return "receiver"
	}
	return short(time.Duration(minutes) * time.Minute)
}

// ago and until return how long it is from or to t, or "".
func ago(now time.Time, t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return short(now.Sub(t.AsTime()))
}

func until(now time.Time, t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return short(t.AsTime().Sub(now))
}

func rtt(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	return milliseconds(d.AsDuration())
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

// sentText and receivedText return packets and octets one way, or "" when
// nothing is known.
func sentText(t *eidolonv1.Traffic) string {
	return volume(t, t.GetPacketsOut(), t.GetBytesOut())
}

func receivedText(t *eidolonv1.Traffic) string {
	return volume(t, t.GetPacketsIn(), t.GetBytesIn())
}

func volume(t *eidolonv1.Traffic, packets, octets uint64) string {
	if t == nil {
		return ""
	}
	n, unit := float64(octets), 0
	for ; n >= 999.5 && unit < 6; unit++ {
		n /= 1000
	}
	if unit == 0 {
		return fmt.Sprintf("%d (%d B)", packets, octets)
	}
	return fmt.Sprintf("%d (%.3g %cB)", packets, n, " kMGTPE"[unit])
}

// short prints a duration with its two largest units: 1d2h, 3m20s, 7s.
func short(d time.Duration) string {
	sign, s := "", int64(d.Round(time.Second)/time.Second)
	if s < 0 {
		sign, s = "-", -s
	}
	units := []struct {
		name string
		size int64
	}{{"d", 86400}, {"h", 3600}, {"m", 60}, {"s", 1}}
	for i, u := range units {
		if s < u.size && u.size > 1 {
			continue
		}
		text := fmt.Sprintf("%s%d%s", sign, s/u.size, u.name)
		if i+1 < len(units) {
			if rest := s % u.size / units[i+1].size; rest > 0 {
				text += fmt.Sprintf("%d%s", rest, units[i+1].name)
			}
		}
		return text
	}
	return "0s"
}
