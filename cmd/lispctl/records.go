package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/encoding/protojson"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// Limits on a file of records.
const (
	maxRecords = 1 << 25
	// maxYAML bounds a file in YAML, in octets, which is in memory several times.
	maxYAML = 64 << 20
)

// readRecords reads records, perhaps in gzip: JSON objects one after the other,
// or a list of them in JSON or YAML. It wants each EID once.
func readRecords(r io.Reader) ([]*eidolonv1.Record, error) {
	in, err := plainReader(r)
	if err != nil {
		return nil, err
	}
	first, err := firstOctet(in)
	switch {
	case errors.Is(err, io.EOF):
		return nil, errors.New("no records")
	case err != nil:
		return nil, err
	case first != '{' && first != '[':
		text, err := io.ReadAll(io.LimitReader(in, maxYAML+1))
		if err != nil {
			return nil, err
		}
		if len(text) > maxYAML {
			return nil, fmt.Errorf("more than %d MiB of YAML; use JSON", maxYAML>>20)
		}
		b, err := yaml.YAMLToJSON(text)
		if err != nil {
			return nil, err
		}
		in = bufio.NewReader(bytes.NewReader(b))
		if first, err = firstOctet(in); err != nil || first != '[' {
			return nil, errors.New("found no list, expected records as mapping export writes them")
		}
	}
	d := json.NewDecoder(in)
	if first == '[' {
		if _, err := d.Token(); err != nil {
			return nil, err
		}
	}
	var list []*eidolonv1.Record
	seen := make(map[mapping.EID]int)
	for d.More() {
		number := len(list) + 1
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, fmt.Errorf("record %d: %w", number, err)
		}
		rec := new(eidolonv1.Record)
		if err := protojson.Unmarshal(raw, rec); err != nil {
			return nil, fmt.Errorf("record %d: %w", number, err)
		}
		e, err := mapping.ParseEID(rec.GetEid())
		if err != nil {
			return nil, fmt.Errorf("record %d: %w", number, err)
		}
		if n := seen[e]; n > 0 {
			return nil, fmt.Errorf("record %d: %v is in record %d, too", number, e, n)
		}
		seen[e] = number
		if list = append(list, rec); len(list) > maxRecords {
			return nil, fmt.Errorf("more than %d records", maxRecords)
		}
	}
	if first == '[' {
		if _, err := d.Token(); err != nil {
			return nil, fmt.Errorf("after record %d: %w", len(list), err)
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("after record %d: found something else than records", len(list))
	}
	if len(list) == 0 {
		return nil, errors.New("no records")
	}
	return list, nil
}

// plainReader reads what may be in gzip.
func plainReader(r io.Reader) (*bufio.Reader, error) {
	in := bufio.NewReaderSize(r, 1<<16)
	if magic, _ := in.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return in, nil
	}
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	return bufio.NewReaderSize(z, 1<<16), nil
}

// firstOctet skips white space and returns what comes next, without reading it.
func firstOctet(in *bufio.Reader) (byte, error) {
	for {
		b, err := in.ReadByte()
		if err != nil {
			return 0, err
		}
		if b != ' ' && b != '\t' && b != '\n' && b != '\r' {
			return b, in.UnreadByte()
		}
	}
}
