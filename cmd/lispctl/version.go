package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/eidolon-lisp/eidolon/internal/version"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of lispctl",
		Args:  arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "lispctl", version.Get())
			return err
		},
	}
}
