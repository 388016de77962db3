package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/rig"
	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

// The server has one core, the client the other.
const serverCPU, clientCPU = 0, 1

// locators are what the imported records are bound to; lispctl picks one for
// each prefix.
var locators = []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("198.51.100.3")}

// keys are those of the site that registers, one for each algorithm measured.
var keys = []auth.Key{
	{ID: 1, Algorithm: auth.SHA256, Secret: []byte("a key for SHA-256, of 32 octets!")},
	{ID: 2, Algorithm: auth.SHA256HKDF, Secret: []byte("a key for HKDF, also 32 octets!!")},
}

// itrKey is what the ITRs share with the server, for LISP-SEC.
var itrKey = auth.WrapKey{ID: 7, Secret: []byte("a key shared with all the ITRs!!")}

// row is one line of the table that is printed.
type row struct {
	what   string
	value  string
	spread string
	bar    string
	ok     bool
}

// bench is the state of a whole measurement.
type bench struct {
	o      options
	socket *udp.Socket
	port   uint16
	nonces uint64 // of Map-Registers, used so far
	rows   []row
	missed []string
}

func (b *bench) add(what, value, spread, bar string, ok bool) {
	if bar != "" && !ok {
		b.missed = append(b.missed, what+": "+value)
		bar += " (missed)"
	}
	b.rows = append(b.rows, row{what: what, value: value, spread: spread, bar: bar, ok: ok})
	fmt.Fprintf(os.Stderr, "  %s: %s %s\n", what, value, spread)
}

// all measures everything and prints a Markdown table.
func all(ctx context.Context, o options) error {
	if runtime.NumCPU() < 2 {
		return errors.New("two cores are needed: one for the server, one for the client")
	}
	dir, err := os.MkdirTemp("", "eidolon-mapserver-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	table, err := bgpTable(o)
	if err != nil {
		return err
	}
	b := &bench{o: o, nonces: uint64(time.Now().UnixNano())}
	if b.socket, b.port, err = client(); err != nil {
		return err
	}
	defer b.socket.Close()

	fmt.Fprintln(os.Stderr, "building mapserver and lispctl")
	ms, err := rig.NewMapServer(ctx, dir, siteConfig())
	if err != nil {
		return err
	}
	ms.CPU = serverCPU
	defer ms.Kill()
	if err := ms.Start(ctx); err != nil {
		return err
	}
	if err := importTable(ctx, ms, dir, table); err != nil {
		return err
	}
	if err := rig.BindSelf(clientCPU); err != nil {
		return err
	}
	if err := b.memory(ms, len(table)); err != nil {
		return err
	}
	b.lookups(table)
	requests, err := newRequests(table, locators, nil, b.port, rand.New(rand.NewPCG(o.seed, 1)))
	if err != nil {
		return err
	}
	rate, err := b.speed(ctx, "Map-Requests answered", &ms.Process, ms.Addr, requests, 200_000)
	if err != nil {
		return err
	}
	if err := b.latency(ctx, ms.Addr, requests, rate.rate/2, 2*time.Millisecond); err != nil {
		return err
	}
	protected, err := newRequests(table, locators, &itrKey, b.port, rand.New(rand.NewPCG(o.seed, 2)))
	if err != nil {
		return err
	}
	secure, err := b.speed(ctx, "Map-Requests with LISP-SEC answered", &ms.Process, ms.Addr, protected, 0)
	if err != nil {
		return err
	}
	if err := b.latency(ctx, ms.Addr, protected, secure.rate/2, 0); err != nil {
		return err
	}
	for _, k := range keys {
		for _, change := range []bool{false, true} {
			if err := b.registrations(ctx, ms, k, change); err != nil {
				return err
			}
		}
	}
	if err := b.restart(ctx, ms, requests); err != nil {
		return err
	}
	ms.Kill()
	if o.nsd {
		if err := b.nsd(ctx, dir, rate); err != nil {
			return err
		}
	}
	b.print(len(table))
	if o.bars && len(b.missed) > 0 {
		return fmt.Errorf("bars missed: %s", strings.Join(b.missed, "; "))
	}
	return nil
}

// siteConfig is the configuration of the server besides its addresses: a site
// that may register, and no other limits than those it is shipped with.
func siteConfig() string {
	s := "sites:\n  - name: bench\n    authentication_keys:\n"
	for _, k := range keys {
		s += fmt.Sprintf("      - {key_id: %d, algorithm: %v, key: %q}\n", k.ID, k.Algorithm, k.Secret)
	}
	s += "    eid_prefixes:\n      - {prefix: " + registerable + ", accept_more_specifics: true}\n"
	return s + fmt.Sprintf("lisp_sec:\n  policy: preferred\n  keys:\n    - {key_id: %d, key: %q}\n", itrKey.ID, itrKey.Secret)
}

func importTable(ctx context.Context, ms *rig.MapServer, dir string, table []netip.Prefix) error {
	path := filepath.Join(dir, "table.txt.gz")
	if err := rig.WriteTable(path, table); err != nil {
		return err
	}
	var ls []string
	for _, l := range locators {
		ls = append(ls, l.String())
	}
	fmt.Fprintf(os.Stderr, "importing %d prefixes\n", len(table))
	return ms.Lispctl(ctx, "import", "--socket", ms.Socket, "--locator", strings.Join(ls, ","), path)
}

// memory waits until the server has given back what the import needed.
func (b *bench) memory(ms *rig.MapServer, mappings int) error {
	time.Sleep(settle)
	anon, file, err := ms.Memory()
	if err != nil {
		return err
	}
	each := float64(anon) * 1024 / float64(mappings)
	b.add("anonymous resident memory after the import", fmt.Sprintf("%.0f MiB", float64(anon)/1024), fmt.Sprintf("and %d MiB of file pages", file/1024), "", true)
	b.add("the same for each mapping", fmt.Sprintf("%.0f octets", each), "", "under 400", each < 400)
	return nil
}

// lookups measures the longest-prefix lookup by itself, for addresses in the
// table.
func (b *bench) lookups(table []netip.Prefix) {
	ed := new(mapping.Table[netip.Prefix]).Edit(len(table))
	for _, p := range table {
		if e, err := mapping.MakeEID(0, p); err == nil {
			ed.Insert(e, p)
		}
	}
	t := ed.Table()
	rng := rand.New(rand.NewPCG(b.o.seed, 3))
	addrs := make([]netip.Addr, 1<<16)
	for i := range addrs {
		addrs[i] = rig.RandomIn(table[rng.IntN(len(table))], rng)
	}
	var each []time.Duration
	for range b.o.runs {
		const n = 1 << 21
		started := time.Now()
		for i := range n {
			if _, ok := t.Lookup(0, addrs[i%len(addrs)]); !ok {
				panic("a prefix of the table is not in it")
			}
		}
		each = append(each, time.Since(started)/n)
	}
	b.add("longest-prefix lookup", median(each).String(), fmt.Sprintf("%v to %v", slices.Min(each), slices.Max(each)), "", true)
}

// settle is how long after an import the memory is looked at.
const settle = 5 * time.Second

// speed is how many requests are answered in a second, and in a second of
// processor time.
type speed struct{ rate, busy float64 }

// speed measures how many requests a second are answered, in several runs, and
// returns the median.
//
// It also tells how many the server answers in a second of processor time, the
// softirqs that its sending causes included: on a machine that does other things
// too, that is the figure to look at.
func (b *bench) speed(ctx context.Context, what string, p *rig.Process, server netip.AddrPort, w workload, bar float64) (speed, error) {
	var rates, busy []float64
	for range b.o.runs {
		before := p.CPUTime()
		r, err := load(ctx, b.socket, server, w, b.o.window, 0, b.o.duration)
		if err != nil {
			return speed{}, fmt.Errorf("%s: %w", what, err)
		}
		if r.wrong > 0 {
			return speed{}, fmt.Errorf("%s: %d answers were wrong: %w", what, r.wrong, r.firstWrong)
		}
		if lost := float64(r.lost) / float64(r.sent); lost > 0.01 {
			return speed{}, fmt.Errorf("%s: %.1f %% of the requests have no answer", what, 100*lost)
		}
		rates = append(rates, r.rate())
		busy = append(busy, float64(r.answered)/(p.CPUTime()-before).Seconds())
	}
	m := speed{median(rates), median(busy)}
	text := ""
	if bar > 0 {
		text = fmt.Sprintf("at least %.0f/s", bar)
	}
	b.add(what, fmt.Sprintf("%.0f/s", m.rate), spread(rates), text, m.rate >= bar)
	b.add("the same in a second of processor time", fmt.Sprintf("%.0f", m.busy), spread(busy), "", true)
	return m, nil
}

// latency measures how long answers take at a given rate; a bar of 0 is none.
func (b *bench) latency(ctx context.Context, server netip.AddrPort, w workload, rate float64, bar time.Duration) error {
	var p50, p99 []time.Duration
	for range b.o.runs {
		r, err := load(ctx, b.socket, server, w, b.o.window, rate, b.o.duration)
		if err != nil {
			return fmt.Errorf("latency: %w", err)
		}
		p50, p99 = append(p50, r.latency.quantile(0.5)), append(p99, r.latency.quantile(0.99))
	}
	at := fmt.Sprintf(" at %.0f/s", rate)
	b.add("p50"+at, round(median(p50)), durations(p50), "", true)
	text := ""
	if bar > 0 {
		text = "under " + bar.String()
	}
	b.add("p99"+at, round(median(p99)), durations(p99), text, bar == 0 || median(p99) < bar)
	return nil
}

// registrations measures Map-Registers with one key.
func (b *bench) registrations(ctx context.Context, ms *rig.MapServer, k auth.Key, change bool) error {
	what, bar := "refreshes", map[auth.Algorithm]float64{auth.SHA256: 60_000, auth.SHA256HKDF: 40_000}[k.Algorithm]
	if change {
		what, bar = "changes, each durable", 0
	}
	w, err := newRegisters(k, change, b.port, 0)
	if err != nil {
		return err
	}
	n := &nextNonces{w, &b.nonces}
	// The first registrations of all are changes.
	if r, err := load(ctx, b.socket, ms.Addr, n, b.o.window, 0, time.Second); err != nil {
		return err
	} else if r.wrong > 0 {
		return r.firstWrong
	}
	_, err = b.speed(ctx, fmt.Sprintf("Map-Registers, %v, %s", k.Algorithm, what), &ms.Process, ms.Addr, n, bar)
	return err
}

// nextNonces gives each run of load nonces above those of the last.
type nextNonces struct {
	*registers
	nonces *uint64
}

func (w *nextNonces) request(seq uint64, m *udp.Message) {
	if seq == 0 {
		*w.nonces += 1 << 32
		w.base = *w.nonces
	}
	w.registers.request(seq, m)
}

// restart kills the server and measures until it answers again.
func (b *bench) restart(ctx context.Context, ms *rig.MapServer, w workload) error {
	ms.Kill()
	started := time.Now()
	if err := ms.Start(ctx); err != nil {
		return err
	}
	for {
		r, err := load(ctx, b.socket, ms.Addr, w, 1, 0, 10*time.Millisecond)
		if err == nil && r.answered > 0 && r.wrong == 0 {
			break
		}
		if ctx.Err() != nil || time.Since(started) > time.Minute {
			return fmt.Errorf("no answer after a restart: %w", err)
		}
	}
	took := time.Since(started)
	b.add("kill -9 and start, to a correct answer", fmt.Sprintf("%.2f s", took.Seconds()), "one core, warm file cache", "under 5 s", took < 5*time.Second)
	return nil
}

// nsd measures NSD in the same way.
func (b *bench) nsd(ctx context.Context, dir string, ours speed) error {
	n, err := startNSD(ctx, dir, serverCPU)
	if err != nil {
		return err
	}
	defer n.Kill()
	dns, err := b.speed(ctx, n.version+", queries answered", &n.Process, n.addr, &queries{port: b.port}, 0)
	if err != nil {
		return err
	}
	ratio := ours.rate / dns.rate
	b.add("Map-Requests for each query of NSD", fmt.Sprintf("%.2f", ratio), "", "at least 0.85", ratio >= 0.85)
	b.add("the same in a second of processor time", fmt.Sprintf("%.2f", ours.busy/dns.busy), "", "", true)
	return nil
}

func (b *bench) print(mappings int) {
	fmt.Printf("\n%s, %s, Go %s, %d mappings, %d ITR-RLOCs, %d sources, runs of %v, %s\n\n",
		fmt.Sprintf("%d cores of %s", runtime.NumCPU(), rig.CPU()), rig.Kernel(), strings.TrimPrefix(runtime.Version(), "go"), mappings, itrRLOCs, sources, b.o.duration, time.Now().UTC().Format("2006-01-02"))
	fmt.Printf("| what | median of %d | spread | bar |\n|---|---|---|---|\n", b.o.runs)
	for _, r := range b.rows {
		fmt.Printf("| %s | %s | %s | %s |\n", r.what, r.value, r.spread, r.bar)
	}
}

func median[T cmp.Ordered](xs []T) T {
	s := slices.Sorted(slices.Values(xs))
	return s[len(s)/2]
}

func spread(xs []float64) string {
	return fmt.Sprintf("%.0f to %.0f", slices.Min(xs), slices.Max(xs))
}

func durations(xs []time.Duration) string {
	return fmt.Sprintf("%s to %s", round(slices.Min(xs)), round(slices.Max(xs)))
}

func round(d time.Duration) string { return d.Round(time.Microsecond).String() }
