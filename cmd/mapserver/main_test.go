package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// TestStoppedWhileLoading: a signal while the database is read is an orderly
// end, as at any other time.
func TestStoppedWhileLoading(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mapserver.yml")
	if err := os.WriteFile(path, []byte("listen: [\"127.0.0.1:4342\"]\nstate_dir: "+dir+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := run(ctx, path); err != nil {
		t.Errorf("%v", err)
	}
}
