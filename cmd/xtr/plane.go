package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/bpf"
	"github.com/eidolon-lisp/eidolon/dataplane/tun"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/internal/uplink"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// sitePlane is either plane.
type sitePlane interface {
	dataplane.Plane
	Warnings() []string
	SetLocals([]mapping.EID) error
}

// feasible says whether a plane of a kind can work on this machine.
func feasible(kind string) (warning, err error) {
	if kind == "bpf" {
		if warning = bpf.Available(); warning != nil {
			warning = fmt.Errorf("the kernel plane can't work here, so packets would be forwarded by the TUN plane: %w", warning)
		}
	}
	return warning, tun.Available()
}

// newPlane creates the plane that the configuration asks for, or the TUN plane
// where the kernel plane can't work.
func newPlane(cfg *config.XTR, c tun.Config, fib *dataplane.FIB) (sitePlane, error) {
	if cfg.Plane.Kind == "bpf" {
		err := bpf.Available()
		if err == nil {
			return bpf.New(bpf.Config{Config: c, Mappings: cfg.MapCacheLimit}, fib)
		}
		c.Logger.Warn("the kernel plane can't work here, so packets are forwarded by the TUN plane", "err", err)
	}
	p, err := tun.New(c, fib)
	if err != nil {
		return nil, err
	}
	// A killed kernel plane may have been here before.
	if err := bpf.Cleanup(); err != nil {
		c.Logger.Warn("what an earlier kernel plane may have left is not removed", "err", err)
	}
	return p, nil
}

// byKernel says whether packets pass without the process seeing them, unless they
// are traced.
func byKernel(p sitePlane) bool {
	_, kernel := p.(*bpf.Plane)
	return kernel
}

// cleanup is the command that removes what a killed xTR has left.
func cleanup() *cobra.Command {
	return &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what an xTR that was killed has left in the kernel: programs, their pins, routes and rules, those of uplinks too",
		Long: `cleanup removes what an xtr that was killed has left in the kernel: programs of the
kernel plane and their pins, routes and rules, those of uplinks too. Until then
packets of the site are refused rather than leaked, and the next start takes over;
after it they are forwarded like any others. It does nothing while an xtr runs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// While one runs, its devices are there.
			err := tun.Cleanup()
			if errors.Is(err, tun.ErrRunning) {
				return err
			}
			// The programs before the routes by which they send.
			if err := errors.Join(err, bpf.Cleanup(), uplink.Cleanup()); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "nothing of xtr is left in the kernel; packets of the site are forwarded like any others")
			return err
		},
	}
}
