package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/lab/internal/runner"
)

// needBrowser returns the path of Chromium. Where there is none it skips with
// the reason, and fails in CI, which installs one.
func needBrowser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("there is no Chromium, which CI installs")
	}
	t.Skip("there is no Chromium")
	return ""
}

// browser is a headless Chromium in a node, driven over the DevTools protocol on
// a pipe, with one page in it.
type browser struct {
	t       *testing.T
	to      *os.File
	process *runner.Process
	session string

	mu      sync.Mutex
	next    int
	waiting map[int]chan answer
	gone    error
	// What the page has done.
	requests []string
	faults   []string
}

type answer struct {
	result json.RawMessage
	err    error
}

// open starts Chromium in a node of a lab, for the duration of the test.
func open(t *testing.T, lab *runner.Lab, node, path string) *browser {
	t.Helper()
	in, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	from, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(t.TempDir() + "/chromium.log")
	if err != nil {
		t.Fatal(err)
	}
	// What it would ask for by itself is turned off; that nothing is asked for by
	// the page is what the test looks at. The sandbox does not work as root.
	args := []string{"sh", "-c", `exec "$0" "$@" 3<&0 4>&1 </dev/null >&2`, path,
		"--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--user-data-dir=/tmp/chromium", "--no-first-run", "--no-default-browser-check", "--disable-background-networking",
		"--disable-component-update", "--disable-default-apps", "--disable-extensions", "--disable-sync", "--metrics-recording-only",
		"--mute-audio", "--hide-scrollbars", "--force-device-scale-factor=1", "--lang=en-GB", "about:blank"}
	p, err := lab.Start(node, args, []string{"HOME=/tmp", "TZ=UTC", "LC_ALL=C.UTF-8"}, [3]*os.File{in, out, log}, false)
	in.Close()
	out.Close()
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, to: to, process: p, waiting: make(map[int]chan answer)}
	read := make(chan struct{})
	go func() { defer close(read); b.read(from) }()
	t.Cleanup(func() {
		b.call("", "Browser.close", nil)
		to.Close()
		p.Wait()
		from.Close()
		<-read
		log.Close()
		if t.Failed() {
			if text, err := os.ReadFile(log.Name()); err == nil {
				t.Logf("Chromium said:\n%s", text)
			}
		}
	})
	var made struct{ TargetID string }
	b.get(&made, "", "Target.createTarget", map[string]any{"url": "about:blank"})
	var attached struct{ SessionID string }
	b.get(&attached, "", "Target.attachToTarget", map[string]any{"targetId": made.TargetID, "flatten": true})
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Network", "Log", "Accessibility"} {
		b.do(domain+".enable", nil)
	}
	b.size(1180, 720)
	return b
}

// read takes answers and events until Chromium ends.
func (b *browser) read(from *os.File) {
	r := bufio.NewReaderSize(from, 1<<20)
	for {
		line, err := r.ReadBytes(0)
		if err != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.gone = fmt.Errorf("Chromium ended: %w", err)
			for _, c := range b.waiting {
				c <- answer{err: b.gone}
			}
			b.waiting = nil
			return
		}
		var m struct {
			ID     int
			Result json.RawMessage
			Error  *struct{ Message string }
			Method string
			Params json.RawMessage
		}
		if err := json.Unmarshal(line[:len(line)-1], &m); err != nil {
			continue // not for us
		}
		b.mu.Lock()
		if m.ID == 0 {
			b.heard(m.Method, m.Params)
		} else if c := b.waiting[m.ID]; c != nil {
			delete(b.waiting, m.ID)
			a := answer{result: m.Result}
			if m.Error != nil {
				a.err = errors.New(m.Error.Message)
			}
			c <- a
		}
		b.mu.Unlock()
	}
}

// heard keeps what the page must not do.
func (b *browser) heard(method string, params json.RawMessage) {
	var p struct {
		Request struct{ URL string }
		Entry   struct{ Level, Text, URL string }
		Type    string
		Args    []struct{ Value any }

		ExceptionDetails struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	if err := json.Unmarshal(params, &p); err != nil {
		b.faults = append(b.faults, fmt.Sprintf("%s that can't be read: %v", method, err))
		return
	}
	switch {
	case method == "Network.requestWillBeSent":
		b.requests = append(b.requests, p.Request.URL)
	case method == "Log.entryAdded" && (p.Entry.Level == "error" || p.Entry.Level == "warning"):
		b.faults = append(b.faults, fmt.Sprintf("%s: %s %s", p.Entry.Level, p.Entry.Text, p.Entry.URL))
	case method == "Runtime.consoleAPICalled":
		b.faults = append(b.faults, fmt.Sprintf("console.%s %v", p.Type, p.Args))
	case method == "Runtime.exceptionThrown":
		b.faults = append(b.faults, p.ExceptionDetails.Text+" "+p.ExceptionDetails.Exception.Description)
	}
}

// call sends a command and waits for its answer.
func (b *browser) call(session, method string, params any) (json.RawMessage, error) {
	c := make(chan answer, 1)
	b.mu.Lock()
	if b.gone != nil {
		b.mu.Unlock()
		return nil, b.gone
	}
	b.next++
	id := b.next
	b.waiting[id] = c
	b.mu.Unlock()
	m := map[string]any{"id": id, "method": method}
	if session != "" {
		m["sessionId"] = session
	}
	if params != nil {
		m["params"] = params
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if _, err := b.to.Write(append(text, 0)); err != nil {
		return nil, err
	}
	select {
	case a := <-c:
		return a.result, a.err
	case <-time.After(60 * time.Second):
		return nil, errors.New("no answer after 60 s")
	}
}

func (b *browser) get(into any, session, method string, params any) {
	b.t.Helper()
	result, err := b.call(session, method, params)
	if err == nil && into != nil {
		err = json.Unmarshal(result, into)
	}
	if err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
}

func (b *browser) do(method string, params any) {
	b.t.Helper()
	b.get(nil, b.session, method, params)
}

func (b *browser) size(width, height int) {
	b.t.Helper()
	b.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false})
}

// scheme is "light" or "dark".
func (b *browser) scheme(scheme string) {
	b.t.Helper()
	b.do("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{"name": "prefers-color-scheme", "value": scheme}}})
}

// eval returns the value of an expression in the page.
func (b *browser) eval(expression string, into any) {
	b.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Exception struct{ Description string }
		}
	}
	b.get(&r, b.session, "Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true})
	if r.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, r.ExceptionDetails.Exception.Description)
	}
	if err := json.Unmarshal(r.Result.Value, into); err != nil {
		b.t.Fatalf("%s: %s: %v", expression, r.Result.Value, err)
	}
}

// await waits until an expression is true.
func (b *browser) await(what, expression string) {
	b.t.Helper()
	ctx, stop := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer stop()
	for {
		var yes bool
		if b.eval("Boolean("+expression+")", &yes); yes {
			return
		}
		select {
		case <-ctx.Done():
			var text string
			b.eval("document.body.innerText", &text)
			b.mu.Lock()
			defer b.mu.Unlock()
			b.t.Fatalf("%s: not so after 30 s; the page is\n%s\nfaults %q", what, text, b.faults)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// row is an expression for the text of the table row that has all of the parts;
// empty if there is none.
func row(parts ...string) string {
	text, _ := json.Marshal(parts)
	return fmt.Sprintf(`([...document.querySelectorAll("#view tbody tr")].map((r) => r.innerText).find((t) => %s.every((p) => t.includes(p))) ?? "")`, text)
}

// key presses a key and lets it go.
func (b *browser) key(name string) {
	b.t.Helper()
	k := map[string]any{"key": name, "code": name, "type": "keyDown"}
	switch name {
	case "Tab":
		k["windowsVirtualKeyCode"] = 9
	case "Enter":
		k["windowsVirtualKeyCode"], k["text"] = 13, "\r"
	}
	b.do("Input.dispatchKeyEvent", k)
	k["type"] = "keyUp"
	delete(k, "text")
	b.do("Input.dispatchKeyEvent", k)
}

// tab presses Tab until an expression is true, some times at most.
func (b *browser) tab(what, expression string) {
	b.t.Helper()
	for range 40 {
		b.key("Tab")
		var yes bool
		if b.eval("Boolean("+expression+")", &yes); yes {
			return
		}
	}
	b.t.Fatalf("%s: the focus does not come there", what)
}

// shot returns what the window shows as PNG.
func (b *browser) shot() []byte {
	b.t.Helper()
	var r struct{ Data string }
	b.get(&r, b.session, "Page.captureScreenshot", map[string]any{"format": "png", "optimizeForSpeed": false})
	png, err := base64.StdEncoding.DecodeString(r.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	return png
}

// roles returns the landmarks of the page as assistive technology sees them.
func (b *browser) roles() (roles []string) {
	b.t.Helper()
	var tree struct {
		Nodes []struct{ Role struct{ Value string } }
	}
	b.get(&tree, b.session, "Accessibility.getFullAXTree", nil)
	for _, n := range tree.Nodes {
		roles = append(roles, n.Role.Value)
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

// faultless checks what the page has done so far: it asked nobody but origin,
// and there is nothing on the console.
func (b *browser) faultless(origin string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.requests) < 10 {
		b.t.Errorf("only %d requests were seen: %q", len(b.requests), b.requests)
	}
	for _, r := range b.requests {
		if u, err := url.Parse(r); r != "about:blank" && (err != nil || u.Scheme+"://"+u.Host != origin) {
			b.t.Errorf("the page asked for %s", r)
		}
	}
	if len(b.faults) > 0 {
		b.t.Errorf("on the console:\n%s", strings.Join(b.faults, "\n"))
	}
}
