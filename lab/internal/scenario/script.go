// Package scenario plays what happens to a topology, step by step, and checks
// what must come of it. What happens is written in a script: commands that are
// run in nodes, and what is expected of them and of the traffic meanwhile.
//
// A script has one statement a line. A # at the start of a line begins a
// comment. NODE is a node of the topology; COMMAND is split into words as by a
// shell, and is run without one.
//
//	topology FILE                    what is played, relative to the script; first
//	limit DURATION                   how long all of it may take; second
//	step TITLE                       what follows, to the next step, is one step
//
//	run NODE COMMAND                 must end with status 0
//	fails NODE COMMAND               must end with another status
//	show NODE COMMAND                must end with status 0, and what it says is shown
//	within DURATION NODE COMMAND ~ REGEXP
//	                                 must end with status 0 and say something that the expression matches; is run again
//	                                 until it does. With !~ in the place of ~, something that it doesn't match
//	kill NODE                        the command of the node is killed, as by a crash
//	start NODE                       the command of the node, which has ended, is started again
//	pause DURATION
//
//	ping NAME NODE ADDRESS           one request every 10 ms, from now to the end
//	stream NAME NODE NODE ADDRESS RATE
//	                                 one TCP connection from the first to the second node, RATE bits/s, from now to the end
//	ends NAME                        a ping or stream ends now, and says how it went. A stream must have arrived whole
//	outage NAME DURATION             the longest time that the ping has gone unanswered since the step's first command; an
//	                                 outage that lasts is waited for
//	lost NAME N                      how many of its requests since then have no reply
//	traffic NODE INTERFACE in|out none|some
//	                                 packets in half a second, within 10 s: at most 10, or at least 25
//	watch NAME NODE INTERFACE PREFIX[,PREFIX]...
//	                                 the frames at the interface are captured, both ways, from now on
//	seen NAME none|some              the watch ends: of its frames, of which there must be any, none or some come from the
//	                                 prefixes, by their outermost header
package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
)

// Script is a checked script.
type Script struct {
	Name     string // of the file, without its ending
	Topology *clab.Topology
	Limit    time.Duration // for all of it; 0: none
	Steps    []Step
}

// Step is a part of a script that passes or fails as a whole.
type Step struct {
	Title      string
	Statements []Statement
}

// Statement is a line of a script. Only the fields that its verb has are set.
type Statement struct {
	At   string // file:line
	Text string
	Verb string

	Node     string
	Argv     []string       // run, fails, show, within
	Pattern  *regexp.Regexp // within
	Negated  bool           // within: it must not match
	Duration time.Duration  // within, pause, outage

	Flow  string     // ping, stream, ends, outage, lost, watch, seen
	To    string     // stream: the node that receives
	Dst   netip.Addr // ping, stream
	Rate  string     // stream, in ttcp's words
	Count int        // lost

	Interface string         // traffic, watch
	In        bool           // traffic
	Some      bool           // traffic, seen
	From      []netip.Prefix // watch
}

// Ending is that of the names of scripts.
const Ending = ".scenario"

// Load reads a script and the topology that it names.
func Load(path string) (*Script, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Decode(path, b, clab.Load)
}

// Decode reads the script that is in b; errors have places in path, and load
// reads its topology. All errors are reported at once.
func Decode(path string, b []byte, load func(path string) (*clab.Topology, error)) (*Script, error) {
	p := parser{script: &Script{Name: strings.TrimSuffix(filepath.Base(path), Ending)}, flows: map[string]string{}}
	var errs []error
	n := 0
	for line := range bytes.Lines(b) {
		n++
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' {
			continue
		}
		verb, rest, _ := strings.Cut(text, " ")
		rest = strings.TrimSpace(rest)
		at := fmt.Sprintf("%s:%d", path, n)
		var err error
		switch {
		case verb == "topology" && p.script.Topology == nil:
			p.script.Topology, err = load(filepath.Join(filepath.Dir(path), rest))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", at, err) // nothing else can be checked without it
			}
		case p.script.Topology == nil:
			return nil, fmt.Errorf("%s: expected topology FILE first", at)
		case verb == "limit" && len(p.script.Steps) == 0:
			p.script.Limit, err = duration(rest)
		case verb == "step" && rest != "":
			p.script.Steps = append(p.script.Steps, Step{Title: rest})
		case len(p.script.Steps) == 0:
			err = errors.New("expected step TITLE before this")
		default:
			step := &p.script.Steps[len(p.script.Steps)-1]
			s := Statement{At: at, Text: text, Verb: verb}
			err = p.statement(&s, rest)
			step.Statements = append(step.Statements, s)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", at, err))
		}
	}
	if len(p.script.Steps) == 0 && errs == nil {
		errs = append(errs, fmt.Errorf("%s: no step", path))
	}
	return p.script, errors.Join(errs...)
}

// parser knows what a statement may refer to.
type parser struct {
	script *Script
	flows  map[string]string // ping, stream or watch, by name
}

// shapes are the operands of the verbs, as errors show them.
var shapes = map[string]string{
	"run": "NODE COMMAND", "fails": "NODE COMMAND", "show": "NODE COMMAND",
	"within": "DURATION NODE COMMAND ~ REGEXP", "pause": "DURATION",
	"ping": "NAME NODE ADDRESS", "stream": "NAME NODE NODE ADDRESS RATE", "ends": "NAME",
	"outage": "NAME DURATION", "lost": "NAME N", "traffic": "NODE INTERFACE in|out none|some", "kill": "NODE", "start": "NODE",
	"watch": "NAME NODE INTERFACE PREFIX[,PREFIX]...", "seen": "NAME none|some",
}

func (p *parser) statement(s *Statement, rest string) error {
	shape, ok := shapes[s.Verb]
	if !ok {
		return fmt.Errorf("%q is no statement", s.Verb)
	}
	if s.Verb == "within" {
		command, pattern, err := s.split(rest)
		if err != nil {
			return err
		}
		if s.Pattern, err = regexp.Compile("(?m)" + pattern); err != nil {
			return err
		}
		rest = command
	}
	words, err := clab.Words(rest)
	if err != nil {
		return err
	}
	want := len(strings.Fields(strings.TrimSuffix(shape, " ~ REGEXP")))
	if takesCommand := strings.Contains(shape, "COMMAND"); len(words) < want || len(words) > want && !takesCommand {
		return fmt.Errorf("expected %s %s", s.Verb, shape)
	}
	switch s.Verb {
	case "run", "fails", "show":
		s.Argv = words[1:]
		return p.node(&s.Node, words[0])
	case "within":
		s.Argv = words[2:]
		s.Duration, err = duration(words[0])
		return errors.Join(err, p.node(&s.Node, words[1]))
	case "pause":
		s.Duration, err = duration(words[0])
		return err
	case "ping", "stream":
		return p.start(s, words)
	case "ends":
		return p.flow(s, words[0], "ping", "stream")
	case "watch":
		return p.watch(s, words)
	case "seen":
		return errors.Join(p.flow(s, words[0], "watch"), s.noneOrSome(words[1]))
	case "kill", "start":
		if err := p.node(&s.Node, words[0]); err != nil {
			return err
		}
		if len(p.script.Topology.Node(s.Node).Command) == 0 {
			return fmt.Errorf("node %s runs nothing", s.Node)
		}
		return nil
	case "outage":
		s.Duration, err = duration(words[1])
		return errors.Join(err, p.flow(s, words[0], "ping"))
	case "lost":
		if s.Count, err = strconv.Atoi(words[1]); err != nil || s.Count < 0 {
			err = fmt.Errorf("%q is no number of packets", words[1])
		}
		return errors.Join(err, p.flow(s, words[0], "ping"))
	}
	return p.traffic(s, words)
}

// split parts the command of within from the expression, at the last ~ that
// stands by itself.
func (s *Statement) split(rest string) (command, pattern string, err error) {
	same, other := strings.LastIndex(rest, " ~ "), strings.LastIndex(rest, " !~ ")
	if same < 0 && other < 0 {
		return "", "", fmt.Errorf("expected %s %s", s.Verb, shapes[s.Verb])
	}
	s.Negated = other > same
	i := max(same, other)
	_, pattern, _ = strings.Cut(rest[i:], "~")
	return rest[:i], strings.TrimSpace(pattern), nil
}

func (p *parser) start(s *Statement, words []string) error {
	err := errors.Join(p.name(s, words[0]), p.node(&s.Node, words[1]))
	address := words[2]
	if s.Verb == "stream" {
		err = errors.Join(err, p.node(&s.To, words[2]))
		address, s.Rate = words[3], words[4]
	}
	dst, perr := netip.ParseAddr(address)
	s.Dst = dst
	return errors.Join(err, perr)
}

func (p *parser) watch(s *Statement, words []string) error {
	err := errors.Join(p.name(s, words[0]), p.link(s, words[1], words[2]))
	for text := range strings.SplitSeq(words[3], ",") {
		prefix, perr := netip.ParsePrefix(text)
		s.From, err = append(s.From, prefix), errors.Join(err, perr)
	}
	return err
}

func (p *parser) traffic(s *Statement, words []string) error {
	err := p.link(s, words[0], words[1])
	s.In = words[2] == "in"
	if !s.In && words[2] != "out" {
		err = errors.Join(err, fmt.Errorf("expected in or out, not %s", words[2]))
	}
	return errors.Join(err, s.noneOrSome(words[3]))
}

func (s *Statement) noneOrSome(word string) error {
	s.Some = word == "some"
	if !s.Some && word != "none" {
		return fmt.Errorf("expected none or some, not %s", word)
	}
	return nil
}

// name gives a name to what the statement starts.
func (p *parser) name(s *Statement, name string) error {
	s.Flow = name
	if p.flows[name] != "" {
		return fmt.Errorf("there is a %s %s already", p.flows[name], name)
	}
	p.flows[name] = s.Verb
	return nil
}

// link finds a node and an interface of it that has a link.
func (p *parser) link(s *Statement, node, ifname string) error {
	s.Interface = ifname
	if err := p.node(&s.Node, node); err != nil {
		return err
	}
	if !slices.Contains(p.script.Topology.Interfaces(node), ifname) {
		return fmt.Errorf("node %s has no link at %s", node, ifname)
	}
	return nil
}

func (p *parser) node(into *string, name string) error {
	if p.script.Topology.Node(name) == nil {
		return fmt.Errorf("%s has no node %q", filepath.Base(p.script.Topology.File), name)
	}
	*into = name
	return nil
}

// flow finds what runs by that name when the statement is reached; it must be
// one of these kinds.
func (p *parser) flow(s *Statement, name string, kinds ...string) error {
	s.Flow = name
	switch kind := p.flows[name]; {
	case kind == "":
		return fmt.Errorf("no %s %q was started before", strings.Join(kinds, " or "), name)
	case !slices.Contains(kinds, kind):
		return fmt.Errorf("%s is a %s, not a %s", name, kind, strings.Join(kinds, " or "))
	}
	return nil
}

func duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err == nil && d <= 0 {
		err = fmt.Errorf("%q is not a positive duration", s)
	}
	return d, err
}
