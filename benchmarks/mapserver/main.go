// Mapserver measures how fast a map-server answers.
//
//	go run ./benchmarks/mapserver [-table FILE] [-nsd]
//
// builds mapserver, imports a BGP table into it (FILE is a prefix a line or
// CAIDA pfx2as, gzipped or plain; without it a table is generated), binds the
// server to one core and itself to another, and prints a table of what it
// measured. The server runs with the limits that it is shipped with. With -nsd
// it also measures NSD, a DNS server, with the same client.
//
//	go run ./benchmarks/mapserver requests -server ADDR:4342 -table FILE
//	go run ./benchmarks/mapserver registers -server ADDR:4342 -key SECRET
//	go run ./benchmarks/mapserver dns -server ADDR:53
//
// puts load on any map-server, or on a DNS server that has the zone which -nsd
// makes. The requests come from many loopback addresses, and the ITR-RLOCs are
// loopback addresses too, so the server must run on the same machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/rig"
	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

type options struct {
	mode     string
	server   netip.AddrPort
	table    string
	scale    float64
	seed     uint64
	duration time.Duration
	runs     int
	window   int
	rate     float64
	nsd      bool
	bars     bool
	cpu      int
	key      auth.Key
	change   bool
	lispSec  *auth.WrapKey
}

func parse(args []string, errOut io.Writer) (options, error) {
	o := options{mode: "all"}
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		o.mode, args = args[0], args[1:]
	}
	var server, secret, algorithm string
	var keyID uint
	f := flag.NewFlagSet("mapserver", flag.ContinueOnError)
	f.SetOutput(errOut)
	f.StringVar(&o.table, "table", "", "BGP table (default: generated)")
	f.Float64Var(&o.scale, "scale", 1, "size of the generated table, as a share of the real one of January 2024")
	f.Uint64Var(&o.seed, "seed", 1, "seed of the generated table and of what is asked for")
	f.DurationVar(&o.duration, "time", 5*time.Second, "length of a run")
	f.IntVar(&o.window, "window", 256, "requests outstanding at once, where no rate is given")
	switch o.mode {
	case "all":
		f.IntVar(&o.runs, "runs", 3, "runs for each figure, of which the median counts")
		f.BoolVar(&o.nsd, "nsd", false, "compare with NSD, which must be installed")
		f.BoolVar(&o.bars, "bars", false, "fail when a figure misses the bar that the table shows")
	case "requests", "registers", "dns":
		f.StringVar(&server, "server", "", "address and port of the server, a loopback address")
		f.Float64Var(&o.rate, "rate", 0, "requests a second (default: as many as are answered)")
		f.IntVar(&o.cpu, "cpu", -1, "core to run on (default: any)")
	default:
		return o, fmt.Errorf("unknown mode %q, expected requests, registers, dns or none", o.mode)
	}
	if o.mode == "requests" {
		f.StringVar(&secret, "lisp-sec-key", "", "key shared with the server: protect the requests with LISP-SEC")
		f.UintVar(&keyID, "key-id", 1, "its key-id")
	}
	if o.mode == "registers" {
		f.StringVar(&secret, "key", "", "authentication key of the site that has "+registerable)
		f.UintVar(&keyID, "key-id", 1, "its key-id")
		f.StringVar(&algorithm, "algorithm", auth.SHA256HKDF.String(), "authentication algorithm")
		f.BoolVar(&o.change, "change", false, "register other locators each time")
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.duration <= 0 || o.window < 1 || o.window > ringSize/2 || o.mode == "all" && o.runs < 1 || o.scale <= 0 || o.rate < 0 {
		return o, fmt.Errorf("-time, -window (at most %d), -runs and -scale must be positive, -rate not negative", ringSize/2)
	}
	if o.mode == "all" {
		return o, nil
	}
	var err error
	if o.server, err = netip.ParseAddrPort(server); err != nil {
		return o, fmt.Errorf("-server: %w", err)
	}
	if !o.server.Addr().Is4() || !o.server.Addr().IsLoopback() {
		return o, fmt.Errorf("-server: %v is not an IPv4 loopback address", o.server)
	}
	if o.mode == "requests" && secret != "" {
		if keyID > 255 {
			return o, errors.New("-key-id must be at most 255")
		}
		o.lispSec = &auth.WrapKey{ID: uint8(keyID), Secret: []byte(secret)}
	}
	if o.mode == "registers" {
		if keyID > 255 || secret == "" {
			return o, errors.New("-key must be given, and -key-id be at most 255")
		}
		o.key = auth.Key{ID: uint8(keyID), Secret: []byte(secret)}
		if o.key.Algorithm, err = auth.ParseAlgorithm(algorithm); err != nil {
			return o, err
		}
	}
	return o, nil
}

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		if o.mode == "all" {
			err = all(ctx, o)
		} else {
			err = one(ctx, o)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mapserver:", err)
		os.Exit(1)
	}
}

// one is a single run against a server that runs already.
func one(ctx context.Context, o options) error {
	if o.cpu >= 0 {
		if err := rig.BindSelf(o.cpu); err != nil {
			return err
		}
	}
	s, port, err := client()
	if err != nil {
		return err
	}
	defer s.Close()
	var w workload
	switch o.mode {
	case "requests":
		table, err := bgpTable(o)
		if err != nil {
			return err
		}
		w, err = newRequests(table, nil, o.lispSec, port, rand.New(rand.NewPCG(o.seed, 0)))
		if err != nil {
			return err
		}
	case "registers":
		if w, err = newRegisters(o.key, o.change, port, uint64(time.Now().UnixNano())); err != nil {
			return err
		}
	case "dns":
		w = &queries{port: port}
	}
	r, err := load(ctx, s, o.server, w, o.window, o.rate, o.duration)
	if r != nil {
		fmt.Printf("%d sent, %d answered (%.0f/s), %d lost, %d wrong, %d unasked, p50 %v, p99 %v\n",
			r.sent, r.answered, r.rate(), r.lost, r.wrong, r.unasked, r.latency.quantile(0.5), r.latency.quantile(0.99))
		if r.firstWrong != nil {
			fmt.Println("first wrong answer:", r.firstWrong)
		}
	}
	return err
}

// client opens the socket that the load comes from.
func client() (*udp.Socket, uint16, error) {
	s, err := udp.Listen([]netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), 0)})
	if err != nil {
		return nil, 0, err
	}
	runtime.GC()
	return s, s.Addrs()[0].Port(), nil
}

func bgpTable(o options) ([]netip.Prefix, error) {
	if o.table == "" {
		return rig.Generate(o.scale, rand.New(rand.NewPCG(o.seed, 0))), nil
	}
	table, err := rig.ReadTable(o.table)
	if err == nil && len(table) == 0 {
		err = fmt.Errorf("%s holds no prefix", o.table)
	}
	return table, err
}
