package xtr

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

var newKey = auth.Key{ID: 4, Algorithm: auth.SHA256HKDF, Secret: []byte("the secret that follows")}

// TestE12_KeyRollover: whether the site or the map-server changes the key
// first, the registration never comes near its timeout of 3 minutes.
func TestE12_KeyRollover(t *testing.T) {
	for _, c := range []struct {
		name string
		// what is done at 10 and 20 minutes, and the keys of both sides
		serverFirst bool
		site        [3][]auth.Key
		server      [3][]auth.Key
	}{
		{"map-server first", true, [3][]auth.Key{{key}, {newKey}, {newKey}}, [3][]auth.Key{{key}, {key, newKey}, {newKey}}},
		{"site first", false, [3][]auth.Key{{key}, {newKey, key}, {newKey}}, [3][]auth.Key{{key}, {newKey}, {newKey}}},
		{"site first, old one preferred", false, [3][]auth.Key{{key}, {key, newKey}, {newKey}}, [3][]auth.Key{{key}, {newKey}, {newKey}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig()
			cfg.MapServers[0].Key = c.site[0][0]
			r := newRig(t, cfg)
			accepted := c.server[0]
			var last, gap time.Duration
			var used auth.Key
			serve := func() {
				for _, s := range r.take() {
					k, err := auth.Verify(s.data, accepted, auth.SHA256)
					if err != nil {
						continue
					}
					gap, last, used = max(gap, s.at-last), s.at, k
					r.receive(notify(t, s.data, k), ms1)
				}
			}
			rekey := func(keys []auth.Key) {
				m := cfg.MapServers[0]
				m.Key, m.OtherKeys = keys[0], keys[1:]
				if err := r.setServers(m); err != nil {
					t.Fatal(err)
				}
				r.collect()
			}
			r.start()
			for s := time.Duration(0); s < 30*time.Minute; s += 100 * time.Millisecond {
				r.until(s)
				switch {
				case s == 10*time.Minute && c.serverFirst:
					accepted = c.server[1]
				case s == 10*time.Minute:
					rekey(c.site[1])
				case s == 15*time.Minute+13*time.Second && c.serverFirst:
					rekey(c.site[1])
				case s == 15*time.Minute+13*time.Second:
					accepted = c.server[1]
				case s == 20*time.Minute:
					rekey(c.site[2])
					accepted = c.server[2]
				}
				serve()
			}
			if gap > 90*time.Second {
				t.Errorf("no registration was accepted for %v", gap)
			}
			if used.ID != newKey.ID || last < 29*time.Minute {
				t.Errorf("the last registration is with key %d at %v", used.ID, last)
			}
		})
	}
}

// TestE9_KeyNeeded: nothing is registered without a key, and keys that cannot
// be told apart, or found out, are refused.
func TestE9_KeyNeeded(t *testing.T) {
	for name, keys := range map[string][]auth.Key{
		"no key":            {{}},
		"no secret":         {{ID: 1, Algorithm: auth.SHA256}},
		"no algorithm":      {{ID: 1, Secret: []byte("secret")}},
		"no second secret":  {key, {ID: 1, Algorithm: auth.SHA256}},
		"same ID":           {key, {ID: key.ID, Algorithm: auth.SHA256, Secret: []byte("other")}},
		"two, not notified": {key, newKey},
	} {
		cfg := testConfig()
		m := &cfg.MapServers[0]
		m.Key, m.OtherKeys = keys[0], keys[1:]
		m.WantNotify = name != "two, not notified"
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "authentication_key") {
			t.Errorf("%s: error %v", name, err)
		}
		r := newRig(t, testConfig())
		if !m.WantNotify {
			continue
		}
		if err := r.setServers(*m); err == nil {
			t.Errorf("%s: accepted while running", name)
		}
	}
}

// TestKeysNotLogged: secrets never stand in the log.
func TestKeysNotLogged(t *testing.T) {
	var log bytes.Buffer
	cfg := testConfig()
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r := newRig(t, cfg)
	r.start()
	if err := r.setServers(MapServer{Addr: ms1, Key: newKey, OtherKeys: []auth.Key{key}, WantNotify: true}); err != nil {
		t.Fatal(err)
	}
	r.until(time.Minute)
	if !strings.Contains(log.String(), "keys changed") || !strings.Contains(log.String(), "another key") {
		t.Errorf("the log lacks the change:\n%s", &log)
	}
	if s := log.String(); strings.Contains(s, "secret") {
		t.Errorf("a secret is in the log:\n%s", s)
	}
}
