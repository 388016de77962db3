package deploy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// file is one of an archive.
type file struct {
	mode    int64
	owner   string
	content []byte
}

// TestPackages builds the packages of this machine's architecture as users do,
// and looks into them.
func TestPackages(t *testing.T) {
	dist := t.TempDir()
	// -trimpath would have everything compiled once more.
	env := append(os.Environ(), "DIST="+dist, "VERSION=v9.8.7", "REVISION=0123abcd", "FLAGS=", "SOURCE_DATE_EPOCH=1700000000")
	do := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	do("./build.sh", runtime.GOARCH)
	do("./package.sh", runtime.GOARCH)
	sums := map[string][sha256.Size]byte{}
	for _, program := range []string{"xtr", "mapserver", "lispctl"} {
		want := fmt.Sprintf("%s v9.8.7 0123abcd %s linux/%s\n", program, runtime.Version(), runtime.GOARCH)
		if got := do(filepath.Join(dist, runtime.GOARCH, program), "version"); got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
		deb := filepath.Join(dist, fmt.Sprintf("eidolon-%s_9.8.7_%s.deb", program, runtime.GOARCH))
		content, err := os.ReadFile(deb)
		if err != nil {
			t.Fatal(err)
		}
		control, data, err := open(content)
		if err != nil {
			t.Fatalf("%s: %v", deb, err)
		}
		inspect(t, program, control, data)
		built, err := os.ReadFile(filepath.Join(dist, runtime.GOARCH, program))
		if f := data["usr/bin/"+program]; err != nil || !bytes.Equal(f.content, built) {
			t.Errorf("%s: the program is not the one that was built: %d octets, %d, %v", program, len(f.content), len(built), err)
		}
		if dpkg, err := exec.LookPath("dpkg-deb"); err == nil {
			if out := do(dpkg, "--info", deb); !strings.Contains(out, "Package: eidolon-"+program+"\n") {
				t.Errorf("dpkg-deb says\n%s", out)
			}
		}
		sums[deb] = sha256.Sum256(content)
	}
	// Each would take seconds.
	deb := filepath.Join(dist, fmt.Sprintf("eidolon-lispctl_9.8.7_%s.deb", runtime.GOARCH))
	if err := os.Remove(deb); err != nil {
		t.Fatal(err)
	}
	env = append(env, "PACKAGES=lispctl")
	do("./package.sh", runtime.GOARCH)
	if again, err := os.ReadFile(deb); err != nil || sha256.Sum256(again) != sums[deb] {
		t.Errorf("made again, %s is another: %v", deb, err)
	}
}

// inspect looks for what a package must have.
func inspect(t *testing.T, program string, control, data map[string]file) {
	t.Helper()
	fields := string(control["control"].content)
	for _, line := range []string{"Package: eidolon-" + program, "Version: 9.8.7", "Architecture: " + runtime.GOARCH} {
		if !strings.Contains(fields, line+"\n") {
			t.Errorf("%s: no line %q in\n%s", program, line, fields)
		}
	}
	have := func(name string, mode int64) string {
		f, ok := data[name]
		if !ok || f.mode != mode || f.owner != "root:root" || len(f.content) == 0 {
			t.Errorf("%s: %s: there %v, mode %o, owner %q, %d octets", program, name, ok, f.mode, f.owner, len(f.content))
		}
		return string(f.content)
	}
	have("usr/bin/"+program, 0o755)
	have("usr/share/doc/eidolon-"+program+"/copyright", 0o644)
	for path, word := range map[string]string{
		"usr/share/bash-completion/completions/" + program:         "__start_" + program,
		"usr/share/zsh/vendor-completions/_" + program:             "#compdef " + program,
		"usr/share/fish/vendor_completions.d/" + program + ".fish": "complete -c " + program,
	} {
		if !strings.Contains(have(path, 0o644), word) {
			t.Errorf("%s: no %q in %s", program, word, path)
		}
	}
	section, least := "8", 6
	if program == "lispctl" {
		section, least = "1", 30
	}
	pages, err := filepath.Glob("man/" + program + "*." + section)
	if err != nil || len(pages) < least {
		t.Errorf("%s: there are %d manual pages: %v", program, len(pages), err)
	}
	for _, p := range pages {
		have("usr/share/man/man"+section+"/"+filepath.Base(p), 0o644)
	}
	for _, d := range []string{"guide.md", "operations.md", "configuration.md", "security.md", "api.md", "cli.md", "conformance.md", "examples/api-tcp.yml",
		"grafana/eidolon.json", "prometheus/eidolon.rules.yml"} {
		have("usr/share/doc/eidolon-"+program+"/"+d, 0o644)
	}
	linked(t, program, data)
	if program == "lispctl" {
		return
	}
	unit := have("usr/lib/systemd/system/"+program+".service", 0o644)
	named := regexp.MustCompile(`(?m)^(?:ExecStart|ExecStartPre|ExecReload|Documentation)=(?:file://)?/(\S+)`).FindAllStringSubmatch(unit, -1)
	if len(named) != 5 {
		t.Errorf("%s: the unit names %q", program, named)
	}
	for _, n := range named {
		if _, ok := data[n[1]]; !ok {
			t.Errorf("%s: the unit names /%s, which is not in the package", program, n[1])
		}
	}
	have("usr/share/doc/eidolon-"+program+"/examples/"+program+".yml", 0o644)
	for path := range data {
		if strings.HasPrefix(path, "etc/") {
			t.Errorf("%s: %s is the operator's", program, path)
		}
	}
	// Nothing is started unasked, and what is removed stops.
	asked := regexp.MustCompile(`systemctl[^\n|]*\b(re)?start\b|systemctl[^\n|]*\benable\b|deb-systemd|(?m:^\s*service )`)
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		f, ok := control[script]
		if !ok || f.mode != 0o755 {
			t.Errorf("%s: %s: there %v, mode %o", program, script, ok, f.mode)
		}
		if word := asked.Find(f.content); word != nil {
			t.Errorf("%s: %s says %q", program, script, word)
		}
		check := exec.CommandContext(t.Context(), "sh", "-n")
		check.Stdin = bytes.NewReader(f.content)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s: %s: %v\n%s", program, script, err, out)
		}
	}
	if !strings.Contains(string(control["prerm"].content), "disable --now "+program+".service") {
		t.Errorf("%s: removed, it would go on", program)
	}
	if !strings.Contains(string(control["prerm"].content), "/usr/bin/"+program+" cleanup") {
		t.Errorf("%s: removed, what a killed one has left would stay", program)
	}
}

// linked follows the links of the documents in a package to files that must be in
// it too.
func linked(t *testing.T, program string, data map[string]file) {
	t.Helper()
	directories := map[string]bool{}
	for p := range data {
		directories[path.Dir(p)] = true
	}
	link := regexp.MustCompile(`\]\(([^)]*)\)`)
	n := 0
	for p, f := range data {
		if path.Ext(p) != ".md" {
			continue
		}
		for _, m := range link.FindAllSubmatch(f.content, -1) {
			to, err := url.Parse(string(m[1]))
			if err != nil {
				t.Errorf("%s: %s: %v", program, p, err)
				continue
			}
			if to.Scheme != "" || to.Path == "" { // elsewhere, or on the same page
				continue
			}
			n++
			if at := path.Join(path.Dir(p), to.Path); data[at].content == nil && !directories[at] {
				t.Errorf("%s: %s has a link to %s, which is not in the package", program, p, m[1])
			}
		}
	}
	if n < 20 {
		t.Errorf("%s: its documents have %d links", program, n)
	}
}

// open reads a Debian package: an ar archive of debian-binary, control.tar.gz
// and data.tar.gz.
func open(deb []byte) (control, data map[string]file, err error) {
	rest, ok := bytes.CutPrefix(deb, []byte("!<arch>\n"))
	if !ok {
		return nil, nil, errors.New("it is no ar archive")
	}
	for len(rest) > 0 {
		const header = 60
		if len(rest) < header {
			return nil, nil, errors.New("it ends in a header")
		}
		name := strings.TrimRight(string(rest[:16]), " /")
		size, err := strconv.Atoi(strings.TrimSpace(string(rest[48:58])))
		if err != nil || len(rest) < header+size {
			return nil, nil, fmt.Errorf("%s: size %d of %d: %w", name, size, len(rest), err)
		}
		content := rest[header : header+size]
		rest = rest[min(len(rest), header+size+size%2):]
		switch name {
		case "control.tar.gz":
			control, err = untar(content)
		case "data.tar.gz":
			data, err = untar(content)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if control == nil || data == nil {
		return nil, nil, errors.New("it has no control or no data")
	}
	return control, data, nil
}

// untar returns the plain files of a compressed archive by their paths from the
// root.
func untar(b []byte) (map[string]file, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	files := map[string]file{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		files[strings.TrimLeft(h.Name, "./")] = file{mode: h.Mode & 0o7777, owner: h.Uname + ":" + h.Gname, content: content}
	}
}

// What the Dockerfile copies is there, or is made by a stage before; and what it
// leaves out is not needed.
func TestDockerfile(t *testing.T) {
	content, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := os.ReadFile("../.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	var stages []string
	copies := 0
	for line := range strings.Lines(strings.ReplaceAll(string(content), "\\\n", " ")) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "FROM":
			if n := len(words); n >= 4 && words[n-2] == "AS" {
				stages = append(stages, words[n-1])
			}
		case words[0] == "COPY":
			copies++
			sources := words[1 : len(words)-1]
			if from, ok := strings.CutPrefix(sources[0], "--from="); ok {
				if !slices.Contains(stages, from) {
					t.Errorf("%s: no stage before it is %s", strings.TrimSpace(line), from)
				}
				continue
			}
			for _, s := range sources {
				if _, err := os.Stat(filepath.Join("..", s)); err != nil {
					t.Error(err)
				}
			}
		case words[0] == "RUN":
			for _, w := range words {
				if strings.HasPrefix(w, "deploy/") || w == "lab/init.sh" {
					if info, err := os.Stat(filepath.Join("..", w)); err != nil || info.Mode()&0o111 == 0 {
						t.Errorf("%s can't be run: %v", w, err)
					}
				}
			}
		}
	}
	if !slices.Equal(stages, []string{"build", "lab", "eidolon"}) || copies < 4 {
		t.Errorf("stages %q, %d copies", stages, copies)
	}
	for _, needed := range []string{"cmd", "deploy", "lab", "go.mod", "go.sum", "vendor"} {
		if slices.Contains(strings.Fields(string(ignored)), needed) {
			t.Errorf(".dockerignore leaves %s out", needed)
		}
	}
}
