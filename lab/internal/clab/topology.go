// Package clab reads containerlab topology files (*.clab.yml) for a runner
// that plays them in network namespaces instead of containers.
//
// Decoding is strict: an unknown key, a wrong type or a link to a node that
// is not there is an error with file, line and column, and all errors are
// reported at once. A key that containerlab knows and the runner does not
// play is an error too, so that a topology never does less than it says.
// Only keys that mean nothing without containers are read and left aside:
// image, image-pull-policy, group, labels, privileged, cap-add and healthcheck.
package clab

import (
	"net/netip"
	"slices"
	"strings"
)

// DefaultMTU is the MTU in octets of a link that names none, as containerlab
// has it.
const DefaultMTU = 9500

// Topology is a checked topology file, defaults and kinds already applied.
type Topology struct {
	Name  string  // letters, digits, '-', '_' and '.', at most 64
	File  string  // absolute path of the file
	Nodes []*Node // in the order of the file
	Links []Link  // in the order of the file
}

// Node is one node of the topology.
type Node struct {
	Name    string
	Image   string            // read for its own sake; no container is made of it
	Command []string          // entrypoint and cmd, split into words; empty: the node only waits
	Exec    []Line            // run in this order when the links are there
	Binds   []Bind            // host files and directories shown in the node
	Env     map[string]string // environment of the command and of what is executed later
	Sysctls map[string]string // kernel settings of the node, by dotted name
	Devices []string          // device files of the host that the node needs
}

// Line is a command line of a node's exec list.
type Line struct {
	Text  string   // as written
	Words []string // split as a shell splits words; no expansion
	At    string   // file:line:column
}

// Bind shows a file or directory of the host in a node.
type Bind struct {
	Source   string // absolute
	Target   string // absolute, in the node
	ReadOnly bool
	At       string // file:line:column
}

// Endpoint is one end of a link.
type Endpoint struct {
	Node, Interface string
}

func (e Endpoint) String() string { return e.Node + ":" + e.Interface }

// Link is a point-to-point Ethernet link.
type Link struct {
	A, B Endpoint
	MTU  int // octets
}

// Node returns the node called name, or nil.
func (t *Topology) Node(name string) *Node {
	i := slices.IndexFunc(t.Nodes, func(n *Node) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return t.Nodes[i]
}

// NodeNames lists the nodes in the order of the file.
func (t *Topology) NodeNames() []string {
	names := make([]string, len(t.Nodes))
	for i, n := range t.Nodes {
		names[i] = n.Name
	}
	return names
}

// Interfaces lists the interfaces of a node in the order of the links.
func (t *Topology) Interfaces(node string) []string {
	var list []string
	for _, l := range t.Links {
		for _, e := range []Endpoint{l.A, l.B} {
			if e.Node == node {
				list = append(list, e.Interface)
			}
		}
	}
	return list
}

// Runs tells whether some node's command or exec line runs the program name.
func (t *Topology) Runs(name string) bool {
	for _, n := range t.Nodes {
		if len(n.Command) > 0 && n.Command[0] == name {
			return true
		}
		for _, l := range n.Exec {
			if len(l.Words) > 0 && l.Words[0] == name {
				return true
			}
		}
	}
	return false
}

// NeedsDevice tells whether some node lists the device file path.
func (t *Topology) NeedsDevice(path string) bool {
	return slices.ContainsFunc(t.Nodes, func(n *Node) bool { return slices.Contains(n.Devices, path) })
}

// Address is an address that a node's exec lines give to an interface.
type Address struct {
	Interface string
	Prefix    netip.Prefix // host address with the prefix length
}

// Addresses lists the addresses that the exec lines of the form
// `ip addr add PREFIX dev INTERFACE` give to the node, in their order.
func (n *Node) Addresses() []Address {
	var list []Address
	for _, l := range n.Exec {
		if a, ok := lineAddress(l.Words); ok {
			list = append(list, a)
		}
	}
	return list
}

func lineAddress(words []string) (Address, bool) {
	if len(words) == 0 || words[0] != "ip" {
		return Address{}, false
	}
	words = words[1:]
	for len(words) > 0 && strings.HasPrefix(words[0], "-") {
		words = words[1:]
	}
	if len(words) < 5 || !slices.Contains([]string{"a", "addr", "address"}, words[0]) ||
		!slices.Contains([]string{"add", "replace"}, words[1]) {
		return Address{}, false
	}
	p, err := netip.ParsePrefix(words[2])
	if err != nil {
		return Address{}, false
	}
	i := slices.Index(words, "dev")
	if i < 0 || i+1 == len(words) {
		return Address{}, false
	}
	return Address{Interface: words[i+1], Prefix: p}, true
}
