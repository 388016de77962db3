// Package tracing sends what became of questions to the mapping system to a
// collector of OpenTelemetry traces (OTLP over gRPC). A question is one trace: a
// span from the miss until the planes had the mapping, and inside of it one for
// each Map-Request and one for the planes.
package tracing

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/credentials"

	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// Config says where traces go and whose they are.
type Config struct {
	// Endpoint is the host and port of the collector.
	Endpoint string
	// Insecure is without TLS. Otherwise the collector must show a certificate of
	// RootCAs, in PEM, or where that is empty one that the system trusts.
	Insecure bool
	RootCAs  []byte
	// OneIn is how many resolutions there are for each that is traced, by chance;
	// 1 traces all.
	OneIn int
	// Version and Instance tell this xTR from others.
	Version, Instance string
	// Logger hears, now and then, that the collector can't be reached; nil discards.
	Logger *slog.Logger
}

const (
	// queueSize is the number of spans that wait to be sent; others are lost.
	queueSize = 2048
	// exportTimeout is how long the collector may take for a batch.
	exportTimeout = 10 * time.Second
	// complainEvery is how often it is logged that traces are not sent.
	complainEvery = time.Minute
)

// A Tracer sends traces. Close must follow.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// New returns a tracer, which tries to reach the collector for as long as it
// takes, in the background.
func New(ctx context.Context, c Config) (*Tracer, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	options := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(c.Endpoint), otlptracegrpc.WithTimeout(exportTimeout)}
	switch {
	case c.Insecure:
		options = append(options, otlptracegrpc.WithInsecure())
	default:
		config := &tls.Config{MinVersion: tls.VersionTLS12}
		if len(c.RootCAs) > 0 {
			config.RootCAs = x509.NewCertPool()
			if !config.RootCAs.AppendCertsFromPEM(c.RootCAs) {
				return nil, errors.New("tracing: no certificate is in the file of the collector's authorities")
			}
		}
		options = append(options, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(config)))
	}
	exporter, err := otlptracegrpc.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	otel.SetErrorHandler(&complaint{log: c.Logger})
	provider := sdk.NewTracerProvider(
		sdk.WithBatcher(exporter, sdk.WithMaxQueueSize(queueSize), sdk.WithExportTimeout(exportTimeout)),
		sdk.WithSampler(sdk.TraceIDRatioBased(1/float64(max(1, c.OneIn)))),
		sdk.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "eidolon-xtr"),
			attribute.String("service.version", c.Version),
			attribute.String("service.instance.id", c.Instance),
		)),
	)
	return &Tracer{provider, provider.Tracer("github.com/eidolon-lisp/eidolon/internal/tracing")}, nil
}

// Close sends what waits, for as long as ctx lets it.
func (t *Tracer) Close(ctx context.Context) error {
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("tracing: %w", err)
	}
	return nil
}

// Resolved makes traces of resolutions, for xtr.Config.OnTraces. It does not
// wait for the collector.
func (t *Tracer) Resolved(list []*xtr.ResolutionTrace) {
	for _, r := range list {
		t.resolved(r)
	}
}

func (t *Tracer) resolved(r *xtr.ResolutionTrace) {
	ctx, span := t.tracer.Start(context.Background(), "resolve", trace.WithTimestamp(r.Begun), trace.WithSpanKind(trace.SpanKindInternal))
	defer func() { span.End(trace.WithTimestamp(r.Ended)) }()
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(
		attribute.String("lisp.eid", r.EID.Prefix.String()),
		attribute.Int64("lisp.iid", int64(r.EID.IID)),
		attribute.String("lisp.reason", r.Why),
		attribute.String("lisp.outcome", r.Outcome.String()),
		attribute.Int("lisp.map_requests", len(r.Requests)),
	)
	if r.Source.IsValid() {
		span.SetAttributes(attribute.String("lisp.source", r.Source.String()))
	}
	answered := r.Outcome == xtr.ResolutionAnswered
	for i, q := range r.Requests {
		t.request(ctx, r, i, q, answered && i == r.Request)
	}
	switch r.Outcome {
	case xtr.ResolutionAnswered:
		span.SetAttributes(attribute.String("lisp.mapping", r.Answer.EID.Prefix.String()), attribute.Int("lisp.locators", len(r.Answer.Locators)))
		if r.Answer.Negative() {
			span.SetAttributes(attribute.String("lisp.action", r.Answer.Action.String()))
		}
		_, update := t.tracer.Start(ctx, "update planes", trace.WithTimestamp(r.Answered))
		update.End(trace.WithTimestamp(r.Ended))
	case xtr.ResolutionGivenUp, xtr.ResolutionEvicted:
		span.SetStatus(codes.Error, r.Outcome.String())
	}
}

// request makes the span of one Map-Request, which ends with its answer or with
// what came next.
func (t *Tracer) request(ctx context.Context, r *xtr.ResolutionTrace, i int, q xtr.ResolutionRequest, answered bool) {
	_, span := t.tracer.Start(ctx, "map-request", trace.WithTimestamp(q.Sent), trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.Int("lisp.attempt", i+1),
		attribute.String("lisp.map_resolver", q.MapResolver.String()),
		attribute.String("lisp.nonce", fmt.Sprintf("%#016x", q.Nonce)),
		attribute.Bool("lisp.protected", q.Protected),
		attribute.Bool("lisp.subscribes", q.Subscribes),
	))
	end := r.Ended
	switch {
	case answered:
		end = r.Answered
		span.SetAttributes(
			attribute.String("lisp.answer", r.By.String()),
			attribute.String("lisp.answer.from", r.From.String()),
			attribute.Int64("lisp.answer.ttl_minutes", int64(r.Answer.TTL)))
	case i+1 < len(r.Requests):
		end = r.Requests[i+1].Sent
		span.SetStatus(codes.Error, "no answer before the next one")
	case r.Outcome == xtr.ResolutionAnswered:
		end = r.Answered // an earlier one was answered late
	case r.Outcome == xtr.ResolutionGivenUp:
		span.SetStatus(codes.Error, "no answer")
	}
	span.End(trace.WithTimestamp(end))
}

// complaint logs errors of the exporter, now and then.
type complaint struct {
	log  *slog.Logger
	mu   sync.Mutex
	last time.Time
}

func (c *complaint) Handle(err error) {
	c.mu.Lock()
	due := time.Since(c.last) >= complainEvery
	if due {
		c.last = time.Now()
	}
	c.mu.Unlock()
	if due {
		c.log.Warn("traces are not sent", "err", err)
	}
}
