// Package web is the page that a daemon shows to a browser: plain HTML, CSS and
// JavaScript that are in the binary and ask nobody else, and what they show as
// JSON and as a stream of events. It changes nothing. It knows HTTP and bounds,
// and nothing of what the rows say.
package web

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"
)

// Limits of our own.
const (
	// MaxRows is how many rows a view tells at once.
	MaxRows = 200
	// MaxSkip is how many rows may be left out before them: who looks for
	// something else narrows the search.
	MaxSkip = 100 * MaxRows
	// maxSearch bounds the search text, in octets.
	maxSearch = 256
	// maxViews bounds the views that are being made at the same time, and
	// viewPatience how long others wait for their turn.
	maxViews     = 2
	viewPatience = 3 * time.Second
	// MaxWatchers bounds the streams of events at the same time, so that most
	// connections and subscriptions are left to others.
	MaxWatchers = 8
	// pace is the time between two writes of a stream. What happens meanwhile
	// goes into the next one, or is lost and counted by the subscription.
	pace = 250 * time.Millisecond
	// heartbeat is how long a stream is silent at most.
	heartbeat = 15 * time.Second
	// writePatience is how long a browser may take for what is written.
	writePatience = 10 * time.Second
)

// policy lets the page load what is in this binary, and nothing become code or
// markup that came as data.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// ErrBadQuery is wrapped by the errors of views that are the asker's fault; he
// is told the rest of the text.
var ErrBadQuery = errors.New("the search can't be done")

// Query is what is asked for.
type Query struct {
	// Text is searched for; empty for everything.
	Text string
	// Skip is how many rows are left out at the start, MaxSkip at most.
	Skip int
}

// View makes what one part of the page shows. What it returns is encoded as
// JSON. Views are called from several goroutines.
type View func(ctx context.Context, q Query) (any, error)

// Stream is a watch over events. It is for one goroutine.
type Stream interface {
	// Next waits until something happens and returns that, each event encoded
	// as JSON on one line; or the error that ends the stream, or ctx's.
	Next(ctx context.Context) ([]json.RawMessage, error)
	// Close ends the watch.
	Close()
}

// Page is what a daemon shows.
type Page struct {
	// Views are served by their names.
	Views map[string]View
	// Watch begins to watch the events that concern q.Text. It fails with
	// ErrBadQuery, or when too many watch.
	Watch func(q Query) (Stream, error)
}

// Rows are a part of a list.
type Rows struct {
	Rows []any `json:"rows"`
	// Skip is how many come before, and Limit how many are told at once.
	Skip  int `json:"skip"`
	Limit int `json:"limit"`
	// More says that some come after.
	More bool `json:"more"`
}

// Collect takes from seq the rows that q asks for, and no more of seq than it
// needs for that.
func Collect[T any](q Query, seq iter.Seq[T], row func(T) any) Rows {
	r, n := Rows{Rows: []any{}, Skip: q.Skip, Limit: MaxRows}, 0
	for v := range seq {
		switch n++; {
		case n <= q.Skip:
		case n > q.Skip+MaxRows:
			r.More = true
			return r
		default:
			r.Rows = append(r.Rows, row(v))
		}
	}
	return r
}

//go:embed page
var files embed.FS

// handler serves a Page.
type handler struct {
	page     Page
	making   chan struct{} // holds a token for each view that is being made
	watching chan struct{} // and for each stream
}

// Handler serves p: the page at /web/, its views at /web/api/NAME and the events
// at /web/api/events, to GET and HEAD only.
func Handler(p Page) http.Handler {
	h := &handler{page: p, making: make(chan struct{}, maxViews), watching: make(chan struct{}, MaxWatchers)}
	mux := http.NewServeMux()
	mux.Handle("GET /web/", assets())
	for name, view := range p.Views {
		mux.HandleFunc("GET /web/api/"+name, func(w http.ResponseWriter, r *http.Request) { h.view(w, r, view) })
	}
	mux.HandleFunc("GET /web/api/events", h.events)
	return guarded(mux)
}

// guarded sets what holds for all answers, and refuses what other sites make a
// browser ask: they could not read the answer, but take the places of those who
// can. A name that somebody else resolves to our address, to be of the same
// origin as the page, is no name of ours (DNS rebinding).
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cache-Control", "no-cache")
		if !Addressed(r.Host) {
			http.Error(w, "this is served to who names it by an address, localhost or a name without a dot", http.StatusMisdirectedRequest)
			return
		}
		switch r.Header.Get("Sec-Fetch-Site") {
		case "", "same-origin", "none":
		default:
			if r.Header.Get("Sec-Fetch-Mode") != "navigate" {
				http.Error(w, "another site asks", http.StatusForbidden)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// Addressed reports whether a Host header has an address, localhost or another
// name that no DNS of somebody else can have given.
func Addressed(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return host != "" && !strings.Contains(strings.TrimSuffix(host, "."), ".")
}

// assets serves the files that are in the binary. They change with it only.
func assets() http.Handler {
	byPath := make(map[string]http.HandlerFunc)
	err := fs.WalkDir(files, "page", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		kind, tag := contentType(name), fmt.Sprintf(`"%x"`, sha256.Sum256(b))
		serve := func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("ETag", tag)
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(b)))
		}
		at := "/web/" + strings.TrimPrefix(name, "page/")
		byPath[at] = serve
		if dir, file := path.Split(at); file == "index.html" {
			byPath[dir] = serve
		}
		return nil
	})
	if err != nil {
		panic(err) // an embedded file is always readable
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if serve, ok := byPath[r.URL.Path]; ok {
			serve(w, r)
			return
		}
		http.NotFound(w, r)
	})
}

// contentType does not ask the machine's tables for what decides whether a
// browser runs a script.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".html":
		return "text/html; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	}
	return mime.TypeByExtension(path.Ext(name))
}

func query(r *http.Request) (q Query, err error) {
	form := r.URL.Query()
	q.Text = strings.TrimSpace(form.Get("q"))
	if len(q.Text) > maxSearch {
		return q, fmt.Errorf("%w: more than %d octets", ErrBadQuery, maxSearch)
	}
	if text := form.Get("skip"); text != "" {
		if q.Skip, err = strconv.Atoi(text); err != nil || q.Skip < 0 || q.Skip > MaxSkip {
			return q, fmt.Errorf("%w: skip is 0 to %d, narrow the search instead", ErrBadQuery, MaxSkip)
		}
	}
	return q, nil
}

// view answers with what view makes, with the time of the daemon's clock.
func (h *handler) view(w http.ResponseWriter, r *http.Request, view View) {
	q, err := query(r)
	if err != nil {
		refuse(w, err)
		return
	}
	wait, stop := context.WithTimeout(r.Context(), viewPatience)
	defer stop()
	select {
	case h.making <- struct{}{}:
	case <-wait.Done():
		tell(w, http.StatusServiceUnavailable, map[string]string{"error": "too many ask at the same time"})
		return
	}
	v, err := func() (any, error) {
		defer func() { <-h.making }() // a panic is one request's
		return view(r.Context(), q)
	}()
	if err != nil {
		refuse(w, err)
		return
	}
	tell(w, http.StatusOK, struct {
		Time time.Time `json:"time"`
		Data any       `json:"data"`
	}{time.Now(), v})
}

func refuse(w http.ResponseWriter, err error) {
	code := http.StatusServiceUnavailable
	if errors.Is(err, ErrBadQuery) {
		code = http.StatusBadRequest
	}
	tell(w, code, map[string]string{"error": err.Error()})
}

func tell(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		code, b = http.StatusInternalServerError, []byte(`{"error":"what is to be shown has no JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	w.WriteHeader(code)
	w.Write(b)
}

// events streams what happens as Server-Sent Events until the browser or the
// daemon ends that.
func (h *handler) events(w http.ResponseWriter, r *http.Request) {
	q, err := query(r)
	if err != nil {
		refuse(w, err)
		return
	}
	select {
	case h.watching <- struct{}{}:
	default:
		refuse(w, fmt.Errorf("%d watch already", MaxWatchers))
		return
	}
	defer func() { <-h.watching }()
	stream, err := h.page.Watch(q)
	if err != nil {
		refuse(w, err)
		return
	}
	defer stream.Close()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodHead {
		return
	}
	// The server's limit is for answers that end; here each write has its own.
	rc := http.NewResponseController(w)
	write := func(parts ...string) error {
		if err := rc.SetWriteDeadline(time.Now().Add(writePatience)); err != nil {
			return err
		}
		for _, p := range parts {
			if _, err := w.Write([]byte(p)); err != nil {
				return err
			}
		}
		return rc.Flush()
	}
	if err := write(": the watch has begun\n\n"); err != nil {
		return
	}
	for {
		ctx, stop := context.WithTimeout(r.Context(), heartbeat)
		events, err := stream.Next(ctx)
		stop()
		switch {
		case err == nil:
			parts := make([]string, len(events))
			for i, e := range events {
				parts[i] = "data: " + string(e) + "\n\n"
			}
			err = write(parts...)
		case errors.Is(err, context.DeadlineExceeded):
			err = write(":\n\n")
		}
		if err != nil {
			return
		}
		select {
		case <-time.After(pace):
		case <-r.Context().Done():
			return
		}
	}
}
