package api

import (
	"context"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// readyService is the service of the standard health service that stands for what
// /readyz says; "" and the services of the daemon are SERVING while it serves.
const readyService = "ready"

// readyRound is how often a watch of readyService looks.
const readyRound = time.Second

// Readiness knows whether a daemon can do its work.
type Readiness struct {
	alive    *liveness
	observed Observed
}

// NewReadiness returns the readiness of a daemon with these counters; see
// ObserveXTR and ObserveMapServer.
func NewReadiness(stats func() iter.Seq2[string, uint64], observed Observed) *Readiness {
	return &Readiness{&liveness{probe: Probe(stats)}, observed}
}

// reasons says why the daemon can't do its work; empty if it can.
func (r *Readiness) reasons(ctx context.Context) []string {
	if reasons := r.alive.live(ctx); len(reasons) > 0 {
		return reasons
	}
	return r.observed.notReady()
}

// healthService is the standard health service with readyService.
type healthService struct {
	*health.Server
	ready   *Readiness // nil: it is no service
	serving context.Context
}

func (h *healthService) status(ctx context.Context) *healthv1.HealthCheckResponse {
	status := healthv1.HealthCheckResponse_SERVING
	if h.serving.Err() != nil || len(h.ready.reasons(ctx)) > 0 {
		status = healthv1.HealthCheckResponse_NOT_SERVING
	}
	return &healthv1.HealthCheckResponse{Status: status}
}

// Check implements healthv1.HealthServer.
func (h *healthService) Check(ctx context.Context, req *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	if h.ready == nil || req.GetService() != readyService {
		return h.Server.Check(ctx, req)
	}
	return h.status(ctx), nil
}

// List implements healthv1.HealthServer.
func (h *healthService) List(ctx context.Context, req *healthv1.HealthListRequest) (*healthv1.HealthListResponse, error) {
	resp, err := h.Server.List(ctx, req)
	if err == nil && h.ready != nil {
		resp.Statuses[readyService] = h.status(ctx)
	}
	return resp, err
}

// Watch implements healthv1.HealthServer.
func (h *healthService) Watch(req *healthv1.HealthCheckRequest, stream grpc.ServerStreamingServer[healthv1.HealthCheckResponse]) error {
	if h.ready == nil || req.GetService() != readyService {
		return h.Server.Watch(req, stream)
	}
	ctx, stop := whileServing(stream.Context())
	defer stop()
	round := time.NewTicker(readyRound)
	defer round.Stop()
	last := healthv1.HealthCheckResponse_UNKNOWN
	for {
		now := h.status(stream.Context())
		if now.GetStatus() != last {
			last = now.GetStatus()
			if err := stream.Send(now); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ended(context.Cause(ctx))
		}
		select {
		case <-round.C:
		case <-ctx.Done():
		}
	}
}
