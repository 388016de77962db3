package api

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// Limits of our own on the audit log.
const (
	// maxSummary bounds what is quoted of a request, in octets.
	maxSummary = 1024
	// auditBuffer is how much is written at once, in octets.
	auditBuffer = 64 << 10
	// auditEach is how many mappings of one message are told one by one where
	// there is no file for them.
	auditEach = 8
)

// auditLine is a line of the audit log: the form of the file is this as JSON.
// Fields may be added; they keep their names and order.
type auditLine struct {
	// Time is of UTC, with microseconds.
	Time string `json:"time"`
	// Who is a user of the configuration, "uid N" on the Unix socket, SIGHUP, or
	// nobody; By is unix, certificate, token, signal or timer; From is an address
	// and port, or "pid N", and empty of a signal and a timer.
	Who  string `json:"who"`
	By   string `json:"by"`
	From string `json:"from"`
	// Method is "eidolon.v1.Service/Method"; empty of a signal and a timer.
	Method string `json:"method"`
	// What is what was changed, or, of what was not changed, what was asked for.
	What string `json:"what"`
	// Before and After are what it was and is; null where there was or is
	// nothing.
	Before json.RawMessage `json:"before"`
	After  json.RawMessage `json:"after"`
	// Result is OK, or the code of the error that Detail is of.
	Result string `json:"result"`
	Detail string `json:"detail,omitempty"`
}

// auditLog writes lines to a file, or to a log where there is none.
type auditLog struct {
	log             *slog.Logger
	lines, failures atomic.Uint64

	mu   sync.Mutex
	file *os.File
}

// open has the lines go to a file from now on, which is opened anew if it is the
// same. After an error they go where they went.
func (l *auditLog) open(path string) error {
	var f *os.File
	if path != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			return err
		}
		var err error
		if f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640); err != nil {
			return err
		}
	}
	l.mu.Lock()
	old := l.file
	l.file = f
	l.mu.Unlock()
	if old != nil {
		if err := old.Close(); err != nil { // its last lines may be lost
			l.failures.Add(1)
			l.log.Error("changes may not be in the audit log", "err", err)
		}
	}
	return nil
}

func (l *auditLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.file
	l.file = nil
	if f == nil {
		return nil
	}
	return f.Close()
}

// toFile reports whether each change has a line.
func (l *auditLog) toFile() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file != nil
}

// write writes lines, whole ones at once.
func (l *auditLog) write(lines ...auditLine) {
	l.lines.Add(uint64(len(lines)))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		for _, e := range lines {
			l.log.Info("audit", "who", e.Who, "by", e.By, "from", e.From, "method", e.Method, "what", e.What,
				"before", string(e.Before), "after", string(e.After), "result", e.Result, "detail", e.Detail)
		}
		return
	}
	var buf []byte
	flush := func() {
		if _, err := l.file.Write(buf); err != nil {
			l.failures.Add(1)
			l.log.Error("changes are not in the audit log", "err", err)
		}
		buf = buf[:0]
	}
	for _, e := range lines {
		line, err := json.Marshal(e)
		if err != nil {
			l.failures.Add(1)
			l.log.Error("a change is not in the audit log", "method", e.Method, "what", e.What, "err", err)
			continue
		}
		if buf = append(append(buf, line...), '\n'); len(buf) >= auditBuffer {
			flush()
		}
	}
	if len(buf) > 0 {
		flush()
	}
}

// line begins a line about the call.
func (c *call) line(what string) auditLine { return c.caller.Load().line(c.name, what) }

func (c *caller) line(method, what string) auditLine {
	return auditLine{Time: time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"), Who: c.name, By: c.by, From: c.from,
		Method: method, What: what, Before: json.RawMessage("null"), After: json.RawMessage("null"), Result: codes.OK.String()}
}

// changed tells the audit log that the call has changed something. before and
// after become JSON; nil is that there was or is nothing. They must not hold
// secrets. A nil call tells nothing.
func (c *call) changed(what string, before, after any) {
	if c == nil {
		return
	}
	e := c.line(what)
	e.Before, e.After = asJSON(before), asJSON(after)
	c.told.Store(true)
	c.access.audit.write(e)
}

// changedMappings tells of mappings that were put or deleted: the one of eids[i]
// was before[i] and is after[i], either of which may be nil.
func (c *call) changedMappings(eids []mapping.EID, before, after []*mapping.Record) {
	if c == nil {
		return
	}
	var which []int
	for i := range eids {
		if b, a := before[i], after[i]; b == nil && a == nil || b != nil && a != nil && b.Equal(a) {
			continue
		}
		which = append(which, i)
	}
	c.told.Store(true) // nothing to tell is told too
	if len(which) > auditEach && !c.access.audit.toFile() {
		c.access.audit.write(c.line(fmt.Sprintf("%d mappings, %v and others", len(which), eids[which[0]])))
		return
	}
	lines := make([]auditLine, len(which))
	for n, i := range which {
		lines[n] = c.line(eids[i].String())
		lines[n].Before, lines[n].After = asJSON(recordOrNil(before[i])), asJSON(recordOrNil(after[i]))
	}
	c.access.audit.write(lines...)
}

const configuration = "configuration" // as something that is changed

// audited is what the audit log tells of a configuration that was reloaded.
type audited struct {
	Changed []string `json:"changed"`
	Restart []string `json:"restart_keys"`
	Values  values   `json:"values,omitempty"`
}

// values are by the place where they stand; null is for what is not there.
type values map[string]*string

// auditValues bounds how many values of a configuration a line has.
const auditValues = 256

// auditedOf returns what the audit log tells of a configuration: the values before,
// nil if there are none, and what is now.
func auditedOf(done Reloaded) (was any, after audited) {
	after = audited{append([]string{}, done.Changed...), append([]string{}, done.Restart...), values{}}
	if len(done.Differences) == 0 { // what a key names has other contents
		return nil, after
	}
	before := values{}
	for i, d := range done.Differences {
		if i == auditValues {
			more := fmt.Sprintf("%d more values", len(done.Differences)-i)
			before["..."], after.Values["..."] = &more, &more
			break
		}
		before[d.Key], after.Values[d.Key] = given(d.Before), given(d.After)
	}
	return before, after
}

func given(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// reloaded is changed for a configuration; one that stays as it was is not told.
func (c *call) reloaded(done Reloaded) {
	switch {
	case c == nil:
	case len(done.Changed) == 0:
		c.told.Store(true)
	default:
		before, after := auditedOf(done)
		c.changed(configuration, before, after)
	}
}

// Hangup tells the audit log what became of a reload that SIGHUP asked for; what
// changed nothing is not told.
func (a *Access) Hangup(done Reloaded, err error) {
	e := (&caller{name: "SIGHUP", by: "signal"}).line("", configuration)
	switch {
	case err != nil:
		e.Result, e.Detail = codes.FailedPrecondition.String(), short(err.Error())
	case len(done.Changed) == 0:
		return
	default:
		before, after := auditedOf(done)
		e.Before, e.After = asJSON(before), asJSON(after)
	}
	a.audit.write(e)
}

// Expired tells the audit log that a configuration was taken back because nobody
// confirmed it, or could not be.
func (a *Access) Expired(err error) {
	e := (&caller{name: "nobody", by: "timer"}).line("", "a configuration that was not confirmed in time is taken back")
	if err != nil {
		e.Result, e.Detail = codes.Internal.String(), short(err.Error())
	}
	a.audit.write(e)
}

func recordOrNil(r *mapping.Record) any {
	if r == nil {
		return nil
	}
	return recordToProto(r)
}

// ended tells the audit log of a call that should have changed something: that it
// could not, or, if nobody else has told, what was asked for.
func (c *call) ended(request any, err error) {
	switch {
	case !c.rpc.changes:
	case err != nil && !c.denied.Load():
		c.refused(err, c.summary(request))
	case err == nil && !c.told.Load() && request != nil:
		c.changed(c.summary(request), nil, nil)
	}
}

// refused tells the audit log of a change that was not made.
func (c *call) refused(err error, what string) {
	if !c.rpc.changes || status.Code(err) == codes.Canceled || !c.access.refusals.Allow() {
		return
	}
	e := c.line(what)
	e.Result, e.Detail = status.Code(err).String(), short(status.Convert(err).Message())
	c.access.audit.write(e)
}

// summary says what a request is about: its EIDs, or all of it but secrets.
func (c *call) summary(request any) string {
	if c.rpc.eids != nil {
		first, n := "", 0
		for _, e := range c.rpc.eids(request) {
			if n++; n == 1 {
				first = e
			}
		}
		if n > 1 {
			first = fmt.Sprintf("%s and %d others", first, n-1)
		}
		return short(first)
	}
	m, ok := request.(proto.Message)
	if !ok {
		return ""
	}
	return short(string(asJSON(m)))
}

func short(s string) string {
	if len(s) > maxSummary {
		return s[:maxSummary] + "..."
	}
	return s
}

// asJSON returns v as JSON that is the same each time, with null for nil. Of
// messages, fields with the option is_secret are left out.
func asJSON(v any) json.RawMessage {
	var b []byte
	var err error
	if m, ok := v.(proto.Message); ok {
		m = proto.Clone(m)
		redact(m.ProtoReflect())
		b, err = protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	} else {
		b, err = json.Marshal(v)
	}
	if err != nil {
		b, _ = json.Marshal("can't be told: " + err.Error())
	}
	return b
}

// redact clears the fields of a message that are secret.
func redact(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if secret, _ := proto.GetExtension(f.Options(), eidolonv1.E_IsSecret).(bool); secret {
			m.Clear(f)
			return true
		}
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					redact(v.Message())
					return true
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				redact(v.List().Get(i).Message())
			}
		default:
			redact(v.Message())
		}
		return true
	})
}
