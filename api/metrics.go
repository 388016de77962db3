package api

import (
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/mapping/alt"
	"github.com/eidolon-lisp/eidolon/mapping/bgp"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// gauges are the statistics that may fall, with what they are; all others are
// counters.
var gauges = map[string]string{
	"api_connections":      "connections to the API",
	"alt_routes":           "routes of the ALT that neighbours announced",
	"eids":                 "EID-prefixes in the table",
	"mappings":             "mappings put over the API",
	"registrations":        "registrations, each of an EID-prefix by an xTR",
	"store_pending":        "changes that the store has not taken yet",
	"subscriptions_active": "subscriptions to mappings",
	"map_cache_entries":    "entries of the map-cache",
	"resolutions_pending":  "EIDs that are being resolved",
}

// meanings returns what the counters of a program count, by their names; gauges
// and families have their words here.
func meanings(program string) map[string]string {
	all := maps.Collect(accessMeanings())
	if program == "xtr" {
		maps.Insert(all, xtr.Meanings())
		maps.Insert(all, dataplane.Meanings())
	} else {
		maps.Insert(all, server.Meanings())
		maps.Insert(all, alt.Meanings())
	}
	return all
}

// Meanings returns what says of a statistic of a program what it is, by its name, in
// the words that metrics have; "" of one that is not known.
func Meanings(program string) func(name string) string {
	all := meanings(program)
	return func(name string) string {
		if help, ok := gauges[name]; ok {
			return help
		}
		if f, _, ok := familyOf(name); ok {
			return f.help
		}
		return all[name]
	}
}

// families are statistics that become one metric with a label, by their prefix.
var families = []family{
	{"drop_", "drops_total", "reason", "packets or messages that were dropped, by why; lispctl show drops says it in words for an xTR"},
	{"refused_", "refused_total", "reason", "Map-Registers and changes of subscriptions that were refused"},
	{"bgp_routes_refused_", "bgp_routes_refused_total", "reason", "routes of neighbours that make no EID-prefix"},
}

type family struct{ prefix, metric, label, help string }

// familyOf returns the family of a statistic, and the value of its label.
func familyOf(name string) (f family, value string, ok bool) {
	for _, f := range families {
		if value, ok := strings.CutPrefix(name, f.prefix); ok {
			return f, value, true
		}
	}
	return family{}, "", false
}

// Observed is what metrics and readiness are told of beside the counters.
type Observed interface {
	// observe tells the samples, whose label values are bounded by what is
	// configured or put, or is an interface of the machine.
	observe(emit)
	// notReady says why the daemon can't do its work; empty if it can.
	notReady() []string
}

// emit takes one sample: its name without what all have in front, its help, and
// pairs of labels and their values.
type emit func(kind prometheus.ValueType, name, help string, value float64, labels ...string)

// collector makes metrics of what a daemon counts and shows.
type collector struct {
	cfg      HTTPConfig
	meanings map[string]string
	log      *slog.Logger
}

func newCollector(cfg HTTPConfig, log *slog.Logger) *collector {
	return &collector{cfg, meanings(cfg.Program), log}
}

// Describe says nothing: what there is depends on the daemon.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	send := func(kind prometheus.ValueType, name, help string, value float64, labels ...string) {
		var keys, values []string
		for i := 0; i+1 < len(labels); i += 2 {
			keys, values = append(keys, labels[i]), append(values, labels[i+1])
		}
		desc := prometheus.NewDesc(prometheus.BuildFQName("eidolon", c.cfg.Program, name), help, keys, nil)
		m, err := prometheus.NewConstMetric(desc, kind, value, values...)
		if err != nil {
			m = prometheus.NewInvalidMetric(desc, err)
		}
		ch <- m
	}
	v := versionOf(c.cfg.Program)
	send(prometheus.GaugeValue, "build_info", "always 1; the labels say what runs", 1, "version", v.GetVersion(), "revision", v.GetRevision(), "go", runtime.Version())
	for name, value := range c.cfg.Stats() {
		c.statistic(send, name, float64(value))
	}
	c.cfg.Observed.observe(send)
	if c.cfg.Configuration != nil {
		observeConfiguration(c.cfg.Configuration(), send)
	}
	if c.cfg.Neighbours != nil {
		list, err := c.cfg.Neighbours()
		if err != nil {
			c.log.Warn("metrics are without the neighbours of bgp", "err", err)
		}
		observeNeighbours(list, send)
	}
}

// observeNeighbours tells of sessions of BGP, of which there is one for each
// neighbour in the configuration.
func observeNeighbours(list []bgp.NeighbourStatus, send emit) {
	for _, n := range list {
		labels := []string{"neighbour", n.Addr.String()}
		gauge := func(name, help string, v float64) {
			send(prometheus.GaugeValue, "bgp_neighbour_"+name, help, v, labels...)
		}
		gauge("up", "1 if the session with the neighbour is established", truth(n.State == bgp.Established))
		gauge("since_timestamp_seconds", "when the session was established or, if it is not, when it ended, since 1970; 0: there was none", timestamp(n.Since))
		gauge("received_prefixes", "prefixes that the neighbour announces", float64(n.Received))
		gauge("announced_prefixes", "prefixes that the neighbour was told", float64(n.Announced))
		send(prometheus.CounterValue, "bgp_neighbour_flaps_total", "how often an established session with the neighbour ended", float64(n.Flaps), labels...)
	}
}

// observeConfiguration tells of reloads by signal and by the API alike.
func observeConfiguration(s config.Status, send emit) {
	gauge := func(name, help string, v float64) { send(prometheus.GaugeValue, name, help, v) }
	gauge("config_last_reload_successful", "0 if the configuration file could not be used when it was last read", truth(!s.Refused))
	gauge("config_last_reload_success_timestamp_seconds", "when a configuration was last taken into use, since 1970", timestamp(s.Used))
	gauge("config_restart_pending", "1 if keys of the configuration in use wait for a restart", truth(len(s.Restart) > 0))
}

func (c *collector) statistic(send emit, name string, value float64) {
	if help, ok := gauges[name]; ok {
		send(prometheus.GaugeValue, name, help, value)
		return
	}
	if f, reason, ok := familyOf(name); ok {
		send(prometheus.CounterValue, f.metric, f.help, value, f.label, reason)
		return
	}
	send(prometheus.CounterValue, name+"_total", c.meanings[name], value)
}

// seconds of an instant since 1970; 0 if there was none.
func timestamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1e3
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// ObserveMapServer shows the sites of a map-server.
func ObserveMapServer(db SiteDatabase) Observed { return observedSites{db} }

type observedSites struct{ db SiteDatabase }

func (o observedSites) observe(send emit) {
	for _, s := range o.db.Sites() {
		if s.Shadowed != "" {
			continue // it registers nothing, and another may have its name
		}
		send(prometheus.GaugeValue, "site_registrations", "registrations of the site, each of an EID-prefix by an xTR", float64(s.Registrations), "site", s.Name)
		send(prometheus.GaugeValue, "site_registrations_limit", "how many registrations the site may have", float64(s.MaxRegistrations), "site", s.Name)
		send(prometheus.GaugeValue, "site_last_registration_timestamp_seconds", "when a Map-Register of the site was last accepted, since 1970; 0: never", timestamp(s.LastRegistration), "site", s.Name)
		send(prometheus.CounterValue, "site_map_registers_accepted_total", "Map-Registers of the site that were accepted", float64(s.Accepted), "site", s.Name)
		send(prometheus.CounterValue, "site_map_registers_refused_total", "Map-Registers of the site that were refused", float64(s.Refused), "site", s.Name)
		send(prometheus.CounterValue, "site_authentication_failures_total", "Map-Registers of the site whose authentication failed", float64(s.AuthFailures), "site", s.Name)
	}
}

// A map-server that counts serves.
func (observedSites) notReady() []string { return nil }

// ObserveXTR shows the locators, map-servers and map-resolvers of an xTR.
func ObserveXTR(x XTR, fib Forwarding) Observed { return observedXTR{x, fib} }

type observedXTR struct {
	xtr XTR
	fib Forwarding
}

func (o observedXTR) observe(send emit) {
	send(prometheus.GaugeValue, "database_mappings", "EID-prefixes of the site", float64(len(o.xtr.Databases())))
	fib := o.fib.Snapshot()
	type locator struct {
		addr netip.Addr
		on   string
	}
	told := map[locator]bool{}
	for _, l := range o.xtr.LocalLocators() {
		if k := (locator{l.Addr, l.Uplink}); told[k] {
			continue // gone, and back
		} else {
			told[k] = true
		}
		labels := []string{"address", l.Addr.String(), "interface", l.Uplink}
		gauge := func(name, help string, v float64) { send(prometheus.GaugeValue, name, help, v, labels...) }
		gauge("locator_up", "1 if packets can be expected to come and go by this local locator", truth(l.State == xtr.LocatorUp))
		gauge("locator_drained", "1 if an operator wants no traffic by it", truth(l.Drained))
		gauge("locator_flaps", "how often it went away, each time within a minute of the last", float64(l.Flaps))
		gauge("locator_paths", "ways from it to remote RLOCs that are probed", float64(l.Paths))
		gauge("locator_paths_down", "those of them that do not work", float64(l.PathsDown))
		count := func(name, help string, v uint64) { send(prometheus.CounterValue, name, help, float64(v), labels...) }
		t := fib.LocalTraffic(l.Addr)
		count("locator_sent_packets_total", "encapsulated packets sent from it", t.PacketsOut)
		count("locator_sent_bytes_total", "octets of the inner packets sent from it", t.BytesOut)
		count("locator_received_packets_total", "encapsulated packets received by it", t.PacketsIn)
		count("locator_received_bytes_total", "octets of the inner packets received by it", t.BytesIn)
	}
	for _, m := range o.xtr.MapServers() {
		at := m.Addr.String()
		send(prometheus.GaugeValue, "map_server_database_mappings", "EID-prefixes to be registered there", float64(m.Databases), "map_server", at)
		send(prometheus.GaugeValue, "map_server_registered", "EID-prefixes whose registration is confirmed", float64(m.Registered), "map_server", at)
		send(prometheus.GaugeValue, "map_server_last_map_notify_timestamp_seconds", "when a registration was last confirmed, since 1970; 0: never", timestamp(m.LastNotify), "map_server", at)
		send(prometheus.GaugeValue, "map_server_rtt_seconds", "time from Map-Register to Map-Notify; 0: not known", m.RTT.Seconds(), "map_server", at)
	}
	for _, m := range o.xtr.MapResolvers() {
		at := m.Addr.String()
		send(prometheus.GaugeValue, "map_resolver_up", "0 while it is passed over because it does not answer", truth(m.Up), "map_resolver", at)
		send(prometheus.GaugeValue, "map_resolver_rtt_seconds", "time from Map-Request to Map-Reply, smoothed; 0: not known", m.RTT.Seconds(), "map_resolver", at)
		send(prometheus.CounterValue, "map_resolver_requests_total", "Map-Requests sent there", float64(m.Requests), "map_resolver", at)
		send(prometheus.CounterValue, "map_resolver_timeouts_total", "those of them without an answer", float64(m.Timeouts), "map_resolver", at)
	}
}

// notReady wants a local locator that works, all EID-prefixes registered with
// one of the map-servers at least, and a map-resolver that answers; each of them
// only where there are any.
func (o observedXTR) notReady() (reasons []string) {
	locals, up := o.xtr.LocalLocators(), false
	for _, l := range locals {
		up = up || l.State == xtr.LocatorUp || l.State == xtr.LocatorHeld
	}
	if !up {
		reasons = append(reasons, "no local locator works: see lispctl show locator")
	}
	servers, registered := o.xtr.MapServers(), false
	for _, m := range servers {
		registered = registered || m.Registered >= m.Databases || !m.LastSent.IsZero() && o.sentOnly(m)
	}
	if len(servers) > 0 && !registered {
		reasons = append(reasons, "no map-server has confirmed the registration: see lispctl show database")
	}
	resolvers, answers := o.xtr.MapResolvers(), false
	for _, m := range resolvers {
		answers = answers || m.Up
	}
	if len(resolvers) > 0 && !answers {
		reasons = append(reasons, "no map-resolver answers: see lispctl show map-resolver")
	}
	return reasons
}

// sentOnly reports whether a map-server is asked for no Map-Notify, so that
// nothing can be confirmed.
func (o observedXTR) sentOnly(m xtr.MapServerStatus) bool {
	for _, d := range o.xtr.Databases() {
		for _, r := range d.Registrations {
			if r.MapServer == m.Addr && r.State != xtr.RegistrationSent {
				return false
			}
		}
	}
	return true
}
