// Package version says what a program was built from.
package version

import (
	"runtime"
	"runtime/debug"
)

// What deploy/build.sh has the linker set, since it builds without looking into
// the repository: a build elsewhere from the same sources is the same.
var stampedVersion, stampedRevision string

// Info is what is known of a build.
type Info struct {
	Version  string // of the module, such as v1.2.3; "(devel)" if nothing tells it
	Revision string // of the repository, "" if nothing tells it
	Go       string // the version of Go
	Platform string // such as linux/arm64
}

// Get returns what the linker was told of this program or, where it was not,
// what the go command recorded.
func Get() Info {
	recorded, _ := debug.ReadBuildInfo()
	return from(stampedVersion, stampedRevision, recorded)
}

func from(version, revision string, recorded *debug.BuildInfo) Info {
	i := Info{Version: version, Revision: revision, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if recorded != nil && version == "" {
		i.Version, i.Revision = recorded.Main.Version, ""
		for _, s := range recorded.Settings {
			if s.Key == "vcs.revision" {
				i.Revision = s.Value
			}
		}
	}
	if i.Version == "" {
		i.Version = "(devel)"
	}
	return i
}

// String returns what is known, in one line.
func (i Info) String() string {
	s := i.Version
	if i.Revision != "" {
		s += " " + i.Revision
	}
	return s + " " + i.Go + " " + i.Platform
}
