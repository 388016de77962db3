package clab

import (
	"fmt"
	"slices"
)

// What becomes of a key that containerlab knows.
type keyUse int

const (
	unknown   keyUse = iota
	played           // has its meaning here too
	aside            // read; has no meaning without containers
	notPlayed        // an error, with the reason
)

// key is the entry of a key in the tables below.
type key struct {
	use keyUse
	why string // of notPlayed
}

const (
	noContainer = "the runner makes no containers"
	noMgmt      = "the runner has no management network"
	noImage     = "the runner takes no files from images"
)

// The keys of containerlab, level by level; a test compares them with its schema.
var (
	rootKeys = map[string]key{
		"name": {use: played}, "topology": {use: played},
		"prefix":   {notPlayed, noContainer},
		"mgmt":     {notPlayed, noMgmt + "; use network-mode: none"},
		"settings": {notPlayed, "certificates and the like are not made here"},
		"debug":    {notPlayed, ""},
	}
	topologyKeys = map[string]key{
		"defaults": {use: played}, "kinds": {use: played}, "nodes": {use: played}, "links": {use: played},
		"groups": {notPlayed, "put the keys under defaults, kinds or nodes"},
	}
	nodeKeys = map[string]key{
		"kind": {use: played}, "entrypoint": {use: played}, "cmd": {use: played},
		"exec": {use: played}, "binds": {use: played}, "env": {use: played},
		"sysctls": {use: played}, "devices": {use: played}, "network-mode": {use: played},

		"image": {use: aside}, "image-pull-policy": {use: aside}, "group": {use: aside},
		"labels": {use: aside}, "privileged": {use: aside}, "cap-add": {use: aside},
		"healthcheck": {use: aside},

		"restart-policy":          {notPlayed, "nothing is restarted here"},
		"license":                 {notPlayed, "only kind linux is played"},
		"type":                    {notPlayed, "only kind linux is played"},
		"startup-config":          {notPlayed, "only kind linux is played; use binds"},
		"enforce-startup-config":  {notPlayed, "only kind linux is played"},
		"suppress-startup-config": {notPlayed, "only kind linux is played"},
		"startup-delay":           {notPlayed, "commands start at once"},
		"auto-remove":             {notPlayed, noContainer},
		"volumes":                 {notPlayed, noContainer + "; use binds"},
		"ports":                   {notPlayed, noMgmt},
		"credentials":             {notPlayed, "only kind linux is played"},
		"env-files":               {notPlayed, "use env"},
		"user":                    {notPlayed, "commands run as the node's root"},
		"hostname":                {notPlayed, "a node's host name is its name"},
		"runtime":                 {notPlayed, noContainer},
		"mgmt-ipv4":               {notPlayed, noMgmt},
		"mgmt-ipv6":               {notPlayed, noMgmt},
		"link-apply-mode":         {notPlayed, noContainer},
		"cpu":                     {notPlayed, noContainer},
		"cpu-set":                 {notPlayed, noContainer},
		"memory":                  {notPlayed, noContainer},
		"shm-size":                {notPlayed, noContainer},
		"cgroupns-mode":           {notPlayed, noContainer},
		"cgroup-parent":           {notPlayed, noContainer},
		"pid-mode":                {notPlayed, noContainer},
		"security-opts":           {notPlayed, noContainer},
		"tmpfs":                   {notPlayed, "/run, /tmp and /var of a node are its own already"},
		"extras":                  {notPlayed, "only kind linux is played"},
		"config":                  {notPlayed, "only kind linux is played"},
		"stages":                  {notPlayed, "all nodes start at once, then the links, then exec"},
		"dns":                     {notPlayed, "names are in the hosts file of each node"},
		"certificate":             {notPlayed, "no certificates are made here"},
		"components":              {notPlayed, "only kind linux is played"},
		"aliases":                 {notPlayed, noMgmt},
		"position":                {notPlayed, noImage},
	}
	linkKeys = map[string]key{
		"endpoints": {use: played}, "mtu": {use: played}, "type": {use: played},
		"labels": {use: aside},
		"vars":   {notPlayed, "only kind linux is played"},
		"ipv4":   {notPlayed, "use exec: ip addr add"},
		"ipv6":   {notPlayed, "use exec: ip addr add"},
	}
)

// checkKey says what is wrong with name at a level whose keys are known, or
// "" if it may be read.
func checkKey(name, level string, known map[string]key) string {
	k := known[name]
	switch k.use {
	case played, aside:
		return ""
	case notPlayed:
		msg := fmt.Sprintf("containerlab knows the key %q, but this runner does not play it", name)
		if k.why != "" {
			msg += ": " + k.why
		}
		return msg
	}
	var names []string
	for n, k := range known {
		if k.use == played {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	msg := fmt.Sprintf("unknown key %q in %s", name, level)
	if near := nearest(name, names); near != "" {
		return msg + fmt.Sprintf("; did you mean %q?", near)
	}
	return msg + fmt.Sprintf("; expected one of %v", names)
}

// nearest returns the candidate within two edits of name, or "".
func nearest(name string, candidates []string) string {
	best, bestAt := "", 3
	for _, c := range candidates {
		if d := distance(name, c); d < bestAt {
			best, bestAt = c, d
		}
	}
	return best
}

// distance is the Levenshtein distance of two short strings.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := prev
			if a[i] != b[j] {
				cost++
			}
			prev = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
