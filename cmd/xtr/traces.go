package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/tracing"
	"github.com/eidolon-lisp/eidolon/internal/version"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// flushTraces is how long the end of the daemon waits for the collector.
const flushTraces = 2 * time.Second

// traceConfig turns the file's type into the tracer's. An xTR without an xTR-ID
// goes by the name of its host.
func traceConfig(cfg *config.XTR, log *slog.Logger) tracing.Config {
	instance := fmt.Sprintf("%x", cfg.XTRID[:])
	if cfg.XTRID == (mapping.XTRID{}) {
		instance, _ = os.Hostname() // or none
	}
	return tracing.Config{Endpoint: cfg.Tracing.Endpoint, Insecure: cfg.Tracing.Insecure, RootCAs: cfg.Tracing.RootCAs,
		OneIn: cfg.Tracing.OneIn, Version: version.Get().String(), Instance: instance, Logger: log}
}

func closeTraces(t *tracing.Tracer, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), flushTraces)
	defer cancel()
	if err := t.Close(ctx); err != nil {
		log.Warn("the last traces are not sent", "err", err)
	}
}
