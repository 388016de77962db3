package xtr

import (
	"strings"
	"testing"
	"time"
)

func TestExplain(t *testing.T) {
	r := newRig(t, testConfig())
	r.start()
	x := r.m.explain(0, addr("10.1.0.9"))
	if !x.Own || x.Database.EID != eid("10.1.0.0/16") || len(x.Database.Registrations) != 1 || !strings.Contains(x.Unresolvable, "10.1.0.0/16 is the site's own") {
		t.Errorf("an EID of the site: %+v", x)
	}
	if x = r.m.explain(0, peer); x.Own || x.Cached || x.Resolving || x.Unresolvable != "" {
		t.Errorf("before anything: %+v", x)
	}
	r.take()
	r.miss(peer, hostA)
	x = r.m.explain(0, peer)
	if !x.Resolving || x.Resolution.EID.Prefix.Addr() != peer || x.Resolution.Tries != 1 || x.Resolution.GivenUp || !x.Resolution.Next.After(r.now) {
		t.Errorf("while it is asked for: %+v", x)
	}
	r.until(75 * time.Second)
	if x = r.m.explain(0, peer); !x.Resolving || !x.Resolution.GivenUp || x.Resolution.Tries != maxRetransmits+1 {
		t.Errorf("after nobody answered: %+v", x)
	}
	r.until(3 * time.Minute)
	r.learn(peer, rec("10.2.0.0/16", 1))
	x = r.m.explain(0, peer)
	if !x.Cached || x.Entry.Record.EID != eid("10.2.0.0/16") || !x.Entry.Expires.Equal(r.now.Add(time.Minute)) || x.Resolving {
		t.Errorf("cached: %+v", x)
	}
	r.until(3*time.Minute + 50*time.Second)
	r.used("10.2.0.0/16")
	if x = r.m.explain(0, peer); !x.Cached || !x.Resolving || x.Resolution.EID != eid("10.2.0.0/16") {
		t.Errorf("while it is refreshed: %+v", x)
	}

	cfg := testConfig()
	cfg.MapResolvers = nil
	if x = newRig(t, cfg).m.explain(0, peer); x.Unresolvable != "no map-resolver is configured" {
		t.Errorf("without a map-resolver: %+v", x)
	}
	if x = r.m.explain(0, addr("224.0.0.1")); x.Unresolvable == "" {
		t.Errorf("a group: %+v", x)
	}
}
