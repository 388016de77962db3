package scenario

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/eidolon-lisp/eidolon/lab/internal/applet"
	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
	"github.com/eidolon-lisp/eidolon/lab/internal/runner"
)

const (
	commandPatience = 20 * time.Second       // for one command
	retryEvery      = 20 * time.Millisecond  // of within
	trafficTime     = 500 * time.Millisecond // that packets are counted for
	quiet, busy     = 10, 25                 // packets in that time: what control messages need, and what is traffic
	trafficPatience = 10 * time.Second       // that it may take to come or to go

	applets = "/.lab/applets/" // ours, not those of the machine: their output is known
)

// Options say how a script is played.
type Options struct {
	Out        io.Writer
	Slack      float64 // what the durations that something may take are multiplied with; 0 is 1
	Containers bool    // play it with containerlab and Docker
}

// play is one run of a script.
type play struct {
	opts    Options
	lab     lab
	start   time.Time // of the clock that is shown
	acted   time.Time // when the first command of the step was run
	flows   map[string]*flow
	watches map[string]*watch
	results []result
}

// result is a line of the final table.
type result struct {
	title string
	took  time.Duration
	said  []string // what was measured
	err   error
}

// Run builds what the topology needs, brings it up, plays the script, prints a
// table and leaves nothing behind. A step whose statement fails ends there; the
// others are played all the same. It returns an error if anything failed.
func Run(ctx context.Context, s *Script, o Options) (err error) {
	if o.Slack == 0 {
		o.Slack = 1
	}
	p := &play{opts: o, start: time.Now(), flows: map[string]*flow{}, watches: map[string]*watch{}}
	up := inNamespaces
	if o.Containers {
		up = inContainers
	}
	if p.lab, err = up(ctx, s.Topology, p.say); err != nil {
		return err
	}
	p.start = time.Now()
	defer func() {
		for _, f := range p.flows {
			f.abandon()
		}
		for _, w := range p.watches {
			if w.process != nil {
				w.process.Close()
			}
		}
		err = errors.Join(err, p.lab.Down())
	}()
	p.say("%s is up: %d nodes, %d links", s.Topology.Name, len(s.Topology.Nodes), len(s.Topology.Links))
	timed := ctx
	if s.Limit > 0 {
		var cancel context.CancelFunc
		timed, cancel = context.WithDeadline(ctx, p.start.Add(p.slack(s.Limit)))
		defer cancel()
	}
	for _, st := range s.Steps {
		p.step(timed, st)
		if ctx.Err() != nil {
			return errors.New("interrupted; the lab was taken down")
		}
	}
	p.table()
	failed := 0
	for _, r := range p.results {
		if r.err != nil {
			failed++
		}
	}
	if failed == 0 {
		return nil
	}
	fmt.Fprint(o.Out, p.lastWords(s.Topology), "\n")
	return fmt.Errorf("%s: %d of %d steps failed", s.Name, failed, len(p.results))
}

const namePrefix = "scenario-"

// removeStale removes what scenarios that were killed have left.
func removeStale() {
	_, stale, err := runner.List()
	if err != nil {
		return // Up will say it
	}
	for _, name := range stale {
		if strings.HasPrefix(name, namePrefix) {
			runner.RemoveStale(name)
		}
	}
}

func (p *play) say(format string, args ...any) {
	fmt.Fprintf(p.opts.Out, "[%6.2fs] %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}

func (p *play) step(ctx context.Context, s Step) {
	fmt.Fprintf(p.opts.Out, "\n%s\n", s.Title)
	begin := time.Now()
	p.acted = time.Time{}
	r := result{title: s.Title}
	for _, st := range s.Statements {
		said, err := "", ctx.Err()
		if err == nil {
			said, err = p.statement(ctx, st)
		}
		if said != "" {
			r.said = append(r.said, said)
		}
		if err != nil {
			r.err = fmt.Errorf("%s: %s: %w", st.At, st.Text, err)
			p.say("FAIL %v", r.err)
			break
		}
		verb, rest, _ := strings.Cut(st.Text, " ")
		p.say("%-7s %s%s", verb, strings.TrimSpace(rest), prefixed(": ", said))
	}
	r.took = time.Since(begin)
	p.results = append(p.results, r)
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// statement does what a statement says. It returns what was measured.
func (p *play) statement(ctx context.Context, s Statement) (string, error) {
	switch s.Verb {
	case "run", "fails", "show":
		return "", p.command(ctx, s)
	case "within":
		return p.within(ctx, s)
	case "pause":
		return "", sleep(ctx, s.Duration)
	case "ping":
		return "", p.startPing(s)
	case "stream":
		return "", p.startStream(ctx, s)
	case "ends":
		return p.flows[s.Flow].end(ctx)
	case "outage", "lost":
		return p.judge(ctx, s)
	case "traffic":
		return p.traffic(ctx, s)
	case "watch":
		return "", p.startWatch(ctx, s)
	case "seen":
		return p.seen(s)
	case "kill":
		return p.kill(ctx, s)
	case "start":
		return "", p.begin(s)
	}
	return "", fmt.Errorf("%q is no statement", s.Verb)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// run runs a command in a node; our applets take the place of the machine's
// programs.
func (p *play) run(ctx context.Context, node string, argv []string) (runner.Result, error) {
	if applet.Known(argv[0]) {
		argv = append([]string{applets + argv[0]}, argv[1:]...)
	}
	ctx, cancel := context.WithTimeout(ctx, commandPatience)
	defer cancel()
	return p.lab.Run(ctx, node, argv...)
}

func (p *play) command(ctx context.Context, s Statement) error {
	if s.Verb == "run" {
		p.act()
	}
	res, err := p.run(ctx, s.Node, s.Argv)
	if err != nil {
		return err
	}
	if (res.Exit == 0) == (s.Verb == "fails") {
		return fmt.Errorf("it ended with status %d%s", res.Exit, prefixed(": ", words(res)))
	}
	if s.Verb == "show" {
		for line := range strings.Lines(string(res.Stdout)) {
			fmt.Fprintf(p.opts.Out, "            | %s\n", strings.TrimRight(line, " \n"))
		}
	}
	return nil
}

func words(res runner.Result) string {
	return strings.TrimSpace(string(res.Stdout) + " " + string(res.Stderr))
}

func (p *play) within(ctx context.Context, s Statement) (string, error) {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, p.slack(s.Duration))
	defer cancel()
	said := ""
	for {
		res, err := p.run(ctx, s.Node, s.Argv)
		if err == nil {
			if res.Exit == 0 && s.Pattern.Match(res.Stdout) != s.Negated {
				return fmt.Sprintf("after %.2f s", time.Since(begin).Seconds()), nil
			}
			said = words(res)
		}
		if sleep(ctx, retryEvery) != nil {
			return "", fmt.Errorf("it said to the end:\n%s", said)
		}
	}
}

// act notes that the step does something.
func (p *play) act() {
	if p.acted.IsZero() {
		p.acted = time.Now()
	}
}

// since is when the first command of the step was run.
func (p *play) since() (time.Time, error) {
	if p.acted.IsZero() {
		return time.Time{}, errors.New("the step has run nothing yet")
	}
	return p.acted, nil
}

// slack is the time that is allowed where the script allows d.
func (p *play) slack(d time.Duration) time.Duration {
	return time.Duration(float64(d) * p.opts.Slack)
}

// judge says what became of a ping since the step's first command. An outage
// that is allowed to last still is waited for.
func (p *play) judge(ctx context.Context, s Statement) (string, error) {
	begin, err := p.since()
	if err != nil {
		return "", err
	}
	f := p.flows[s.Flow]
	if f == nil {
		return "", errors.New("it does not run") // its step failed before
	}
	pings := f.pings
	allowed := p.slack(s.Duration) // 0 with lost
	v := pings.since(begin, time.Now())
	for s.Verb == "outage" && v.ongoing && v.outage <= allowed {
		if err := sleep(ctx, retryEvery); err != nil {
			return "", err
		}
		v = pings.since(begin, time.Now())
	}
	said := s.Flow + ": " + v.String()
	switch {
	case v.sent == 0 || v.ongoing:
		return said, fmt.Errorf("it is not answered%s", prefixed("; it says: ", pings.oddLine()))
	case s.Verb == "lost" && v.lost > s.Count:
		return said, fmt.Errorf("at most %d may be lost", s.Count)
	case s.Verb == "outage" && v.outage > allowed:
		return said, fmt.Errorf("at most %s are allowed", allowed)
	}
	return said, nil
}

// traffic counts the packets at an interface until there are some, or none.
func (p *play) traffic(ctx context.Context, s Statement) (string, error) {
	begin := time.Now()
	for {
		n, err := p.count(ctx, s)
		if err != nil {
			return "", err
		}
		waited := time.Since(begin) - trafficTime
		said := fmt.Sprintf("%.0f packets in %s at %s after %.1f s", n, trafficTime, s.Node, waited.Seconds())
		if s.Some && n >= busy || !s.Some && n <= quiet {
			return said, nil
		}
		if waited > p.slack(trafficPatience) {
			return said, errors.New("expected otherwise")
		}
	}
}

// count counts packets for half a second.
func (p *play) count(ctx context.Context, s Statement) (float64, error) {
	before, err := p.packets(ctx, s)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := sleep(ctx, trafficTime); err != nil {
		return 0, err
	}
	after, err := p.packets(ctx, s)
	return float64(after-before) * float64(trafficTime) / float64(time.Since(begin)), err
}

// packets reads the counter of an interface.
func (p *play) packets(ctx context.Context, s Statement) (uint64, error) {
	res, err := p.run(ctx, s.Node, []string{"cat", "/proc/net/dev"})
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(res.Stdout)) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields := strings.Fields(rest)
		if name != s.Interface || len(fields) < 10 {
			continue
		}
		if s.In {
			return strconv.ParseUint(fields[1], 10, 64)
		}
		return strconv.ParseUint(fields[9], 10, 64)
	}
	return 0, fmt.Errorf("node %s counts no packets of %s", s.Node, s.Interface)
}

func (p *play) table() {
	fmt.Fprintln(p.opts.Out)
	t := tabwriter.NewWriter(p.opts.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\tSTEP\tTOOK\tMEASURED")
	for _, r := range p.results {
		verdict := "pass"
		if r.err != nil {
			verdict = "FAIL"
			r.said = append(r.said, strings.SplitN(r.err.Error(), "\n", 2)[0])
		}
		fmt.Fprintf(t, "%s\t%s\t%5.2f s\t%s\n", verdict, r.title, r.took.Seconds(), strings.Join(r.said, "; "))
	}
	t.Flush()
}

// lastWords is the end of what the daemons, and the lab itself, have said.
func (p *play) lastWords(top *clab.Topology) string {
	nodes := []string{""}
	for _, n := range top.Nodes {
		if len(n.Command) > 0 {
			nodes = append(nodes, n.Name)
		}
	}
	var b strings.Builder
	for _, n := range nodes {
		content, err := p.lab.Log(n)
		if err != nil || len(content) == 0 {
			continue
		}
		lines := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
		fmt.Fprintf(&b, "\nlast lines of %s:\n", cmp.Or(n, "the lab"))
		for _, l := range lines[max(0, len(lines)-15):] {
			fmt.Fprintf(&b, "  %s\n", l)
		}
	}
	return b.String()
}
