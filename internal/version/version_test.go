package version

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestFrom(t *testing.T) {
	recorded := &debug.BuildInfo{
		Main:     debug.Module{Version: "v0.9.0"},
		Settings: []debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "0123abcd"}},
	}
	built := " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
	for _, c := range []struct {
		name              string
		version, revision string
		recorded          *debug.BuildInfo
		want              string
	}{
		{"stamped", "v1.2.3", "4567ef", recorded, "v1.2.3 4567ef" + built},
		{"stamped without a revision, which is not that of another version", "v1.2.3", "", recorded, "v1.2.3" + built},
		{"recorded", "", "", recorded, "v0.9.0 0123abcd" + built},
		{"a build of a tree that is no repository", "", "", &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, "(devel)" + built},
		{"nothing known", "", "", nil, "(devel)" + built},
		{"nothing in the record", "", "", &debug.BuildInfo{}, "(devel)" + built},
	} {
		if got := from(c.version, c.revision, c.recorded).String(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
