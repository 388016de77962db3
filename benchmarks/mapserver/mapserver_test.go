package main

import (
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

func TestParse(t *testing.T) {
	for _, x := range []struct {
		args string
		want string // of the error; empty: none
	}{
		{"", ""},
		{"-nsd -bars -runs 5 -time 10s", ""},
		{"-table x.gz", ""},
		{"requests -server 127.0.0.1:4342 -rate 1000 -cpu 1", ""},
		{"registers -server 127.0.0.1:4342 -key s -change -algorithm hmac-sha-256-128", ""},
		{"dns -server 127.0.0.1:53", ""},
		{"registers -server 127.0.0.1:4342", "-key"},
		{"registers -server 127.0.0.1:4342 -key s -key-id 256", "-key-id"},
		{"registers -server 127.0.0.1:4342 -key s -algorithm md5", "algorithm"},
		{"requests", "-server"},
		{"requests -server 192.0.2.1:4342", "loopback"},
		{"requests -server [::1]:4342", "IPv4"},
		{"requests -server 127.0.0.1:1 -nsd", "nsd"},
		{"-window 0", "-window"},
		{"-window 40000", "-window"},
		{"-time 0s", "-time"},
		{"-nsd rest", "rest"},
		{"everything", "unknown mode"},
	} {
		_, err := parse(strings.Fields(x.args), io.Discard)
		if (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("%q: %v, expected an error with %q", x.args, err, x.want)
		}
	}
}

// Every request is a right Map-Request for its EID, from its ITR-RLOC, although
// its checksum is only patched.
func TestRequestsAreWellFormed(t *testing.T) {
	table := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	w, err := newRequests(table, locators, nil, 4000, rand.New(rand.NewPCG(1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	nonces, rlocs := make(map[uint64]bool), make(map[netip.Addr]bool)
	for seq := range uint64(5000) {
		var m udp.Message
		w.request(seq, &m)
		var e wire.ECM
		var q wire.MapRequest
		if err := e.Decode(m.Payload); err != nil {
			t.Fatalf("request %d: %v", seq, err)
		}
		if err := q.Decode(e.Message); err != nil {
			t.Fatalf("request %d: %v", seq, err)
		}
		a := w.eids[seq%uint64(len(w.eids))]
		if got, err := q.EIDs[0].EID.EID(q.EIDs[0].MaskLen); err != nil || got != mapping.HostEID(0, a) || e.Dst.Addr() != a {
			t.Fatalf("request %d asks for %v (%v) and %v, expected %v", seq, got, err, e.Dst, a)
		}
		itr, _ := q.ITRRLOCs[0].IP()
		if !itr.IsLoopback() || !m.Src.Addr().IsLoopback() || e.Src.Port() != 4000 || m.Src.Port() != 4000 {
			t.Fatalf("request %d from %v, inside %v, ITR-RLOC %v", seq, m.Src, e.Src, itr)
		}
		nonces[q.Nonce], rlocs[itr] = true, true
	}
	if len(nonces) != 5000 || len(rlocs) != 5000 {
		t.Errorf("%d nonces and %d ITR-RLOCs in 5000 requests", len(nonces), len(rlocs))
	}
}

// Protected requests carry a one-time key that the server can unwrap, and
// protected answers are verified.
func TestProtectedRequests(t *testing.T) {
	key := auth.WrapKey{ID: 4, Secret: []byte("shared")}
	w, err := newRequests([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, locators, &key, 4000, rand.New(rand.NewPCG(1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	for _, seq := range []uint64{0, 16, protectedQuestions + 32} {
		var m udp.Message
		w.request(seq, &m)
		var e wire.ECM
		var q wire.MapRequest
		var s wire.ECMSecurity
		for _, err := range []error{e.Decode(m.Payload), q.Decode(e.Message), s.Decode(e.SecurityData)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		otk, err := auth.Unwrap(&s, q.Nonce, []auth.WrapKey{key}, false)
		if err != nil || otk != w.itr {
			t.Fatalf("request %d: one-time key %v", seq, err)
		}
		recs, err := wire.NewRecords(&mapping.Record{EID: mapping.MustParseEID("10.0.0.0/8"), TTL: 1, Locators: []mapping.Locator{mapping.MakeLocator(locators[0], 1, 1)}})
		if err != nil {
			t.Fatal(err)
		}
		plain, err := (&wire.MapReply{Nonce: q.Nonce, Records: recs}).AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if w.check(seq, plain) == nil {
			t.Error("an answer without protection is taken for right")
		}
		ad, err := otk.SignEIDAuth(nil, wire.EIDAuth{KDF: uint16(auth.KDFSHA256), HMACID: uint16(auth.HMACSHA256), Prefixes: []wire.EIDAuthPrefix{wire.NewEIDAuthPrefix(mapping.MustParseEID("10.0.0.0/8"))}})
		if err != nil {
			t.Fatal(err)
		}
		signed, err := w.ms.SignReply(plain, ad, auth.HMACSHA256)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := w.match(signed); !ok || got != seq%ringSize {
			t.Errorf("the answer to request %d is for %d", seq, got)
		}
		if err := w.check(seq, signed); err != nil {
			t.Error(err)
		}
		signed[len(signed)-1] ^= 1
		if w.check(seq, signed) == nil {
			t.Error("an altered answer is taken for right")
		}
	}
}

// What is no answer to what was asked is not taken for one.
func TestAnswersAreChecked(t *testing.T) {
	w, err := newRequests([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, locators, nil, 4000, rand.New(rand.NewPCG(1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	answer := func(nonce uint64, e string, l netip.Addr) []byte {
		recs, err := wire.NewRecords(&mapping.Record{EID: mapping.MustParseEID(e), TTL: 1, Locators: []mapping.Locator{mapping.MakeLocator(l, 1, 1)}})
		if err != nil {
			t.Fatal(err)
		}
		b, err := (&wire.MapReply{Nonce: nonce, Records: recs}).AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := answer(w.base+7, "10.0.0.0/8", locators[1])
	if seq, ok := w.match(good); !ok || seq != 7 {
		t.Errorf("the answer to request 7 is for %d, %v", seq, ok)
	}
	if err := w.check(7, good); err != nil {
		t.Error(err)
	}
	for name, b := range map[string][]byte{
		"other EID":     answer(w.base+7, "11.0.0.0/8", locators[1]),
		"other locator": answer(w.base+7, "10.0.0.0/8", netip.MustParseAddr("192.0.2.77")),
		"cut":           good[:len(good)-1],
	} {
		if w.check(7, b) == nil {
			t.Errorf("%s: taken for right", name)
		}
	}
	if _, ok := w.match([]byte{0x10}); ok {
		t.Error("a Map-Request is taken for an answer")
	}
}

func TestRegistersAreAuthenticated(t *testing.T) {
	for _, k := range keys {
		w, err := newRegisters(k, true, 4000, 100)
		if err != nil {
			t.Fatal(err)
		}
		var m udp.Message
		w.request(registrants+3, &m)
		if _, err := auth.Verify(m.Payload, keys, auth.SHA256); err != nil {
			t.Errorf("%v: %v", k, err)
		}
		var reg wire.MapRegister
		if err := reg.Decode(m.Payload); err != nil || reg.Nonce != 100+registrants+3 {
			t.Errorf("%v: nonce %d, %v", k, reg.Nonce, err)
		}
	}
}

func TestQueries(t *testing.T) {
	w := &queries{port: 4000}
	seen := make(map[string]bool)
	for seq := range uint64(1000) {
		var m udp.Message
		w.request(seq, &m)
		if id, ok := w.match(m.Payload); !ok || id != seq {
			t.Fatalf("query %d has the ID %d", seq, id)
		}
		// An answer is the query with the QR bit, a count and the record.
		b := append([]byte(nil), m.Payload...)
		b[2], b[7] = 0x84, 1
		a := addressOf(w.nameOf(seq))
		b = append(append(b, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4), a[:]...)
		if err := w.check(seq, b); err != nil {
			t.Fatal(err)
		}
		b[len(b)-4]++
		if w.check(seq, b) == nil {
			t.Fatal("a wrong address is taken for right")
		}
		name := string(m.Payload[13:21])
		if want := strings.TrimSuffix(dnsName(w.nameOf(seq)), ".bench."); name != want || seen[name] {
			t.Fatalf("query %d asks for %s, expected %s", seq, name, want)
		}
		seen[name] = true
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	for i := range 1000 {
		h.add(time.Duration(i) * time.Microsecond)
	}
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Microsecond, 0.99: 990 * time.Microsecond, 0: 0} {
		got := h.quantile(q)
		if got < want || float64(got) > float64(want)*1.07+1 {
			t.Errorf("quantile %v is %v, expected %v and at most 1/16 more", q, got, want)
		}
	}
	for _, n := range []uint64{0, 15, 16, 31, 32, 1000, 1 << 40} {
		if i := bucketOf(n); uint64(bucketEnd(i)) < n || i > 0 && uint64(bucketEnd(i-1)) >= n {
			t.Errorf("%d is in bucket %d, which ends at %d", n, i, bucketEnd(i))
		}
	}
}
