package wire

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// The authentication data of the computed vectors: as an ITR sends it, as a
// map-server fills it, and that of the Map-Reply.
const (
	itrSecurity   = "01000002001801021c333395b718fd4d1293ea3992b2937545d3189aaa6f33a400040002"
	filledEIDAuth = "0020000201000002001000010a01000099f59af81eab22ad41ccfba920fb2712"
	replySecurity = "01000000" + filledEIDAuth + "0014000288e14550462b80d38e283a18951857b7"
)

func TestL2_ECMSecurityVector(t *testing.T) {
	var s ECMSecurity
	b := unhex(t, itrSecurity)
	if err := s.Decode(b); err != nil {
		t.Fatal(err)
	}
	if s.RequestedHMAC != 2 || s.KeyID != 1 || s.Wrapping != 2 || !bytes.Equal(s.Key[:], unhex(t, "1c333395b718fd4d1293ea3992b2937545d3189aaa6f33a4")) {
		t.Errorf("%+v", s)
	}
	var e EIDAuth
	if err := e.Decode(s.EIDAuth); err != nil || len(s.EIDAuth) != 4 || e.Filled || e.KDF != 2 {
		t.Errorf("%+v, %v", e, err)
	}
	if out, err := s.AppendBinary(nil); err != nil || !bytes.Equal(out, b) {
		t.Errorf("%x, %v", out, err)
	}
}

func TestReplySecurityVector(t *testing.T) {
	var s ReplySecurity
	b := unhex(t, replySecurity)
	if err := s.Decode(append(bytes.Clone(b), 1, 2, 3)); err != nil {
		t.Fatal(err)
	}
	if s.HMACID != 2 || !bytes.Equal(s.HMAC, unhex(t, "88e14550462b80d38e283a18951857b7")) {
		t.Errorf("%+v", s)
	}
	var e EIDAuth
	if err := e.Decode(s.EIDAuth); err != nil || !e.Filled || e.CantSign || e.KDF != 2 || e.HMACID != 2 || len(e.Prefixes) != 1 || len(e.HMAC) != 16 {
		t.Fatalf("%+v, %v", e, err)
	}
	if p, err := e.Prefixes[0].EID.EID(e.Prefixes[0].MaskLen); err != nil || p != mapping.MustParseEID("10.1.0.0/16") {
		t.Errorf("%v, %v", p, err)
	}
	if out, err := s.AppendBinary(nil); err != nil || !bytes.Equal(out, b) {
		t.Errorf("%x, %v", out, err)
	}
	if out, err := e.AppendBinary(nil); err != nil || !bytes.Equal(out, unhex(t, filledEIDAuth)) {
		t.Errorf("%x, %v", out, err)
	}
}

func TestSecurityErrors(t *testing.T) {
	change := func(s string, at int, v byte) []byte {
		b := unhex(t, s)
		b[at] = v
		return b
	}
	for name, x := range map[string]struct {
		err, want error
	}{
		"reply of an unknown type":   {new(ReplySecurity).Decode(change(replySecurity, 0, 2)), ErrUnknownSecurity},
		"EID-AD length 3":            {new(ReplySecurity).Decode(change(replySecurity, 5, 3)), ErrBadLength},
		"PKT-AD length 3":            {new(ReplySecurity).Decode(change(replySecurity, 37, 3)), ErrBadLength},
		"PKT-AD length over":         {new(ReplySecurity).Decode(change(replySecurity, 37, 21)), ErrTruncated},
		"EID-AD of 6 octets":         {new(EIDAuth).Decode(unhex(t, "000600020100")), ErrTruncated},
		"EID-AD record count over":   {new(EIDAuth).Decode(change(filledEIDAuth, 4, 9)), ErrUnknownAFI},
		"EID-AD mask of 33 bits":     {new(EIDAuth).Decode(change(filledEIDAuth, 9, 33)), ErrBadMaskLen},
		"EID-AD of nothing":          {new(EIDAuth).Decode(nil), ErrTruncated},
		"ECM data of an unknown":     {new(ECMSecurity).Decode(change(itrSecurity, 0, 2)), ErrUnknownSecurity},
		"key of 25 octets":           {new(ECMSecurity).Decode(change(itrSecurity, 5, 25)), ErrBadLength},
		"key length of the figure":   {new(ECMSecurity).Decode(change(itrSecurity, 5, 28)), nil},
		"ECM data without an EID-AD": {func() error { _, err := new(ECMSecurity).AppendBinary(nil); return err }(), ErrInvalid},
		"reply without an EID-AD":    {func() error { _, err := new(ReplySecurity).AppendBinary(nil); return err }(), ErrInvalid},
		"256 prefixes": {func() error {
			_, err := (&EIDAuth{Filled: true, Prefixes: make([]EIDAuthPrefix, 256)}).AppendBinary(nil)
			return err
		}(), ErrInvalid},
	} {
		if !errors.Is(x.err, x.want) {
			t.Errorf("%s: %v, want %v", name, x.err, x.want)
		}
	}
	for _, whole := range []string{itrSecurity, replySecurity} {
		b := unhex(t, whole)
		for n := range b {
			if whole == itrSecurity && new(ECMSecurity).Decode(b[:n]) == nil || whole == replySecurity && new(ReplySecurity).Decode(b[:n]) == nil {
				t.Errorf("%d of %d octets decode", n, len(b))
			}
		}
	}
}

func TestSecurityDecodeDoesNotAllocate(t *testing.T) {
	in, out := unhex(t, itrSecurity), unhex(t, replySecurity)
	var s ECMSecurity
	var r ReplySecurity
	var e EIDAuth
	if n := testing.AllocsPerRun(100, func() {
		if s.Decode(in) != nil || r.Decode(out) != nil || e.Decode(r.EIDAuth) != nil {
			t.Fatal("does not decode")
		}
	}); n != 0 {
		t.Errorf("decoding allocates %v times", n)
	}
}

// FuzzSecurity holds that what is accepted encodes again, and decodes to the
// same.
func FuzzSecurity(f *testing.F) {
	for _, s := range []string{itrSecurity, replySecurity, filledEIDAuth, itrSecurity[:64] + filledEIDAuth,
		"00300002010000020014400300000200000c0000000700010a010000" + "99f59af81eab22ad41ccfba920fb2712"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, pair := range [][2]interface {
			Decode([]byte) error
			AppendBinary([]byte) ([]byte, error)
		}{{new(ECMSecurity), new(ECMSecurity)}, {new(ReplySecurity), new(ReplySecurity)}, {new(EIDAuth), new(EIDAuth)}} {
			x, y := pair[0], pair[1]
			if x.Decode(b) != nil {
				continue
			}
			once, err := x.AppendBinary(nil)
			if err != nil || len(once) > len(b) {
				t.Fatalf("%+v encodes to %x, %v", x, once, err)
			}
			if err := y.Decode(once); err != nil || fmt.Sprintf("%+v", x) != fmt.Sprintf("%+v", y) {
				t.Fatalf("%+v became %+v, %v", x, y, err)
			}
			if twice, err := y.AppendBinary(nil); err != nil || !bytes.Equal(once, twice) {
				t.Fatalf("%x became %x, %v", once, twice, err)
			}
		}
	})
}
