package sites

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// childEnv makes the test binary an xTR: a plane in a process of its own, as it
// is in life, so that it can be killed. It takes commands on its standard
// input, one line each, and answers each with one line of JSON.
const childEnv = "EIDOLON_TEST_XTR"

// Plane is what an xTR of this package uses of a plane.
type Plane interface {
	dataplane.Plane
	Missing() []netip.Addr
	Warnings() []string
	SetLocals([]mapping.EID) error
}

// Planes makes planes for xTRs.
type Planes struct {
	// Start makes a plane in the namespace of the process; Run follows.
	Start func(Config, *dataplane.FIB) (Plane, error)
	// Cleanup, if there is one, takes away what killed planes leave in the
	// namespace of the thread; it is called for each xTR when its test ends.
	Cleanup func() error
}

// planes are those of Main.
var planes Planes

// Main is what TestMain has to call: it runs the tests, or is an xTR when one of
// them started this process. It does not return.
func Main(m *testing.M, p Planes) {
	planes = p
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	if err := child(); err != nil {
		b, _ := json.Marshal(Answer{Err: err.Error()})
		fmt.Println(string(b))
		os.Exit(1)
	}
	os.Exit(0)
}

// Config is what an xTR gets as its first line. What has no comment is as in the
// configuration of the TUN plane.
type Config struct {
	// Plane says which of the planes of Start, in the words of the test; it
	// may have Mappings.
	Plane     string
	Mappings  int
	Instances []Instance
	Guarded   []mapping.EID
	Locals    []mapping.EID
	Sources   []netip.Addr
	ProxyITR  []mapping.EID
	ProxyETR  []mapping.EID
	Host      []mapping.EID
	Table     int
	Queues    int
	UplinkMTU int
	Hold      bool
	// Entries are the mappings at the start.
	Entries []Entry
	// Version, if not 0, is the map-version of all Locals, and switches
	// map-versioning on.
	Version  mapping.Version
	MSSClamp bool
	// DropCapability takes CAP_NET_ADMIN away before the plane starts.
	DropCapability bool
}

// Instance is an instance of the site; see the TUN plane's.
type Instance struct {
	IID    uint32
	Device string
	Native bool
}

// Entry is one static mapping.
type Entry struct {
	EID      mapping.EID
	Locators []mapping.Locator
	Version  uint16
	Removed  bool
	Lifetime time.Duration // 0: an hour
	// Native is a negative mapping: natively-forward; Locators, if any, are
	// proxy-ETRs.
	Native bool
}

// Answer is what an xTR says to a command: the error, and what was asked for.
type Answer struct {
	Err      string
	Stats    map[string]uint64 // without zeros
	Missing  []netip.Addr
	Warnings []string
	Misses   []dataplane.Miss
	Heard    []netip.Addr
	Versions []dataplane.VersionEvent
	MTU      map[string]int // of paths, by locator
	Mallocs  uint64

	Unreachable []dataplane.Path
	Active      []dataplane.Activity
	Traced      []dataplane.Traced
	Traffic     map[string]dataplane.Traffic // of mappings, locators and own addresses, by name
}

func changes(entries []Entry) []mapping.CacheChange {
	var list []mapping.CacheChange
	for _, e := range entries {
		c := mapping.CacheChange{EID: e.EID, Expires: time.Now().Add(time.Hour)}
		if e.Lifetime > 0 {
			c.Expires = time.Now().Add(e.Lifetime)
		}
		switch {
		case e.Native:
			c.Record, c.ProxyETRs = mapping.NegativeRecord(e.EID, mapping.NativelyForward, 15), e.Locators
		case !e.Removed:
			c.Record = &mapping.Record{EID: e.EID, TTL: 60, Locators: e.Locators, Version: e.Version}
		}
		list = append(list, c)
	}
	return list
}

func child() error {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	if !in.Scan() {
		return io.ErrUnexpectedEOF
	}
	var cfg Config
	if err := json.Unmarshal(in.Bytes(), &cfg); err != nil {
		return err
	}
	if cfg.DropCapability {
		runtime.LockOSThread() // capabilities are the thread's
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&hdr, &none[0]); err != nil {
			return err
		}
	}
	fib := dataplane.NewFIB()
	fib.Apply(changes(cfg.Entries))
	p, err := planes.Start(cfg, fib)
	if err != nil {
		return err
	}
	if cfg.Version != 0 {
		var local []dataplane.LocalEID
		for _, e := range cfg.Locals {
			local = append(local, dataplane.LocalEID{EID: e, Version: cfg.Version})
		}
		fib.SetLocal(local)
	}
	fib.SetProxies(dataplane.Proxies{ITR: cfg.ProxyITR, ETR: cfg.ProxyETR})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var tracer *dataplane.Tracer
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	fmt.Println("{}")
	for in.Scan() {
		var a Answer
		cmd, arg, _ := strings.Cut(in.Text(), " ")
		switch cmd {
		case "apply":
			var list []Entry
			if err := json.Unmarshal([]byte(arg), &list); err != nil {
				return err
			}
			fib.Apply(changes(list))
		case "state":
			a = Answer{Stats: map[string]uint64{}, MTU: map[string]int{}, Missing: p.Missing(), Warnings: p.Warnings()}
			for name, v := range p.Stats() {
				if v != 0 {
					a.Stats[name] = v
				}
			}
			for r := range fib.RLOCs() {
				a.MTU[r.Addr().String()] = r.MTU()
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			a.Mallocs = m.Mallocs
		case "locals":
			// As who learns of EIDs does it: what is new first in the kernel.
			var list []mapping.EID
			if err := json.Unmarshal([]byte(arg), &list); err != nil {
				return err
			}
			var local []dataplane.LocalEID
			for _, e := range list {
				local = append(local, dataplane.LocalEID{EID: e})
			}
			err := p.SetLocals(list)
			fib.SetLocal(local)
			if err != nil {
				a.Err = err.Error()
			}
		case "rlocs":
			var list []netip.Addr
			if err := json.Unmarshal([]byte(arg), &list); err != nil {
				return err
			}
			p.SetRLOCs(list)
		case "sources":
			var list []dataplane.Source
			if err := json.Unmarshal([]byte(arg), &list); err != nil {
				return err
			}
			fib.SetSources(list)
		case "trace":
			// Begins a trace, and without a filter ends it, and answers what it told.
			if tracer == nil {
				var f dataplane.TraceFilter
				if err := json.Unmarshal([]byte(arg), &f); err != nil {
					return err
				}
				var err error
				if tracer, err = fib.Trace(f); err != nil {
					return err
				}
				break
			}
			tracer.Close()
			for len(tracer.Events()) > 0 {
				a.Traced = append(a.Traced, <-tracer.Events())
			}
			tracer = nil
		case "unreachable":
			for len(p.Unreachable()) > 0 {
				a.Unreachable = append(a.Unreachable, <-p.Unreachable())
			}
		case "traffic":
			a.Traffic = make(map[string]dataplane.Traffic)
			fib.Active(nil) // takes what the kernel has counted
			for e, entry := range fib.Snapshot().All() {
				a.Traffic[e.String()] = entry.Traffic()
			}
			for r := range fib.RLOCs() {
				packets, bytes := r.Count()
				a.Traffic[r.Addr().String()] = dataplane.Traffic{PacketsOut: packets, BytesOut: bytes}
			}
			for _, own := range cfg.Sources {
				a.Traffic[own.String()] = fib.Snapshot().LocalTraffic(own)
			}
		case "active":
			a.Active = fib.Active(nil)
		case "heard":
			a.Heard = p.Heard()
		case "versions":
			for len(p.Versions()) > 0 {
				a.Versions = append(a.Versions, <-p.Versions())
			}
		case "misses":
			for len(p.Misses()) > 0 {
				a.Misses = append(a.Misses, <-p.Misses())
			}
		case "wait", "exit":
			if cmd == "exit" {
				cancel()
			}
			if err := <-done; err != nil {
				return err
			}
			fmt.Println("{}")
			return nil
		}
		b, err := json.Marshal(a)
		if err != nil {
			return err
		}
		fmt.Println(string(b))
	}
	return in.Err()
}
