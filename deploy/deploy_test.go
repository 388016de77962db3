// Package deploy has no code: files for those who run Eidolon, and tests of
// them.
package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/eidolon-lisp/eidolon/api"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

var metricName = regexp.MustCompile(`\b(eidolon|process|go)_[a-z0-9_]+`)

// Each metric of the dashboard and the alert rules is one that a daemon tells.
func TestMetricsExist(t *testing.T) {
	told := scrape(t)
	dashboard, err := os.ReadFile("grafana/eidolon.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(dashboard, &d); err != nil {
		t.Fatal(err)
	}
	queries := map[string]string{}
	for _, p := range d.Panels {
		for _, x := range p.Targets {
			queries["panel "+p.Title+": "+x.Expr] = x.Expr
		}
	}
	if len(queries) < 20 {
		t.Errorf("the dashboard has %d queries", len(queries))
	}
	rules, err := os.ReadFile("prometheus/eidolon.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For string
				Labels           map[string]string
				Annotations      map[string]string
			}
		}
	}
	if err := yaml.UnmarshalWithOptions(rules, &r, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	alerts := 0
	for _, g := range r.Groups {
		for _, a := range g.Rules {
			alerts++
			queries["alert "+a.Alert] = a.Expr
			if a.Labels["severity"] == "" || a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
				t.Errorf("alert %s: %+v", a.Alert, a)
			}
		}
	}
	if alerts < 10 {
		t.Errorf("there are %d alerts", alerts)
	}
	for where, q := range queries {
		names := metricName.FindAllString(q, -1)
		if len(names) == 0 {
			t.Errorf("%s: no metric", where)
		}
		for _, n := range names {
			if !told[n] {
				t.Errorf("%s: no daemon tells %s", where, n)
			}
		}
	}
}

// The units leave little open, alone and with the drop-ins that are beside them,
// and docs/security.md says how much; systemd judges, where it is installed.
func TestUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil && os.Getenv("CI") != "true" {
		t.Skip("systemd-analyze is not installed")
	}
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	level := regexp.MustCompile(`Overall exposure level for \S+: (\d\.\d) `)
	for _, u := range []struct{ unit, dropIn string }{
		{"mapserver.service", ""}, {"mapserver.service", "mapserver-alt.conf"},
		{"xtr.service", ""}, {"xtr.service", "xtr-bpf.conf"},
	} {
		content, err := os.ReadFile(filepath.Join("systemd", u.unit))
		if err != nil {
			t.Fatal(err)
		}
		name := u.unit
		if u.dropIn != "" {
			name = "with `" + u.dropIn
			// A drop-in is read as if it stood behind the unit.
			more, err := os.ReadFile(filepath.Join("systemd", u.dropIn))
			if err != nil {
				t.Fatal(err)
			}
			content = append(content, more...)
		}
		file := filepath.Join(t.TempDir(), u.unit)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--no-pager", file).CombinedOutput()
		exposure := level.FindSubmatch(out)
		if err != nil || exposure == nil || bytes.Contains(out, []byte("nknown")) {
			t.Errorf("%s %s: %v\n%s", u.unit, u.dropIn, err, out)
			continue
		}
		if row := regexp.MustCompile("(?m)^\\| `?" + regexp.QuoteMeta(name) + "` \\| (\\S+) \\|").FindSubmatch(document); row == nil || !bytes.Equal(row[1], exposure[1]) {
			t.Errorf("%s %s: the exposure is %s, docs/security.md has %q", u.unit, u.dropIn, exposure[1], row)
		}
	}
}

// scrape returns the metrics of a map-server and an xTR.
func scrape(t *testing.T) map[string]bool {
	key := auth.Key{ID: 1, Algorithm: auth.SHA256HKDF, Secret: []byte("the key of a site under test")}
	eid := mapping.MustParseEID("10.1.0.0/16")
	ms, err := server.New(t.Context(), server.Config{Sites: []server.Site{{Name: "site", Keys: []auth.Key{key}, Prefixes: []server.SitePrefix{{EID: eid}}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort("203.0.113.10:4342")
	x, err := xtr.New(xtr.Config{
		RLOCs:        []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Databases:    []xtr.Database{{EID: eid, Locators: []mapping.Locator{mapping.MakeLocator(netip.MustParseAddr("192.0.2.1"), 1, 100)}}},
		MapServers:   []xtr.MapServer{{Addr: at, Key: key, WantNotify: true}},
		MapResolvers: []netip.AddrPort{at},
	})
	if err != nil {
		t.Fatal(err)
	}
	access, err := api.NewAccess(config.API{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	fib := dataplane.NewFIB()
	plane := dataplane.NewForwarder(fib, dataplane.Config{})
	configuration := new(config.Trial).Status
	neighbours := func() ([]bgp.NeighbourStatus, error) {
		return []bgp.NeighbourStatus{{Addr: netip.MustParseAddr("192.0.2.254")}}, nil
	}
	told := map[string]bool{}
	for _, c := range []api.HTTPConfig{
		{Program: "mapserver", Stats: api.JoinStats(ms.Stats, access.Stats), Observed: api.ObserveMapServer(ms), Configuration: configuration, Neighbours: neighbours},
		{Program: "xtr", Stats: api.JoinStats(x.Stats, plane.Stats, access.Stats), Observed: api.ObserveXTR(x, fib), Configuration: configuration, Neighbours: neighbours},
	} {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c.Listen = free.Addr().(*net.TCPAddr).AddrPort()
		free.Close()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- api.ServeHTTP(ctx, c) }()
		for line := range strings.Lines(get(t, "http://"+c.Listen.String()+"/metrics")) {
			if name := metricName.FindString(line); !strings.HasPrefix(line, "#") && strings.HasPrefix(line, name) {
				told[name] = true
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	return told
}

// get waits until a server is up.
func get(t *testing.T, url string) string {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get(url)
		if err != nil && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v\n%s", url, resp.Status, err, b)
		}
		return string(b)
	}
}
