package tun

import (
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest/sites"
)

var addr, prefix = netip.MustParseAddr, netip.MustParsePrefix

// unfinished is a plane with Config.Unfinished.
const unfinished = "with Config.Unfinished"

func TestMain(m *testing.M) {
	outletInterval = 10 * time.Millisecond
	sites.Main(m, sites.Planes{Start: start})
}

// start makes the plane of an xTR.
func start(c sites.Config, fib *dataplane.FIB) (sites.Plane, error) {
	cfg := Config{
		Locals: c.Locals, Guarded: c.Guarded, ProxyITR: c.ProxyITR, ProxyETR: c.ProxyETR, Host: c.Host, Sources: c.Sources,
		Table: c.Table, Queues: c.Queues, UplinkMTU: c.UplinkMTU, Miss: dataplane.MissPolicy{Hold: c.Hold},
		MapVersioning: c.Version != 0, MSSClamp: c.MSSClamp, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Unfinished: c.Plane == unfinished,
	}
	for _, in := range c.Instances {
		cfg.Instances = append(cfg.Instances, Instance(in))
	}
	return New(cfg, fib)
}
