package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/eidolon-lisp/eidolon/api"
)

// reloadTime bounds how long a daemon may take to use another configuration. It is
// less than what systemd waits for, 90 s.
const reloadTime = time.Minute

// newReload is the command that has the running daemon read its file again, and
// fails when it does not use it.
func (d Daemon) newReload(path *string) *cobra.Command {
	var pid int
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the running daemon use its configuration file as it is now, and fail if it does not",
		Long: `reload asks the daemon at the API's socket, which the configuration file names, to
read the file again. It returns when the new configuration is in use, and fails
with the reason when a part of the daemon does not take it; then the one before
is used on. Keys that take effect with a restart only are named.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			socket, err := d.Socket(*path)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), reloadTime)
			defer cancel()
			done, err := api.Reload(ctx, d.Name, socket)
			if errors.Is(err, api.ErrNoDaemon) && pid > 0 {
				// It listens elsewhere until it is restarted, or not yet.
				if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
					return fmt.Errorf("send SIGHUP to process %d: %w", pid, err)
				}
				_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%v; SIGHUP is sent to process %d, and its log says what comes of it\n", err, pid)
				return err
			}
			if err != nil {
				return err
			}
			for _, w := range done.Warnings {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s (warning)\n", w)
			}
			if len(done.Restart) > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "these keys take effect with a restart only: %s\n", strings.Join(done.Restart, ", "))
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is in use\n", *path)
			return err
		},
	}
	cmd.Flags().IntVar(&pid, "pid", 0, "process to send SIGHUP to where nobody listens on the socket")
	return cmd
}
