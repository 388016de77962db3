// Import loads a BGP table into a real mapserver as EID records and checks the
// answers: how long the import takes, how much memory it leaves behind, how
// soon a restarted server answers, and whether every answer agrees with a slow
// and obvious longest-prefix match.
//
//	go run ./benchmarks/import -table FILE
//
// FILE is a prefix a line or CAIDA pfx2as, gzipped or plain. Without it a table
// with the prefix-length distribution of the real one is generated.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/rig"
)

type options struct {
	table   string
	scale   float64
	samples int
	seed    uint64
	bars    bool
}

func main() {
	var o options
	flag.StringVar(&o.table, "table", "", "BGP table to import (default: generated)")
	flag.Float64Var(&o.scale, "scale", 0.1, "size of the generated table, as a share of the real one of January 2024")
	flag.IntVar(&o.samples, "samples", 20000, "addresses to resolve and check")
	flag.Uint64Var(&o.seed, "seed", 1, "seed of the generated table and the sample")
	flag.BoolVar(&o.bars, "bars", false, "fail when the import takes 60 s or more, anonymous memory reaches 1 GiB, or a restart takes 10 s")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "import:", err)
		os.Exit(1)
	}
}

// locators are what the imported records are bound to; lispctl picks one for
// each prefix.
var locators = []string{"198.51.100.1", "198.51.100.2", "198.51.100.3"}

// result is what was measured.
type result struct {
	prefixes          int
	importTime        time.Duration
	rssAnon, rssFile  int // KiB
	restart           time.Duration
	checked, positive int
	resolveTime       time.Duration
	restartChecked    int
	negative          int
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "eidolon-import-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	rng := rand.New(rand.NewPCG(o.seed, 0))
	if o.table == "" {
		o.table = filepath.Join(dir, "table.txt.gz")
		if err := rig.WriteTable(o.table, rig.Generate(o.scale, rng)); err != nil {
			return err
		}
	}
	table, err := rig.ReadTable(o.table)
	if err != nil {
		return err
	}
	if len(table) == 0 {
		return fmt.Errorf("%s holds no prefix", o.table)
	}
	fmt.Printf("%s, %d cores, %s, %d prefixes, seed %d\n", runtime.Version(), runtime.NumCPU(), rig.Kernel(), len(table), o.seed)

	fmt.Println("building mapserver and lispctl")
	s, err := rig.NewMapServer(ctx, dir, "request_rate: {per_source: 1000000, burst: 1000000}\nreply_rate: {every: 1ms, burst: 1000}\n")
	if err != nil {
		return err
	}
	defer s.Kill()
	if err := s.Start(ctx); err != nil {
		return err
	}
	res := result{prefixes: len(table)}
	fmt.Println("importing")
	started := time.Now()
	if err := s.Lispctl(ctx, "import", "--socket", s.Socket, "--locator", strings.Join(locators, ","), o.table); err != nil {
		return err
	}
	res.importTime = time.Since(started)
	if res.rssAnon, res.rssFile, err = s.Memory(); err != nil {
		return err
	}

	check := newChecker(table)
	started = time.Now()
	if err := check.sample(ctx, s.Addr, o.samples, rng); err != nil {
		return err
	}
	res.resolveTime, res.checked, res.positive, res.negative = time.Since(started), check.checked, check.positive, check.negative

	fmt.Println("killing the server with SIGKILL and starting it again")
	s.Kill()
	started = time.Now()
	if err := s.Start(ctx); err != nil {
		return err
	}
	if err := check.first(ctx, s.Addr, table[len(table)/2].Addr(), 60*time.Second); err != nil {
		return err
	}
	res.restart = time.Since(started)
	before := check.checked
	if err := check.sample(ctx, s.Addr, o.samples/10, rng); err != nil {
		return fmt.Errorf("after the restart: %w", err)
	}
	res.restartChecked = check.checked - before

	fmt.Printf(`
import                        %8.1f s   (%.0f records/s)
anonymous resident memory     %6.0f MiB
file-backed resident memory   %6.0f MiB
restart to a correct answer   %8.2f s
answers checked               %8d   (%d positive, %d negative, %.0f/s), all agree
answers checked after restart %8d   all agree
`, res.importTime.Seconds(), float64(res.prefixes)/res.importTime.Seconds(), float64(res.rssAnon)/1024, float64(res.rssFile)/1024, res.restart.Seconds(),
		res.checked, res.positive, res.negative, float64(res.checked)/res.resolveTime.Seconds(), res.restartChecked)
	if o.bars {
		return errors.Join(
			bar(res.importTime < 60*time.Second, "the import took 60 s or more"),
			bar(res.rssAnon < 1<<20, "anonymous resident memory is 1 GiB or more"),
			bar(res.restart < 10*time.Second, "the restart took 10 s or more"))
	}
	return nil
}

func bar(ok bool, missed string) error {
	if ok {
		return nil
	}
	return errors.New("bar missed: " + missed)
}

func sorted(table []netip.Prefix) bounds {
	b := bounds(slices.Clone(table))
	slices.SortFunc(b, netip.Prefix.Compare)
	return b
}
