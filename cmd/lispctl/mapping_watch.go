package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
)

func newMappingWatch() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch [EID]",
		Short: "Follow the mappings of a map-server without losing a change",
		Long: `watch prints the mappings that there are, with an argument those inside of the EID,
then each change, until it is interrupted. A revision on a line of its own says
that everything up to it has been printed; --after-revision goes on there, without
the mappings that there were. When that is too long ago, or the changes come
faster than they can be printed for long, the watch begins anew with all mappings,
and says so.

For programs there are three kinds: a change with eid, revision and, unless the
mapping is gone, mapping; {"revision":"N"}; and {"snapshot":true}, after which what
was known before counts no more, and all mappings follow up to the next revision.`,
		Example: `  lispctl mapping watch 10.0.0.0/8
  lispctl mapping watch --after-revision 1234 -o jsonl`,
		Args: arguments(0, 1),
	}
	completes(cmd, 1, liveEIDs, programMapServer)
	after := cmd.Flags().Uint64("after-revision", 0, "go on after this revision (default: all mappings first)")
	count := cmd.Flags().IntP("count", "c", 0, "end after so many changes (default: when interrupted)")
	socket := socketFlag(cmd, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		w := &mappingWatch{l: out.output(cmd).lines(), left: *count}
		if len(args) > 0 {
			if _, err := mapping.ParseEID(args[0]); err != nil {
				return err
			}
			w.within = args[0]
		}
		if *count < 0 {
			return fmt.Errorf("--count: found %d, expected a positive number", *count)
		}
		if cmd.Flags().Changed("after-revision") {
			w.after = after
		}
		ctx := cmd.Context()
		c, err := dial(ctx, *socket, programMapServer)
		if err != nil {
			return err
		}
		defer c.close()
		for {
			err := w.run(ctx, eidolonv1.NewMappingServiceClient(c.conn))
			if ctx.Err() == nil && mustResync(err) {
				fmt.Fprintln(cmd.ErrOrStderr(), "changes are missing here; all mappings follow:", status.Convert(err).Message())
				w.after = nil
				continue
			}
			ended := w.l.end()
			switch {
			case ctx.Err() != nil, errors.Is(err, errEnough):
				return ended
			case status.Code(err) == codes.Unavailable:
				return fmt.Errorf("no more changes: %s", status.Convert(err).Message())
			}
			return explain(err)
		}
	}
	return cmd
}

// mustResync reports whether a watch has to begin with a snapshot.
func mustResync(err error) bool {
	s, ok := status.FromError(err)
	if !ok || s.Code() != codes.OutOfRange {
		return false
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == "RESYNC_REQUIRED" {
			return true
		}
	}
	return false
}

// mappingWatch prints what a map-server says of its mappings.
type mappingWatch struct {
	l      *listing
	within string
	after  *uint64 // go on there; nil: with a snapshot
	left   int     // changes until the end; 0 or less: none
}

func (w *mappingWatch) run(ctx context.Context, c eidolonv1.MappingServiceClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.WatchMappings(ctx, &eidolonv1.WatchMappingsRequest{Within: w.within, AfterRevision: w.after})
	if err != nil {
		return err
	}
	if w.after == nil {
		if err := w.mark(map[string]any{"snapshot": true}, ""); err != nil {
			return err
		}
	}
	err = received(stream.Recv, func(resp *eidolonv1.WatchMappingsResponse) error {
		for _, ch := range resp.GetChanges() {
			if err := w.change(ch); err != nil {
				return err
			}
			if w.left--; w.left == 0 {
				return errEnough
			}
		}
		if resp.GetRevision() == 0 {
			return nil
		}
		w.after = proto.Uint64(resp.GetRevision())
		n := fmt.Sprint(resp.GetRevision())
		return w.mark(map[string]any{"revision": n}, "revision "+n)
	})
	if err == nil {
		return errors.New("the map-server ended the watch")
	}
	return err
}

// mark prints what is no change; people are told nothing of what has no text.
func (w *mappingWatch) mark(v any, text string) error {
	if text == "" && !w.l.o.structured() {
		return nil
	}
	return w.l.line(v, text)
}

func (w *mappingWatch) change(ch *eidolonv1.MappingChange) error {
	m := ch.GetMapping()
	if m == nil {
		return w.l.line(ch, fmt.Sprintf("  %s  gone", ch.GetEid()))
	}
	text := fmt.Sprintf("  %s  %s: %s", ch.GetEid(), originText(m.GetOrigin()), recordText(m.GetRecord()))
	if m.GetSite() != "" {
		text += ", of " + m.GetSite()
	}
	return w.l.line(ch, text)
}
