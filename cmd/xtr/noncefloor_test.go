package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNonceFloor: what was saved last is there after a restart; a file that is
// damaged stops the start, since nonces below the floor would be refused.
func TestNonceFloor(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	f := nonceFloor(filepath.Join(dir, "nonce_floor"))
	if n, err := f.load(); n != 0 || err != nil {
		t.Fatalf("%d, %v before anything was saved", n, err)
	}
	for _, want := range []uint64{17, 1<<64 - 1} {
		if err := f.save(want); err != nil {
			t.Fatal(err)
		}
		if n, err := f.load(); n != want || err != nil {
			t.Errorf("%d, %v, want %d", n, err, want)
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("left behind: %v", files)
	}
	if err := os.WriteFile(string(f), []byte("17 or so"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.load(); err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("a damaged file: %v", err)
	}
}
