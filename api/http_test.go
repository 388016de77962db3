package api

import (
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/alt"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

func statistics(list ...any) func() iter.Seq2[string, uint64] {
	return func() iter.Seq2[string, uint64] {
		return func(yield func(string, uint64) bool) {
			for i := 0; i < len(list); i += 2 {
				if !yield(list[i].(string), uint64(list[i+1].(int))) {
					return
				}
			}
		}
	}
}

func request(t *testing.T, cfg HTTPConfig, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	httpHandler(cfg, nil, discard()).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	b, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(b)
}

func TestMetrics(t *testing.T) {
	own, gone := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9")
	x := &fakeXTR{
		locals: []xtr.LocalLocator{{Addr: own, Uplink: "eth1", Paths: 3, PathsDown: 1}, {Addr: gone, Uplink: "eth2", State: xtr.LocatorGone},
			{Addr: gone, Uplink: "eth2", State: xtr.LocatorGone}},
		servers:   []xtr.MapServerStatus{{Addr: netip.MustParseAddrPort("203.0.113.10:4342"), Databases: 2, Registered: 1, RTT: 20 * time.Millisecond}},
		resolvers: []xtr.MapResolverStatus{{Addr: netip.MustParseAddrPort("203.0.113.10:4342"), Up: true, Requests: 7}},
	}
	db := newDatabase()
	db.sites = []server.SiteStatus{{Name: `a "site"`, Registrations: 4, MaxRegistrations: 10, LastRegistration: time.Unix(1000, 0), Accepted: 9, AuthFailures: 2},
		{Name: `a "site"`, Put: 7, Shadowed: "the configuration has one of this name"}}
	for _, c := range []struct {
		cfg  HTTPConfig
		want []string
		not  []string
	}{
		{HTTPConfig{Program: "xtr", Observed: ObserveXTR(x, dataplane.NewFIB()), Stats: statistics("encap_packets", 5, "drop_no_rloc", 3, "map_cache_entries", 2)}, []string{
			"# HELP eidolon_xtr_encap_packets_total packets that went to the underlay, fragments each\n",
			"# TYPE eidolon_xtr_encap_packets_total counter\neidolon_xtr_encap_packets_total 5\n",
			"# TYPE eidolon_xtr_map_cache_entries gauge\neidolon_xtr_map_cache_entries 2\n",
			"eidolon_xtr_drops_total{reason=\"no_rloc\"} 3\n",
			"eidolon_xtr_locator_up{address=\"192.0.2.1\",interface=\"eth1\"} 1\n",
			"eidolon_xtr_locator_up{address=\"192.0.2.9\",interface=\"eth2\"} 0\n",
			"eidolon_xtr_locator_paths_down{address=\"192.0.2.1\",interface=\"eth1\"} 1\n",
			"eidolon_xtr_locator_sent_bytes_total{address=\"192.0.2.1\",interface=\"eth1\"} 0\n",
			"eidolon_xtr_map_server_registered{map_server=\"203.0.113.10:4342\"} 1\n",
			"eidolon_xtr_map_server_rtt_seconds{map_server=\"203.0.113.10:4342\"} 0.02\n",
			"eidolon_xtr_map_resolver_requests_total{map_resolver=\"203.0.113.10:4342\"} 7\n",
			"eidolon_xtr_build_info{",
			"process_resident_memory_bytes ",
		}, []string{"site"}},
		{HTTPConfig{Program: "mapserver", Observed: ObserveMapServer(db), Stats: statistics("refused_digest", 6, "eids", 8),
			Configuration: func() config.Status {
				return config.Status{Refused: true, Used: time.Unix(2000, 0), Restart: []string{"listen"}}
			}}, []string{
			"eidolon_mapserver_config_last_reload_successful 0\n",
			"eidolon_mapserver_config_last_reload_success_timestamp_seconds 2000\n",
			"eidolon_mapserver_config_restart_pending 1\n",
			"eidolon_mapserver_refused_total{reason=\"digest\"} 6\n",
			"eidolon_mapserver_eids 8\n",
			"eidolon_mapserver_site_registrations{site=\"a \\\"site\\\"\"} 4\n",
			"eidolon_mapserver_site_last_registration_timestamp_seconds{site=\"a \\\"site\\\"\"} 1000\n",
			"eidolon_mapserver_site_authentication_failures_total{site=\"a \\\"site\\\"\"} 2\n",
		}, []string{"locator"}},
	} {
		status, text := request(t, c.cfg, "/metrics")
		if status != http.StatusOK {
			t.Errorf("%s: %d\n%s", c.cfg.Program, status, text)
		}
		for _, w := range c.want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: %q is not in\n%s", c.cfg.Program, w, text)
			}
		}
		for _, n := range c.not {
			if strings.Contains(text, "eidolon_"+c.cfg.Program+"_"+n) {
				t.Errorf("%s: %q is in\n%s", c.cfg.Program, n, text)
			}
		}
		problems, err := promlint.New(strings.NewReader(text)).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// Every counter of a daemon has words for what it counts, and none are left over.
func TestMeanings(t *testing.T) {
	access, err := NewAccess(config.API{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	site, err := xtr.New(xtr.Config{
		RLOCs:        []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		ProxyETR:     []mapping.EID{mapping.MustParseEID("10.0.0.0/8")},
		MapResolvers: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.1:4342")},
	})
	if err != nil {
		t.Fatal(err)
	}
	router, err := alt.New(alt.Config{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for program, stats := range map[string]func() iter.Seq2[string, uint64]{
		"xtr":       JoinStats(site.Stats, new(dataplane.Stats).All, access.Stats),
		"mapserver": JoinStats(newDatabase().Stats, router.Stats, access.Stats),
	} {
		words := meanings(program)
		for name := range stats() {
			_, gauge := gauges[name]
			family := slices.ContainsFunc(families, func(f family) bool { return strings.HasPrefix(name, f.prefix) })
			if words[name] == "" && !gauge && !family {
				t.Errorf("%s: there are no words for what %s counts", program, name)
			}
			delete(words, name)
		}
		for name := range words {
			t.Errorf("%s: %s has words and is not counted", program, name)
		}
	}
}

func TestHealth(t *testing.T) {
	up := []xtr.LocalLocator{{State: xtr.LocatorNoCarrier}, {State: xtr.LocatorUp}}
	at := netip.MustParseAddrPort("203.0.113.10:4342")
	for _, c := range []struct {
		what string
		xtr  *fakeXTR
		want []string // of the reasons; none: ready
	}{
		{"all is well", &fakeXTR{locals: up, servers: []xtr.MapServerStatus{{Databases: 2, Registered: 1}, {Databases: 2, Registered: 2}},
			resolvers: []xtr.MapResolverStatus{{}, {Up: true}}}, nil},
		{"a proxy-ETR asks and registers nothing", &fakeXTR{locals: up}, nil},
		{"no Map-Notify is asked for", &fakeXTR{locals: up, servers: []xtr.MapServerStatus{{Addr: at, Databases: 1, LastSent: time.Now()}},
			databases: []xtr.DatabaseStatus{{Registrations: []xtr.Registration{{MapServer: at, State: xtr.RegistrationSent}}}}}, nil},
		{"a registration is not confirmed", &fakeXTR{locals: up, servers: []xtr.MapServerStatus{{Addr: at, Databases: 1, LastSent: time.Now()}},
			databases: []xtr.DatabaseStatus{{Registrations: []xtr.Registration{{MapServer: at, State: xtr.RegistrationPending}}}}}, []string{"lispctl show database"}},
		{"nothing works", &fakeXTR{locals: []xtr.LocalLocator{{State: xtr.LocatorDead}}, servers: []xtr.MapServerStatus{{Databases: 1}},
			resolvers: []xtr.MapResolverStatus{{}}}, []string{"lispctl show locator", "lispctl show database", "lispctl show map-resolver"}},
	} {
		cfg := HTTPConfig{Program: "xtr", Observed: ObserveXTR(c.xtr, dataplane.NewFIB()), Stats: statistics()}
		status, text := request(t, cfg, "/readyz")
		if (status == http.StatusOK) != (c.want == nil) || strings.Count(text, "\n") != max(len(c.want), 1) {
			t.Errorf("%s: %d, %q", c.what, status, text)
		}
		for _, w := range c.want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: %q is not in %q", c.what, w, text)
			}
		}
		if status, text := request(t, cfg, "/livez"); status != http.StatusOK || text != "ok\n" {
			t.Errorf("%s: it lives, but: %d, %q", c.what, status, text)
		}
	}
}

// A daemon that does not tell its counters is neither alive nor ready.
func TestStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck, tries := make(chan struct{}), new(atomic.Int32)
		cfg := HTTPConfig{Program: "mapserver", Observed: ObserveMapServer(newDatabase()), Stats: func() iter.Seq2[string, uint64] {
			return func(func(string, uint64) bool) { tries.Add(1); <-stuck }
		}}
		h := httpHandler(cfg, nil, discard())
		for _, path := range []string{"/livez", "/readyz", "/livez"} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			if status, text := w.Code, w.Body.String(); status != http.StatusServiceUnavailable || !strings.Contains(text, "stands still") {
				t.Errorf("%s: %d, %q", path, status, text)
			}
		}
		if n := tries.Load(); n != 1 {
			t.Errorf("%d tries are waiting", n)
		}
		close(stuck)
		synctest.Wait()
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, httptest.NewRequest("GET", "/livez", nil)); w.Code != http.StatusOK {
			t.Errorf("it goes on, but: %d", w.Code)
		}
	})
}

// Nothing but reading is served, and profiles only where that is asked for.
func TestHTTPPaths(t *testing.T) {
	cfg := HTTPConfig{Program: "mapserver", Observed: ObserveMapServer(newDatabase()), Stats: statistics()}
	if status, _ := request(t, cfg, "/debug/pprof/"); status != http.StatusNotFound {
		t.Errorf("profiles are served: %d", status)
	}
	cfg.Pprof = true
	if status, _ := request(t, cfg, "/debug/pprof/"); status != http.StatusOK {
		t.Errorf("profiles are not served: %d", status)
	}
	w := httptest.NewRecorder()
	httpHandler(cfg, nil, discard()).ServeHTTP(w, httptest.NewRequest("POST", "/metrics", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}
