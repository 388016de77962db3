package testnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	a4 = "192.0.2.1:4342"
	b4 = "192.0.2.2:4342"
	a6 = "[2001:db8::1]:4342"
	b6 = "[2001:db8::2]:4342"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

type arrival struct {
	at       time.Duration
	src, dst netip.AddrPort
	data     string
}

// collect reads from c until it is closed.
func collect(c *Conn) func() []arrival {
	var got []arrival
	start, done := time.Now(), make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 100)
		for {
			n, src, dst, err := c.Read(buf)
			if err != nil {
				return
			}
			got = append(got, arrival{time.Since(start), src, dst, string(buf[:n])})
		}
	}()
	return func() []arrival { c.Close(); <-done; return got }
}

func TestLatencyAndAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(t, Path{Latency: 20 * time.Millisecond})
		a, b := n.MustListen(t, a4, a6), n.MustListen(t, b4, b6)
		end := collect(b)
		for _, w := range []struct {
			data     string
			src, dst netip.AddrPort
		}{{"one", netip.AddrPort{}, ap(b4)}, {"two", netip.AddrPortFrom(ap(a6).Addr(), 0), ap(b6)}, {"three", netip.AddrPort{}, ap(b6)}} {
			if err := a.Write([]byte(w.data), w.src, w.dst); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		want := []arrival{
			{20 * time.Millisecond, ap(a4), ap(b4), "one"},
			{20 * time.Millisecond, ap(a6), ap(b6), "two"},
			{20 * time.Millisecond, ap(a6), ap(b6), "three"},
		}
		if got := end(); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestOrderWithoutJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(t, Path{Latency: time.Millisecond})
		a, b := n.MustListen(t, a4), n.MustListen(t, b4)
		end := collect(b)
		for i := range 200 {
			a.Write([]byte{byte(i)}, netip.AddrPort{}, ap(b4))
		}
		time.Sleep(time.Second)
		got := end()
		if len(got) != 200 {
			t.Fatalf("%d of 200 arrived", len(got))
		}
		for i, g := range got {
			if g.data != string([]byte{byte(i)}) {
				t.Fatalf("datagram %d is %q", i, g.data)
			}
		}
	})
}

// TestSameSeedSameRun sends over a bad path and compares two runs of one seed,
// and that another seed gives another run.
func TestSameSeedSameRun(t *testing.T) {
	run := func(seed uint64) (out string) {
		synctest.Test(t, func(t *testing.T) {
			n := NewSeeded(seed, Path{Latency: 10 * time.Millisecond, Jitter: 30 * time.Millisecond, Loss: 0.2, Duplicate: 0.2})
			a, b := n.MustListen(t, a4), n.MustListen(t, b4)
			end := collect(b)
			for i := range 500 {
				a.Write([]byte(fmt.Sprint(i)), netip.AddrPort{}, ap(b4))
				time.Sleep(time.Millisecond)
			}
			time.Sleep(time.Second)
			got := end()
			lost, twice, reordered := 0, 0, 0
			seen := map[string]int{}
			last := -1
			for _, g := range got {
				seen[g.data]++
				var i int
				fmt.Sscan(g.data, &i)
				if i < last {
					reordered++
				}
				last = i
			}
			for i := range 500 {
				switch seen[fmt.Sprint(i)] {
				case 0:
					lost++
				case 2:
					twice++
				}
			}
			if lost < 50 || lost > 150 || twice < 30 || twice > 150 || reordered < 50 {
				t.Errorf("lost %d, twice %d, reordered %d of 500", lost, twice, reordered)
			}
			out = fmt.Sprint(got)
		})
		return out
	}
	first := run(1)
	if first != run(1) {
		t.Error("two runs of one seed differ")
	}
	if first == run(2) {
		t.Error("two seeds give the same run")
	}
}

func TestFates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(t, Path{})
		a, b := n.MustListen(t, a4), n.MustListen(t, b4)
		end := collect(b)
		send := func(s string) { a.Write([]byte(s), netip.AddrPort{}, ap(b4)) }
		send("ok")
		n.Partition(ap(a4).Addr(), ap(b4).Addr(), true)
		send("partitioned")
		n.Partition(ap(a4).Addr(), ap(b4).Addr(), false)
		n.SetFilter(func(d Datagram) bool { return string(d.Data) != "filtered" })
		send("filtered")
		n.SetPath(ap(a4).Addr(), ap(b4).Addr(), Path{Loss: 1})
		send("lost")
		n.SetPath(ap(a4).Addr(), ap(b4).Addr(), Path{})
		send("again")
		a.Write([]byte("nobody"), netip.AddrPort{}, ap("192.0.2.9:1"))
		synctest.Wait()
		var got []string
		for _, d := range n.Datagrams() {
			got = append(got, string(d.Data)+" "+d.Fate.String())
		}
		want := "ok sent,partitioned blocked,filtered blocked,lost lost,again sent,nobody unreachable"
		if s := strings.Join(got, ","); s != want {
			t.Errorf("got  %s\nwant %s", s, want)
		}
		if got := end(); len(got) != 2 || got[0].data != "ok" || got[1].data != "again" {
			t.Errorf("arrived: %v", got)
		}
	})
}

func TestErrors(t *testing.T) {
	n := New(t, Path{})
	a := n.MustListen(t, a4)
	if _, err := n.Listen(ap(a4)); err == nil {
		t.Error("an address was given twice")
	}
	if _, err := n.Listen(ap("0.0.0.0:4342")); err == nil {
		t.Error("a wildcard was accepted")
	}
	for _, w := range [][2]netip.AddrPort{
		{ap(b4), ap(b4)}, {{}, ap(b6)}, {ap(a4), ap(b6)}, {{}, {}},
	} {
		if err := a.Write(nil, w[0], w[1]); err == nil {
			t.Errorf("write from %v to %v succeeded", w[0], w[1])
		}
	}
	a.Close()
	a.Close()
	if _, _, _, err := a.Read(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	if err := a.Write(nil, netip.AddrPort{}, ap(b4)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	if _, err := n.Listen(ap(a4)); err != nil {
		t.Errorf("address not free after close: %v", err)
	}
}

func TestOverflow(t *testing.T) {
	n := New(t, Path{})
	a := n.MustListen(t, a4)
	n.MustListen(t, b4)
	for range queueLen + 3 {
		a.Write([]byte{1}, netip.AddrPort{}, ap(b4))
	}
	over := 0
	for _, d := range n.Datagrams() {
		if d.Fate == Overflow {
			over++
		}
	}
	if over != 3 {
		t.Errorf("%d overflowed, want 3", over)
	}
}
