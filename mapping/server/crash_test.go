package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/boltstore"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// crashEnv tells the test binary that it is a map-server to be killed: the
// path of its store.
const crashEnv = "EIDOLON_SERVER_CRASH"

func crashConfig() Config {
	return Config{Sites: []Site{{Name: "s", Keys: []auth.Key{leftKey}, Prefixes: []SitePrefix{{EID: eid("10.0.0.0/8"), AcceptMoreSpecifics: true}}}}}
}

// crashChild is the map-server that TestKilled kills. It writes its address to
// standard output.
func crashChild() {
	path := os.Getenv(crashEnv)
	if path == "" {
		return
	}
	err := func() error {
		store, err := boltstore.Open(path)
		if err != nil {
			return err
		}
		conn, err := udp.Listen([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")})
		if err != nil {
			return err
		}
		s, err := New(context.Background(), crashConfig(), store)
		if err != nil {
			return err
		}
		fmt.Println(conn.Addrs()[0])
		return s.Run(context.Background(), conn, 2)
	}()
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestKilled registers as fast as it can with a map-server in a process of its
// own, kills that with SIGKILL, and finds in the store every registration that
// was notified, and its nonce or a later one.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	// notified holds, for each EID, the version (the last octets of the
	// locator) and the nonce of the last Map-Notify.
	type state struct {
		version int
		nonce   uint64
	}
	notified := make(map[mapping.EID]state)
	nonce := uint64(1)
	for round := range 3 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			cmd.Process.Kill()
			cmd.Wait()
		}()
		var where string
		if _, err := fmt.Fscanln(out, &where); err != nil {
			t.Fatalf("the map-server did not start: %v", err)
		}
		conn, err := net.Dial("udp4", where)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		type registered struct {
			eid     mapping.EID
			version int
		}
		sent, underWay := make(map[uint64]registered), 0
		buf := make([]byte, 65536)
		end := time.Now().Add(400 * time.Millisecond)
		killed := false
		for version := 1; ; {
			// A window of Map-Registers is always under way, so that the
			// kill meets some in every state.
			for ; !killed && underWay < 64; version++ {
				e := mapping.HostEID(0, netip.AddrFrom4([4]byte{10, 0, byte(version % 7), byte(version % 199)}))
				nonce++
				l := mapping.MakeLocator(netip.AddrFrom4([4]byte{192, byte(round), byte(version >> 8), byte(version)}), 1, 1)
				msg := encodeRegister(t, registering{key: leftKey, nonce: nonce, records: []*mapping.Record{{EID: e, TTL: 60, Locators: []mapping.Locator{l}}}})
				sent[nonce] = registered{e, round<<16 | version}
				underWay++
				if _, err := conn.Write(msg); err != nil {
					t.Fatal(err)
				}
			}
			wait := time.Second
			if killed {
				wait = 50 * time.Millisecond // what is in the socket's buffer still counts
			}
			conn.SetReadDeadline(time.Now().Add(wait))
			n, err := conn.Read(buf)
			if err != nil {
				if killed {
					break
				}
				underWay = 0 // lost
			} else {
				var m wire.MapNotify
				if err := m.Decode(buf[:n]); err != nil {
					t.Fatal(err)
				}
				x, ok := sent[m.Nonce]
				if !ok {
					t.Fatalf("a Map-Notify with a nonce of nobody: %d", m.Nonce)
				}
				underWay--
				if m.Nonce > notified[x.eid].nonce {
					notified[x.eid] = state{x.version, m.Nonce}
				}
			}
			if !killed && time.Now().After(end) {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				cmd.Wait()
				killed = true
			}
		}

		store, err := boltstore.Open(path)
		if err != nil {
			t.Fatalf("after the kill: %v", err)
		}
		stored := make(map[mapping.EID]int)
		last := uint64(0)
		highest := uint64(0)
		for it, err := range store.Items(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			switch it.Kind {
			case mapping.ItemRegistration:
				a := it.Record.Locators[0].Addr.As4()
				stored[it.EID] = int(a[1])<<16 | int(a[2])<<8 | int(a[3])
			case mapping.ItemNonce:
				last = it.Nonce
			}
		}
		for e, x := range notified {
			highest = max(highest, x.nonce)
			if v, ok := stored[e]; !ok || v < x.version {
				t.Errorf("round %d: version %x of %v was notified, the store has %x (%v)", round, x.version, e, v, ok)
			}
		}
		if last < highest {
			t.Errorf("round %d: nonce %d was notified, the store has %d", round, highest, last)
		}
		// A restarted server answers from it at once.
		s, err := New(t.Context(), crashConfig(), store)
		if err != nil {
			t.Fatal(err)
		}
		for e := range notified {
			if st, ok := s.Lookup(e); !ok || st.Origin != OriginRegistered {
				t.Errorf("round %d: %v is not in the database: %+v", round, e, st)
			}
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		t.Logf("round %d: %d EIDs, up to nonce %d", round, len(notified), highest)
		if len(notified) < 50 {
			t.Errorf("round %d: only %d EIDs were notified", round, len(notified))
		}
	}
}
