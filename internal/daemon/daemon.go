// Package daemon is the frame that xtr and mapserver share: the command line,
// signals, and waiting for local addresses that are not there yet.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/eidolon-lisp/eidolon/internal/version"
)

// A Daemon is what Main makes a program of.
type Daemon struct {
	// Name is the program's name, Short says what it does in one line, Long in
	// some.
	Name, Short, Long string
	// Config is the default path of the configuration file.
	Config string
	// Check reads the file and returns the doubts that do not stop it from
	// being used, one a line, and everything that is wrong with it. If deep, it
	// looks at the machine too.
	Check func(path string, deep bool) (warnings, err error)
	// Run runs until ctx ends; then it cleans up and returns nil.
	Run func(ctx context.Context, path string) error
	// Socket returns the path of the API's socket that the file names.
	Socket func(path string) (string, error)
	// Commands are further subcommands.
	Commands []*cobra.Command
}

// Main runs the program and returns its exit status: 0 after an orderly end,
// 1 after an error, which is written to stderr.
func (d Daemon) Main(args []string, stdout, stderr io.Writer) int {
	// The second signal ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	root := d.Command()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "%v\n", err)
		return 1
	}
	return 0
}

// Command returns the program's command line.
func (d Daemon) Command() *cobra.Command {
	root := &cobra.Command{
		Use:           d.Name,
		Short:         d.Short,
		Long:          d.Long,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	var path string
	run := &cobra.Command{
		Use:   "run",
		Short: "Run in the foreground until SIGINT or SIGTERM",
		Long: `run is the daemon: it runs in the foreground until SIGINT or SIGTERM, and withdraws
then what it has told others and takes away what it has in the kernel; the second
signal ends it at once. SIGHUP has it read its file again. The log goes to the
standard error. Under systemd it tells when it is up, and feeds the watchdog.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return d.Run(cmd.Context(), path) },
	}
	var deep bool
	check := &cobra.Command{
		Use:   "check",
		Short: "Check the configuration file and say everything that is wrong with it",
		Long: `check reads the configuration file as the daemon would and prints everything that
is wrong with it, each with file:line:column. Warnings do not make it fail.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			warnings, err := d.Check(path, deep)
			if warnings != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "%v\n", warnings)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is good\n", path)
			return nil
		},
	}
	reload := d.newReload(&path)
	for _, c := range []*cobra.Command{run, check, reload} {
		c.Flags().StringVar(&path, "config", d.Config, "configuration file")
	}
	check.Flags().BoolVar(&deep, "deep", false, "look at the machine too: interfaces, addresses, ports, files and the data plane")
	root.AddCommand(d.Commands...)
	root.AddCommand(run, check, reload, &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", d.Name, version.Get())
			return err
		},
	})
	return root
}

// retryAfter is how often an address that is not there yet is tried again.
const retryAfter = 250 * time.Millisecond

// WaitAddress calls try until it succeeds, fails for another reason than a
// local address that no interface has (yet), or ctx ends. Addresses of
// containers and of uplinks with DHCP come after the daemon; it logs what it
// waits for, at first and then every 10 s.
func WaitAddress(ctx context.Context, log *slog.Logger, try func() error) error {
	for n := 0; ; n++ {
		err := try()
		if err == nil || !errors.Is(err, syscall.EADDRNOTAVAIL) {
			return err
		}
		if n%int(10*time.Second/retryAfter) == 0 {
			log.Warn("waiting for a local address", "err", err)
		}
		select {
		case <-time.After(retryAfter):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
