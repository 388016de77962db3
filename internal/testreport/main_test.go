package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	const in = `{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:1: needs root\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
`
	const failing = `{"Action":"output","Package":"p","Test":"TestC","Output":"    c_test.go:9: got 1\n"}
{"Action":"fail","Package":"p","Test":"TestC"}
`
	for _, x := range []struct {
		name, in string
		code     int
		want     []string
	}{
		{"passed", in, 0, []string{"SKIP p TestB: b_test.go:1: needs root", "1 passed, 0 failed, 1 skipped"}},
		{"failed", in + failing, 1, []string{"FAIL p TestC", "c_test.go:9: got 1", "1 passed, 1 failed, 1 skipped"}},
		{"promised", in + `{"Action":"skip","Package":"p","Test":"TestS2_Replay"}
`, 1, []string{"FAIL p TestS2_Replay was skipped", "1 passed, 1 failed, 2 skipped"}},
		{"nothing ran", "", 1, []string{"0 passed, 0 failed, 0 skipped"}},
	} {
		var out bytes.Buffer
		if code := report(strings.NewReader(x.in), &out, true); code != x.code {
			t.Errorf("%s: exit code %d, want %d", x.name, code, x.code)
		}
		for _, s := range x.want {
			if !strings.Contains(out.String(), s) {
				t.Errorf("%s: no %q in %q", x.name, s, out.String())
			}
		}
	}
}
