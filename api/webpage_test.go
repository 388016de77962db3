package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/api/web"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// seen asks a page for a view and decodes what it is told.
func seen(t *testing.T, cfg HTTPConfig, view, q string, into any) int {
	t.Helper()
	r := httptest.NewRequest("GET", "/web/api/"+view+"?q="+url.QueryEscape(q), nil)
	r.Host = "localhost"
	w := httptest.NewRecorder()
	httpHandler(cfg, nil, discard()).ServeHTTP(w, r)
	var told struct {
		Time time.Time
		Data json.RawMessage
	}
	if err := json.Unmarshal(w.Body.Bytes(), &told); err != nil {
		t.Fatalf("%s: %v\n%s", view, err, w.Body)
	}
	if w.Code == http.StatusOK && into != nil {
		if err := json.Unmarshal(told.Data, into); err != nil {
			t.Fatalf("%s: %v\n%s", view, err, w.Body)
		}
	}
	return w.Code
}

// locs makes n locators.
func locs(n int) (list []mapping.Locator) {
	for i := range n {
		list = append(list, mapping.MakeLocator(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1, 100))
	}
	return list
}

func mapserverPage(db *fakeDatabase) HTTPConfig {
	return HTTPConfig{Program: "mapserver", Observed: ObserveMapServer(db), Stats: statistics("map_requests", 7, "eids", 3), Page: PageMapServer(db)}
}

func xtrPage(x *fakeXTR) HTTPConfig {
	fib := dataplane.NewFIB()
	return HTTPConfig{Program: "xtr", Observed: ObserveXTR(x, fib), Stats: statistics("drop_no_mapping", 9, "map_cache_entries", 2), Page: PageXTR(x, fib)}
}

// Without a page nothing of it is served.
func TestNoPage(t *testing.T) {
	cfg := mapserverPage(newDatabase())
	for path, want := range map[string]int{"/": http.StatusFound, "/web/": http.StatusOK, "/web/api/sites": http.StatusOK} {
		get := func() int {
			r, w := httptest.NewRequest("GET", path, nil), httptest.NewRecorder()
			r.Host = "127.0.0.1:9342"
			httpHandler(cfg, nil, discard()).ServeHTTP(w, r)
			return w.Code
		}
		cfg.Page = PageMapServer(newDatabase())
		if got := get(); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
		cfg.Page = nil
		if got := get(); got != http.StatusNotFound {
			t.Errorf("without a page %s: %d", path, got)
		}
	}
}

func TestWebStatus(t *testing.T) {
	var status struct {
		Version  struct{ Program string }
		NotReady []string
	}
	seen(t, mapserverPage(newDatabase()), "status", "", &status)
	if status.Version.Program != "mapserver" || status.NotReady == nil || len(status.NotReady) > 0 {
		t.Errorf("%+v", status)
	}
	seen(t, xtrPage(&fakeXTR{}), "status", "", &status)
	if status.Version.Program != "xtr" || len(status.NotReady) != 1 || !strings.Contains(status.NotReady[0], "no local locator") {
		t.Errorf("%+v", status)
	}
	var told struct{ Counters, Gauges map[string]uint64 }
	seen(t, xtrPage(&fakeXTR{}), "statistics", "", &told)
	if len(told.Counters) != 1 || told.Counters["drop_no_mapping"] != 9 || len(told.Gauges) != 1 || told.Gauges["map_cache_entries"] != 2 {
		t.Errorf("%+v", told)
	}
}

// Sites are found by name and by EID; their locators are those of their own
// mappings, and no row is longer than some.
func TestWebSites(t *testing.T) {
	db := newDatabase()
	prefix := func(s string) server.PrefixStatus {
		return server.PrefixStatus{SitePrefix: server.SitePrefix{EID: mapping.MustParseEID(s)}}
	}
	many := server.SiteStatus{Name: "Many"}
	for i := range 3 * pagePrefixes {
		many.Prefixes = append(many.Prefixes, prefix(fmt.Sprintf("10.3.%d.0/24", i)))
	}
	db.sites = []server.SiteStatus{
		{Name: `<script>alert("a")</script>`, Registrations: 2, Prefixes: []server.PrefixStatus{prefix("10.1.0.0/16")}},
		{Name: "site-b", Prefixes: []server.PrefixStatus{prefix("[7]2001:db8:b::/48")}},
		many,
	}
	put := func(site, eid string, l ...mapping.Locator) {
		e := mapping.MustParseEID(eid)
		db.regs[e] = server.MappingStatus{Site: site, Origin: server.OriginRegistered, Record: &mapping.Record{EID: e, Locators: l}}
	}
	down := mapping.MakeLocator(netip.MustParseAddr("192.0.2.0"), 1, 1)
	down.Flags = 0
	named := mapping.Locator{Opaque: "\x00\x11<i>\x00", Priority: 2}
	put(db.sites[0].Name, "10.1.0.0/16", append(locs(2), named)...)
	put(db.sites[0].Name, "10.1.1.0/24", down)
	put("inside", "10.1.2.0/24", locs(5)...)
	for i := range 3 * siteMappings {
		put("Many", fmt.Sprintf("10.3.0.%d/32", i), locs(200)...)
	}
	type rows struct {
		Rows []struct {
			Site struct {
				Name     string
				Prefixes []struct{ EID string }
			}
			Prefixes, Looked int
			Locators         []siteLocator
		}
	}
	var got rows
	seen(t, mapserverPage(db), "sites", "", &got)
	if len(got.Rows) != 3 || got.Rows[0].Site.Name != db.sites[0].Name {
		t.Fatalf("%+v", got)
	}
	if want := []siteLocator{{"192.0.2.0", 2, 1}, {"192.0.2.1", 1, 1}, {Name: got.Rows[0].Locators[2].Name, Mappings: 1}}; !slices.Equal(got.Rows[0].Locators, want) || got.Rows[0].Looked != 2 || !strings.Contains(want[2].Name, "<i>") {
		t.Errorf("%+v", got.Rows[0])
	}
	if m := got.Rows[2]; m.Prefixes != len(many.Prefixes) || len(m.Site.Prefixes) != pagePrefixes || len(m.Locators) != pageLocators || m.Looked != siteMappings {
		t.Errorf("a row of %d prefixes, %d locators of %d mappings", len(m.Site.Prefixes), len(m.Locators), m.Looked)
	}
	for q, want := range map[string]int{"SITE": 1, "script": 1, "many": 1, "10.1.9.9": 1, "10.0.0.0/8": 2, "[7]2001:db8::/32": 1, "[8]2001:db8::/32": 0, "nobody": 0} {
		got = rows{}
		if seen(t, mapserverPage(db), "sites", q, &got); len(got.Rows) != want {
			t.Errorf("%q: %d sites, want %d", q, len(got.Rows), want)
		}
	}
}

// A search has what is inside of an EID, after the mapping that holds it; of a
// large table only some is told.
func TestWebMappings(t *testing.T) {
	db := newDatabase()
	for i := range 2 * web.MaxRows {
		e := mapping.HostEID(0, netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}))
		db.regs[e] = server.MappingStatus{Origin: server.OriginAPI, Record: &mapping.Record{EID: e, TTL: 60, Locators: locs(1)}}
	}
	e := mapping.MustParseEID("10.0.0.0/8")
	st := server.MappingStatus{Site: "a", Origin: server.OriginRegistered, Record: &mapping.Record{EID: e, Locators: locs(250)}}
	for i := range 20 {
		st.Registrants = append(st.Registrants, server.RegistrantStatus{By: mapping.Registrant{SiteID: uint64(i)}, Record: st.Record})
	}
	db.regs[e] = st
	type rows struct {
		Rows []struct {
			Locators, Registrations int
			Names                   []string
			Mapping                 struct {
				Record struct {
					EID      string
					Locators []any
				}
				Registrations []struct{ Record any }
			}
		}
		More bool
	}
	var got rows
	if seen(t, mapserverPage(db), "mappings", "", &got); len(got.Rows) != web.MaxRows || !got.More {
		t.Fatalf("%d rows, more %v", len(got.Rows), got.More)
	}
	if r := got.Rows[0]; r.Mapping.Record.EID != "10.0.0.0/8" || r.Locators != 250 || len(r.Mapping.Record.Locators) != pageLocators || len(r.Names) != pageLocators ||
		r.Registrations != 20 || len(r.Mapping.Registrations) != pageRegistrations || r.Mapping.Registrations[0].Record != nil {
		t.Errorf("%+v", r)
	}
	for q, want := range map[string][]string{
		"10.2.0.3":    {"10.2.0.3/32"},
		"10.2.0.0/31": {"10.0.0.0/8", "10.2.0.0/32", "10.2.0.1/32"},
		"10.9.9.9":    {"10.0.0.0/8"},
		"[7]10.9.9.9": nil,
		"11.0.0.0/8":  nil,
		" 10.2.0.3 ":  {"10.2.0.3/32"},
	} {
		got = rows{}
		var eids []string
		seen(t, mapserverPage(db), "mappings", q, &got)
		for _, r := range got.Rows {
			eids = append(eids, r.Mapping.Record.EID)
		}
		if !slices.Equal(eids, want) {
			t.Errorf("%q: %q, want %q", q, eids, want)
		}
	}
	for _, q := range []string{"10.", "<b>", "nobody"} {
		if code := seen(t, mapserverPage(db), "mappings", q, nil); code != http.StatusBadRequest {
			t.Errorf("%q: %d", q, code)
		}
	}
}

func TestWebXTR(t *testing.T) {
	at := netip.MustParseAddrPort("203.0.113.10:4342")
	x := &fakeXTR{
		locals:    []xtr.LocalLocator{{Addr: netip.MustParseAddr("192.0.2.1"), Uplink: "eth1", Priority: 1}, {Addr: netip.MustParseAddr("192.0.2.2"), Uplink: "eth2", State: xtr.LocatorNoCarrier}},
		servers:   []xtr.MapServerStatus{{Addr: at}},
		resolvers: []xtr.MapResolverStatus{{Addr: at, Up: true}},
		databases: []xtr.DatabaseStatus{{EID: mapping.MustParseEID("10.1.0.0/16"), Locators: locs(100)}, {EID: mapping.MustParseEID("10.5.0.0/16")}},
		rlocs:     []xtr.RLOCStatus{{Addr: netip.MustParseAddr("198.51.100.1"), Up: true}, {Addr: netip.MustParseAddr("2001:DB8::1")}},
	}
	for i := range 2 * web.MaxRows {
		e := mapping.MustParseEID(fmt.Sprintf("10.%d.%d.0/24", 100+i/256, i%256))
		x.cache = append(x.cache, mapping.CacheEntry{Record: &mapping.Record{EID: e, Locators: locs(40)}})
	}
	type rows struct {
		Rows []struct {
			Address, State string
			Locators       int
			Entry          struct {
				Record struct {
					EID      string
					Locators []any
				}
			}
			Database struct{ Record struct{ EID string } }
		}
		More bool
	}
	for _, c := range []struct {
		view, q     string
		rows        int
		more        bool
		first, last string
	}{
		{"locators", "", 2, false, "192.0.2.1", "192.0.2.2"},
		{"servers", "", 1, false, "203.0.113.10:4342", "203.0.113.10:4342"},
		{"resolvers", "", 1, false, "203.0.113.10:4342", "203.0.113.10:4342"},
		{"remote", "", 2, false, "198.51.100.1", "2001:db8::1"},
		{"remote", "DB8", 1, false, "2001:db8::1", "2001:db8::1"},
		{"cache", "", web.MaxRows, true, "10.100.0.0/24", "10.100.199.0/24"},
		{"cache", "10.100.7.9", 1, false, "10.100.7.0/24", "10.100.7.0/24"},
		{"cache", "10.101.0.0/16", 144, false, "10.101.0.0/24", "10.101.143.0/24"},
		{"database", "", 2, false, "10.1.0.0/16", "10.5.0.0/16"},
		{"database", "10.5.0.0/16", 1, false, "10.5.0.0/16", "10.5.0.0/16"},
	} {
		var got rows
		seen(t, xtrPage(x), c.view, c.q, &got)
		name := func(i int) string {
			r := got.Rows[i]
			return r.Address + r.Entry.Record.EID + r.Database.Record.EID
		}
		if len(got.Rows) != c.rows || got.More != c.more || name(0) != c.first || name(c.rows-1) != c.last {
			t.Errorf("%s %q: %d rows, more %v: %+v", c.view, c.q, len(got.Rows), got.More, got.Rows[0])
		}
		if c.view == "cache" && (got.Rows[0].Locators != 40 || len(got.Rows[0].Entry.Record.Locators) != pageLocators) {
			t.Errorf("%+v", got.Rows[0])
		}
	}
	for _, view := range []string{"cache", "database", "eid", "events"} {
		if code := seen(t, xtrPage(x), view, "nonsense", nil); code != http.StatusBadRequest {
			t.Errorf("%s: a search for nonsense: %d", view, code)
		}
	}
}

// Events that concern an EID come as they happen; what is lost is told, and the
// end of the daemon ends the stream at once.
func TestWebEvents(t *testing.T) {
	x := &fakeXTR{}
	cfg := xtrPage(x)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen = free.Addr().(*net.TCPAddr).AddrPort()
	free.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- ServeHTTP(ctx, cfg) }()
	var r *http.Response
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if r, err = http.Get("http://" + cfg.Listen.String() + "/web/api/events?q=10.2.0.0/16"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer r.Body.Close()
	lines := bufio.NewScanner(r.Body)
	lines.Buffer(nil, 1<<20)
	type event struct {
		Kind, EID, Peer, Lost string
		Record                struct{ Locators []any }
	}
	next := func() (e event) {
		for lines.Scan() {
			if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if err := json.Unmarshal([]byte(text), &e); err != nil {
					t.Fatal(err)
				}
				return e
			}
		}
		return e
	}
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), ":") {
		t.Fatalf("it begins with %q", lines.Text())
	}
	elsewhere, here := mapping.MustParseEID("10.9.0.0/16"), mapping.MustParseEID("10.2.1.0/24")
	x.events.Publish(xtr.Event{Kind: xtr.EventRemoved, EID: elsewhere})
	x.events.Publish(xtr.Event{Kind: xtr.EventInstalled, EID: here, Record: &mapping.Record{EID: here, Locators: locs(100)}})
	x.events.Publish(xtr.Event{Kind: xtr.EventDown, RLOC: netip.MustParseAddr("192.0.2.9")})
	if e := next(); e.Kind != "EVENT_KIND_CACHE_INSTALLED" || e.EID != "10.2.1.0/24" || len(e.Record.Locators) != pageLocators {
		t.Errorf("%+v", e)
	}
	if e := next(); e.Kind != "EVENT_KIND_RLOC_DOWN" || e.Peer != "192.0.2.9" {
		t.Errorf("%+v", e)
	}
	for range 3 * pageQueue {
		x.events.Publish(xtr.Event{Kind: xtr.EventRemoved, EID: here})
	}
	told := 0
	for {
		e := next()
		if told++; e.Kind == "EVENT_KIND_LOST" {
			if e.Lost == "" || e.Lost == "0" {
				t.Errorf("%+v", e)
			}
			break
		}
		if e.Kind != "EVENT_KIND_CACHE_REMOVED" || told > 2*pageQueue {
			t.Fatalf("%d told, then %+v", told, e)
		}
	}
	begun := time.Now()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > stopGrace {
		t.Errorf("the end took %v", took)
	}
	if x.events.Watched() {
		t.Error("a watch that has ended still counts")
	}
}
