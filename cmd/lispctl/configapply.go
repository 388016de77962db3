package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/eidolon-lisp/eidolon/api"
	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/internal/config"
)

const (
	// maxConfigFile is what a daemon takes of a configuration, in octets.
	maxConfigFile = 4 << 20
	// installTime is how long a configuration is used while lispctl installs it.
	installTime = 30 * time.Second
)

func newConfigDiff() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff FILE",
		Short: "Compare a configuration file with what the daemon uses",
		Long: `diff prints the keys in which a file differs from the configuration that the daemon
uses, and whether a change takes effect at once, on a reload, or with a restart
only. Items of lists are named by what they are of, and the first that is left out
of either has no value there. Secrets are compared and not shown. The file is read
by the daemon, so key files are those of its host and its directory.

Which daemon it is for is told by the keys of the file. The exit code is 0 when
nothing differs, 2 when all that differs takes effect at once, 3 when something
needs a restart, and 1 when the file is not good.`,
		Example: `  lispctl config diff xtr.yml.new`,
		Args:    arguments(1, 1),
	}
	socket := socketFlag(cmd, programXTR, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := openConfig(cmd, args[0], *socket, out.output(cmd))
		if err != nil {
			return err
		}
		defer s.c.close()
		d, err := s.diff()
		if err != nil {
			return err
		}
		s.warn(d.GetWarnings())
		if err := s.printDifferences(d); err != nil {
			return err
		}
		code := exitOK
		for _, x := range d.GetDifferences() {
			code = max(code, exitDiffers)
			if x.GetRestart() {
				code = exitRestart
			}
		}
		if code != exitOK {
			return &exitError{code: code}
		}
		return nil
	}
	return cmd
}

func newConfigApply() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Have the daemon use a configuration file, and take it back unless it is confirmed",
		Long: `apply has the daemon check a file and use it, all of it or nothing, and replaces the
daemon's configuration file by it, whole. Keys that need a restart are named.

With --confirm the file is used for that long and the daemon's file stays as it is,
until you answer yes, or say so with lispctl config confirm, from any shell. If that
does not come in time, because the change has cut you off, or lispctl or the daemon
is killed or the machine restarts, the daemon uses the configuration before: it
keeps the time itself. Without an input to answer from, apply returns at once.

The daemon replaces its file where it may write in its directory. Where it may not,
as in the packages, lispctl does, on the same host and as a user who may.

The exit code is 2 when the configuration was not confirmed and was taken back, and
1 when nothing was changed.`,
		Example: `  lispctl config apply xtr.yml.new --confirm 60s`,
		Args:    arguments(1, 1),
	}
	wait := cmd.Flags().Duration("confirm", 0, "take it back after this time unless it is confirmed, 1s to 1h (default: it is kept)")
	socket := socketFlag(cmd, programXTR, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("confirm") && (*wait < time.Second || *wait > config.MaxTrial) {
			return fmt.Errorf("--confirm: found %v, expected 1s to 1h", *wait)
		}
		s, err := openConfig(cmd, args[0], *socket, out.output(cmd))
		if err != nil {
			return err
		}
		defer s.c.close()
		return s.apply(wait.Round(time.Second))
	}
	return cmd
}

func newConfigReload() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the daemon read its configuration file again",
		Long: `reload has the daemon read its configuration file again, as SIGHUP does, and returns
when what has changed in it is in use. Keys that have changed and need a restart are
named. A file that is wrong changes nothing: what is wrong with it is printed, and
the exit code is 1.

With more than one daemon on this host, --socket says which.`,
		Args: arguments(0, 0),
	}
	completes(cmd, 0, nil)
	socket := socketFlag(cmd, programXTR, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := dial(cmd.Context(), *socket, programXTR, programMapServer)
		if err != nil {
			return err
		}
		defer c.close()
		ctx, cancel := context.WithTimeout(cmd.Context(), answerTime)
		defer cancel()
		done, err := eidolonv1.NewAdminServiceClient(c.conn).Reload(ctx, &eidolonv1.ReloadRequest{})
		if err != nil {
			return wrongPlaces(cmd, err, func(place string) string { return place })
		}
		for _, w := range done.GetWarnings() {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s (warning)\n", w)
		}
		tellRestart(cmd, c.program, done.GetRestartKeys())
		return out.output(cmd).done(configJSON{Program: c.program, Result: "reloaded", Warnings: done.GetWarnings(), RestartKeys: done.GetRestartKeys()}, "%s has read its configuration file again", c.program)
	}
	return cmd
}

func newConfigConfirm() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "confirm [FILE]",
		Short: "Keep the configuration that was applied with --confirm",
		Long: `confirm has the daemon keep the configuration that waits for it. Where the daemon may
not replace its file, FILE is needed, the one that was applied, and lispctl installs
it.`,
		Args: arguments(0, 1),
	}
	socket := socketFlag(cmd, programXTR, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			s, err := openConfig(cmd, args[0], *socket, out.output(cmd))
			if err != nil {
				return err
			}
			defer s.c.close()
			d, err := s.diff()
			if err != nil {
				return err
			}
			if d.GetCount() > 0 {
				return fmt.Errorf("%s is not the configuration that %s uses (see lispctl config diff)", s.file, s.c.program)
			}
			return s.keep("", d.GetFile())
		}
		return eachWaiting(cmd, *socket, out.output(cmd), false)
	}
	return cmd
}

func newConfigRevert() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revert",
		Short: "Take back the configuration that was applied with --confirm, at once",
		Args:  arguments(0, 0),
	}
	socket := socketFlag(cmd, programXTR, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return eachWaiting(cmd, *socket, out.output(cmd), true)
	}
	return cmd
}

// eachWaiting confirms or takes back what waits at a daemon, or, when that is
// nowhere, at the first of those on this host where something waits.
func eachWaiting(cmd *cobra.Command, at target, o output, revert bool) error {
	result, said := "confirmed", "the configuration is confirmed"
	if revert {
		result, said = "reverted", "the configuration before is back"
	}
	given, err := at.complete()
	if err != nil {
		return err
	}
	programs := [][]string{{programXTR}, {programMapServer}}
	if given.socket != "" || given.address != "" {
		programs = [][]string{{programXTR, programMapServer}}
	}
	var last error
	for _, expected := range programs {
		c, err := dial(cmd.Context(), at, expected...)
		if err != nil {
			last = errors.Join(last, err)
			continue
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), answerTime)
		_, err = eidolonv1.NewAdminServiceClient(c.conn).ConfirmConfiguration(ctx, &eidolonv1.ConfirmConfigurationRequest{Revert: revert})
		cancel()
		c.close()
		switch {
		case err == nil:
			return o.done(configJSON{Program: c.program, Result: result}, "%s: %s", c.program, said)
		case cantInstall(err):
			return fmt.Errorf("%w; as who may, name the file that was applied: lispctl config confirm FILE", explain(err))
		case status.Code(err) != codes.NotFound:
			return explain(err)
		}
		last = errors.New(c.program + ": no configuration waits for a confirmation; it was confirmed, or taken back, or none was applied")
	}
	return last
}

// local reports whether the daemon is on this host, so that its files are ours.
func (c *client) local() bool { return c.at.address == "" }

// cantInstall reports whether a daemon can't replace its file.
func cantInstall(err error) bool {
	for _, d := range status.Convert(err).Details() {
		if f, ok := d.(*errdetails.PreconditionFailure); ok {
			for _, v := range f.GetViolations() {
				if v.GetType() == api.FileViolation {
					return true
				}
			}
		}
	}
	return false
}

// configSession is a configuration file for a daemon.
type configSession struct {
	cmd   *cobra.Command
	o     output
	c     *client
	admin eidolonv1.AdminServiceClient
	file  string
	text  []byte
	came  configJSON // of apply, up to now
}

// configJSON is what came of a change of the configuration, for programs.
type configJSON struct {
	// Program is "xtr" or "mapserver".
	Program string `json:"program"`
	// Result is installed (used, and the daemon's file), waiting (used until it is
	// confirmed), reverted (the configuration before is back), confirmed (it was
	// waiting) or reloaded.
	Result string `json:"result"`
	// File is the daemon's, where it is known.
	File string `json:"file,omitempty"`
	// Differences are those of the API's ConfigurationDifference.
	Differences []json.RawMessage `json:"differences,omitempty"`
	Warnings    []string          `json:"warnings,omitempty"`
	// RestartKeys have changed and take effect with a restart only.
	RestartKeys []string `json:"restart_keys,omitempty"`
}

// openConfig reads a file and connects to the daemon that it is for.
func openConfig(cmd *cobra.Command, file string, at target, o output) (*configSession, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxConfigFile {
		return nil, fmt.Errorf("%s is larger than %d octets", file, maxConfigFile)
	}
	programs := []string{programXTR, programMapServer}
	if k, err := config.Detect(file); err == nil {
		programs = []string{string(k)}
	}
	c, err := dial(cmd.Context(), at, programs...)
	if err != nil {
		return nil, err
	}
	return &configSession{cmd: cmd, o: o, c: c, admin: eidolonv1.NewAdminServiceClient(c.conn), file: file, text: text}, nil
}

func (s *configSession) diff() (*eidolonv1.DiffConfigurationResponse, error) {
	ctx, cancel := context.WithTimeout(s.cmd.Context(), answerTime)
	defer cancel()
	d, err := s.admin.DiffConfiguration(ctx, &eidolonv1.DiffConfigurationRequest{Configuration: s.text})
	return d, s.bad(err)
}

// bad prints what is wrong with the file, a line each, if that is the error.
func (s *configSession) bad(err error) error { return wrongPlaces(s.cmd, err, s.here) }

// wrongPlaces prints what is wrong with a configuration, a line each, if that is the
// error; here gives a place in the daemon's file the name that it has for the user.
func wrongPlaces(cmd *cobra.Command, err error, here func(place string) string) error {
	for _, d := range status.Convert(err).Details() {
		f, ok := d.(*errdetails.PreconditionFailure)
		if !ok || len(f.GetViolations()) == 0 || f.GetViolations()[0].GetSubject() == "" || f.GetViolations()[0].GetType() == api.FileViolation {
			continue
		}
		for _, v := range f.GetViolations() {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", here(v.GetSubject()), v.GetDescription())
		}
		return &exitError{code: exitFailure}
	}
	return explain(err)
}

// here gives a place in the daemon's file, with line and column, the name of ours.
func (s *configSession) here(place string) string {
	parts := strings.SplitN(place, ":", 4)
	if n := len(parts); n >= 3 {
		return strings.Join(append([]string{s.file}, parts[n-2:]...), ":")
	}
	return place
}

func (s *configSession) warn(warnings []string) {
	for _, w := range warnings {
		place, text, _ := strings.Cut(w, ": ")
		fmt.Fprintf(s.cmd.ErrOrStderr(), "%s: %s (warning)\n", s.here(place), text)
	}
}

func (s *configSession) printDifferences(d *eidolonv1.DiffConfigurationResponse) error {
	l := s.o.list("KEY", "IN-USE", "FILE", "EFFECT")
	for _, x := range d.GetDifferences() {
		effect := "at once"
		if x.GetRestart() {
			effect = "restart"
		}
		if err := l.add(x, x.GetKey(), x.GetBefore(), x.GetAfter(), effect); err != nil {
			return err
		}
	}
	if err := l.end(); err != nil {
		return err
	}
	return s.printMore(d)
}

// printMore says how many differences there are beside those that the daemon tells.
func (s *configSession) printMore(d *eidolonv1.DiffConfigurationResponse) error {
	more, w := d.GetCount()-uint64(len(d.GetDifferences())), s.o.w
	if more == 0 {
		return nil
	}
	if s.o.structured() {
		w = s.cmd.ErrOrStderr()
	}
	_, err := fmt.Fprintf(w, "and %d differences more\n", more)
	return err
}

// apply has the daemon use the file, and keeps it, or asks whether to when there is
// a time to answer.
func (s *configSession) apply(wait time.Duration) error {
	d, err := s.diff()
	if err != nil {
		return err
	}
	s.warn(d.GetWarnings())
	s.came = configJSON{Program: s.c.program, File: d.GetFile(), Warnings: d.GetWarnings()}
	for _, x := range d.GetDifferences() {
		b, err := marshal(x)
		if err != nil {
			return err
		}
		s.came.Differences = append(s.came.Differences, b)
	}
	if s.o.structured() {
		err = s.printMore(d)
	} else if d.GetCount() > 0 {
		err = s.printDifferences(d)
	}
	if err != nil {
		return err
	}
	held := wait
	if d.GetFileError() != "" {
		if !s.c.local() {
			return fmt.Errorf("nothing is changed: the daemon can't replace its configuration file: %s", d.GetFileError())
		}
		if err := config.Installable(d.GetFile()); err != nil {
			return fmt.Errorf("nothing is changed: neither the daemon (%s) nor this user (%w) can replace %s", d.GetFileError(), err, d.GetFile())
		}
		if wait == 0 {
			held = installTime
		}
	}
	// Who interrupts it here has it taken back below, and for that its number is
	// needed.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.cmd.Context()), answerTime)
	defer cancel()
	done, err := s.admin.ApplyConfiguration(ctx, &eidolonv1.ApplyConfigurationRequest{Configuration: s.text, ConfirmSeconds: uint32(held / time.Second)})
	if err != nil {
		return s.bad(err)
	}
	s.came.RestartKeys = done.GetRestartKeys()
	tellRestart(s.cmd, s.c.program, done.GetRestartKeys())
	switch {
	case done.GetId() == "":
		return s.installed(d.GetFile())
	case wait == 0:
		return s.keep(done.GetId(), d.GetFile())
	}
	return s.ask(done.GetId(), d.GetFile(), wait)
}

// tellRestart says on stderr which keys need a restart of a daemon.
func tellRestart(cmd *cobra.Command, program string, keys []string) {
	if len(keys) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "changes of these keys take effect with a restart of %s: %s\n", program, strings.Join(keys, ", "))
	}
}

// result is what came of it.
func (s *configSession) result(word, installed string) configJSON {
	s.came.Program, s.came.Result, s.came.File = s.c.program, word, installed
	return s.came
}

// installed says that the file is the daemon's.
func (s *configSession) installed(file string) error {
	return s.o.done(s.result("installed", file), "%s uses %s, which is now %s", s.c.program, s.file, file)
}

// reverted says that the configuration before is back: as data, and the error.
func (s *configSession) reverted(installed, said string) error {
	err := error(nil)
	if s.o.structured() {
		err = s.o.object(s.result("reverted", installed))
	}
	return errors.Join(err, &exitError{exitReverted, errors.New(said)})
}

// keep confirms the configuration, and replaces the daemon's file where the daemon
// can't.
func (s *configSession) keep(id, installed string) error {
	ctx, cancel := context.WithTimeout(s.cmd.Context(), answerTime)
	defer cancel()
	_, err := s.admin.ConfirmConfiguration(ctx, &eidolonv1.ConfirmConfigurationRequest{Id: id})
	if cantInstall(err) && s.c.local() {
		if err := config.Install(installed, s.text); err != nil {
			return fmt.Errorf("%s uses %s for now, and takes it back: %w", s.c.program, s.file, err)
		}
		_, err = s.admin.Reload(ctx, &eidolonv1.ReloadRequest{})
	}
	if status.Code(err) == codes.NotFound {
		if d, derr := s.diff(); derr == nil && d.GetCount() == 0 {
			err = nil // another has confirmed it
		} else {
			return s.reverted(installed, "it was not confirmed in time: the configuration before is back")
		}
	}
	if err != nil {
		return explain(err)
	}
	return s.installed(installed)
}

// ask waits for an answer, and does as it says.
func (s *configSession) ask(id, installed string, wait time.Duration) error {
	errOut := s.cmd.ErrOrStderr()
	late := time.NewTimer(wait)
	defer late.Stop()
	answers := make(chan string)
	go func() {
		defer close(answers)
		for lines := bufio.NewScanner(s.cmd.InOrStdin()); lines.Scan(); {
			select {
			case answers <- strings.ToLower(strings.TrimSpace(lines.Text())):
			case <-s.cmd.Context().Done():
				return
			}
		}
	}()
	for {
		fmt.Fprintf(errOut, "%s uses %s for %v. Keep it? (yes/no) ", s.c.program, s.file, wait)
		select {
		case answer, ok := <-answers:
			switch {
			case !ok:
				fmt.Fprintln(errOut, "\nlispctl config confirm keeps it, if it comes in time")
				if s.o.structured() {
					return s.o.object(s.result("waiting", installed))
				}
				return nil
			case answer == "yes" || answer == "y":
				return s.keep(id, installed)
			case answer == "no" || answer == "n":
				return s.revert(id, installed, "the configuration before is back")
			}
		case <-s.cmd.Context().Done():
			return s.revert(id, installed, "interrupted: the configuration before is back")
		case <-late.C:
			return s.revert(id, installed, "it was not confirmed in time: the configuration before is back")
		}
	}
}

// revert has the configuration taken back if it is not yet, also after an interrupt.
func (s *configSession) revert(id, installed, said string) error {
	fmt.Fprintln(s.cmd.ErrOrStderr())
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.cmd.Context()), answerTime)
	defer cancel()
	_, err := s.admin.ConfirmConfiguration(ctx, &eidolonv1.ConfirmConfigurationRequest{Id: id, Revert: true})
	switch {
	case status.Code(err) == codes.NotFound:
		d, err := s.admin.DiffConfiguration(ctx, &eidolonv1.DiffConfigurationRequest{Configuration: s.text})
		if err == nil && d.GetCount() == 0 {
			return s.o.done(s.result("installed", installed), "%s was confirmed by somebody else", s.file)
		}
	case err != nil:
		return fmt.Errorf("the daemon takes the configuration back by itself when its time is over: %w", explain(err))
	}
	return s.reverted(installed, said)
}
