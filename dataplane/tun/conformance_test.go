package tun

import (
	"fmt"
	"testing"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
)

// inState makes a plane in a state of the suite.
func inState(s *dptest.State, fib *dataplane.FIB) (dataplane.Plane, error) {
	return newInState(s, fib, false)
}

func newInState(s *dptest.State, fib *dataplane.FIB, unfinished bool) (*Plane, error) {
	cfg := Config{
		Unfinished: unfinished,
		ProxyITR:   s.Proxies.ITR, ProxyETR: s.Proxies.ETR, Queues: 1,
		Miss: s.Config.Miss, MapVersioning: s.Config.MapVersioning, SourceCheck: s.Config.SourceCheck, MSSClamp: s.Config.MSSClamp,
	}
	for _, iid := range s.Instances() {
		cfg.Instances = append(cfg.Instances, Instance{IID: iid})
	}
	for _, l := range s.Locals() {
		cfg.Locals = append(cfg.Locals, l.EID)
	}
	for _, src := range s.Sources {
		cfg.Sources = append(cfg.Sources, src.Addr)
	}
	return New(cfg, fib)
}

// The plane behind a router passes the suite, and so does what is between the
// devices and the sockets, where packets come that no router forwards.
func TestConformance(t *testing.T) {
	dptest.Run(t, dptest.Wire(inState))
}

// With the outlet super-packets leave as what the kernel makes of the frames that
// come out of it.
func TestConformanceOfOutlet(t *testing.T) {
	needOutlet(t)
	f := dptest.Wire(func(s *dptest.State, fib *dataplane.FIB) (dataplane.Plane, error) {
		p, err := newInState(s, fib, true)
		if err == nil {
			for range 2 {
				p.outlet.look(p.host, true, true)
			}
		}
		return p, err
	})
	dptest.Run(t, f)
}

func TestConformanceOfDevices(t *testing.T) {
	dptest.Run(t, dptest.Devices(inState, func(iid uint32) string { return fmt.Sprintf("eidolon%d", iid) }))
}
