package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/internal/config"
)

// What the guide has its reader write are good configurations, once the shell has
// put in what it says before.
func TestGuide(t *testing.T) {
	guide, err := os.ReadFile("../docs/guide.md")
	if err != nil {
		t.Fatal(err)
	}
	files := regexp.MustCompile(`(?s)\ncat >(xtr|mapserver)\.yml <<EOF\n(.*?)\nEOF\n`).FindAllStringSubmatch(string(guide), -1)
	if len(files) != 3 {
		t.Fatalf("the guide writes %d configurations", len(files))
	}
	dir := t.TempDir()
	for _, key := range []string{"site.key", "far.key"} {
		if err := os.WriteFile(filepath.Join(dir, key), []byte("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	values := strings.NewReplacer("$MS", "203.0.113.10", "$UP1", "eth1", "$UP2", "eth2")
	for _, f := range files {
		path := filepath.Join(dir, f[1]+".yml")
		content := values.Replace(f[2])
		if strings.Contains(content, "$") {
			t.Errorf("the guide does not say what this is:\n%s", content)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		kind := map[string]config.Kind{"xtr": config.KindXTR, "mapserver": config.KindMapServer}[f[1]]
		if warnings, err := config.Check(path, kind); err != nil || warnings != nil {
			t.Errorf("%v %v\n%s", err, warnings, content)
		}
	}
}
