package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/eidolon-lisp/eidolon/internal/config"
)

func newConfig() *cobra.Command {
	return group("config", "Work with configuration files", newConfigCheck(), newConfigDiff(), newConfigApply(), newConfigConfirm(), newConfigRevert())
}

func newConfigCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration file of xtr or mapserver",
		Long: `check reads a configuration file as the daemon would and prints everything that
is wrong with it, each with file:line:column. Warnings do not make it fail.`,
		Args: arguments(1, 1),
	}
	kind := cmd.Flags().String("kind", "", "whose file it is: xtr or mapserver (default: told by its keys)")
	completeWords(cmd, "kind", string(config.KindXTR), string(config.KindMapServer))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		file := args[0]
		k, err := config.ParseKind(*kind)
		if *kind == "" {
			k, err = config.Detect(file)
		}
		var warnings error
		if err == nil {
			warnings, err = config.Check(file, k)
		}
		if es, ok := errors.AsType[config.Errors](err); ok {
			fmt.Fprintln(cmd.ErrOrStderr(), es)
			return &exitError{code: exitFailure}
		}
		if err != nil {
			return err
		}
		doubts, _ := errors.AsType[config.Errors](warnings)
		for _, w := range doubts {
			fmt.Fprintf(cmd.ErrOrStderr(), "%v (warning)\n", w)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is good for %s\n", file, k)
		return err
	}
	return cmd
}
