package tun

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest/sites"
	"github.com/eidolon-lisp/eidolon/internal/netns"
)

var addr, prefix = netip.MustParseAddr, netip.MustParsePrefix

// unfinished is a plane with Config.Unfinished.
const unfinished = "with Config.Unfinished"

func TestMain(m *testing.M) {
	outletInterval = 10 * time.Millisecond
	sites.Main(m, sites.Planes{Start: start})
}

// needOutlet skips the test where the kernel is older than what it needs.
func needOutlet(t *testing.T) {
	t.Helper()
	netns.NeedTUN(t)
	err := netns.Fresh(t, 1)[0].Do(func() error {
		o, err := openOutlet()
		if err != nil {
			return err
		}
		return o.Close()
	})
	if err == nil {
		return
	}
	var u unix.Utsname
	sites.Check(t, unix.Uname(&u))
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 || major > 6 || major == 6 && minor >= 17 || os.Getenv("CI") == "true" {
		t.Fatalf("Linux %s: %v", release, err)
	}
	t.Skipf("this test needs Linux 6.17, and this is %s: %v", release, err)
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
