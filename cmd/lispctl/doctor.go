package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/eidolon-lisp/eidolon/internal/config"
)

// result is what came of a check.
type result string

const (
	pass result = "pass"
	warn result = "warn" // it works, and may not always
	fail result = "fail"
	skip result = "skip" // it could not be checked
)

// finding is what one check found.
type finding struct {
	// Check is the stable name of the check.
	Check string `json:"check"`
	// Of is what was looked at: a file, an interface, an address.
	Of     string `json:"of,omitempty"`
	Result result `json:"result"`
	// Detail is a sentence without a full stop.
	Detail string `json:"detail"`
	// Remedy is what to do; empty when there is nothing to be done.
	Remedy string `json:"remedy,omitempty"`
}

// diagnosis is what doctor prints.
type diagnosis struct {
	// Program is "xtr" or "mapserver".
	Program  string         `json:"program"`
	Config   string         `json:"config"`
	Findings []finding      `json:"findings"`
	Summary  map[result]int `json:"summary"`
}

func newDoctor() *cobra.Command {
	var files []string
	var kind string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check the deployment of an xTR or a map-server on this host",
		Long: `doctor looks at what a daemon needs from its host, and at what it says itself: the
configuration and who can read its keys, the daemon and its capabilities, ports
4341 and 4342, the uplinks and their MTU, forwarding, reverse path filters, the
kernel plane, the clock, the registrations, and whether the map-resolver answers.
It changes nothing. To each finding that is not good it says what to do.

Root sees all of it. For others, what they may not see is skipped.

Exit codes:
  0  all is well
  1  wrong usage, or nothing could be checked
  2  something does not work (fail)
  3  something may not work, or not always (warn), and nothing fails`,
		Example: `  lispctl doctor
  lispctl doctor --config /etc/eidolon/xtr.yml -o json`,
		Args: arguments(0, 0),
	}
	f := cmd.Flags()
	f.StringSliceVar(&files, "config", nil, "configuration file of a daemon, may be repeated (default: those of "+defaultConfig(programXTR)+" and "+defaultConfig(programMapServer)+" that there are)")
	f.StringVar(&kind, "kind", "", "whose files they are: xtr or mapserver (default: told by their keys)")
	completeWords(cmd, "kind", string(config.KindXTR), string(config.KindMapServer))
	completes(cmd, 0, nil)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(files) == 0 {
			var err error
			if files, err = presentConfigs(); err != nil {
				return err
			}
		}
		var list []diagnosis
		for _, file := range files {
			d, err := diagnose(cmd.Context(), file, kind)
			if err != nil {
				return err
			}
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			list = append(list, d)
		}
		var err error
		if o := out.output(cmd); o.structured() {
			l := o.list()
			for _, d := range list {
				err = errors.Join(err, l.add(d))
			}
			err = errors.Join(err, l.end())
		} else {
			err = printDiagnoses(o, list)
		}
		if err != nil {
			return err
		}
		return verdict(list)
	}
	return cmd
}

func defaultConfig(program string) string { return "/etc/eidolon/" + program + ".yml" }

// presentConfigs returns the usual files that there are.
func presentConfigs() (files []string, err error) {
	for _, p := range []string{programXTR, programMapServer} {
		_, err := os.Stat(defaultConfig(p))
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			files = append(files, defaultConfig(p))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there is neither %s nor %s (name a configuration file with --config)", defaultConfig(programXTR), defaultConfig(programMapServer))
	}
	return files, nil
}

// verdict is the exit code.
func verdict(list []diagnosis) error {
	code := exitOK
	for _, d := range list {
		switch {
		case d.Summary[fail] > 0:
			return &exitError{code: exitFails}
		case d.Summary[warn] > 0:
			code = exitWarns
		}
	}
	if code == exitOK {
		return nil
	}
	return &exitError{code: code}
}

// diagnose runs all checks of the daemon that a configuration file is for.
func diagnose(ctx context.Context, file, kind string) (diagnosis, error) {
	k, err := config.ParseKind(kind)
	if kind == "" {
		k, err = config.Detect(file)
		if _, bad := errors.AsType[config.Errors](err); bad || errors.Is(err, fs.ErrPermission) {
			// Its name tells enough to say what is wrong with it.
			for _, p := range []string{programXTR, programMapServer} {
				if file == defaultConfig(p) {
					k, err = config.Kind(p), nil
				}
			}
		}
	}
	if err != nil {
		return diagnosis{}, err
	}
	d := &doctor{ctx: ctx, file: file, kind: k, socket: defaultSocket(string(k))}
	d.run()
	r := diagnosis{Program: string(k), Config: file, Findings: d.findings, Summary: make(map[result]int)}
	for _, f := range d.findings {
		r.Summary[f.Result]++
	}
	return r, nil
}

func printDiagnoses(o output, list []diagnosis) error {
	var b strings.Builder
	for i, d := range list {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s, %s\n", d.Program, d.Config)
		for _, f := range d.Findings {
			fmt.Fprintf(&b, "  %s  %s", o.palette.word(string(f.Result)), f.Check)
			if f.Of != "" {
				fmt.Fprintf(&b, " %s", f.Of)
			}
			fmt.Fprintf(&b, ": %s\n", f.Detail)
			if f.Remedy != "" {
				fmt.Fprintf(&b, "        to do: %s\n", f.Remedy)
			}
		}
		fmt.Fprintf(&b, "%d passed, %d warnings, %d failed, %d not checked\n", d.Summary[pass], d.Summary[warn], d.Summary[fail], d.Summary[skip])
	}
	_, err := io.WriteString(o.w, b.String())
	return err
}
