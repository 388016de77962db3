package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"github.com/eidolon-lisp/eidolon/api/web"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
)

// Limits of the HTTP server.
const (
	// maxHTTP bounds the connections at the same time.
	maxHTTP = 64
	// maxScrapes bounds the scrapes at the same time.
	maxScrapes = 4
	// livePatience is how long a daemon that lives takes for its counters.
	livePatience = 2 * time.Second
)

// HTTPConfig says what is told over HTTP, and where.
type HTTPConfig struct {
	Listen netip.AddrPort
	// Pprof serves /debug/pprof too, to whoever can connect.
	Pprof bool
	// Program is "xtr" or "mapserver", and the second word of its metrics.
	Program string
	// Stats are the counters, as of Admin.
	Stats func() iter.Seq2[string, uint64]
	// REST is the path of the socket of Serve, whose calls that only read are
	// served as REST to whoever can connect; empty: none are.
	REST string
	// Observed is what else is shown; see ObserveXTR and ObserveMapServer.
	Observed Observed
	// Configuration tells how the daemon and its configuration stand; nil: nothing
	// is told of it.
	Configuration func() config.Status
	// Neighbours are those of BGP, of an xTR or over the ALT; nil without BGP.
	Neighbours func() ([]bgp.NeighbourStatus, error)
	// Page is the web page, to whoever can connect; nil: none. See PageXTR and
	// PageMapServer.
	Page *Page
	// Logger gets what the server has to say; nil discards.
	Logger *slog.Logger
}

// ServeHTTP serves /metrics for Prometheus, /livez and /readyz until ctx ends.
// /livez fails when the control plane does not answer, so that who watches may
// kill it; /readyz also while it can't do its work, with the reasons. With REST
// there are /v1/ and /openapi.json, too, and with a page that is at /web/. All of
// it is read-only.
func ServeHTTP(ctx context.Context, cfg HTTPConfig) error {
	log := cfg.Logger
	if log == nil {
		log = discard()
	}
	var calls *rest
	if cfg.REST != "" {
		var err error
		if calls, err = newREST(cfg.REST); err != nil {
			return err
		}
		defer calls.close()
	}
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Listen.String())
	if err != nil {
		return fmt.Errorf("http: %w", err)
	}
	s := &http.Server{
		Handler:           httpHandler(cfg, calls, log),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      2 * time.Minute, // a profile takes its time
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// What would never end by itself ends when the daemon does.
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.Background(), servingKey{}, ctx)
		},
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(netutil.LimitListener(lis, maxHTTP)) }()
	select {
	case err := <-ended:
		return fmt.Errorf("http: %w", err)
	case <-ctx.Done():
	}
	grace, stop := context.WithTimeout(context.Background(), stopGrace)
	defer stop()
	if s.Shutdown(grace) != nil {
		s.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("http: %w", err)
	}
	return nil
}

func httpHandler(cfg HTTPConfig, calls *rest, log *slog.Logger) http.Handler {
	mux, ready := http.NewServeMux(), NewReadiness(cfg.Stats, cfg.Observed)
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newCollector(cfg, log))
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes,
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, r *http.Request) {
		answer(w, ready.alive.live(r.Context()))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		answer(w, ready.reasons(r.Context()))
	})
	if calls != nil {
		mux.Handle("/v1/", calls)
		mux.Handle("/openapi.json", calls)
	}
	if cfg.Page != nil {
		mux.Handle("/web/", web.Handler(cfg.Page.page(cfg)))
		mux.Handle("GET /{$}", http.RedirectHandler("/web/", http.StatusFound))
	}
	if cfg.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// Probe returns a function that comes back only when all counters are told,
// for which a daemon takes the locks that its work needs.
func Probe(stats func() iter.Seq2[string, uint64]) func() {
	return func() {
		for range stats() {
		}
	}
}

// liveness tries whether a daemon still tells its counters. There is one try at a
// time, which all who ask wait for: of a daemon that stands still none comes back.
type liveness struct {
	probe func()
	mu    sync.Mutex
	trial chan struct{} // closed when the try is over; nil if there is none
}

func (l *liveness) live(ctx context.Context) []string {
	ctx, stop := context.WithTimeout(ctx, livePatience)
	defer stop()
	select {
	case <-l.begin():
		return nil
	case <-ctx.Done():
		return []string{fmt.Sprintf("no counters after %v: the control plane stands still", livePatience)}
	}
}

// begin returns the try that is under way, or a new one.
func (l *liveness) begin() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.trial == nil {
		done := make(chan struct{})
		l.trial = done
		go func() {
			l.probe()
			l.mu.Lock()
			l.trial = nil
			l.mu.Unlock()
			close(done)
		}()
	}
	return l.trial
}

func answer(w http.ResponseWriter, reasons []string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	if len(reasons) == 0 {
		io.WriteString(w, "ok\n")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	io.WriteString(w, strings.Join(reasons, "\n")+"\n")
}
