package bpf

import (
	"log/slog"
	"net/netip"
	"os"
	"testing"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest/sites"
	"github.com/eidolon-lisp/eidolon/dataplane/tun"
)

var addr, prefix = netip.MustParseAddr, netip.MustParsePrefix

// The planes of an xTR besides the kernel plane with everything.
const (
	slowOnly       = "TUN"
	slowUnfinished = "TUN with Config.Unfinished"
	safe           = "without Config.Unfinished"
	classic        = "as on a kernel without TCX"
)

func TestMain(m *testing.M) { sites.Main(m, sites.Planes{Start: start, Cleanup: Cleanup}) }

// start makes the plane of an xTR.
func start(c sites.Config, fib *dataplane.FIB) (sites.Plane, error) {
	slow := tun.Config{
		Locals: c.Locals, Guarded: c.Guarded, ProxyITR: c.ProxyITR, ProxyETR: c.ProxyETR, Host: c.Host, Sources: c.Sources,
		Table: c.Table, Queues: c.Queues, UplinkMTU: c.UplinkMTU, Miss: dataplane.MissPolicy{Hold: c.Hold},
		MapVersioning: c.Version != 0, MSSClamp: c.MSSClamp, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	for _, in := range c.Instances {
		slow.Instances = append(slow.Instances, tun.Instance(in))
	}
	slow.Unfinished = c.Plane != safe && c.Plane != slowOnly
	if c.Plane == slowOnly || c.Plane == slowUnfinished {
		return tun.New(slow, fib)
	}
	return New(Config{Config: slow, Mappings: c.Mappings, classic: c.Plane == classic}, fib)
}
