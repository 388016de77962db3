package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/eidolon-lisp/eidolon/internal/config"
)

func newConfig() *cobra.Command {
	return group("config", "Work with configuration files", newConfigCheck(), newConfigDiff(), newConfigApply(), newConfigConfirm(), newConfigRevert(), newConfigReload())
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
	out := formatFlag(cmd, formatTable)
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
		wrong, isWrong := errors.AsType[config.Errors](err)
		if err != nil && !isWrong {
			return err
		}
		doubts, _ := errors.AsType[config.Errors](warnings)
		o := out.output(cmd)
		if o.structured() {
			err = o.object(checkJSON{file, k, !isWrong, placed(wrong), placed(doubts)})
		} else {
			err = printCheck(cmd, file, k, wrong, doubts)
		}
		if err == nil && isWrong {
			err = &exitError{code: exitFailure}
		}
		return err
	}
	return cmd
}

func printCheck(cmd *cobra.Command, file string, k config.Kind, wrong, doubts config.Errors) error {
	if len(wrong) > 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), wrong)
		return nil
	}
	for _, w := range doubts {
		fmt.Fprintf(cmd.ErrOrStderr(), "%v (warning)\n", w)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is good for %s\n", file, k)
	return err
}

type (
	// checkJSON is what is wrong with a configuration file, for programs.
	checkJSON struct {
		File string `json:"file"`
		// Kind is "xtr" or "mapserver"; empty when the keys do not tell.
		Kind     config.Kind  `json:"kind"`
		Good     bool         `json:"good"`
		Errors   []placedJSON `json:"errors"`
		Warnings []placedJSON `json:"warnings"`
	}
	// placedJSON is something said about a place in a file. Lines and columns begin
	// with 1.
	placedJSON struct {
		File    string `json:"file"`
		Line    int    `json:"line"`
		Column  int    `json:"column"`
		Message string `json:"message"`
	}
)

func placed(list config.Errors) []placedJSON {
	out := make([]placedJSON, len(list)) // not null
	for i, e := range list {
		out[i] = placedJSON{e.File, e.Line, e.Column, e.Message}
	}
	return out
}
