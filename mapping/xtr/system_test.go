package xtr

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/testnet"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// TestE12_RolloverWithMapServer: a real map-server keeps the registration while
// the site changes its key: from the first of two to the second, and, where the
// map-server has one key only, in spite of a new one that it does not have yet.
func TestE12_RolloverWithMapServer(t *testing.T) {
	for _, c := range []struct {
		name   string
		server []auth.Key
		after  []auth.Key // of the site
		used   uint8      // key-id in the end
	}{
		{"map-server has both", []auth.Key{key, newKey}, []auth.Key{newKey}, newKey.ID},
		{"map-server has the old one", []auth.Key{key}, []auth.Key{newKey, key}, key.ID},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testnet.New(t, testnet.Path{Latency: 20 * time.Millisecond})
				conn := n.MustListen(t, ms1.String())
				ms, err := server.New(t.Context(), server.Config{Sites: []server.Site{{
					Name: "a", Keys: c.server,
					Prefixes: []server.SitePrefix{{EID: eid("10.1.0.0/16")}, {EID: eid("2001:db8:1::/48")}},
				}}}, nil)
				if err != nil {
					t.Fatal(err)
				}
				ctx, stop := context.WithCancel(context.Background())
				done := make(chan error, 1)
				go func() { done <- ms.Run(ctx, conn, 1) }()
				defer func() {
					stop()
					if err := <-done; err != nil {
						t.Error(err)
					}
				}()
				s := startSite(t, n, testConfig())
				longest := time.Duration(0)
				watch := func(d time.Duration) {
					for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
						for _, d := range s.Databases() {
							if r := d.Registrations[0]; !r.LastNotify.IsZero() {
								longest = max(longest, time.Since(r.LastNotify))
							}
						}
					}
				}
				watch(5*time.Minute + 7*time.Second)
				m := testConfig().MapServers[0]
				m.Key, m.OtherKeys = c.after[0], c.after[1:]
				if err := s.SetMappingSystem(MappingSystem{MapServers: []MapServer{m}, MapResolvers: testConfig().MapResolvers}); err != nil {
					t.Fatal(err)
				}
				watch(10 * time.Minute)
				if longest > 90*time.Second {
					t.Errorf("no Map-Notify for %v", longest)
				}
				for _, d := range s.Databases() {
					if r := d.Registrations[0]; r.State != RegistrationRegistered {
						t.Errorf("%v is %v", d.EID, r.State)
					}
				}
				s.XTR.mu.Lock()
				used := s.m.reg.regs[0].authKey().ID
				s.XTR.mu.Unlock()
				if used != c.used {
					t.Errorf("key %d is used, want %d", used, c.used)
				}
				if err := s.stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
