package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// plainText is what YAML takes for text without quotes, whichever version of it a
// program reads; notText is what of it some version takes for something else.
// Anything else is quoted as in JSON, which YAML reads.
var (
	plainText = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_./ -]*[A-Za-z0-9_]|[0-9]+(\.[0-9]+){3}(/[0-9]+)?)$`)
	notText   = regexp.MustCompile(`(?i)^(null|true|false|yes|no|on|off|y|n)$`)
)

// toYAML returns a JSON text as YAML: members in their order, numbers as they
// are.
func toYAML(b []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var out bytes.Buffer
	if err := yamlValue(d, &out, "", true); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("more than one JSON value")
	}
	return out.Bytes(), nil
}

// yamlValue writes the next value. What goes before it on its line has been
// written; more lines begin with indent. fresh says that nothing is on the line
// but indent and dashes, so that a collection may begin there.
func yamlValue(d *json.Decoder, out *bytes.Buffer, indent string, fresh bool) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	open, ok := t.(json.Delim)
	if !ok {
		if !fresh {
			out.WriteByte(' ')
		}
		out.WriteString(yamlScalar(t))
		out.WriteByte('\n')
		return nil
	}
	if !d.More() {
		if !fresh {
			out.WriteByte(' ')
		}
		fmt.Fprintf(out, "%c%c\n", open, open+2) // [] and {} are two apart
		_, err := d.Token()
		return err
	}
	if !fresh {
		out.WriteByte('\n')
	}
	for first := fresh; d.More(); first = false {
		if !first {
			out.WriteString(indent)
		}
		if open == '[' {
			out.WriteString("- ")
			if err := yamlValue(d, out, indent+"  ", true); err != nil {
				return err
			}
			continue
		}
		key, err := d.Token()
		if err != nil {
			return err
		}
		out.WriteString(yamlScalar(key) + ":")
		if err := yamlValue(d, out, indent+"  ", false); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

func yamlScalar(t json.Token) string {
	switch v := t.(type) {
	case nil:
		return "null"
	case string:
		if plainText.MatchString(v) && !notText.MatchString(v) && !strings.Contains(v, " -") {
			return v
		}
		b, _ := json.Marshal(v)
		return string(b)
	}
	return fmt.Sprint(t)
}
