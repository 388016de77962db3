package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
)

const (
	registerKey  = `{key_id: 1, algorithm: hmac-sha-256-128-hkdf, key: "a key of the data plane benchmark only"}`
	subscribeKey = `{key_id: 1, algorithm: hmac-sha-256-128-hkdf, key: "for publications to the left router only"}`
	leftID       = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	rightID      = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	// fillBatch is how many mappings are put into the map-server at once: fewer
	// than may wait for a subscriber there.
	fillBatch = 4096
)

// startEidolon runs a map-server in the core and an xTR on both routers, and
// fills the left map-cache.
//
// A table of many mappings gets there as it would in life: the left xTR is
// subscribed to the right site's EID-prefix (RFC 9437), the mappings inside are
// put into the map-server, and it publishes them.
func startEidolon(ctx context.Context, s *site) error {
	if s.arm.other && s.job.Other == "" {
		return fmt.Errorf("-other names no build: %w", errUnavailable)
	}
	f := families[s.outside]
	config := fmt.Sprintf("listen: [%q]\nstate_dir: %s\napi: {socket: %s}\nlog: {level: %s}\n",
		netip.AddrPortFrom(f.mapServer, 4342), filepath.Join(s.dir, "state"), s.socket("core"), s.level())
	config += "sites:\n"
	for _, e := range []struct{ name, block string }{{"left", leftBlock}, {"right", rightBlock}} {
		config += fmt.Sprintf("  - {name: %s, authentication_keys: [%s], eid_prefixes: [{prefix: %s, proxy_reply: always}]}\n", e.name, registerKey, e.block)
	}
	config += fmt.Sprintf("pubsub:\n  rate: 100000\n  subscribers:\n    - {xtr_id: %s, site_id: 1, authentication_key: %s}\n", leftID, subscribeKey)
	if err := s.daemon(ctx, "core", "mapserver", config); err != nil {
		return err
	}
	left := s.xtrConfig("x1", leftID, leftBlock, f.left, f.mapServer) + fmt.Sprintf("pubsub: {authentication_key: %s}\nmap_cache: {limit: %d}\n", subscribeKey, maxMappings+1000)
	if err := s.check(ctx, left); err != nil {
		return err
	}
	for node, config := range map[string]string{"x1": left, "x2": s.xtrConfig("x2", rightID, rightBlock, f.right, f.mapServer)} {
		if err := s.daemon(ctx, node, "xtr", config); err != nil {
			return err
		}
	}
	// A packet before that would bring a negative answer, for minutes.
	for _, node := range []string{"x1", "x2"} {
		if err := s.registered(ctx, node); err != nil {
			return err
		}
	}
	switch {
	case s.arm.kernel():
		if err := s.inKernel(ctx); err != nil {
			return err
		}
	case !s.arm.shipped:
		// Super-packets leave whole from the second look at the settings on.
		if err := sleep(ctx, 2*time.Second); err != nil {
			return err
		}
	}
	if s.mappings > 1 {
		return s.fill(ctx, f.right)
	}
	return nil
}

// inKernel waits until the programs of the eBPF plane forward all packets.
func (s *site) inKernel(ctx context.Context) error {
	for deadline := time.Now().Add(10 * time.Second); ; {
		if err := s.reach(ctx); err != nil {
			return err
		}
		before, err := s.statistics(ctx, "x1")
		if err != nil {
			return err
		}
		if _, err := s.hosts["h1"].do(order{Op: "rtt", Src: leftHost, Dst: netip.AddrPortFrom(rightHost, echoPort), Count: 20}); err != nil {
			return err
		}
		after, err := s.statistics(ctx, "x1")
		if err != nil {
			return err
		}
		more := func(name string) uint64 { return after[name] - before[name] }
		if more("host_cache_hits")+more("host_cache_misses") > 0 && more("slow_encap")+more("slow_decap") == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the programs of the eBPF plane forward nothing: %w%s", errUnavailable, s.logs())
		}
	}
}

// statistics are the counters of an xTR.
func (s *site) statistics(ctx context.Context, node string) (map[string]uint64, error) {
	c, err := dialDaemon(s.socket(node))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r, err := eidolonv1.NewAdminServiceClient(c).GetStatistics(ctx, &eidolonv1.GetStatisticsRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", node, err)
	}
	out := map[string]uint64{}
	for _, v := range r.GetStatistics() {
		out[v.GetName()] = v.GetValue()
	}
	return out, nil
}

func (s *site) xtrConfig(node, id, block string, rloc, server netip.Addr) string {
	return fmt.Sprintf("xtr_id: %s\nsite_id: 1\nlocator_sets: [{name: own, locators: [{address: %q, priority: 1, weight: 100}]}]\n", id, rloc) +
		fmt.Sprintf("database_mappings: [{eid: %s, locator_set: own}]\n", block) +
		fmt.Sprintf("map_servers: [{address: %q, authentication_key: %s, proxy_reply: true, want_map_notify: true}]\nmap_resolvers: [%q]\n", server, registerKey, server) +
		fmt.Sprintf("plane: %s\napi: {socket: %s}\nlog: {level: %s}\n", s.plane(node), s.socket(node), s.level())
}

// plane is that of a router. Checksums may be left to the hosts, as the links are
// virtual, but in arms as shipped.
func (s *site) plane(node string) string {
	kind := s.arm.plane
	if node == "x2" && s.arm.right != "" {
		kind = s.arm.right
	}
	if !s.arm.shipped {
		return fmt.Sprintf("{kind: %s, unfinished_checksums: true}", kind)
	}
	return fmt.Sprintf("{kind: %s}", kind)
}

func (s *site) level() string {
	if s.job.Verbose {
		return "info"
	}
	return "warn"
}

func (s *site) socket(node string) string { return filepath.Join(s.dir, node+".sock") }

// check reports an arm as unavailable whose plane xtr does not have.
func (s *site) check(ctx context.Context, config string) error {
	path := filepath.Join(s.dir, "check.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, s.program("xtr"), "check", "--config", path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w", strings.TrimSpace(string(out)), errUnavailable)
	}
	return nil
}

// daemon writes a configuration and starts a program of ours with it.
func (s *site) daemon(ctx context.Context, node, program, config string) error {
	path := filepath.Join(s.dir, node+".yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	role := node
	if program == "mapserver" {
		role = "" // it forwards nothing
	}
	return s.launch(node, role, exec.CommandContext(ctx, s.program(program), "run", "--config", path))
}

// program is the file of a daemon.
func (s *site) program(name string) string {
	if s.arm.other && name == "xtr" {
		return filepath.Join(s.job.Other, name)
	}
	return filepath.Join(s.job.Programs, name)
}

func dialDaemon(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// registered waits until the xTR's registration is acknowledged.
func (s *site) registered(ctx context.Context, node string) error {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		list, err := s.statistics(ctx, node)
		if err != nil {
			return err
		}
		if list["map_notifies_in"] > 0 {
			return nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s is not registered after 30 s", node)
}

// fill puts the mappings into the map-server, and waits until the left map-cache
// has them.
func (s *site) fill(ctx context.Context, locator netip.Addr) error {
	if err := s.reach(ctx); err != nil { // resolves, and so subscribes
		return err
	}
	server, err := dialDaemon(s.socket("core"))
	if err != nil {
		return err
	}
	defer server.Close()
	left, err := dialDaemon(s.socket("x1"))
	if err != nil {
		return err
	}
	defer left.Close()
	cache := eidolonv1.NewRouterServiceClient(left)
	begin := time.Now()
	told := begin
	table := mappings(s.mappings)
	for at := 0; at < len(table); at += fillBatch {
		part := table[at:min(at+fillBatch, len(table))]
		slices.SortFunc(part, netip.Prefix.Compare) // the order in which they are published
		req := &eidolonv1.PutMappingsRequest{}
		for _, p := range part {
			req.Records = append(req.Records, &eidolonv1.Record{Eid: p.String(), Locators: []*eidolonv1.Locator{{Address: locator.String(), Priority: 1, Weight: 100}}})
		}
		if _, err := eidolonv1.NewMappingServiceClient(server).PutMappings(ctx, req); err != nil {
			return fmt.Errorf("put mappings: %w", err)
		}
		if err := cached(ctx, cache, part[len(part)-1]); err != nil {
			return fmt.Errorf("after %d mappings: %w", at, err)
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			s.job.say("%s: %d of %d mappings", s.name(), at, len(table))
		}
	}
	n := 0
	for deadline := time.Now().Add(20 * time.Second); n < len(table); {
		if n, err = countCache(ctx, cache); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the map-cache has %d entries of %d", n, len(table))
		}
	}
	s.job.say("%s: %d entries in the map-cache after %v", s.name(), n, time.Since(begin).Round(100*time.Millisecond))
	return nil
}

// cached waits for an entry in the map-cache.
func cached(ctx context.Context, c eidolonv1.RouterServiceClient, p netip.Prefix) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		r, err := c.LookupMapCache(ctx, &eidolonv1.LookupMapCacheRequest{Eid: p.Addr().String()})
		switch {
		case err == nil && r.GetEntry().GetRecord().GetEid() == p.String():
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%v is not in the map-cache after 30 s (%w)", p, err)
		}
		if err := sleep(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
}

func countCache(ctx context.Context, c eidolonv1.RouterServiceClient) (n int, err error) {
	stream, err := c.ListMapCache(ctx, &eidolonv1.ListMapCacheRequest{Eid: rightBlock})
	if err != nil {
		return 0, err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		n += len(r.GetEntries())
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
