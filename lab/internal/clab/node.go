package clab

import (
	"cmp"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// definition is what one level (defaults, a kind, a node) says of a node.
type definition struct {
	name       string
	at         *token.Token
	kind       string
	kindAt     *token.Token
	image      string
	entrypoint []string
	cmd        []string
	exec       []Line
	binds      []Bind
	env        map[string]string
	sysctls    map[string]string
	devices    []string
}

func (d *decoder) definition(e entry, level string) definition {
	def := definition{name: e.key, at: e.at}
	if d.resolve(e.value).Type() == ast.NullType {
		return def // a node that takes everything from its kind and the defaults
	}
	for _, m := range d.mapping(e.value, level, nodeKeys) {
		switch m.key {
		case "kind":
			def.kind, def.kindAt = d.text(m.value), m.value.GetToken()
		case "image":
			def.image = d.text(m.value)
		case "entrypoint":
			def.entrypoint = d.line(m.value).Words
		case "cmd":
			def.cmd = d.line(m.value).Words
		case "exec":
			for _, n := range d.sequence(m.value, "exec") {
				def.exec = append(def.exec, d.line(n))
			}
		case "binds":
			for _, n := range d.sequence(m.value, "binds") {
				def.binds = append(def.binds, d.bind(n))
			}
		case "env":
			def.env = d.settings(m.value, "env")
		case "sysctls":
			def.sysctls = d.settings(m.value, "sysctls")
		case "devices":
			for _, n := range d.sequence(m.value, "devices") {
				def.devices = append(def.devices, d.device(n))
			}
		case "network-mode":
			if mode := d.text(m.value); mode != "" && mode != "none" {
				d.errorf(m.value.GetToken(), "network-mode %q is not played; expected none: a node has the links of the topology and no other", mode)
			}
		}
	}
	return def
}

// node puts the three levels together as containerlab does: single values
// from the most specific level that has one, env and sysctls merged, binds
// and devices united by target, exec lines of all levels in turn.
func (d *decoder) node(defaults, kind, def definition) *Node {
	levels := []definition{defaults, kind, def}
	n := &Node{Name: def.name, Env: map[string]string{}, Sysctls: map[string]string{}}
	var entrypoint, cmd []string
	for _, l := range levels {
		n.Image = cmp.Or(l.image, n.Image)
		if l.entrypoint != nil {
			entrypoint = l.entrypoint
		}
		if l.cmd != nil {
			cmd = l.cmd
		}
		n.Exec = append(n.Exec, l.exec...)
		maps.Copy(n.Env, l.env)
		maps.Copy(n.Sysctls, l.sysctls)
		for _, b := range l.binds {
			n.Binds = slices.DeleteFunc(n.Binds, func(o Bind) bool { return o.Target == b.Target })
			n.Binds = append(n.Binds, b)
		}
		for _, dev := range l.devices {
			if !slices.Contains(n.Devices, dev) {
				n.Devices = append(n.Devices, dev)
			}
		}
	}
	n.Command = slices.Concat(entrypoint, cmd)
	return n
}

// line decodes a command line.
func (d *decoder) line(n ast.Node) Line {
	l := Line{Text: d.text(n), At: d.position(n.GetToken())}
	words, err := Words(l.Text)
	if err != nil {
		d.errorf(n.GetToken(), "%v", err)
	} else if len(words) == 0 {
		d.errorf(n.GetToken(), "an empty command line")
	}
	l.Words = words
	return l
}

// bind decodes SOURCE:TARGET[:OPTIONS].
func (d *decoder) bind(n ast.Node) Bind {
	s := d.text(n)
	at := n.GetToken()
	b := Bind{At: d.position(at)}
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || !filepath.IsAbs(parts[1]) {
		d.errorf(at, "bind %q: expected SOURCE:/TARGET or SOURCE:/TARGET:ro", s)
		return b
	}
	if strings.Contains(s, "__clab") {
		d.errorf(at, "bind %q: this runner does not play containerlab's __clab...__ names", s)
		return b
	}
	b.Source, b.Target = parts[0], filepath.Clean(parts[1])
	if len(parts) == 3 {
		for opt := range strings.SplitSeq(parts[2], ",") {
			switch opt {
			case "ro":
				b.ReadOnly = true
			case "rw", "z", "Z":
			default:
				d.errorf(at, "bind %q: option %q is not played; expected ro or rw", s, opt)
			}
		}
	}
	if rest, ok := strings.CutPrefix(b.Source, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			d.errorf(at, "bind %q: %v", s, err)
		}
		b.Source = filepath.Join(home, rest)
	} else if !filepath.IsAbs(b.Source) {
		b.Source = filepath.Join(d.dir, b.Source)
	}
	if _, err := os.Stat(b.Source); err != nil {
		d.errorf(at, "bind %q: %v", s, err)
	}
	return b
}

// device decodes a device file: /dev/X, or /dev/X:/dev/X.
func (d *decoder) device(n ast.Node) string {
	s := d.text(n)
	src, dst, mapped := strings.Cut(s, ":")
	if !strings.HasPrefix(src, "/dev/") || filepath.Clean(src) != src || mapped && dst != src {
		d.errorf(n.GetToken(), "device %q: expected /dev/NAME; a device keeps its name in the node", s)
	}
	return src
}
