// Lispctl shows and steers the daemons of Eidolon, asks map-resolvers, loads
// mappings and decodes captures.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// Exit codes. Those above exitFailure are of one command each.
const (
	exitOK      = 0
	exitFailure = 1 // wrong usage, or it could not be done

	exitNoAnswer = 2 // lig, bench
	exitNegative = 3

	exitFails = 2 // doctor
	exitWarns = 3

	exitDiffers = 2 // config diff
	exitRestart = 3

	exitReverted = 2 // config apply
)

// exitError ends the program with a code. A nil err says that all has been
// said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// run runs one command line and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(watchArguments(root, args))
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitFailure
	if e, ok := errors.AsType[*exitError](err); ok {
		if code = e.code; e.err == nil {
			return code
		}
	}
	fmt.Fprintln(stderr, "lispctl:", err)
	return code
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "lispctl",
		Short: "Show and steer the daemons of Eidolon, a LISP mapping system and xTR",
		Long: `lispctl shows and steers the daemons of Eidolon, a LISP (RFC 9300, RFC 9301)
mapping system and xTR.

EIDs are written [IID]prefix, for example 10.1.0.0/16 or '[7]2001:db8:1::/48'
(quoted for the shell); a bare address stands for its /32 or /128.

It asks the daemons on this host by their Unix sockets. For one elsewhere give
--address with --ca, and --cert and --key or --token-file; or set
EIDOLON_ADDRESS, EIDOLON_CA, EIDOLON_CERT, EIDOLON_KEY and EIDOLON_TOKEN_FILE.

The exit code is 0 when all went well and 1 when it did not; lig, doctor and
config diff have two more each, config apply and bench have one.`,
		Args:              cobra.ArbitraryArgs, // help refuses them
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.RunE = help
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())
	})
	root.AddCommand(newExplain(), newTrace(), newBench(), newLig(), newMonitor(), newShow(), newLocator(), newClear(), newMapping(), newSite(), newImport(), newDecode(), newCapture(), newConfig(), newDoctor(), newLog(), newHealth(), newToken(), newCompletion(), newVersion())
	return root
}

// arguments returns a check of how many arguments a command has, that says how
// it is used.
func arguments(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch n := len(args); {
		case n < least:
			return fmt.Errorf("an argument is missing, expected: %s (see %s --help)", cmd.UseLine(), cmd.CommandPath())
		case n > most:
			return fmt.Errorf("unexpected argument %q, expected: %s (see %s --help)", args[most], cmd.UseLine(), cmd.CommandPath())
		}
		return nil
	}
}

// group returns a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, RunE: help}
	cmd.AddCommand(commands...)
	return cmd
}

// help prints the help of a command that does nothing by itself.
func help(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		hint := ""
		cmd.SuggestionsMinimumDistance = 2
		if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
			hint = fmt.Sprintf(", did you mean %q?", s[0])
		}
		return fmt.Errorf("unknown command %q for %q%s (see %s --help)", args[0], cmd.CommandPath(), hint, cmd.CommandPath())
	}
	return cmd.Help()
}
