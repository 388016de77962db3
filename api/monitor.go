package api

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/internal/fanout"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// monitorQueue is how many events one watcher may be behind.
const monitorQueue = 4096

// errEnding is why a watch ends when the daemon does.
var errEnding = errors.New("the daemon is stopping")

// monitor sends the events of a subscription until the caller or the daemon
// ends it, first an empty message. convert returns nil for one that the caller
// did not ask for. It closes the subscription.
func monitor[E any](ctx context.Context, sub *fanout.Subscription[E], err error, convert func(E) *eidolonv1.Event, send func([]*eidolonv1.Event) error) error {
	if err != nil {
		return status.Errorf(codes.ResourceExhausted, "monitor: %v", err)
	}
	defer sub.Close()
	ctx, stop := whileServing(ctx)
	defer stop()
	if err := send(nil); err != nil {
		return err
	}
	for {
		items, err := sub.Next(ctx)
		if err != nil {
			return ended(err)
		}
		for len(items) > 0 {
			n := min(len(items), listBatch)
			events := make([]*eidolonv1.Event, 0, n)
			for _, it := range items[:n] {
				if it.Lost > 0 {
					events = append(events, &eidolonv1.Event{Kind: eidolonv1.EventKind_EVENT_KIND_LOST, Lost: it.Lost})
				} else if e := convert(it.Event); e != nil {
					events = append(events, e)
				}
			}
			items = items[n:]
			if len(events) == 0 {
				continue
			}
			if err := send(events); err != nil {
				return err
			}
		}
	}
}

// whileServing gives a stream that would never end by itself a context that also
// ends when the daemon does, with errEnding.
func whileServing(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := func() bool { return true }
	if serving, ok := ctx.Value(servingKey{}).(context.Context); ok {
		unhook = context.AfterFunc(serving, func() { cancel(errEnding) })
	}
	return ctx, func() {
		unhook()
		cancel(nil)
	}
}

// ended is the status of a stream whose context ended by err.
func ended(err error) error {
	if errors.Is(err, errEnding) {
		return status.Error(codes.Unavailable, errEnding.Error())
	}
	return status.FromContextError(err).Err()
}

// wanted reports whether an event about e passes the filter; none says whether
// one about no EID does.
func wanted(filter, e mapping.EID, none bool) bool {
	switch {
	case !filter.IsValid():
		return true
	case !e.IsValid():
		return none
	}
	return related(filter, e)
}

// servingKey is the key of the context that ends when the daemon is asked to.
type servingKey struct{}

// untilStopped gives each stream a context that knows serving, so that one that
// would never end by itself ends when the daemon does; calls that do something
// are given time by Serve.
func untilStopped(serving context.Context) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return handler(srv, servedStream{ss, context.WithValue(ss.Context(), servingKey{}, serving)})
	}
}

// servedStream is a stream with a context of its own.
type servedStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s servedStream) Context() context.Context { return s.ctx }
