package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"

	"github.com/eidolon-lisp/eidolon/internal/netns"
)

// standIns is a program: both daemons of a host, with their sockets in a
// directory, and UDP sockets on further addresses. It prints the address of the
// map-server, and ends with its input.
func standIns() {
	h := &host{dir: os.Args[1]}
	ctx, cancel := context.WithCancel(context.Background())
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	check(h.mapServer(ctx))
	h.xtr(ctx)
	check(h.up())
	for _, a := range os.Args[2:] {
		_, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(a)))
		check(err)
	}
	fmt.Println(h.addr)
	io.Copy(io.Discard, os.Stdin)
	cancel()
	h.wait.Wait()
}

// namespace makes a network namespace for the commands that inside runs, with an
// interface eth2 that has 192.0.2.1 and 2001:db8::1, and one called eidolon0. The
// daemons in it have their sockets in the directory in, and those that it names:
//
//	namespace 192.0.2.1:4341 ...
//
// Further ones change it:
//
//	namespace sysctl KEY VALUE
//	namespace link NAME up|down|MTU
func namespace(ts *testscript.TestScript, neg bool, args []string) {
	h := ts.Value(hostKey{}).(*host)
	switch {
	case h.ns == nil:
		ns, err := netns.New()
		ts.Check(err)
		ts.Defer(func() { ns.Close() })
		h.ns = ns
		for _, name := range []string{"eth2", "eidolon0"} {
			ts.Check(netns.Veth(ns, name, ns, name+"-end", 1500))
		}
		ts.Check(ns.AddAddress("eth2", netip.MustParsePrefix("192.0.2.1/24")))
		ts.Check(ns.AddAddress("eth2", netip.MustParsePrefix("2001:db8::1/64")))
		ts.Check(os.Mkdir(ts.MkAbs("in"), 0o755))
		cmd := exec.Command("daemons", append([]string{ts.MkAbs("in")}, args...)...)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		ts.Check(err)
		in, err := cmd.StdinPipe()
		ts.Check(err)
		ts.Check(ns.Do(cmd.Start))
		ts.Defer(func() { in.Close(); cmd.Wait() })
		line, err := bufio.NewReader(out).ReadString('\n')
		ts.Check(err)
		ts.Setenv("MS_IN", strings.TrimSpace(line))
	case args[0] == "sysctl":
		ts.Check(h.ns.SetSysctl(args[1], args[2]))
	case args[0] == "link":
		ts.Check(h.ns.Do(func() error {
			l, err := netlink.LinkByName(args[1])
			if err != nil {
				return err
			}
			switch args[2] {
			case "up":
				return netlink.LinkSetUp(l)
			case "down":
				return netlink.LinkSetDown(l)
			}
			mtu, err := strconv.Atoi(args[2])
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(l, mtu)
		}))
	default:
		ts.Fatalf("namespace %s?", args[0])
	}
}

// fill puts the values of variables into files.
func fill(ts *testscript.TestScript, neg bool, args []string) {
	for _, file := range args {
		text := os.Expand(ts.ReadFile(file), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o600))
		ts.Check(os.Chmod(ts.MkAbs(file), 0o600))
	}
}

// inside runs lispctl in the namespace and checks its exit code: inside 2 lispctl
// doctor.
func inside(ts *testscript.TestScript, neg bool, args []string) {
	h := ts.Value(hostKey{}).(*host)
	ts.Check(h.ns.Do(func() error {
		err := ts.Exec(args[1], args[2:]...)
		got := "0"
		if err != nil {
			got = strings.TrimPrefix(err.Error(), "exit status ")
		}
		if got != args[0] {
			return errors.New("exit code " + got + ", want " + args[0])
		}
		return nil
	}))
}

// The kernel tells its sockets in words of its own byte order, which only a
// socket of ours proves to be understood.
func TestUDPSockets(t *testing.T) {
	var want []netip.AddrPort
	for _, a := range []string{"127.0.0.1", "::1"} {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(a)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		want = append(want, c.LocalAddr().(*net.UDPAddr).AddrPort())
	}
	list, err := udpSockets()
	if err != nil {
		t.Fatal(err)
	}
	own, err := socketsOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range want {
		w = netip.AddrPortFrom(w.Addr().Unmap(), w.Port())
		i := slices.IndexFunc(list, func(s udpSocket) bool { return s.local == w })
		if i < 0 {
			t.Fatalf("%v is not among %v", w, list)
		}
		if !own[list[i].inode] {
			t.Errorf("the socket %v is not known to be this process's", w)
		}
		if who := owner(list[i].inode); !strings.Contains(who, "process ") {
			t.Errorf("the socket %v belongs to %s", w, who)
		}
	}
	for _, bad := range []string{"0: 0100007:10F5 0 0 0 0 0 0 0 1", "0: 0100007F:10F50 0 0 0 0 0 0 0 1", "0: 0100007F7F:10F5 0 0 0 0 0 0 0 1"} {
		if l, err := parseUDPSockets([]byte(bad)); err == nil {
			t.Errorf("%q is read as %v", bad, l)
		}
	}
}

func TestMeets(t *testing.T) {
	for _, c := range []struct {
		bound, on string
		want      bool
	}{
		{"192.0.2.1:4342", "192.0.2.1:4342", true},
		{"192.0.2.1:4341", "192.0.2.1:4342", false},
		{"192.0.2.2:4342", "192.0.2.1:4342", false},
		{"0.0.0.0:4342", "192.0.2.1:4342", true},
		{"0.0.0.0:4342", "[2001:db8::1]:4342", false},
		{"[::]:4342", "192.0.2.1:4342", true},
		{"[::]:4342", "[2001:db8::1]:4342", true},
		{"192.0.2.1:4342", "0.0.0.0:4342", true},
		{"[2001:db8::1]:4342", "0.0.0.0:4342", false},
	} {
		if got := (udpSocket{local: netip.MustParseAddrPort(c.bound)}).meets(netip.MustParseAddrPort(c.on)); got != c.want {
			t.Errorf("%s meets %s: %v", c.bound, c.on, got)
		}
	}
}

func TestInlineKey(t *testing.T) {
	for text, want := range map[string]bool{
		"authentication_key: {key_id: 1, key: secret}": true,
		"  - key: secret":                       true,
		"{\"key\": \"x\"}":                      true,
		"authentication_key: {key_file: a.key}": false,
		"# key: x\nkey_id: 1":                   false,
		"authentication_key:\n  key_file: x\n":  false,
	} {
		if inlineKey.MatchString(text) != want {
			t.Errorf("%q has a key: %v", text, !want)
		}
	}
}
