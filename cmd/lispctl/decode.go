package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/eidolon-lisp/eidolon/encap/layers"
)

func newDecode() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "decode FILE",
		Short: "Print the LISP packets of a capture",
		Long: `decode reads a capture (pcap or pcapng, also in gzip; - for standard input) and
prints its LISP control and data packets. The daemons read messages with the
same code. A message that does not decode is printed with the reason; a file
that is damaged or cut short makes decode fail after what could be read.`,
		Example: `  lispctl decode core.pcap
  tcpdump -w - udp port 4342 | lispctl decode - -o jsonl`,
		Args: arguments(1, 1),
	}
	out := formatFlag(cmd, formatText, formatJSONL)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		in := cmd.InOrStdin()
		if args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		}
		f := layers.Text
		if out.format == formatJSONL {
			f = layers.JSONLines
		}
		err := layers.Summarize(cmd.OutOrStdout(), in, f)
		if errors.Is(err, io.EOF) {
			err = errors.New("the file is empty, expected a capture")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		return nil
	}
	return cmd
}
