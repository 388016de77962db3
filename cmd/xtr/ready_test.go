package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping/bgp/bgptest"
)

const readyFile = `
locator_sets: [{name: site, locators: [{address: 192.0.2.1}]}]
database_mappings: [{eid: 10.1.0.0/16, locator_set: site}]
map_servers: [{address: 192.0.2.10, authentication_key: {key_id: 1, algorithm: hmac-sha-256-128-hkdf, key: an example key of enough octets}, want_map_notify: true}]
map_resolvers: [192.0.2.10]
api: {socket: SOCKET}
log: {level: warn}
`

// The health service tells a daemon that serves from one that can do its work, as
// it becomes able to, and until it ends.
func TestReadiness(t *testing.T) {
	netns.NeedTUN(t)
	ns := netns.Fresh(t, 2)
	if err := errors.Join(netns.Veth(ns[0], "up", ns[1], "net", 1500), ns[0].AddAddress("up", netip.MustParsePrefix("192.0.2.1/24")),
		ns[1].AddAddress("net", netip.MustParsePrefix("192.0.2.10/24"))); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	socket, path := filepath.Join(dir, "xtr.sock"), filepath.Join(dir, "xtr.yml")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(readyFile, "SOCKET", socket)), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := startDaemon(t, ns[0], path)
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := healthv1.NewHealthClient(conn)
	check := func(service string) healthv1.HealthCheckResponse_ServingStatus {
		resp, err := c.Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
		if err != nil {
			t.Logf("%q: %v", service, err)
		}
		return resp.GetStatus()
	}
	const serving, not = healthv1.HealthCheckResponse_SERVING, healthv1.HealthCheckResponse_NOT_SERVING
	bgptest.Eventually(t, 20*time.Second, "the daemon serves", func() bool { return check("") == serving })
	if got := check("ready"); got != not {
		t.Fatalf("without a map-server the daemon is %v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	watch, err := c.Watch(ctx, &healthv1.HealthCheckRequest{Service: "ready"})
	if err != nil {
		t.Fatal(err)
	}
	next := func(want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if resp, err := watch.Recv(); err != nil || resp.GetStatus() != want {
			t.Fatalf("the watch tells %v, %v, want %v", resp, err, want)
		}
	}
	next(not)
	_, stopServer := startMapServer(t, ns[1], netip.MustParseAddrPort("192.0.2.10:4342"))
	defer stopServer()
	next(serving)
	if got := check("ready"); got != serving {
		t.Errorf("with a registration the daemon is %v", got)
	}
	if list, err := c.List(ctx, &healthv1.HealthListRequest{}); err != nil || list.GetStatuses()["ready"].GetStatus() != serving || list.GetStatuses()[""].GetStatus() != serving {
		t.Errorf("List: %v, %v", list, err)
	}
	if _, err := c.Check(ctx, &healthv1.HealthCheckRequest{Service: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("a service that is not there: %v", err)
	}
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	next(not)
}
