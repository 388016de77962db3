package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
)

// allSubsystems stands for all of them on the command line.
const allSubsystems = "all"

// logLevels are what a level may be, the one that logs most first.
var logLevels = []string{"debug", "info", "warn", "error"}

func newLog() *cobra.Command {
	programs := []string{programXTR, programMapServer}
	cmd := &cobra.Command{
		Use:   "log [SUBSYSTEM [LEVEL]]",
		Short: "Show from which level on the subsystems of a daemon log, or set it",
		Long: `log shows from which level on each subsystem of a daemon logs. With a LEVEL, which is
debug, info, warn or error, it sets that of the subsystem, or of all with the word
all, and shows what it has set. That holds until it is set again, the configuration
is reloaded or the daemon ends; log.level and log.levels of the configuration are
what it begins with.`,
		Example: `  lispctl log
  lispctl log bgp debug
  lispctl log all info --socket /run/eidolon/mapserver.sock`,
		Args: arguments(0, 2),
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		switch len(args) {
		case 0:
			return candidates(cmd, args, begun, liveSubsystems, programs), cobra.ShellCompDirectiveNoFileComp
		case 1:
			return logLevels, cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	socket := socketFlag(cmd, programs...)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		subsystem, level := "", eidolonv1.LogLevel_LOG_LEVEL_UNSPECIFIED
		if len(args) > 0 && args[0] != allSubsystems {
			subsystem = args[0]
		}
		if len(args) > 1 {
			n, ok := eidolonv1.LogLevel_value["LOG_LEVEL_"+strings.ToUpper(args[1])]
			if level = eidolonv1.LogLevel(n); !ok || n == 0 {
				return fmt.Errorf("found %q, expected %s", args[1], strings.Join(logLevels, ", "))
			}
		}
		c, err := dial(cmd.Context(), *socket, programs...)
		if err != nil {
			return err
		}
		defer c.close()
		ctx, cancel := context.WithTimeout(cmd.Context(), answerTime)
		defer cancel()
		levels, err := logLevelsOf(ctx, eidolonv1.NewAdminServiceClient(c.conn), subsystem, level)
		if err != nil {
			return explain(err)
		}
		l := out.output(cmd).list("SUBSYSTEM", "LEVEL")
		for _, s := range levels {
			if err := l.add(s, s.GetSubsystem(), enumText(s.GetLevel(), "LOG_LEVEL_")); err != nil {
				return err
			}
		}
		return l.end()
	}
	return cmd
}

// logLevelsOf returns the levels of a subsystem, or of all with "", after it has set
// them unless level is unspecified.
func logLevelsOf(ctx context.Context, c eidolonv1.AdminServiceClient, subsystem string, level eidolonv1.LogLevel) ([]*eidolonv1.SubsystemLogLevel, error) {
	if level == eidolonv1.LogLevel_LOG_LEVEL_UNSPECIFIED {
		resp, err := c.GetLogLevel(ctx, &eidolonv1.GetLogLevelRequest{Subsystem: subsystem})
		return resp.GetLevels(), err
	}
	resp, err := c.SetLogLevel(ctx, &eidolonv1.SetLogLevelRequest{Subsystem: subsystem, Level: level})
	return resp.GetLevels(), err
}

// liveSubsystems offers what has a level, and the word for all of them.
func liveSubsystems(ctx context.Context, c *client, offer func(value, about string) bool) error {
	levels, err := logLevelsOf(ctx, eidolonv1.NewAdminServiceClient(c.conn), "", eidolonv1.LogLevel_LOG_LEVEL_UNSPECIFIED)
	if err != nil {
		return err
	}
	for _, s := range levels {
		offer(s.GetSubsystem(), enumText(s.GetLevel(), "LOG_LEVEL_"))
	}
	offer(allSubsystems, "all of them")
	return nil
}
