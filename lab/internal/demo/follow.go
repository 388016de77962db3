package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/eidolon-lisp/eidolon/lab/internal/runner"
)

// event is a line of a daemon's JSON log.
type event struct {
	node  string
	at    time.Time
	msg   string
	attrs map[string]any
}

// attr is an attribute as text.
func (e event) attr(key string) string {
	if v, ok := e.attrs[key]; ok {
		return fmt.Sprint(v)
	}
	return ""
}

// shown are the messages that the demo shows, with the attributes that say
// what happened.
var shown = map[string][]string{
	"registered":            {"eid", "map_server"},
	"map-cache miss":        {"eid"},
	"map-request sent":      {"eid", "map_resolver", "nonce"},
	"map-reply received":    {"eid", "ttl", "locators", "rtt"},
	"mapping installed":     {"eid"},
	"registration accepted": {"eid", "site", "xtr"},
	"map-request received":  {"eid", "itr"},
	"map-reply sent":        {"eid", "action"},
}

func (e event) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-10s %-22s", e.node, e.msg)
	for _, k := range shown[e.msg] {
		v, ok := e.attrs[k]
		if !ok {
			continue
		}
		if ns, isNumber := v.(float64); isNumber && k == "rtt" {
			v = fmt.Sprintf("%.2f ms", ns/1e6)
		}
		fmt.Fprintf(&b, " %s=%v", k, v)
	}
	return strings.TrimRight(b.String(), " ")
}

// follower reads the logs of nodes as they grow, keeps what they say, and
// shows the messages that matter in the order in which they happened.
type follower struct {
	files map[string]*logFile
	show  func(at time.Time, line string)

	mu     sync.Mutex
	events []event
	news   chan struct{} // closed and replaced when events are added

	quit chan struct{}
	done chan struct{}
	once sync.Once
}

type logFile struct {
	path    string
	read    int64
	partial []byte // of a line that has not ended
}

const followEvery = 5 * time.Millisecond

// follow starts to read; stop must be called.
func follow(lab *runner.Lab, nodes []string, show func(time.Time, string)) *follower {
	f := &follower{files: map[string]*logFile{}, show: show, news: make(chan struct{}), quit: make(chan struct{}), done: make(chan struct{})}
	for _, n := range nodes {
		f.files[n] = &logFile{path: lab.LogPath(n)}
	}
	go func() {
		defer close(f.done)
		tick := time.NewTicker(followEvery)
		defer tick.Stop()
		for {
			select {
			case <-f.quit:
				return
			case <-tick.C:
				f.poll()
			}
		}
	}()
	return f
}

// stop ends the reading after a last look.
func (f *follower) stop() {
	f.once.Do(func() {
		close(f.quit)
		<-f.done
		f.poll()
	})
}

// flush looks at once, so that what has happened is shown before what follows.
func (f *follower) flush() { f.poll() }

func (f *follower) poll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	var fresh []event
	for node, lf := range f.files {
		for _, line := range lf.lines() {
			if e, ok := parseEvent(node, line); ok {
				fresh = append(fresh, e)
			}
		}
	}
	if len(fresh) == 0 {
		return
	}
	slices.SortStableFunc(fresh, func(a, b event) int { return a.at.Compare(b.at) })
	f.events = append(f.events, fresh...)
	close(f.news)
	f.news = make(chan struct{})
	for _, e := range fresh {
		if _, ok := shown[e.msg]; ok {
			f.show(e.at, e.String())
		}
	}
}

// lines returns the lines that have been completed since the last call.
func (lf *logFile) lines() [][]byte {
	file, err := os.Open(lf.path)
	if err != nil {
		return nil // not yet, or no more
	}
	defer file.Close()
	b, err := io.ReadAll(io.NewSectionReader(file, lf.read, 1<<62))
	if err != nil || len(b) == 0 {
		return nil
	}
	lf.read += int64(len(b))
	b = append(lf.partial, b...)
	end := bytes.LastIndexByte(b, '\n')
	lf.partial = slices.Clone(b[end+1:])
	if end < 0 {
		return nil
	}
	return bytes.Split(b[:end], []byte("\n"))
}

func parseEvent(node string, line []byte) (event, bool) {
	e := event{node: node}
	if json.Unmarshal(line, &e.attrs) != nil {
		return e, false
	}
	e.msg = e.attr("msg")
	at, err := time.Parse(time.RFC3339Nano, e.attr("time"))
	if err != nil || e.msg == "" {
		return e, false
	}
	e.at = at
	return e, true
}

// AwaitRegistrations shows the registrations of the lab's xTRs and waits until
// each has one, at most for patience. It returns the xTRs that have none.
func AwaitRegistrations(ctx context.Context, lab *runner.Lab, patience time.Duration, show func(time.Time, string)) (missing []string) {
	var nodes []string
	for _, n := range lab.Topology.Nodes {
		if len(n.Command) > 0 && n.Command[0] == "xtr" {
			nodes = append(nodes, n.Name)
		}
	}
	if len(nodes) == 0 {
		return nil
	}
	f := follow(lab, nodes, show)
	defer f.stop()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, n := range nodes {
		if _, err := f.wait(ctx, time.Time{}, n, "registered", ""); err != nil {
			missing = append(missing, n)
		}
	}
	return missing
}

// wait returns the first event of a node with a message and EID, said at or
// after since; it waits until ctx ends.
func (f *follower) wait(ctx context.Context, since time.Time, node, msg, eid string) (event, error) {
	for {
		f.mu.Lock()
		news := f.news
		i := slices.IndexFunc(f.events, func(e event) bool {
			return e.node == node && e.msg == msg && !e.at.Before(since) && (eid == "" || e.attr("eid") == eid)
		})
		var e event
		if i >= 0 {
			e = f.events[i]
		}
		f.mu.Unlock()
		if i >= 0 {
			return e, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return e, fmt.Errorf("node %s has not said %q for %s", node, msg, eid)
		}
	}
}
