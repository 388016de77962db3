package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// Limits of a load that are ours.
const (
	// maxLoad bounds the questions of one run, whose times are kept.
	maxLoad = 1_000_000
	// harmless is the rate, in questions a second, that a machine which is not this
	// one is asked at without being sure.
	harmless = 1000
)

func newBench() *cobra.Command {
	return group("bench", "Put a load on a map-server or map-resolver, and measure its answers", newBenchRequests(), newBenchLookup())
}

const benchLong = `

The questions are about addresses inside of the EID, drawn at random and the same
in each run. Nothing is changed by them. They go out at the rate that is asked for,
as long as not all --concurrency of them wait for answers; what was sent by then is
printed, with the time from a question to its answer, and what was not answered.
More than 1000 a second at another machine need --yes.

The exit code is 2 when nothing was answered.`

func newBenchRequests() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "map-request EID",
		Short: "Ask a map-resolver with Map-Requests, over UDP",
		Long: `map-request sends Map-Requests to a map-resolver, each from a port of its own, and
waits for the Map-Reply. Who answers limits the answers about one EID-prefix to one
address (reply_rate of a mapserver) and the questions of one (request_rate): what is
over that is lost, so let the EID hold many mappings.` + benchLong,
		Example: `  lispctl bench map-request 10.0.0.0/8 --resolver 127.0.0.1 --rate 5000 --duration 10s`,
		Args:    arguments(1, 1),
	}
	completes(cmd, 1, liveEIDs, programXTR)
	resolver := cmd.Flags().String("resolver", "", "address of the map-resolver, with or without a port")
	timeout := cmd.Flags().Duration("timeout", 2*time.Second, "how long to wait for each answer")
	load := loadFlags(cmd)
	socket := socketFlag(cmd, programXTR)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := load.check(args[0], *timeout); err != nil {
			return err
		}
		to, err := chooseResolver(cmd.Context(), *resolver, *socket)
		if err != nil {
			return err
		}
		if err := load.sure(to.Addr().IsLoopback(), to.String()); err != nil {
			return err
		}
		return load.report(out.output(cmd), load.run(cmd.Context(), func(ctx context.Context, e mapping.EID) error {
			_, err := xtr.LigDial(ctx, xtr.LigQuery{EID: e, Resolver: to, Count: 1, Timeout: *timeout})
			if errors.Is(err, xtr.ErrNoReply) {
				return errUnanswered
			}
			return err
		}))
	}
	return cmd
}

func newBenchLookup() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lookup EID",
		Short: "Ask a map-server by its API",
		Long: `lookup asks a map-server for the mappings of addresses by its gRPC API, over one
connection. That there is no mapping is an answer.` + benchLong,
		Example: `  lispctl bench lookup 10.0.0.0/8 --rate 20000 --concurrency 64`,
		Args:    arguments(1, 1),
	}
	completes(cmd, 1, liveEIDs, programMapServer)
	timeout := cmd.Flags().Duration("timeout", 2*time.Second, "how long to wait for each answer")
	load := loadFlags(cmd)
	socket := socketFlag(cmd, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := load.check(args[0], *timeout); err != nil {
			return err
		}
		c, err := dial(cmd.Context(), *socket, programMapServer)
		if err != nil {
			return err
		}
		defer c.close()
		if err := load.sure(loopback(c.at.address), c.at.String()); err != nil {
			return err
		}
		client := eidolonv1.NewMappingServiceClient(c.conn)
		return load.report(out.output(cmd), load.run(cmd.Context(), func(ctx context.Context, e mapping.EID) error {
			ctx, cancel := context.WithTimeout(ctx, *timeout)
			defer cancel()
			_, err := client.LookupMapping(ctx, &eidolonv1.LookupMappingRequest{Eid: e.String()})
			switch status.Code(err) {
			case codes.NotFound:
				return nil
			case codes.DeadlineExceeded:
				return errUnanswered
			}
			return explain(err)
		}))
	}
	return cmd
}

// loopback reports whether a host and port are of this machine; "" is a socket.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address == ""
	}
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// load is how questions are asked.
type load struct {
	within      mapping.EID
	rate        int // a second
	concurrency int
	duration    time.Duration
	yes         bool
}

func loadFlags(cmd *cobra.Command) *load {
	l := new(load)
	f := cmd.Flags()
	f.IntVar(&l.rate, "rate", 100, "questions a second, 1 to 100000")
	f.IntVar(&l.concurrency, "concurrency", 16, "how many may wait for an answer, 1 to 1024")
	f.DurationVar(&l.duration, "duration", 10*time.Second, "how long, up to 10m and a million questions")
	f.BoolVar(&l.yes, "yes", false, "more than 1000 a second at another machine are meant")
	return l
}

func (l *load) check(within string, timeout time.Duration) (err error) {
	if l.within, err = mapping.ParseEID(within); err != nil {
		return err
	}
	switch {
	case l.within.Source.IsValid():
		return fmt.Errorf("%v has a source prefix, which can't be asked for", l.within)
	case l.rate < 1 || l.rate > 100_000:
		return fmt.Errorf("--rate: found %d, expected 1 to 100000", l.rate)
	case l.concurrency < 1 || l.concurrency > 1024:
		return fmt.Errorf("--concurrency: found %d, expected 1 to 1024", l.concurrency)
	case l.duration <= 0 || l.duration > 10*time.Minute || l.questions() > maxLoad || l.questions() < 1:
		return fmt.Errorf("--duration: found %v, expected up to 10m, and 1 to %d questions", l.duration, maxLoad)
	case timeout < time.Millisecond || timeout > time.Minute:
		return fmt.Errorf("--timeout: found %v, expected 1ms to 1m", timeout)
	}
	return nil
}

func (l *load) questions() int { return int(l.duration.Seconds() * float64(l.rate)) }

// sure refuses to burden another machine by mistake.
func (l *load) sure(local bool, where string) error {
	if !local && l.rate > harmless && !l.yes {
		return fmt.Errorf("%d questions a second to %s, which is not this machine: give --yes if that is meant", l.rate, where)
	}
	return nil
}

// eid returns the EID of the nth question: an address at random, the same each time.
func (l *load) eid(n int) mapping.EID {
	p := l.within.Prefix
	var drawn [16]byte
	r := rand.New(rand.NewPCG(uint64(n), 1))
	binary.BigEndian.PutUint64(drawn[:8], r.Uint64())
	binary.BigEndian.PutUint64(drawn[8:], r.Uint64())
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= drawn[i/8] & (1 << (7 - i%8))
	}
	a, _ := netip.AddrFromSlice(b)
	return mapping.HostEID(l.within.IID, a)
}

// errUnanswered is what a question without an answer ends with.
var errUnanswered = errors.New("no answer")

// measured is what came of a load.
type measured struct {
	took     time.Duration
	answers  []time.Duration
	lost     int
	failed   int
	firstErr error
}

// run asks until all is asked or ctx ends.
func (l *load) run(ctx context.Context, ask func(context.Context, mapping.EID) error) (m measured) {
	var mu sync.Mutex
	next, total := 0, l.questions()
	take := func() (n int, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		n = next
		next++
		return n, n < total
	}
	start := time.Now()
	var wg sync.WaitGroup
	for range min(l.concurrency, total) {
		wg.Go(func() {
			for {
				n, ok := take()
				due := start.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
				if !ok || due.Sub(start) > l.duration || time.Since(start) > l.duration {
					return
				}
				select {
				case <-time.After(time.Until(due)):
				case <-ctx.Done():
					return
				}
				asked := time.Now()
				err := ask(ctx, l.eid(n))
				took := time.Since(asked)
				if ctx.Err() != nil {
					return
				}
				mu.Lock()
				switch {
				case err == nil:
					m.answers = append(m.answers, took)
				case errors.Is(err, errUnanswered):
					m.lost++
				default:
					if m.failed++; m.firstErr == nil {
						m.firstErr = err
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	m.took = time.Since(start)
	slices.Sort(m.answers)
	return m
}

// percentile returns the time within which so many of 100 answers came; 0 without
// any.
func (m *measured) percentile(p float64) time.Duration {
	n := len(m.answers)
	if n == 0 {
		return 0
	}
	return m.answers[min(n-1, int(p/100*float64(n)))]
}

// benchJSON is a run for programs. Times are in milliseconds.
type benchJSON struct {
	Seconds  float64 `json:"seconds"`
	Asked    int     `json:"asked"`
	Answered int     `json:"answered"`
	Lost     int     `json:"lost"`
	Failed   int     `json:"failed"`
	Rate     float64 `json:"answers_per_second"`
	P50      float64 `json:"p50_ms"`
	P90      float64 `json:"p90_ms"`
	P99      float64 `json:"p99_ms"`
	Max      float64 `json:"max_ms"`
}

// report prints what came of a load.
func (l *load) report(o output, m measured) error {
	answered := len(m.answers)
	asked := answered + m.lost + m.failed
	rate := float64(answered) / m.took.Seconds()
	var err error
	if o.structured() {
		ms := func(p float64) float64 { return float64(m.percentile(p).Microseconds()) / 1000 }
		err = o.object(benchJSON{m.took.Seconds(), asked, answered, m.lost, m.failed, rate, ms(50), ms(90), ms(99), ms(100)})
	} else {
		t := o.table("ASKED", "ANSWERED", "LOST", "FAILED", "ANSWERS/S", "P50", "P90", "P99", "MAX")
		text := func(p float64) string { return milliseconds(m.percentile(p)) }
		t.row(asked, answered, m.lost, m.failed, fmt.Sprintf("%.0f", rate), text(50), text(90), text(99), text(100))
		if err = t.end(); err == nil && asked < l.questions() {
			_, err = fmt.Fprintf(o.w, "%d more were to be asked; with more --concurrency there is room for them while others wait\n", l.questions()-asked)
		}
	}
	switch {
	case err != nil:
		return err
	case answered > 0:
		return nil
	case m.firstErr != nil:
		return &exitError{exitNoAnswer, m.firstErr}
	}
	return &exitError{exitNoAnswer, errUnanswered}
}
