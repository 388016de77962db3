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
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
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
	rssAnon, rssFile  string // KiB, of /proc/PID/status
	rssAnonKiB        int
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
		if err := writeTable(o.table, generate(o.scale, rng)); err != nil {
			return err
		}
	}
	table, err := readTable(o.table)
	if err != nil {
		return err
	}
	if len(table) == 0 {
		return fmt.Errorf("%s holds no prefix", o.table)
	}
	fmt.Printf("%s, %d cores, %s, %d prefixes, seed %d\n", runtime.Version(), runtime.NumCPU(), kernel(), len(table), o.seed)

	s, err := newSubject(ctx, dir)
	if err != nil {
		return err
	}
	defer s.kill()
	if err := s.start(ctx); err != nil {
		return err
	}
	res := result{prefixes: len(table)}
	fmt.Println("importing")
	started := time.Now()
	if err := s.lispctl(ctx, "import", "--socket", s.socket, "--locator", strings.Join(locators, ","), o.table); err != nil {
		return fmt.Errorf("lispctl import: %w", err)
	}
	res.importTime = time.Since(started)
	if res.rssAnonKiB, res.rssAnon, res.rssFile, err = s.memory(); err != nil {
		return err
	}

	check := newChecker(table)
	started = time.Now()
	if err := check.sample(ctx, s.addr, o.samples, rng); err != nil {
		return err
	}
	res.resolveTime, res.checked, res.positive, res.negative = time.Since(started), check.checked, check.positive, check.negative

	fmt.Println("killing the server with SIGKILL and starting it again")
	s.kill()
	started = time.Now()
	if err := s.start(ctx); err != nil {
		return err
	}
	if err := check.first(ctx, s.addr, table[len(table)/2].Addr(), 60*time.Second); err != nil {
		return err
	}
	res.restart = time.Since(started)
	before := check.checked
	if err := check.sample(ctx, s.addr, o.samples/10, rng); err != nil {
		return fmt.Errorf("after the restart: %w", err)
	}
	res.restartChecked = check.checked - before

	fmt.Printf(`
import                        %8.1f s   (%.0f records/s)
anonymous resident memory     %10s
file-backed resident memory   %10s
restart to a correct answer   %8.2f s
answers checked               %8d   (%d positive, %d negative, %.0f/s), all agree
answers checked after restart %8d   all agree
`, res.importTime.Seconds(), float64(res.prefixes)/res.importTime.Seconds(), mib(res.rssAnon), mib(res.rssFile), res.restart.Seconds(),
		res.checked, res.positive, res.negative, float64(res.checked)/res.resolveTime.Seconds(), res.restartChecked)
	if o.bars {
		return errors.Join(
			bar(res.importTime < 60*time.Second, "the import took 60 s or more"),
			bar(res.rssAnonKiB < 1<<20, "anonymous resident memory is 1 GiB or more"),
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

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown kernel"
	}
	return "Linux " + strings.TrimSpace(string(b))
}

// subject is the mapserver under test.
type subject struct {
	dir, bin, config, socket string
	addr                     netip.AddrPort
	cmd                      *exec.Cmd
	exited                   chan struct{}
}

func newSubject(ctx context.Context, dir string) (*subject, error) {
	s := &subject{dir: dir, bin: filepath.Join(dir, "bin"), config: filepath.Join(dir, "mapserver.yml"), socket: filepath.Join(dir, "mapserver.sock")}
	fmt.Println("building mapserver and lispctl")
	build := exec.CommandContext(ctx, "go", "build", "-o", s.bin+"/", "github.com/eidolon-lisp/eidolon/cmd/mapserver", "github.com/eidolon-lisp/eidolon/cmd/lispctl")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("go build: %w", err)
	}
	// Ask the kernel for a free port; nobody else on this machine is likely
	// to take it before mapserver does.
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	s.addr = c.LocalAddr().(*net.UDPAddr).AddrPort()
	c.Close()
	config := fmt.Sprintf("listen: [%q]\nstate_dir: %s\nrequest_rate: {per_source: 1000000, burst: 1000000}\napi: {socket: %s}\nlog: {level: warn}\n",
		s.addr, filepath.Join(dir, "state"), s.socket)
	return s, os.WriteFile(s.config, []byte(config), 0o600)
}

func (s *subject) start(ctx context.Context) error {
	s.cmd = exec.CommandContext(ctx, filepath.Join(s.bin, "mapserver"), "run", "--config", s.config)
	s.cmd.Stdout, s.cmd.Stderr = os.Stderr, os.Stderr
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.exited = make(chan struct{})
	go func() {
		s.cmd.Wait()
		close(s.exited)
	}()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		select {
		case <-s.exited:
			return fmt.Errorf("mapserver ended: %v", s.cmd.ProcessState)
		default:
		}
		if c, err := net.Dial("unix", s.socket); err == nil {
			return c.Close()
		}
	}
	return errors.New("mapserver did not open its API socket within 30 s")
}

func (s *subject) kill() {
	if s.cmd != nil && s.cmd.Process != nil {
		s.cmd.Process.Kill()
		<-s.exited
	}
}

func (s *subject) lispctl(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "lispctl"), args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// memory reads the resident memory of the server: what it allocated, and the
// pages of files (the store) that the kernel may drop at any time.
func (s *subject) memory() (anonKiB int, anon, file string, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, "", "", err
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		fields := strings.Fields(in.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "RssAnon:":
			anon = fields[1]
			fmt.Sscan(anon, &anonKiB)
		case "RssFile:":
			file = fields[1]
		}
	}
	if anonKiB == 0 {
		return 0, "", "", errors.New("the kernel does not tell RssAnon")
	}
	return anonKiB, anon, file, nil
}

func sorted(table []netip.Prefix) bounds {
	b := bounds(slices.Clone(table))
	slices.SortFunc(b, netip.Prefix.Compare)
	return b
}
