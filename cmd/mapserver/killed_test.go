package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// beMapserver makes this test binary the program itself.
const beMapserver = "EIDOLON_TEST_MAPSERVER"

func TestMain(m *testing.M) {
	if os.Getenv(beMapserver) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

var siteKey = auth.Key{ID: 1, Algorithm: auth.SHA256HKDF, Secret: []byte("the key of a site under test")}

// TestKilled kills the program with SIGKILL under registration load, three
// times over one state_dir: after each start it answers for every EID with a
// registration at least as new as the last one that it acknowledged.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	addr := freePort(t)
	config := filepath.Join(dir, "mapserver.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `listen: [%q]
state_dir: %s
sites:
  - name: site
    authentication_keys: [{key_id: 1, algorithm: %v, key: %q}]
    eid_prefixes: [{prefix: 10.0.0.0/8, accept_more_specifics: true, proxy_reply: always}]
api: {socket: %s}
`, addr, dir, siteKey.Algorithm, siteKey.Secret, filepath.Join(dir, "s")), 0o600); err != nil {
		t.Fatal(err)
	}
	// A registration's version is its nonce, and its locator says it too.
	version := uint32(0)
	sent, notified := map[uint32]mapping.EID{}, map[mapping.EID]uint32{}
	for round := range 3 {
		kill := start(t, config)
		conn, err := net.Dial("udp4", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ask(t, conn, mapping.HostEID(0, netip.MustParseAddr("10.255.0.1"))) // until it is up
		for e, v := range notified {
			if got := ask(t, conn, e); got < v || sent[got] != e {
				t.Fatalf("round %d: %v is answered with version %d, version %d was acknowledged", round, e, got, v)
			}
		}
		written, acknowledged, buf := 0, 0, make([]byte, 65536)
		end, killed := time.Now().Add(500*time.Millisecond), false
		for {
			// 64 registrations are always under way, so that the kill meets
			// some in every state.
			for !killed && written-acknowledged < 64 {
				version++
				written++
				e := mapping.HostEID(0, netip.AddrFrom4([4]byte{10, 0, byte(version % 5), byte(version % 251)}))
				sent[version] = e
				if _, err := conn.Write(register(t, e, version)); err != nil {
					t.Fatal(err)
				}
			}
			conn.SetReadDeadline(time.Now().Add(2 * time.Second))
			if killed {
				conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // what is in the socket still counts
			}
			n, err := conn.Read(buf)
			if err != nil && killed {
				break
			}
			if err != nil {
				t.Fatalf("no Map-Notify: %v", err)
			}
			if ty, _ := wire.PeekType(buf[:n]); ty == wire.TypeMapReply {
				continue // a late answer to a repeated question
			}
			var m wire.MapNotify
			if err := m.Decode(buf[:n]); err != nil {
				t.Fatal(err)
			}
			v := uint32(m.Nonce)
			notified[sent[v]] = max(notified[sent[v]], v)
			if acknowledged++; !killed && time.Now().After(end) {
				kill()
				killed = true
			}
		}
		t.Logf("round %d: killed after %d acknowledged registrations, %d under way; %d EIDs", round, acknowledged, written-acknowledged, len(notified))
		if acknowledged < 100 {
			t.Fatal("that is no load")
		}
	}
}

// program is a mapserver with these arguments.
func program(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), beMapserver+"=1")
	return cmd
}

// start runs the program until the returned function kills it.
func start(t *testing.T, config string) (kill func()) {
	t.Helper()
	cmd := program("run", "--config", config)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Cleanup(kill)
	return kill
}

func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// register encodes a signed Map-Register of e.
func register(t *testing.T, e mapping.EID, version uint32) []byte {
	t.Helper()
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 20<<24|version)
	recs, err := wire.NewRecords(&mapping.Record{EID: e, TTL: 60, Locators: []mapping.Locator{mapping.MakeLocator(netip.AddrFrom4(b), 1, 100)}})
	if err != nil {
		t.Fatal(err)
	}
	m := wire.MapRegister{WantNotify: true, Nonce: uint64(version), Auth: siteKey.Template(), Records: recs}
	msg, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := auth.Sign(msg, siteKey); err != nil {
		t.Fatal(err)
	}
	return msg
}

// ask resolves e, which the server may need a moment after its start for, and
// returns the version that it answers with; 0 for none.
func ask(t *testing.T, conn net.Conn, e mapping.EID) uint32 {
	t.Helper()
	a := e.Prefix.Addr().As4()
	nonce := 1<<32 | uint64(binary.BigEndian.Uint32(a[:]))
	req := wire.MapRequest{
		Nonce:    nonce,
		ITRRLOCs: []wire.Address{wire.IPAddress(netip.MustParseAddr("127.0.0.1"))},
		EIDs:     []wire.RequestRecord{{MaskLen: 32, EID: wire.IPAddress(e.Prefix.Addr())}},
	}
	msg, err := req.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 65536)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		conn.Write(msg) // refused as long as nobody listens
		conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := conn.Read(buf)
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		var m wire.MapReply
		if err := m.Decode(buf[:n]); err != nil || m.Nonce != nonce {
			continue // the answer to a repeated question
		}
		for r := range m.Records.All() {
			for l := range r.Locators() {
				ip, _ := l.Address.IP()
				b := ip.As4()
				return binary.BigEndian.Uint32(b[:]) &^ (20 << 24)
			}
		}
		return 0
	}
	t.Fatalf("no answer for %v", e)
	return 0
}
