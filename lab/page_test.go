package main

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
	"github.com/eidolon-lisp/eidolon/lab/internal/runner"
)

// screenshots is where the pictures of the documentation go.
var screenshots = flag.String("screenshots", "", "a `directory` to write pictures of the web page to")

// hostile is the name of a site that would be markup, if names were.
const hostile = `<img src=x onerror="document.title='owned'"><b>bold</b>`

// contrast returns the texts of the page whose colour is too near to that of
// what is behind them (WCAG 2 level AA: 4.5 to 1).
const contrast = `(() => {
  const rgb = (c) => (c.match(/[\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const bad = [];
  let seen = 0;
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !e.checkVisibility() || e.matches(":disabled, noscript")) continue;
    seen++;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) bad.push(texts.currentNode.data);
  }
  if (seen < 20) bad.push("only " + seen + " texts");
  return bad;
})()`

// TestPage looks at the web pages of a map-server and of an xTR, which run in
// the multihoming topology, with a real browser inside of their nodes.
func TestPage(t *testing.T) {
	netns.NeedTUN(t)
	path := needBrowser(t)
	tmp, err := os.MkdirTemp("/tmp", "lab") // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	t.Setenv("TMPDIR", tmp)
	top, err := clab.Load("multihoming.clab.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range top.Nodes {
		for _, dir := range []string{"/etc/fonts", "/etc/chromium.d"} {
			if _, err := os.Stat(dir); err == nil {
				n.Binds = append(n.Binds, clab.Bind{Source: dir, Target: dir, ReadOnly: true})
			}
		}
		for i, b := range n.Binds {
			if b.Target == "/etc/eidolon/mapserver.yml" {
				n.Binds[i].Source = withSite(t, b.Source, tmp)
			}
		}
	}
	programs, err := runner.Build(t.Context(), top, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	lab, err := runner.Up(t.Context(), top, runner.Options{Name: "page", Say: t.Logf, Binaries: programs, Lifeline: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Down(); err != nil {
			t.Error(err)
		}
	})
	run := func(node string, argv ...string) {
		t.Helper()
		ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
		defer stop()
		for {
			r, err := lab.Run(ctx, node, argv...)
			if err == nil && r.Exit == 0 {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("%s: %q: %v, %s%s", node, argv, err, r.Stdout, r.Stderr)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	run("host-a", "ping", "-c", "3", "-i", "0.1", "-W", "1", "10.2.0.10")
	run("host-a", "ping", "-c", "1", "-W", "1", "2001:db8:b::10")
	run("host-a", "sh", "-c", "ping -c 1 -W 0.1 10.77.0.1; true") // has no mapping
	// Something to count, until the test ends.
	pinging, err := lab.Start("host-a", []string{"ping", "-i", "0.05", "10.2.0.10"}, nil, [3]*os.File{}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer pinging.Close()
	t.Run("mapserver", func(t *testing.T) { pageOfMapserver(t, lab, path, run) })
	t.Run("xtr", func(t *testing.T) { pageOfXTR(t, lab, path) })
}

// withSite copies a configuration and adds the hostile site.
func withSite(t *testing.T, file, dir string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	site := "\n  - name: '" + strings.ReplaceAll(hostile, "'", "''") + "'\n" +
		"    authentication_keys: [{key_id: 1, key: nobody has this one}]\n    eid_prefixes: [{prefix: 10.99.0.0/16}]\npubsub:"
	changed := strings.Replace(string(text), "\npubsub:", site, 1)
	if changed == string(text) {
		t.Fatalf("%s has no pubsub to put a site before", file)
	}
	copied := filepath.Join(dir, "mapserver.yml")
	if err := os.WriteFile(copied, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	return copied
}

// picture writes what the window shows, if pictures are wanted.
func picture(t *testing.T, b *browser, name string) {
	t.Helper()
	if *screenshots != "" { // with something in the figures
		b.eval(`new Promise((ok) => setTimeout(() => ok(true), 30000))`, new(bool))
	}
	png := b.shot()
	if len(png) < 5000 {
		t.Errorf("%s: a picture of %d octets shows nothing", name, len(png))
	}
	if *screenshots == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o644); err != nil {
		t.Error(err)
	}
}

// readable checks the contrast of all texts in both schemes, and that they
// differ.
func readable(t *testing.T, b *browser) {
	t.Helper()
	var ground [2]string
	for i, scheme := range []string{"light", "dark"} {
		b.scheme(scheme)
		b.eval("getComputedStyle(document.body).backgroundColor", &ground[i])
		var bad []string
		if b.eval(contrast, &bad); len(bad) > 0 {
			t.Errorf("%s: hard to read: %q", scheme, bad)
		}
	}
	b.scheme("light")
	if ground[0] == ground[1] {
		t.Errorf("light and dark are both on %s", ground[0])
	}
}

func pageOfMapserver(t *testing.T, lab *runner.Lab, path string, run func(node string, argv ...string)) {
	const origin = "http://127.0.0.1:9342"
	b := open(t, lab, "mapserver", path)
	b.scheme("light")
	b.do("Page.navigate", map[string]any{"url": origin + "/"})
	b.await("a site with its locators and their state", row("site-a", "10.1.0.0/16", "192.0.2.2 up", "2001:db8:f2:1::2 up", "registered"))
	b.await("one that nobody registered, by its name", row(hostile, "not registered"))
	b.await("the daemon is ready", `document.getElementById("health").innerText === "ready"`)
	b.await("figures", `/EID-prefixes\s+6/i.test(document.getElementById("figures").innerText)`)
	var made struct {
		Images int
		Title  string
	}
	b.eval(`({Images: document.querySelectorAll("#view img, #view b").length, Title: document.title})`, &made)
	if made.Images != 0 || !strings.HasPrefix(made.Title, "Sites") {
		t.Errorf("a name became markup: %+v", made)
	}
	roles := b.roles()
	for _, want := range []string{"banner", "navigation", "main", "search", "contentinfo", "table", "columnheader", "rowheader"} {
		if !slices.Contains(roles, want) {
			t.Errorf("no %s for assistive technology among %q", want, roles)
		}
	}
	readable(t, b)

	// By keys alone: the first stop skips to the content, then to the events.
	b.eval(`(document.activeElement.blur(), true)`, new(bool))
	b.key("Tab")
	b.await("the first stop", `document.activeElement.id === "skip"`)
	b.await("it is seen", `document.activeElement.getBoundingClientRect().top >= 0`)
	b.tab("a view", `document.activeElement.innerText === "Events"`)
	b.await("the focus is seen", `getComputedStyle(document.activeElement).outlineStyle === "solid"`)
	b.key("Enter")
	b.await("another view, and the focus at its head", `document.activeElement.id === "title" && document.title.startsWith("Events")`)
	b.await("the watch begins", row("watching"))
	run("xtr-a", "lispctl", "locator", "drain", "eth2")
	b.await("what happens is told", row("registration changed", "10.1.0.0/16", "site-a", "192.0.2.2 not for unicast 255/100"))
	b.scheme("dark")
	picture(t, b, "page-events-dark")
	run("xtr-a", "lispctl", "locator", "undrain", "eth2")

	// A search that is typed, one that is wrong, and a table that is sorted.
	b.eval(`(location.hash = "#mappings", true)`, new(bool))
	b.await("mappings", row("10.1.0.0/16", "site-a", "registered", "the map-server")+" && "+row("2001:db8:b::/48", "site-b"))
	search := func(text string) {
		t.Helper()
		b.eval(`(document.getElementById("text").focus(), document.getElementById("text").select(), true)`, new(bool))
		b.do("Input.insertText", map[string]any{"text": text})
		b.key("Enter")
	}
	search("10.2.3.4")
	b.await("the mapping that holds an address, alone", `document.querySelectorAll("#view tbody tr").length === 1 && `+row("10.2.0.0/16", "198.51.100.2 up", "198.51.100.130 up"))
	b.eval(`(location.hash = "#mappings", true)`, new(bool))
	b.await("all again", `document.querySelectorAll("#view tbody tr").length === 4`)
	const first = `document.querySelector("#view tbody th").innerText`
	b.await("in the order of EIDs", first+` === "10.1.0.0/16"`)
	b.tab("the head of a column", `document.activeElement.innerText === "EID-prefix"`)
	b.key("Enter")
	b.key("Enter")
	b.await("sorted the other way", first+` === "2001:db8:b::/48" && document.querySelector("th[aria-sort]").getAttribute("aria-sort") === "descending"`)
	b.size(390, 800)
	var wide bool
	if b.eval(`document.documentElement.scrollWidth > 390`, &wide); wide {
		t.Error("on a telephone the page is wider than the screen")
	}
	b.size(1180, 720)
	b.scheme("light")
	b.eval(`(location.hash = "#sites?q=site-", true)`, new(bool))
	b.await("the sites of that name", `document.querySelectorAll("#view tbody tr").length === 2`)
	if b.eval(`document.querySelector("#view .scroll").scrollWidth > document.querySelector("#view .scroll").clientWidth`, &wide); wide {
		t.Error("the table of sites is wider than a window of 1180 pixels")
	}
	picture(t, b, "page-sites")
	b.eval(`(location.hash = "#rates", true)`, new(bool))
	b.await("counters and their rates", row("accepted_map_registers", "/s"))
	b.faultless(origin)

	// That the test sees what a page must not do. The page asks again when something
	// happens meanwhile.
	search("map")
	b.eval(`(location.hash = "#mappings?q=nonsense", true)`, new(bool))
	b.await("what is wrong with a search", `document.getElementById("problem").innerText.includes("nonsense")`)
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.faults) == 0 || slices.ContainsFunc(b.faults, func(s string) bool { return !strings.Contains(s, "400 (Bad Request)") }) {
		t.Errorf("a request that was refused is not on the console, or something else is: %q", b.faults)
	}
}

func pageOfXTR(t *testing.T, lab *runner.Lab, path string) {
	const origin = "http://127.0.0.1:9341"
	b := open(t, lab, "xtr-a", path)
	b.scheme("light")
	b.do("Page.navigate", map[string]any{"url": origin + "/web/"})
	b.await("an uplink", row("eth2", "192.0.2.2", "up", "1/100"))
	b.await("the other", row("eth3", "192.0.2.130", "up", "2/100"))
	b.await("the registration", row("10.1.0.0/16", "203.0.113.34:4342 registered"))
	b.await("ready", `document.getElementById("health").innerText === "ready"`)
	b.await("what is sent for each second", `/Sent packets\s+[1-9][0-9.]*\/s/i.test(document.getElementById("figures").innerText)`)
	readable(t, b)
	picture(t, b, "page-uplinks")
	b.eval(`(location.hash = "#cache", true)`, new(bool))
	b.await("the map-cache", row("10.2.0.0/16", "198.51.100.2 up 1/75", "198.51.100.130 up 1/25"))
	b.await("a hole", row("natively forward"))
	b.scheme("dark")
	picture(t, b, "page-cache-dark")
	b.eval(`(location.hash = "#remote", true)`, new(bool))
	b.await("a locator of the other site", row("198.51.100.2", "up", "from 192.0.2.2 up"))
	b.eval(`(location.hash = "#drops", true)`, new(bool))
	b.await("drops", row("drop_no_mapping", "/s"))
	b.await("those that there were come first", `[...document.querySelectorAll("#view tbody tr")].map((r) => Number(r.children[1].innerText.replaceAll(",", ""))).every((n, i, all) => i === 0 || all[i - 1] >= n)`)
	b.eval(`(location.hash = "#events", true)`, new(bool))
	b.await("the watch begins", row("watching"))
	if _, err := lab.Run(t.Context(), "xtr-a", "lispctl", "clear", "map-cache"); err != nil {
		t.Fatal(err)
	}
	b.await("what happens is told", row("cache removed", "10.2.0.0/16"))
	b.faultless(origin)
}
