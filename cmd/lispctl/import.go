package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"iter"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// importBatch is how many records go in one message: as many as the server
// takes, because each batch costs a commit.
const importBatch = 20_000

// importer makes records out of routes.
type importer struct {
	iid      uint32
	ttl      uint32
	locators []netip.Addr
	byOrigin bool
}

func newImport() *cobra.Command {
	var im importer
	var locators []string
	var by string
	var skipBad bool
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Load a BGP table into a map-server as EID records",
		Long: `import reads a BGP table and puts a mapping for each prefix into the map-server
that runs on this host. FILE (- for standard input), plain or in gzip, has either
a prefix a line, or three columns as CAIDA's pfx2as files: address, prefix length
and origin AS, where several origins are joined by _ and AS sets by commas. Which
one is told by the first line. Empty lines and lines that begin with # are passed
over.

Each mapping gets one of the --locator addresses: number FNV-1a(text) modulo their
count, in the order given, where FNV-1a is the 32-bit hash and the text is the
prefix ("192.0.2.0/24"), or with --by origin the origin column ("64496_64497"), so
that all prefixes of an AS share a locator.

The file is read whole before anything is sent. Lines that are not routes are
reported; if there are any, nothing is imported unless --skip-bad is given.
Mappings that are there already are replaced, so an import that was interrupted
is repeated; what it has reported as durable survives a crash of the map-server.`,
		Example: `  lispctl import --locator 192.0.2.1,192.0.2.2 routeviews-rv2-20240406.pfx2as.gz
  lispctl import --locator 192.0.2.1 --iid 7 --ttl 60 --skip-bad prefixes.txt`,
		Args: arguments(1, 1),
	}
	f := cmd.Flags()
	f.StringSliceVar(&locators, "locator", nil, "locator addresses, separated by commas; may be repeated")
	f.StringVar(&by, "by", "prefix", "what a locator is chosen by: prefix or origin")
	f.Uint32Var(&im.iid, "iid", 0, "instance-ID of the mappings")
	f.Uint32Var(&im.ttl, "ttl", mapping.DefaultTTL, "record TTL in minutes")
	f.BoolVar(&skipBad, "skip-bad", false, "import the good lines even if there are bad ones")
	socket := socketFlag(cmd, programMapServer)
	out := formatFlag(cmd, formatTable)
	completeWords(cmd, "by", "prefix", "origin")
	cmd.MarkFlagRequired("locator")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := im.set(locators, by); err != nil {
			return err
		}
		table, err := openTable(cmd, args[0])
		if err != nil {
			return err
		}
		if err := report(cmd.ErrOrStderr(), args[0], table, skipBad); err != nil {
			return err
		}
		if im.byOrigin && table.format != formatPfx2as {
			return fmt.Errorf("--by origin: %s has no origins", args[0])
		}
		c, err := dial(cmd.Context(), *socket, programMapServer)
		if err != nil {
			return err
		}
		defer c.close()
		started := time.Now()
		if err := putAll(cmd.Context(), c, uint64(len(table.routes)), im.batches(table.routes), cmd.ErrOrStderr()); err != nil {
			return err
		}
		n, seconds := len(table.routes), time.Since(started).Seconds()
		return out.output(cmd).done(importJSON{mappingsJSON{Mappings: n}, seconds, table.bad, table.duplicates}, "%d mappings imported in %.1f s (%.0f/s)", n, seconds, float64(n)/seconds)
	}
	return cmd
}

// importJSON is what became of an import, for programs.
type importJSON struct {
	mappingsJSON
	Seconds float64 `json:"seconds"`
	// BadLines were skipped; Duplicates are prefixes that were there again.
	BadLines   int `json:"bad_lines"`
	Duplicates int `json:"duplicates"`
}

// set checks the flags.
func (im *importer) set(locators []string, by string) error {
	for _, s := range locators {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("--locator: found %q, expected an IPv4 or IPv6 address", s)
		}
		if err := mapping.ValidRLOC(a); err != nil {
			return fmt.Errorf("--locator: %w", err)
		}
		im.locators = append(im.locators, a)
	}
	if len(im.locators) == 0 {
		return errors.New("--locator: found none, expected at least one address")
	}
	if by != "prefix" && by != "origin" {
		return fmt.Errorf("--by: found %q, expected prefix or origin", by)
	}
	im.byOrigin = by == "origin"
	if im.iid > mapping.MaxIID {
		return fmt.Errorf("--iid: found %d, expected 0 to %d", im.iid, mapping.MaxIID)
	}
	if im.ttl == 0 {
		return errors.New("--ttl: found 0, expected at least 1 minute")
	}
	return nil
}

func openTable(cmd *cobra.Command, file string) (*bgpTable, error) {
	in := cmd.InOrStdin()
	if file == "-" {
		file = "standard input"
	} else {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	t, err := readTable(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return t, nil
}

// report says what was found in a table, and fails when it is not to be
// imported.
func report(w io.Writer, file string, t *bgpTable, skipBad bool) error {
	for _, b := range t.firstBad {
		fmt.Fprintf(w, "%s:%d: %v\n", file, b.number, b.err)
	}
	if more := t.bad - len(t.firstBad); more > 0 {
		fmt.Fprintf(w, "%s: and %d more bad lines\n", file, more)
	}
	switch {
	case t.bad > 0 && !skipBad:
		return fmt.Errorf("%s: %d bad and %d good lines, nothing was imported (--skip-bad imports the good ones)", file, t.bad, len(t.routes)+t.duplicates)
	case len(t.routes) == 0:
		return fmt.Errorf("%s: no prefixes", file)
	}
	if t.bad > 0 {
		fmt.Fprintf(w, "%s: %d bad lines skipped\n", file, t.bad)
	}
	if t.duplicates > 0 {
		fmt.Fprintf(w, "%s: %d prefixes given more than once, the last line counts\n", file, t.duplicates)
	}
	return nil
}

// record is the mapping for a route.
func (im *importer) record(rt route) *eidolonv1.Record {
	key := rt.origin
	if !im.byOrigin {
		key = rt.prefix.String()
	}
	h := fnv.New32a()
	io.WriteString(h, key)
	locator := im.locators[h.Sum32()%uint32(len(im.locators))]
	return &eidolonv1.Record{
		Eid:       mapping.EID{IID: im.iid, Prefix: rt.prefix}.String(),
		RecordTtl: &im.ttl,
		Locators:  []*eidolonv1.Locator{{Address: locator.String(), Priority: 1, Weight: 100}},
	}
}

// batches makes the messages of an import.
func (im *importer) batches(routes []route) iter.Seq[[]*eidolonv1.Record] {
	return func(yield func([]*eidolonv1.Record) bool) {
		for chunk := range slices.Chunk(routes, importBatch) {
			records := make([]*eidolonv1.Record, len(chunk))
			for i, rt := range chunk {
				records[i] = im.record(rt)
			}
			if !yield(records) {
				return
			}
		}
	}
}

// putAll puts all batches, total records, and shows progress on w. What is durable
// when it fails is in the error. batches is called by another goroutine.
func putAll(ctx context.Context, c *client, total uint64, batches iter.Seq[[]*eidolonv1.Record], w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := eidolonv1.NewMappingServiceClient(c.conn).ImportMappings(ctx)
	if err != nil {
		return explain(err)
	}
	var durable atomic.Uint64
	stop := startProgress(w, total, &durable)
	defer stop()

	// The sender runs ahead of the acknowledgements as far as the flow
	// control of the connection lets it. When it fails, Recv says why.
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for records := range batches {
			if stream.Send(&eidolonv1.ImportMappingsRequest{Records: records}) != nil {
				return
			}
		}
		stream.CloseSend()
	}()
	defer func() { cancel(); <-sent }()

	err = received(stream.Recv, func(resp *eidolonv1.ImportMappingsResponse) error {
		durable.Store(resp.GetDurableRecords())
		return nil
	})
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err != nil:
		err = explain(err)
	case durable.Load() != total:
		err = errors.New("the map-server ended the import early")
	default:
		return nil
	}
	return fmt.Errorf("%w; %d of %d mappings are durable, repeat the import for the rest", err, durable.Load(), total)
}
