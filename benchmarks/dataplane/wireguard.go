package main

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	wireguardPort    = 51820
	wireguardSockets = "/var/run/wireguard"
	wireguardMTU     = 1420 // its default
)

// startWireguard runs wireguard-go on both routers and configures it by its own
// socket, so that no other program is needed.
func startWireguard(ctx context.Context, s *site) error {
	if s.job.Wireguard == "" {
		return fmt.Errorf("wireguard-go is not in the path, nor named by -wireguard: %w", errUnavailable)
	}
	f := families[s.outside]
	type end struct {
		node, block string
		remote      netip.Addr
		key         *ecdh.PrivateKey
	}
	ends := []*end{{node: "x1", block: rightBlock, remote: f.right}, {node: "x2", block: leftBlock, remote: f.left}}
	for _, e := range ends {
		var err error
		if e.key, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return err
		}
	}
	for i, e := range ends {
		dev := fmt.Sprintf("wg%d%s", s.outside, e.node)
		cmd := exec.CommandContext(ctx, s.job.Wireguard, "-f", dev)
		cmd.Env = append(os.Environ(), "LOG_LEVEL=error")
		if err := s.launch(e.node, e.node, cmd); err != nil {
			return err
		}
		c, err := dialUnix(filepath.Join(wireguardSockets, dev+".sock"))
		if err != nil {
			return fmt.Errorf("wireguard-go: %w", err)
		}
		peer := ends[1-i]
		fmt.Fprintf(c, "set=1\nprivate_key=%s\nlisten_port=%d\nreplace_peers=true\npublic_key=%s\nendpoint=%s\nallowed_ip=%s\n\n",
			hex.EncodeToString(e.key.Bytes()), wireguardPort, hex.EncodeToString(peer.key.PublicKey().Bytes()),
			netip.AddrPortFrom(e.remote, wireguardPort), e.block)
		answer, err := bufio.NewReader(c).ReadString('\n')
		c.Close()
		if err != nil || strings.TrimSpace(answer) != "errno=0" {
			return fmt.Errorf("wireguard-go: %q, %v", answer, err)
		}
		ns := s.w.ns[e.node]
		if err := s.w.withLink(e.node, dev, func(l netlink.Link) error { return netlink.LinkSetMTU(l, wireguardMTU) }); err != nil {
			return err
		}
		if err := ns.Up(dev); err != nil {
			return err
		}
		if err := addRouteTo(ns, e.block, dev); err != nil {
			return fmt.Errorf("%s: route to %s: %w", e.node, dev, err)
		}
	}
	return nil
}

// dialUnix connects to a socket that a program is about to open.
func dialUnix(path string) (c net.Conn, err error) {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if c, err = net.Dial("unix", path); err == nil {
			return c, nil
		}
	}
	return nil, err
}
