package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
)

func newTrace() *cobra.Command {
	var req eidolonv1.TraceFlowRequest
	var protocol string
	var sport, dport uint16
	cmd := &cobra.Command{
		Use:   "trace EID",
		Short: "Tell what becomes of the packets of a flow, as they pass an xTR",
		Long: `trace follows the packets of hosts to the EID, and those that come back, through the
data plane of the xTR, until it is interrupted: held while the mapping is asked
for, encapsulated and from where to where, delivered, or dropped and why. explain
tells what would become of packets; trace tells what becomes of those that there
are.

Up to 200 packets a second of each thread are told; the others are forwarded as
ever, and counted. There is one trace at a time, and without one packets pay
nothing for it.

The kernel plane (plane.kind: bpf) leaves the packets between the two ends, of all
ports, to the process as long as they are traced, and the command says so when it
begins: they are slower then. With plane.unfinished_checksums it does so with what
goes out only.`,
		Example: `  lispctl trace 10.2.0.10
  lispctl trace 10.2.0.0/16 --source 10.1.0.10 --protocol tcp --dport 443 -o jsonl`,
		Args: arguments(1, 1),
	}
	completes(cmd, 1, liveEIDs, programXTR)
	f := cmd.Flags()
	f.StringVar(&req.Source, "source", "", "source address or prefix (default: all)")
	f.StringVar(&protocol, "protocol", "", "tcp, udp or sctp (default: all)")
	f.Uint16Var(&sport, "sport", 0, "source port (default: all)")
	f.Uint16Var(&dport, "dport", 0, "destination port (default: all)")
	count := f.IntP("count", "c", 0, "end after so many packets (default: when interrupted)")
	completeWords(cmd, "protocol", "tcp", "udp", "sctp")
	socket := socketFlag(cmd, programXTR)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := mapping.ParseEID(args[0])
		if err != nil {
			return err
		}
		if e.Source.IsValid() {
			return fmt.Errorf("%v has a source prefix; give the source as --source", e)
		}
		req.Destination, req.SourcePort, req.DestinationPort = e.String(), uint32(sport), uint32(dport)
		if protocol != "" {
			n, ok := protocols[strings.ToLower(protocol)]
			if !ok || !slices.Contains([]string{"tcp", "udp", "sctp"}, strings.ToLower(protocol)) {
				return fmt.Errorf("--protocol: found %q, expected tcp, udp or sctp", protocol)
			}
			req.Protocol = uint32(n)
		} else if sport != 0 || dport != 0 {
			return errors.New("--sport and --dport need --protocol")
		}
		if *count < 0 {
			return fmt.Errorf("--count: found %d, expected a positive number", *count)
		}
		c, err := dial(cmd.Context(), *socket, programXTR)
		if err != nil {
			return err
		}
		defer c.close()
		return trace(cmd, c, &req, out.output(cmd), *count)
	}
	return cmd
}

func trace(cmd *cobra.Command, c *client, req *eidolonv1.TraceFlowRequest, o output, left int) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	stream, err := eidolonv1.NewTraceServiceClient(c.conn).TraceFlow(ctx, req)
	if err != nil {
		return explain(err)
	}
	begun, lost, l := false, uint64(0), o.lines()
	err = received(stream.Recv, func(resp *eidolonv1.TraceFlowResponse) error {
		if !begun {
			begun = true
			fmt.Fprintf(cmd.ErrOrStderr(), "tracing packets to %s and back, until interrupted:\n", req.GetDestination())
			if resp.GetKernelPlane() {
				fmt.Fprintln(cmd.ErrOrStderr(), "(the kernel plane leaves these packets to the process meanwhile, which is slower)")
			}
		}
		for _, p := range resp.GetPackets() {
			if err := l.line(p, tracedText(p)); err != nil {
				return err
			}
			if left--; left == 0 {
				return errEnough
			}
		}
		if resp.GetLost() > lost {
			fmt.Fprintf(cmd.ErrOrStderr(), "(%d packets more were forwarded and not told)\n", resp.GetLost()-lost)
			lost = resp.GetLost()
		}
		return nil
	})
	ended := l.end()
	switch {
	case cmd.Context().Err() != nil, errors.Is(err, errEnough):
		return ended
	case status.Code(err) == codes.Unavailable:
		return fmt.Errorf("no more packets: %s", status.Convert(err).Message())
	}
	return explain(err)
}

// fates says in words what counters of the data plane say of a packet, in the order
// in which it is told.
var fates = []struct{ counter, text string }{
	{"miss_queued", "no mapping is known, and it is asked for"},
	{"miss_repeated", "no mapping is known, and it was asked for already"},
	{"miss_lost", "no mapping is known, and there are too many questions"},
	{"held_packets", "held"},
	{"mss_clamped", "maximum segment size lowered"},
	{"fragmented", "split"},
	{"encap_packets", "encapsulated"},
	{"decap_packets", "delivered"},
	{"native_packets", "given back to the kernel, to be forwarded natively"},
	{"icmp_too_big", "its source is told what fits"},
	{"icmp_unreachable", "its source is told"},
}

// tracedText is a packet on one line: when, which way, the flow, and what became
// of it.
func tracedText(p *eidolonv1.TracedPacket) string {
	source, destination, way := p.GetSource(), p.GetDestination(), "out"
	if p.GetReceived() {
		way = "in "
	}
	protocol := ""
	if p.GetProtocol() != 0 {
		source, destination = fmt.Sprintf("%s port %d", source, p.GetSourcePort()), fmt.Sprintf("%s port %d", destination, p.GetDestinationPort())
		for name, n := range protocols {
			if uint32(n) == p.GetProtocol() {
				protocol = name + ", "
			}
		}
	}
	var became []string
	for _, f := range fates {
		if slices.Contains(p.GetCounters(), f.counter) {
			became = append(became, f.text)
		}
	}
	if d := p.GetDrop(); d != "" {
		became = append(became, fmt.Sprintf("dropped: %s (drop_%s)", cmp.Or(dropMeaning[d], d), d))
	}
	if p.GetRloc() != "" {
		became = append(became, fmt.Sprintf("outside %s > %s", p.GetSourceRloc(), p.GetRloc()))
	}
	return fmt.Sprintf("%s %s %s > %s, %s%d octets: %s", p.GetTime().AsTime().Local().Format("15:04:05.000"), way, source, destination, protocol, p.GetLength(),
		cmp.Or(strings.Join(became, ", "), "nothing is counted"))
}
