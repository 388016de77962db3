package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// altRouter is one end of a tunnel between two map-servers.
type altRouter struct {
	ns     *netns.NS
	dir    string
	config string
}

func (r *altRouter) start(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := program("run", "--config", r.config)
	cmd.Stderr = os.Stderr
	if err := r.ns.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// awaitRoute waits until the ALT has, or has not, a route to prefix.
func (r *altRouter) awaitRoute(t *testing.T, prefix string, there bool) {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+filepath.Join(r.dir, "s"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	for {
		resp, err := eidolonv1.NewALTServiceClient(conn).GetALT(ctx, &eidolonv1.GetALTRequest{}, grpc.WaitForReady(true))
		if ctx.Err() != nil {
			t.Fatalf("a route to %s: not %v: %v, %v", prefix, there, resp, err)
		}
		found := false
		for _, x := range resp.GetRoutes() {
			found = found || x.GetPrefix() == prefix && x.GetKind() == eidolonv1.ALTRouteKind_ALT_ROUTE_KIND_FORWARD
		}
		if err == nil && found == there {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (r *altRouter) hasTunnel() bool {
	return r.ns.Do(func() error { _, err := netlink.LinkByName("alt0"); return err }) == nil
}

// Two map-servers with a tunnel: what one of them has is asked for at the other.
// One that was killed replaces the tunnel that it has left; an orderly stop takes
// it away.
func TestALT(t *testing.T) {
	ns := netns.Fresh(t, 2)
	if err := netns.Veth(ns[0], "up", ns[1], "up", 1500); err != nil {
		t.Fatal(err)
	}
	var routers [2]*altRouter
	for i := range routers {
		if err := ns[i].AddAddress("up", netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", i+1))); err != nil {
			t.Fatal(err)
		}
		r := &altRouter{ns: ns[i], dir: t.TempDir()}
		r.config = filepath.Join(r.dir, "mapserver.yml")
		text := fmt.Sprintf(`listen: ["192.0.2.%[1]d:4342"]
state_dir: %[3]s
api: {socket: %[3]s/s}
http: {listen: "192.0.2.%[1]d:9342"}
log: {level: warn}
alt:
  as: 6500%[1]d
  router_id: 192.0.2.%[1]d
  tunnels:
    - {name: alt0, kind: vxlan, id: 9, local: 192.0.2.%[1]d, remote: 192.0.2.%[2]d, addresses: [172.16.0.%[1]d/30],
       neighbours: [{address: 172.16.0.%[2]d, as: 6500%[2]d, hold_time: 9s}]}
`, i+1, 2-i, r.dir)
		if i == 1 {
			text += "static_mappings: [{eid: 10.1.0.0/16, locators: [{address: 192.0.2.77}]}]\n"
		}
		if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		routers[i] = r
	}
	root := routers[0].start(t)
	leaf := routers[1].start(t)
	routers[0].awaitRoute(t, "10.1.0.0/16", true)

	// An ITR at 192.0.2.1 asks the one that has nothing.
	var c net.PacketConn
	if err := ns[0].Do(func() (err error) { c, err = net.ListenPacket("udp4", "192.0.2.1:0"); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m := wire.MapRequest{Nonce: 77, ITRRLOCs: []wire.Address{wire.IPAddress(netip.MustParseAddr("192.0.2.1"))},
		EIDs: []wire.RequestRecord{wire.NewRequestRecord(mapping.MustParseEID("10.1.2.3"))}}
	msg, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	ecm := wire.ECM{Src: netip.MustParseAddrPort(c.LocalAddr().String()), Dst: netip.MustParseAddrPort("10.1.2.3:4342"), Message: msg}
	if msg, err = ecm.AppendBinary(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteTo(msg, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4342}); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 2000)
	n, from, err := c.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	var reply wire.MapReply
	if err := reply.Decode(buf[:n]); err != nil || reply.Nonce != 77 || !strings.HasPrefix(from.String(), "192.0.2.2:") {
		t.Errorf("from %v: %+v, %v", from, reply, err)
	}
	for x := range reply.Records.All() {
		if got, err := x.Mapping(); err != nil || got.EID.String() != "10.1.0.0/16" || len(got.Locators) != 1 || got.Locators[0].Addr.String() != "192.0.2.77" {
			t.Errorf("%v, %v", got, err)
		}
	}

	session := func(what string) string {
		t.Helper()
		return scrape(t, netip.MustParseAddrPort("192.0.2.1:9342"), ns[0])["eidolon_mapserver_bgp_neighbour_"+what+`{neighbour="172.16.0.2"}`]
	}
	if up, routes := session("up"), session("received_prefixes"); up != "1" || routes != "1" {
		t.Errorf("the neighbour is up: %s, and announces %s prefixes", up, routes)
	}
	leaf.Process.Kill()
	leaf.Wait()
	routers[0].awaitRoute(t, "10.1.0.0/16", false)
	if up, flaps := session("up"), session("flaps_total"); up != "0" || flaps != "1" {
		t.Errorf("the neighbour was killed, and is up: %s, after %s flaps", up, flaps)
	}
	if !routers[1].hasTunnel() {
		t.Error("a killed process took its tunnel along, and the rest of this test shows nothing")
	}
	leaf = routers[1].start(t)
	routers[0].awaitRoute(t, "10.1.0.0/16", true)
	if err := leaf.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := leaf.Wait(); err != nil {
		t.Errorf("an orderly stop: %v", err)
	}
	if routers[1].hasTunnel() {
		t.Error("an orderly stop leaves the tunnel")
	}
	routers[0].awaitRoute(t, "10.1.0.0/16", false)

	// One that is killed for good.
	cleanup := func() error { return routers[0].ns.Do(program("cleanup").Run) }
	if err := cleanup(); err == nil || !routers[0].hasTunnel() {
		t.Errorf("cleanup beside a running map-server: %v, the tunnel is there %v", err, routers[0].hasTunnel())
	}
	root.Process.Kill()
	root.Wait()
	if left := routers[0].hasTunnel(); !left {
		t.Error("a killed process took its tunnel along")
	}
	if err := cleanup(); err != nil || routers[0].hasTunnel() {
		t.Errorf("cleanup: %v, the tunnel is there %v", err, routers[0].hasTunnel())
	}
}
