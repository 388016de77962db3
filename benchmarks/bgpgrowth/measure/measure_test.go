package measure

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func row(rep int) Run {
	r := New(KindFailure, ArmPI, "")
	r.Speakers, r.Sites, r.Repetition, r.Seed, r.MRAI, r.Updates = 10, 500, rep, 7, 5, 123.25
	return r
}

// What was measured is there again when the file is opened again, and a row that
// was not written whole is not.
func TestFileGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runs.csv")
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Add(row(0), row(1)); err != nil {
		t.Fatal(err)
	}
	if err := f.Add(row(1)); err == nil {
		t.Error("a second row of the same key was taken")
	}
	f.Close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range 30 {
		if err := os.WriteFile(path, b[:len(b)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatalf("without the last %d octets: %v", cut, err)
		}
		if !f.Has(row(0)) || f.Has(row(1)) != (cut == 0) || f.Has(row(2)) {
			t.Fatalf("without the last %d octets there are %v", cut, f.Runs())
		}
		if cut > 0 {
			if err := f.Add(row(1)); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
		if again, _ := os.ReadFile(path); string(again) != string(b) {
			t.Fatalf("without the last %d octets the file becomes\n%s", cut, again)
		}
	}
	runs, err := ReadFile(path)
	if err != nil || len(runs) != 2 {
		t.Fatalf("%v, %v", runs, err)
	}
	if r := runs[1]; r.Key() != row(1).Key() || r.Updates != 123.25 || r.Seed != 7 || !math.IsNaN(r.Bytes) {
		t.Errorf("read back %+v", r)
	}
}

func TestFileOfAnotherVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runs.csv")
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	b, _ := os.ReadFile(path)
	b[0]++
	os.WriteFile(path, b, 0o600)
	if f, err := Open(path); err == nil {
		f.Close()
		t.Error("a file with other columns was opened")
	}
}
