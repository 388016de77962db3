package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
)

// quick delivers a Map-Register to the reader alone, and reports whether that
// was all that was needed.
func (b *bench) quick(msg []byte) (out []datagram, done bool) {
	b.t.Helper()
	out, reg := b.r.handle(b.now, msg, etr1, local4)
	return out, reg == nil && len(out) > 0
}

// A refresh is acknowledged by the reader with the same octets that the writer
// would have sent, and prolongs the registration; its nonce is spent (S2).
func TestS2_QuickRefresh(t *testing.T) {
	for name, reg := range map[string]registering{
		"plain":     {records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}},
		"several":   {records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1", "192.0.2.2"), rec("2001:db8:1::/48", "2001:db8::1")}},
		"xTR-ID":    {xtr: xtrID(1), records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.7")}},
		"truncated": {truncated: true, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}},
		"SHA-256":   {key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}},
	} {
		t.Run(name, func(t *testing.T) {
			store := newMemStore()
			b := newBench(t, twoSites(), store)
			first := b.deliver(b.encode(reg), etr1, local4)
			if len(first) != 1 {
				t.Fatalf("%d Map-Notifies for the first one", len(first))
			}
			b.pass(2 * time.Minute)
			msg := b.encode(reg)
			commits := store.commitCount()
			out, done := b.quick(msg)
			if !done || len(out) != 1 {
				t.Fatal("the refresh went the long way")
			}
			if store.commitCount() != commits {
				t.Error("a refresh was stored")
			}
			key := reg.key
			if key.Secret == nil {
				key = leftKey
			}
			got, want := out[0], first[0]
			if _, err := auth.Verify(got.payload, []auth.Key{key}, auth.SHA1); err != nil {
				t.Errorf("Map-Notify: %v", err)
			}
			if nonce := binary.BigEndian.Uint64(got.payload[nonceOffset:]); nonce != b.nonce {
				t.Errorf("Map-Notify with the nonce %d, expected %d", nonce, b.nonce)
			}
			records := 16 + int(binary.BigEndian.Uint16(want.payload[lengthOffset:]))
			if !bytes.Equal(got.payload[records:], want.payload[records:]) || got.src != want.src || got.dst != want.dst {
				t.Errorf("Map-Notify %x from %v to %v, the first was %x from %v to %v", got.payload, got.src, got.dst, want.payload, want.src, want.dst)
			}
			// It came two minutes after the first, and counts for three.
			b.pass(2 * time.Minute)
			if st, _ := b.s.Lookup(reg.records[0].EID); st.Origin != OriginRegistered {
				t.Error("a registration that was refreshed has expired")
			}
			// The same nonce is no refresh, and an older one neither.
			for _, nonce := range []uint64{b.nonce, b.nonce - 1} {
				old := reg
				old.nonce = nonce
				if _, done := b.quick(b.encode(old)); done {
					t.Errorf("nonce %d was taken after %d", nonce, b.nonce)
				}
			}
			before := b.count(refusedReplay)
			older := reg
			older.nonce = b.nonce - 1
			b.wantDrop("a replay after a refresh", refusedReplay, b.deliver(b.encode(older), etr1, local4), before)
			// Its nonce is in the store a second later.
			b.pass(time.Second)
			by := mapping.Registrant{RLOC: etr1.Addr()}
			if reg.xtr != (mapping.XTRID{}) {
				by = mapping.Registrant{XTRID: reg.xtr, SiteID: 5}
			}
			site := "left"
			if reg.key.Secret != nil {
				site = "right"
			}
			if nonce, _ := store.nonce(site, by, key.ID); nonce != b.nonce {
				t.Errorf("the store has the nonce %d, expected %d", nonce, b.nonce)
			}
			b.pass(registrationTimeout)
			if _, done := b.quick(b.encode(reg)); done {
				t.Error("what has expired was refreshed")
			}
		})
	}
}

// Whatever may have changed since, the writer decides.
func TestRefreshLeavesTheRestToTheWriter(t *testing.T) {
	reg := registering{records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}}
	for name, change := range map[string]func(b *bench, msg []byte) []byte{
		"other octets": func(b *bench, msg []byte) []byte { msg[len(msg)-1] ^= 1; return msg },
		"bad digest":   func(b *bench, msg []byte) []byte { msg[20] ^= 1; return msg },
		"writer busy":  func(b *bench, msg []byte) []byte { b.s.mu.Lock(); b.t.Cleanup(b.s.mu.Unlock); return msg },
		"queue":        func(b *bench, msg []byte) []byte { b.s.sites.Load().all[0].queued.Add(1); return msg },
		"withdrawn": func(b *bench, msg []byte) []byte {
			b.register(registering{nonce: 5, records: []*mapping.Record{withTTL(0, rec("10.1.0.0/16"))}})
			return msg
		},
		"other xTR": func(b *bench, msg []byte) []byte {
			b.register(registering{src: etr2, nonce: 1 << 40, records: reg.records})
			return msg
		},
		"cut": func(b *bench, msg []byte) []byte { return msg[:18] },
		"API": func(b *bench, msg []byte) []byte {
			b.s.Put(b.t.Context(), []*mapping.Record{rec("10.1.0.0/16", "192.0.2.9")})
			return msg
		},
		"store refuses": func(b *bench, msg []byte) []byte {
			b.store.setFail(errors.New("full"))
			b.register(registering{key: rightKey, nonce: 9, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
			return msg
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, twoSites(), newMemStore())
			first := reg
			first.nonce = 1
			b.deliver(b.encode(first), etr1, local4)
			next := reg
			next.nonce = 10
			if _, done := b.quick(change(b, b.encode(next))); done {
				t.Error("the reader decided")
			}
		})
	}
}

// A refresh leaves little to the garbage collector: nothing, but for the map of
// late nonces, which grows once.
func TestRefreshAllocations(t *testing.T) {
	for _, reg := range []registering{
		{key: leftKey, records: []*mapping.Record{rec("10.1.0.0/16", "192.0.2.1")}},
		{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2", "2001:db8::2")}},
	} {
		b := newBench(t, twoSites(), newMemStore())
		b.deliver(b.encode(reg), etr1, local4)
		var msgs [][]byte
		for range 120 {
			msgs = append(msgs, b.encode(reg))
		}
		i := 0
		if allocs := testing.AllocsPerRun(100, func() {
			if _, done := b.quick(msgs[i]); !done {
				t.Fatal("the long way")
			}
			i++
		}); allocs != 0 {
			t.Errorf("%v: %.1f allocations", reg.key, allocs)
		}
	}
}
