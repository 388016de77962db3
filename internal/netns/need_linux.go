package netns

import (
	"os"

	"golang.org/x/sys/unix"
)

// TB is what Need and Fresh use of testing.TB; this package does not import
// testing, because the lab's program links it too.
type TB interface {
	Helper()
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// Need ends the test unless it can create network namespaces: it skips with
// the reason, or fails where the environment says CI=true, because there the
// feature must exist.
func Need(t TB) {
	t.Helper()
	if err := probe(); err != nil {
		unavailable(t, "this test needs network namespaces (run it as root): %v", err)
	}
}

// NeedTUN is Need, and wants /dev/net/tun to be there and open to us as well.
func NeedTUN(t TB) {
	t.Helper()
	Need(t)
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		unavailable(t, "this test needs a TUN device: %v", err)
		return
	}
	f.Close()
}

// Fresh returns n new namespaces, closed when the test ends. It calls Need.
func Fresh(t TB, n int) []*NS {
	t.Helper()
	Need(t)
	list := make([]*NS, n)
	for i := range list {
		ns, err := New()
		if err != nil {
			t.Fatalf("%v", err)
		}
		t.Cleanup(func() { ns.Close() })
		list[i] = ns
	}
	return list
}

func probe() error {
	return onThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) })
}

func unavailable(t TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
