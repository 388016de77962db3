package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

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
	out := formatFlag(cmd, formatTable)
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
		w := bufio.NewWriter(cmd.OutOrStdout())
		o := out.output(cmd)
		o.w = w
		err := decode(o, in)
		err = errors.Join(err, w.Flush())
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

// decode prints the LISP packets of a capture, up to where it is damaged.
func decode(o output, in io.Reader) error {
	l := o.lines()
	for p, err := range layers.Packets(in) {
		if err == nil {
			err = addPacket(l, p)
		}
		if err != nil {
			return errors.Join(l.end(), err)
		}
	}
	return l.end()
}

// addPacket prints a packet.
func addPacket(l *listing, p *layers.Packet) error {
	return l.line(p, strings.TrimSuffix(p.Text(), "\n"))
}
