package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// feed is a stream that a test writes.
type feed struct {
	events chan json.RawMessage
	closed chan struct{}
}

func (f *feed) Next(ctx context.Context) ([]json.RawMessage, error) {
	select {
	case e, ok := <-f.events:
		if !ok {
			return nil, errors.New("the daemon is stopping")
		}
		return []json.RawMessage{e}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *feed) Close() { close(f.closed) }

func numbers(ctx context.Context, q Query) (any, error) {
	if q.Text == "bad" {
		return nil, fmt.Errorf("%w: it is bad", ErrBadQuery)
	}
	return Collect(q, func(yield func(int) bool) {
		for n := range 1_000_000 {
			if !yield(n) {
				return
			}
		}
	}, func(n int) any { return n }), nil
}

func page(watch func(Query) (Stream, error)) http.Handler {
	return Handler(Page{Views: map[string]View{"numbers": numbers}, Watch: watch})
}

func answered(h http.Handler, method, path string, header ...string) *http.Response {
	r := httptest.NewRequest(method, path, nil)
	r.Host = "127.0.0.1:9342"
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		} else {
			r.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Whatever is served, errors too, has the policy, and nothing can be sent.
func TestReadOnlyAndGuarded(t *testing.T) {
	h := page(nil)
	for path, kind := range map[string]string{
		"/web/":            "text/html; charset=utf-8",
		"/web/index.html":  "text/html; charset=utf-8",
		"/web/app.js":      "text/javascript; charset=utf-8",
		"/web/style.css":   "text/css; charset=utf-8",
		"/web/icon.svg":    "image/svg+xml",
		"/web/api/numbers": "application/json",
		"/web/nothing":     "",
		"/web/../web.go":   "",
		"/web/api/":        "",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			r := answered(h, method, path)
			reads := method == "GET" || method == "HEAD"
			switch {
			case !reads && r.StatusCode != http.StatusMethodNotAllowed && kind != "":
				t.Errorf("%s %s: %d", method, path, r.StatusCode)
			case !reads && r.StatusCode < 300:
				t.Errorf("%s %s: %d", method, path, r.StatusCode)
			case !reads && kind != "" && r.Header.Get("Allow") != "GET, HEAD":
				t.Errorf("%s %s: Allow %q", method, path, r.Header.Get("Allow"))
			case reads && kind == "" && r.StatusCode == http.StatusOK:
				t.Errorf("%s %s is there", method, path)
			case reads && kind != "" && (r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != kind):
				t.Errorf("%s %s: %d, %q", method, path, r.StatusCode, r.Header.Get("Content-Type"))
			}
			for name, want := range map[string]string{
				"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
				"X-Frame-Options": "DENY", "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
			} {
				if got := r.Header.Get(name); got != want {
					t.Errorf("%s %s: %s %q", method, path, name, got)
				}
			}
			for name := range r.Header {
				if strings.HasPrefix(name, "Access-Control") || name == "Set-Cookie" {
					t.Errorf("%s %s: %s", method, path, name)
				}
			}
		}
	}
	for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
		if !slices.Contains(strings.Split(policy, "; "), want) {
			t.Errorf("the policy lacks %q", want)
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") || strings.Contains(policy, "http") {
		t.Errorf("the policy lets too much pass: %s", policy)
	}
}

// The files name no other host, and make no markup of text.
func TestNothingFromElsewhere(t *testing.T) {
	markup := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc|\son\w+=|<style|\sstyle=|javascript:`)
	elsewhere := regexp.MustCompile(`(https?:)?//[a-z0-9.-]+\.[a-z]{2,}`)
	entries, err := files.ReadDir("page")
	if err != nil || len(entries) < 5 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		b, err := files.ReadFile("page/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(b), "http://www.w3.org/2000/svg", "") // a name, not an address
		if found := markup.FindString(text); found != "" {
			t.Errorf("%s has %q", e.Name(), found)
		}
		if found := elsewhere.FindString(text); found != "" {
			t.Errorf("%s names %q", e.Name(), found)
		}
	}
}

func TestFilesAreNotSentAgain(t *testing.T) {
	h := page(nil)
	first := answered(h, "GET", "/web/app.js")
	tag := first.Header.Get("ETag")
	if tag == "" || first.Header.Get("Cache-Control") != "no-cache" {
		t.Fatalf("%v", first.Header)
	}
	if r := answered(h, "GET", "/web/app.js", "If-None-Match", tag); r.StatusCode != http.StatusNotModified || body(t, r) != "" {
		t.Errorf("%d", r.StatusCode)
	}
}

// A name that somebody else resolves is no name of ours, and other sites get no
// data; a link to the page works.
func TestOtherSitesGetNothing(t *testing.T) {
	h := page(nil)
	for _, c := range []struct {
		path   string
		header []string
		want   int
	}{
		{"/web/api/numbers", []string{"Host", "127.0.0.1:9342"}, 200},
		{"/web/api/numbers", []string{"Host", "[2001:db8::1]:9342"}, 200},
		{"/web/api/numbers", []string{"Host", "[::1]"}, 200},
		{"/web/api/numbers", []string{"Host", "192.0.2.1"}, 200},
		{"/web/api/numbers", []string{"Host", "localhost:9342"}, 200},
		{"/web/api/numbers", []string{"Host", "LOCALHOST"}, 200},
		{"/web/api/numbers", []string{"Host", "rebound.example:9342"}, 421},
		{"/web/api/numbers", []string{"Host", "localhost.example:9342"}, 421},
		{"/web/api/numbers", []string{"Host", "router1:9342"}, 200},
		{"/web/api/numbers", []string{"Host", "127.0.0.1.example"}, 421},
		{"/web/api/numbers", []string{"Host", ""}, 421},
		{"/web/", []string{"Host", "rebound.example:9342"}, 421},
		{"/web/api/numbers", []string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors"}, 200},
		{"/web/api/numbers", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}, 403},
		{"/web/api/events", []string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "cors"}, 403},
		{"/web/", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, 200},
		{"/web/", []string{"Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate"}, 200},
	} {
		if r := answered(h, "GET", c.path, c.header...); r.StatusCode != c.want {
			t.Errorf("%s %q: %d, want %d", c.path, c.header, r.StatusCode, c.want)
		}
	}
}

// Of a million rows few are walked, and fewer are told.
func TestRowsAreBounded(t *testing.T) {
	h := page(nil)
	for _, c := range []struct {
		query       string
		code        int
		first, rows int
		more        bool
	}{
		{"", 200, 0, MaxRows, true},
		{"?skip=400", 200, 400, MaxRows, true},
		{"?skip=20000", 200, MaxSkip, MaxRows, true},
		{"?skip=20001", 400, 0, 0, false},
		{"?skip=-1", 400, 0, 0, false},
		{"?skip=x", 400, 0, 0, false},
		{"?q=bad", 400, 0, 0, false},
		{"?q=" + strings.Repeat("a", maxSearch), 200, 0, MaxRows, true},
		{"?q=" + strings.Repeat("a", maxSearch+1), 400, 0, 0, false},
	} {
		r := answered(h, "GET", "/web/api/numbers"+c.query)
		text := body(t, r)
		var got struct {
			Error string
			Time  time.Time
			Data  struct {
				Rows        []int
				Skip, Limit int
				More        bool
			}
		}
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatalf("%s: %s: %v", c.query, text, err)
		}
		if r.StatusCode != c.code || (c.code == 200) != (got.Error == "") || len(got.Data.Rows) != c.rows || got.Data.More != c.more ||
			c.rows > 0 && (got.Data.Rows[0] != c.first || got.Data.Skip != c.first || got.Data.Limit != MaxRows || got.Time.IsZero()) {
			t.Errorf("%.20s: %d, %.100s", c.query, r.StatusCode, text)
		}
	}
	walked := 0
	all := Collect(Query{Skip: 3}, func(yield func(int) bool) {
		for walked < 10*MaxRows && yield(walked) {
			walked++
		}
	}, func(n int) any { return n })
	if len(all.Rows) != MaxRows || walked != MaxRows+3 {
		t.Errorf("%d rows of %d walked", len(all.Rows), walked)
	}
	if few := Collect(Query{}, slices.Values([]int{7, 8}), func(n int) any { return n }); len(few.Rows) != 2 || few.More {
		t.Errorf("%+v", few)
	}
}

// Few views are made at the same time; who waits too long is told so, and one
// that panics leaves its place.
func TestViewsTakeTurns(t *testing.T) {
	begun, on := make(chan struct{}), make(chan struct{})
	h := Handler(Page{Views: map[string]View{
		"slow": func(context.Context, Query) (any, error) { begun <- struct{}{}; <-on; return 1, nil },
		"bad":  func(context.Context, Query) (any, error) { panic("a fault of ours") },
	}})
	ended := make(chan int, maxViews)
	for range maxViews {
		go func() { ended <- answered(h, "GET", "/web/api/slow").StatusCode }()
		<-begun
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the patience of a browser that has left
	r := httptest.NewRequestWithContext(ctx, "GET", "/web/api/slow", nil)
	r.Host = "localhost"
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("one more: %d", w.Code)
	}
	close(on)
	for range maxViews {
		if code := <-ended; code != http.StatusOK {
			t.Errorf("%d", code)
		}
	}
	for range maxViews + 1 {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			answered(h, "GET", "/web/api/bad")
		}()
	}
}

// watch begins to watch over a connection and returns what comes.
func watch(t *testing.T, url string) (*http.Response, *bufio.Scanner) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	return r, bufio.NewScanner(r.Body)
}

// Events come as they happen, beyond the server's limits for other answers, and
// end with the daemon or the browser.
func TestEvents(t *testing.T) {
	f := &feed{events: make(chan json.RawMessage), closed: make(chan struct{})}
	var asked Query
	s := httptest.NewUnstartedServer(page(func(q Query) (Stream, error) { asked = q; return f, nil }))
	s.Config.ReadTimeout, s.Config.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond
	s.Start()
	defer s.Close()
	defer http.DefaultClient.CloseIdleConnections()
	r, lines := watch(t, s.URL+"/web/api/events?q=10.0.0.0/8")
	if r.Header.Get("Content-Type") != "text/event-stream" || r.Header.Get("Content-Security-Policy") != policy {
		t.Errorf("%v", r.Header)
	}
	next := func() (text string) {
		for lines.Scan() {
			if text = lines.Text(); text != "" {
				return text
			}
		}
		return ""
	}
	if got := next(); !strings.HasPrefix(got, ":") {
		t.Errorf("it begins with %q", got)
	}
	time.Sleep(250 * time.Millisecond) // longer than the limits
	for _, e := range []string{`{"kind":"A"}`, `{"kind":"B"}`} {
		f.events <- json.RawMessage(e)
		if got := next(); got != "data: "+e {
			t.Errorf("got %q, want %s", got, e)
		}
	}
	if asked.Text != "10.0.0.0/8" {
		t.Errorf("asked for %+v", asked)
	}
	close(f.events) // the daemon stops
	if got := next(); got != "" {
		t.Errorf("after the end %q", got)
	}
	r.Body.Close()
	<-f.closed
}

// The places of watchers are few, and a browser that leaves gives its back.
func TestWatchersAreBounded(t *testing.T) {
	feeds := make(chan *feed, MaxWatchers+1)
	s := httptest.NewServer(page(func(Query) (Stream, error) {
		f := &feed{events: make(chan json.RawMessage), closed: make(chan struct{})}
		feeds <- f
		return f, nil
	}))
	defer s.Close()
	defer http.DefaultClient.CloseIdleConnections()
	var first *http.Response
	for i := range MaxWatchers {
		r, _ := watch(t, s.URL+"/web/api/events")
		defer r.Body.Close()
		if i == 0 {
			first = r
		}
		if r.StatusCode != http.StatusOK {
			t.Fatalf("watcher %d: %d", i+1, r.StatusCode)
		}
	}
	r, _ := watch(t, s.URL+"/web/api/events")
	if text := body(t, r); r.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, "watch already") {
		t.Errorf("one more: %d, %s", r.StatusCode, text)
	}
	r.Body.Close()
	first.Body.Close()
	<-(<-feeds).closed
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		r, _ := watch(t, s.URL+"/web/api/events")
		r.Body.Close()
		if r.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the place of one that left is not given to others")
		}
	}
}

func TestHeadOfEventsEnds(t *testing.T) {
	f := &feed{events: make(chan json.RawMessage), closed: make(chan struct{})}
	h := page(func(Query) (Stream, error) { return f, nil })
	if r := answered(h, "HEAD", "/web/api/events"); r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("%d, %v", r.StatusCode, r.Header)
	}
	<-f.closed
	refusing := page(func(Query) (Stream, error) { return nil, errors.New("too many watch already") })
	if r := answered(refusing, "GET", "/web/api/events"); r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%d", r.StatusCode)
	}
}
