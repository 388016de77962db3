package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/internal/version"
)

// versionTime bounds how long a daemon is waited for when it only should say what
// it is.
const versionTime = 2 * time.Second

func newVersion() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of lispctl and of the daemons that it reaches",
		Long: `version prints what lispctl was built from, and what the daemons on this host were,
or the one that --socket or --address names. A daemon of this host that does not
answer is told on stderr; one that was named and does not is an error.`,
		Args: arguments(0, 0),
	}
	completes(cmd, 0, nil)
	socket := socketFlag(cmd, programXTR, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l := out.output(cmd).lines()
		return errors.Join(printVersions(cmd, l, *socket), l.end())
	}
	return cmd
}

// printVersions prints that of lispctl, and those of the daemons that it reaches.
func printVersions(cmd *cobra.Command, l *listing, at target) error {
	own := version.Get()
	if err := l.line(versionJSON{Program: "lispctl", Version: own.Version, Revision: own.Revision, Go: own.Go}, fmt.Sprintf("lispctl %v", own)); err != nil {
		return err
	}
	given, err := at.complete()
	if err != nil {
		return err
	}
	clients, err := connectAll(at, programXTR, programMapServer)
	if err != nil {
		return err
	}
	for _, c := range clients {
		v, err := c.version(cmd.Context())
		c.close()
		switch {
		case err != nil && (given.socket != "" || given.address != ""):
			return fmt.Errorf("%s: %w", c.at, explain(err))
		case err != nil:
			fmt.Fprintf(cmd.ErrOrStderr(), "lispctl: %s: %v\n", c.at, explain(err))
			continue
		}
		build := version.Info{Version: v.GetVersion(), Revision: v.GetRevision(), Go: v.GetGoVersion()}
		if err := l.line(versionJSON{c.at.String(), v.GetProgram(), v.GetVersion(), v.GetRevision(), v.GetGoVersion()}, fmt.Sprintf("%s %s at %v", v.GetProgram(), strings.TrimSpace(build.String()), c.at)); err != nil {
			return err
		}
	}
	return nil
}

// versionJSON is what a program was built from, for programs; but for where it is,
// the names are those of GetVersionResponse.
type versionJSON struct {
	Daemon   string `json:"daemon,omitempty"` // its socket or address; "": lispctl
	Program  string `json:"program"`
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Go       string `json:"go_version"`
}

func (c *client) version(ctx context.Context) (*eidolonv1.GetVersionResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTime)
	defer cancel()
	return eidolonv1.NewAdminServiceClient(c.conn).GetVersion(ctx, &eidolonv1.GetVersionRequest{})
}
