package clab

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// containerlabSchema is containerlab's own schema of topology files; the README.md
// beside it says of which release.
const containerlabSchema = "testdata/containerlab/clab.schema.json"

// loadSchema returns containerlab's schema, read and compiled.
func loadSchema(t *testing.T) (map[string]any, *jsonschema.Schema) {
	t.Helper()
	b, err := os.ReadFile(containerlabSchema)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("clab.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("clab.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return doc.(map[string]any), s
}

// validate compares a topology with the schema.
func validate(s *jsonschema.Schema, topology []byte) error {
	j, err := yaml.YAMLToJSON(topology)
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(j))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// Every topology of the lab is one by containerlab's own schema.
func TestTopologiesAreContainerlabs(t *testing.T) {
	_, schema := loadSchema(t)
	files, err := filepath.Glob("../../*.clab.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(schema, b); err != nil {
			t.Errorf("%s: %v", f, err)
		}
		for old, bad := range map[string]string{
			"privileged: false":    "privileged: maybe",
			"network-mode: none":   "network_mode: none",
			"cap-add: [NET_ADMIN,": "cap-add: [7,",
			"start-period:":        "start_period:",
			"mtu: 1500":            "mtu: large",
			"endpoints:":           "ends:",
		} {
			changed := bytes.ReplaceAll(b, []byte(old), []byte(bad))
			if bytes.Equal(changed, b) {
				t.Errorf("%s has no %q", f, old)
			} else if err, refused := errors.AsType[*jsonschema.ValidationError](validate(schema, changed)); !refused {
				t.Errorf("%s: %q is not refused: %v", f, bad, err)
			}
		}
	}
}

// The keys that the runner knows are those of containerlab's schema, all of them
// and no others but position, which its code reads and its schema lacks.
func TestKeysAreContainerlabs(t *testing.T) {
	doc, _ := loadSchema(t)
	at := func(path string) map[string]any {
		v := doc
		for name := range strings.SplitSeq(path, "/") {
			v, _ = v[name].(map[string]any)
		}
		return v
	}
	for path, known := range map[string]map[string]key{
		"properties":                            rootKeys,
		"properties/topology/properties":        topologyKeys,
		"definitions/node-config/properties":    nodeKeys,
		"definitions/link-type-veth/properties": linkKeys,
	} {
		theirs, ours := slices.Sorted(maps.Keys(at(path))), slices.Sorted(maps.Keys(known))
		ours = slices.DeleteFunc(ours, func(name string) bool { return name == "position" })
		if !slices.Equal(theirs, ours) {
			t.Errorf("%s: %v, and here %v", path, theirs, ours)
		}
	}
}
