package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
)

func newMonitor() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "monitor [EID]",
		Short: "Print what happens to mappings, as it happens",
		Long: `monitor prints an event a line until it is interrupted. On a map-server:
registrations that begin, change, are withdrawn, expire or are refused, and
mappings put and deleted over the API. On an xTR: map-cache entries that come
and go, registrations confirmed and lost, SMRs, and remote locators that come up
and go down. What is only refreshed is no event.

With an argument only events about EID-prefixes that hold the EID or lie inside
it. When events come faster than they can be printed, some are lost; monitor
says how many, and where.`,
		Example: `  lispctl monitor
  lispctl monitor 10.2.0.0/16 -o jsonl --socket /run/eidolon/mapserver.sock`,
		Args: arguments(0, 1),
	}
	completes(cmd, 1, liveEIDs, programXTR, programMapServer)
	socket := socketFlag(cmd, programXTR, programMapServer)
	count := cmd.Flags().IntP("count", "c", 0, "end after so many events (default: when interrupted)")
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		eid := ""
		if len(args) > 0 {
			if _, err := mapping.ParseEID(args[0]); err != nil {
				return err
			}
			eid = args[0]
		}
		if *count < 0 {
			return fmt.Errorf("--count: found %d, expected a positive number", *count)
		}
		ctx := cmd.Context()
		c, err := dial(ctx, *socket, programXTR, programMapServer)
		if err != nil {
			return err
		}
		defer c.close()
		o := out.output(cmd)
		if !o.structured() {
			fmt.Fprintf(cmd.ErrOrStderr(), "events of %s, until interrupted:\n", c.program)
		}
		left, l := *count, o.lines()
		err = watch(ctx, c, eid, func(e *eidolonv1.Event) error {
			err := l.line(e, eventText(e))
			if left--; err == nil && left == 0 {
				return errEnough
			}
			return err
		})
		ended := l.end()
		if ctx.Err() != nil || errors.Is(err, errEnough) {
			return ended
		}
		if s, ok := status.FromError(err); ok && s.Code() == codes.Unavailable {
			return fmt.Errorf("no more events: %s", s.Message())
		}
		return explain(err)
	}
	return cmd
}

// errEnough ends a watch after the events that were asked for.
var errEnough = errors.New("enough events")

// watch calls each for the events of a daemon until ctx or the daemon ends.
func watch(ctx context.Context, c *client, eid string, each func(*eidolonv1.Event) error) error {
	all := func(events []*eidolonv1.Event) error {
		for _, e := range events {
			if err := each(e); err != nil {
				return err
			}
		}
		return nil
	}
	if c.program == programXTR {
		stream, err := eidolonv1.NewRouterServiceClient(c.conn).MonitorRouter(ctx, &eidolonv1.MonitorRouterRequest{Eid: eid})
		if err != nil {
			return err
		}
		return received(stream.Recv, func(m *eidolonv1.MonitorRouterResponse) error { return all(m.GetEvents()) })
	}
	stream, err := eidolonv1.NewMappingServiceClient(c.conn).MonitorMappings(ctx, &eidolonv1.MonitorMappingsRequest{Eid: eid})
	if err != nil {
		return err
	}
	return received(stream.Recv, func(m *eidolonv1.MonitorMappingsResponse) error { return all(m.GetEvents()) })
}

// eventText is an event on one line: when, what, the EID, then what is known.
func eventText(e *eidolonv1.Event) string {
	if e.GetKind() == eidolonv1.EventKind_EVENT_KIND_LOST {
		return fmt.Sprintf("(%d events lost here: they came faster than they were read)", e.GetLost())
	}
	parts := []string{e.GetTime().AsTime().Local().Format("15:04:05.000"), fmt.Sprintf("%-22s", enumText(e.GetKind(), "EVENT_KIND_"))}
	add := func(format, value string) {
		if value != "" {
			parts = append(parts, fmt.Sprintf(format, value))
		}
	}
	add("%s", e.GetEid())
	add("of %s", e.GetSite())
	add("by %s", e.GetRegistrant())
	switch e.GetKind() {
	case eidolonv1.EventKind_EVENT_KIND_REGISTRATION_CONFIRMED, eidolonv1.EventKind_EVENT_KIND_REGISTRATION_LOST:
		add("at %s", e.GetPeer())
	case eidolonv1.EventKind_EVENT_KIND_RLOC_UP, eidolonv1.EventKind_EVENT_KIND_RLOC_DOWN, eidolonv1.EventKind_EVENT_KIND_LOCATOR_CHANGED:
		add("%s", e.GetPeer())
	case eidolonv1.EventKind_EVENT_KIND_PUBLISHED, eidolonv1.EventKind_EVENT_KIND_SUBSCRIBED, eidolonv1.EventKind_EVENT_KIND_UNSUBSCRIBED:
		add("to %s", e.GetPeer())
	default:
		add("from %s", e.GetPeer())
	}
	text := strings.Join(parts, " ")
	switch {
	case e.GetRecord() != nil && e.GetPrevious() != nil:
		text += fmt.Sprintf(": %s, was %s", recordText(e.GetRecord()), recordText(e.GetPrevious()))
	case e.GetRecord() != nil:
		text += ": " + recordText(e.GetRecord())
	}
	if e.GetReason() != "" {
		text += ": " + e.GetReason()
	}
	if e.GetSuppressed() > 0 {
		text += fmt.Sprintf(" (and %d before it)", e.GetSuppressed())
	}
	return text
}

// recordText returns the TTL of a record and its locators or action.
func recordText(r *eidolonv1.Record) string {
	return fmt.Sprintf("%s, ttl %s", locatorsText(r), ttlText(r.GetRecordTtl()))
}
