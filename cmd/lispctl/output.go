package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

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
	formatTable format = "table" // what is for people: tables, or lines where there are no columns
	formatWide  format = "wide"  // a table with all columns
	formatJSON  format = "json"
	formatJSONL format = "jsonl" // an object a line
	formatYAML  format = "yaml"
)

// formats are the same for all commands that print something.
var formats = []string{string(formatTable), string(formatWide), string(formatJSON), string(formatJSONL), string(formatYAML)}

// formatText is what commands that print lines once called formatTable.
const formatText = "text"

// formatFlag adds -o to a command, with what it is when it is not given.
func formatFlag(cmd *cobra.Command, usual format) *formatValue {
	v := &formatValue{usual}
	cmd.Flags().VarP(v, "output", "o", "how to print: "+v.Type())
	completeWords(cmd, "output", formats...)
	return v
}

// formatValue implements pflag.Value.
type formatValue struct{ format }

func (v *formatValue) String() string { return string(v.format) }

func (v *formatValue) Type() string { return strings.Join(formats, "|") }

func (v *formatValue) Set(s string) error {
	switch {
	case s == formatText:
		v.format = formatTable
	case slices.Contains(formats, s):
		v.format = format(s)
	default:
		return fmt.Errorf("found %q, expected %s", s, v.Type())
	}
	return nil
}

// output prints what a command has found.
type output struct {
	w       io.Writer
	format  format
	palette palette
}

// output returns where a command prints to, in the format of its flag.
func (v *formatValue) output(cmd *cobra.Command) output {
	w := cmd.OutOrStdout()
	return output{w: w, format: v.format, palette: paletteOf(w, os.Getenv)}
}

// structured reports whether what is printed is for programs.
func (o output) structured() bool {
	return o.format == formatJSON || o.format == formatJSONL || o.format == formatYAML
}

// object prints one thing that is not a list: v is a proto.Message, or what
// encoding/json takes.
func (o output) object(v any) error {
	b, err := encode(v)
	if err != nil {
		return err
	}
	if o.format == formatYAML {
		return o.yaml(b, "", "")
	}
	if _, isMessage := v.(proto.Message); o.format == formatJSON && !isMessage {
		var lines bytes.Buffer
		if err := json.Indent(&lines, b, "", "  "); err != nil {
			return err
		}
		b = lines.Bytes()
	}
	_, err = fmt.Fprintf(o.w, "%s\n", b)
	return err
}

// done prints what came of a change: v as object does, or a sentence about it.
func (o output) done(v any, format string, args ...any) error {
	if o.structured() {
		return o.object(v)
	}
	_, err := fmt.Fprintf(o.w, format+"\n", args...)
	return err
}

// yaml prints JSON as YAML, with first before its first line and others before
// the others.
func (o output) yaml(b []byte, first, others string) error {
	text, err := toYAML(b)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	before := first
	for line := range bytes.Lines(text) {
		out.WriteString(before)
		out.Write(line)
		before = others
	}
	_, err = o.w.Write(out.Bytes())
	return err
}

// list begins a list that is all there is to print. Columns are those of a
// table; a + before one says that it is for the wide format only.
func (o output) list(columns ...string) *listing {
	return &listing{o: o, t: o.table(columns...)}
}

// lines begins a list of what is told a line each as it comes, for people without
// columns.
func (o output) lines() *listing { return &listing{o: o} }

// document prints several lists: tables one below the other, or an object with
// a list of each name.
type document struct {
	o     output
	lists int
}

// list begins a list, after the one before it has ended. one is the name of an
// element, by which lines of JSON are told apart.
func (d *document) list(name, one string, columns ...string) (*listing, error) {
	var err error
	switch before := "{"; {
	case d.o.format == formatJSON:
		if d.lists > 0 {
			before = ","
		}
		_, err = fmt.Fprintf(d.o.w, "%s%q:", before, name)
	case d.o.format == formatYAML:
		_, err = fmt.Fprintf(d.o.w, "%s:", name)
	case !d.o.structured() && d.lists > 0:
		_, err = fmt.Fprintln(d.o.w)
	}
	d.lists++
	l := d.o.list(columns...)
	l.inside, l.one = true, one
	return l, err
}

// table begins a table that is left out of what is for programs, nil there.
func (d *document) table(columns ...string) *table {
	if d.o.structured() {
		return nil
	}
	if d.lists++; d.lists > 1 {
		fmt.Fprintln(d.o.w)
	}
	return d.o.table(columns...)
}

func (d *document) end() error {
	if d.o.format != formatJSON {
		return nil
	}
	_, err := fmt.Fprintln(d.o.w, "}")
	return err
}

// listing prints things of one kind as they come.
type listing struct {
	o      output
	t      *table // nil when it is for programs, or without columns
	inside bool   // of a document
	one    string // what an element is called there
	some   bool
}

// line prints v, as add does, or the text of it, which may have several lines.
func (l *listing) line(v any, text string) error {
	if l.o.structured() {
		return l.add(v)
	}
	_, err := fmt.Fprintln(l.o.w, text)
	return err
}

// add prints v, which is a proto.Message or what encoding/json takes, or its cells,
// one for each column.
func (l *listing) add(v any, cells ...any) error {
	if l.t != nil {
		l.t.row(cells...)
		return l.t.err
	}
	b, err := encode(v)
	if err != nil {
		return err
	}
	before := ""
	switch l.o.format {
	case formatYAML:
		indent := ""
		if l.inside {
			indent = "  "
		}
		if l.inside && !l.some {
			before = "\n"
		}
		l.some = true
		return l.o.yaml(b, before+indent+"- ", indent+"  ")
	case formatJSONL:
		if l.inside {
			b = fmt.Appendf(nil, "{%q:%s}", l.one, b)
		}
		_, err = fmt.Fprintf(l.o.w, "%s\n", b)
		return err
	}
	if before = ",\n"; !l.some {
		before, l.some = "[\n", true
	}
	_, err = fmt.Fprintf(l.o.w, "%s%s", before, b)
	return err
}

func (l *listing) end() error {
	text := ""
	switch {
	case l.t != nil:
		return l.t.end()
	case l.o.format == formatJSON && l.some:
		text = "\n]\n"
	case l.o.format == formatJSON:
		text = "[]\n"
	case l.o.format == formatYAML && !l.some && l.inside:
		text = " []\n"
	case l.o.format == formatYAML && !l.some:
		text = "[]\n"
	}
	_, err := io.WriteString(l.o.w, text)
	return err
}

// table prints rows under a header, columns aligned. Long tables go out in
// pieces, so that they need not be in memory whole. An error of the writer is
// in err, and returned by end.
type table struct {
	o     output
	left  []bool // of columns that are not printed
	lines [][]string
	rows  int
	begun bool // the header has been printed
	err   error
}

// tablePiece is how many rows are aligned with one another at least.
const tablePiece = 4096

func (o output) table(columns ...string) *table {
	if o.structured() {
		return nil
	}
	t := &table{o: o, left: make([]bool, len(columns))}
	var header []string
	for i, c := range columns {
		name, wide := strings.CutPrefix(c, "+")
		if t.left[i] = wide && o.format != formatWide; !t.left[i] {
			header = append(header, name)
		}
	}
	t.lines = append(t.lines, header)
	return t
}

// row adds a row. An empty cell becomes "-", so that columns can be cut apart
// by programs.
func (t *table) row(cells ...any) {
	texts := make([]string, 0, len(cells))
	for i, c := range cells {
		if i < len(t.left) && t.left[i] {
			continue
		}
		text := fmt.Sprint(c)
		if text == "" {
			text = "-"
		}
		texts = append(texts, text)
	}
	t.lines = append(t.lines, texts)
	if t.rows++; t.rows%tablePiece == 0 {
		t.flush()
	}
}

// flush prints the rows that there are. A cell is as wide as the widest of its
// column, and two spaces; the last one of a row is not filled up.
func (t *table) flush() {
	var widths []int
	for _, line := range t.lines {
		for i, cell := range line {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b bytes.Buffer
	for _, line := range t.lines {
		paint := t.o.palette.word
		if !t.begun {
			paint, t.begun = t.o.palette.header, true
		}
		for i, cell := range line {
			b.WriteString(paint(cell))
			if i < len(line)-1 {
				for range widths[i] + 2 - utf8.RuneCountInString(cell) {
					b.WriteByte(' ')
				}
			}
		}
		b.WriteByte('\n')
	}
	t.lines = t.lines[:0]
	if _, err := t.o.w.Write(b.Bytes()); t.err == nil {
		t.err = err
	}
}

func (t *table) end() error {
	t.flush()
	return t.err
}

// encode returns one line of JSON.
func encode(v any) ([]byte, error) {
	if m, ok := v.(proto.Message); ok {
		return marshal(m)
	}
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(line.Bytes(), []byte("\n")), err
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
