package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// importOctets bounds a message with records; the server takes 8 MiB.
const importOctets = 4 << 20

func newMapping() *cobra.Command {
	cmd := group("mapping", "Show and change the mappings of a map-server",
		newMappingGet(), newMappingPut(), newMappingDelete(), newMappingExport(), newMappingImport(), newMappingWatch())
	cmd.Long = `Shows and changes the mappings of a map-server. What is put here stands beside the
static mappings of the configuration and the registrations of xTRs, survives a
restart and does not expire. It is answered where neither of the others has the
same EID-prefix, and only it can be deleted here.`
	return cmd
}

func newMappingGet() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get EID",
		Short: "Show the mapping of an EID",
		Long: `get shows the mapping of exactly this EID; with --longest-match, that of the longest
EID-prefix that holds it, as a Map-Request would find it. The exit code is 1 when
there is none.`,
		Args: arguments(1, 1),
	}
	completes(cmd, 1, liveEIDs, programMapServer)
	longest := cmd.Flags().Bool("longest-match", false, "the longest EID-prefix that holds the EID")
	socket := socketFlag(cmd, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withMappings(cmd, *socket, args, func(ctx context.Context, c eidolonv1.MappingServiceClient) error {
			var m *eidolonv1.Mapping
			if *longest {
				resp, err := c.LookupMapping(ctx, &eidolonv1.LookupMappingRequest{Eid: args[0]})
				if err != nil {
					return err
				}
				m = resp.GetMapping()
			} else {
				resp, err := c.GetMapping(ctx, &eidolonv1.GetMappingRequest{Eid: args[0]})
				if err != nil {
					return err
				}
				m = resp.GetMapping()
			}
			o := out.output(cmd)
			if o.structured() {
				return o.object(m)
			}
			l := o.list(mappingColumns...)
			if err := addMapping(l, m); err != nil {
				return err
			}
			return l.end()
		})
	}
	return cmd
}

// withMappings checks EIDs and calls do with the mappings of a map-server, for one
// answer.
func withMappings(cmd *cobra.Command, at target, eids []string, do func(context.Context, eidolonv1.MappingServiceClient) error) error {
	for _, e := range eids {
		if _, err := mapping.ParseEID(e); err != nil {
			return err
		}
	}
	c, err := dial(cmd.Context(), at, programMapServer)
	if err != nil {
		return err
	}
	defer c.close()
	ctx, cancel := context.WithTimeout(cmd.Context(), answerTime)
	defer cancel()
	return explain(do(ctx, eidolonv1.NewMappingServiceClient(c.conn)))
}

// recordFlags are what a record is made of.
type recordFlags struct {
	locators []string
	ttl      uint32
	action   string
}

// record returns the record for an EID.
func (f recordFlags) record(eid string) (*eidolonv1.Record, error) {
	e, err := mapping.ParseEID(eid)
	if err != nil {
		return nil, err
	}
	r := &eidolonv1.Record{Eid: e.String(), RecordTtl: &f.ttl}
	if f.ttl == 0 {
		return nil, errors.New("--ttl: found 0, expected at least 1 minute")
	}
	if (f.action == "") == (len(f.locators) == 0) {
		return nil, errors.New("expected either --locator or --action")
	}
	if f.action != "" {
		n, ok := eidolonv1.Action_value["ACTION_"+strings.ToUpper(strings.ReplaceAll(f.action, "-", "_"))]
		if !ok || n == 0 {
			return nil, fmt.Errorf("--action: found %q, expected %s", f.action, strings.Join(actions, ", "))
		}
		r.Action = eidolonv1.Action(n)
	}
	for _, s := range f.locators {
		l, err := parseLocator(s)
		if err != nil {
			return nil, fmt.Errorf("--locator: %w", err)
		}
		r.Locators = append(r.Locators, l)
	}
	return r, nil
}

// actions are those that a record without locators may have.
var actions = []string{"no-action", "natively-forward", "send-map-request", "drop", "drop-policy-denied", "drop-auth-failure"}

// parseLocator reads "192.0.2.1" or "192.0.2.1=1/100": address, priority, weight.
func parseLocator(s string) (*eidolonv1.Locator, error) {
	bad := func() (*eidolonv1.Locator, error) {
		return nil, fmt.Errorf("found %q, expected an address, or with priority and weight, such as 192.0.2.1=1/100", s)
	}
	address, share, given := strings.Cut(s, "=")
	l := &eidolonv1.Locator{Priority: 1, Weight: 100}
	a, err := netip.ParseAddr(address)
	if err != nil {
		return bad()
	}
	if err := mapping.ValidRLOC(a); err != nil {
		return nil, err
	}
	l.Address = a.String()
	if given {
		priority, weight, _ := strings.Cut(share, "/")
		p, perr := strconv.ParseUint(priority, 10, 8)
		w, werr := strconv.ParseUint(weight, 10, 8)
		if perr != nil || werr != nil {
			return bad()
		}
		l.Priority, l.Weight = uint32(p), uint32(w)
	}
	return l, nil
}

func newMappingPut() *cobra.Command {
	var f recordFlags
	var file string
	var revision uint64
	cmd := &cobra.Command{
		Use:   "put [EID]",
		Short: "Add or replace mappings",
		Long: `put adds a mapping or replaces the one that was put for the same EID. With --file
it puts all records of a file as mapping export writes them, all of them or none;
for more than 20,000 use mapping import. When it returns they are durable and
answered.

With --if-revision it does so only if the revision at which the mapping was put,
PUT-REVISION of mapping get -o wide, is still this one; 0 if none was put.`,
		Example: `  lispctl mapping put 10.1.0.0/16 --locator 192.0.2.1=1/60 --locator 192.0.2.2=1/40
  lispctl mapping put '[7]10.2.0.0/16' --action drop --ttl 15
  lispctl mapping put --file mappings.yml`,
		Args: arguments(0, 1),
	}
	completes(cmd, 1, putEIDs, programMapServer)
	fl := cmd.Flags()
	fl.StringArrayVar(&f.locators, "locator", nil, "a locator: address, or address=priority/weight (default 1/100); may be repeated")
	fl.StringVar(&f.action, "action", "", "what an ITR does with packets, for a mapping without locators: "+strings.Join(actions, ", "))
	fl.Uint32Var(&f.ttl, "ttl", mapping.DefaultTTL, "record TTL in minutes")
	fl.StringVarP(&file, "file", "f", "", "read the records from a file; - for standard input")
	fl.Uint64Var(&revision, "if-revision", 0, "only if the mapping was put at this revision; 0: not at all")
	completeWords(cmd, "action", actions...)
	socket := socketFlag(cmd, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var records []*eidolonv1.Record
		switch {
		case (file == "") == (len(args) == 0):
			return fmt.Errorf("expected either an EID or --file (see %s --help)", cmd.CommandPath())
		case file != "":
			if slices.ContainsFunc([]string{"locator", "action", "ttl", "if-revision"}, fl.Changed) {
				return errors.New("--locator, --action, --ttl and --if-revision are for one EID, and not for --file")
			}
			var err error
			if records, err = openRecords(cmd, file); err != nil {
				return err
			}
			if len(records) > importBatch {
				return fmt.Errorf("%s: %d records, at most %d can be put at once (mapping import takes more)", file, len(records), importBatch)
			}
		default:
			r, err := f.record(args[0])
			if err != nil {
				return err
			}
			records = []*eidolonv1.Record{r}
		}
		return withMappings(cmd, *socket, nil, func(ctx context.Context, c eidolonv1.MappingServiceClient) error {
			req := &eidolonv1.PutMappingsRequest{Records: records}
			if fl.Changed("if-revision") {
				req.IfRevisions = []uint64{revision}
			}
			resp, err := c.PutMappings(ctx, req)
			if err != nil {
				return err
			}
			return out.output(cmd).done(mappingsJSON{len(records), resp.GetRevision()}, "%d mappings put, revision %d", len(records), resp.GetRevision())
		})
	}
	return cmd
}

// mappingsJSON is what became of mappings, for programs.
type mappingsJSON struct {
	// Mappings is how many were put, imported or deleted.
	Mappings int `json:"mappings"`
	// Revision is the one at which they were, where one message did it all; a
	// string, as 64 bits are in the API's JSON.
	Revision uint64 `json:"revision,string,omitempty"`
}

func newMappingDelete() *cobra.Command {
	var within string
	var revision uint64
	cmd := &cobra.Command{
		Use:   "delete [EID]...",
		Short: "Delete mappings that were put",
		Long: `delete deletes the mappings that were put for these EIDs, all of them or none. With
--within it deletes all that were put for EIDs inside this one, so that an import
can be undone; mappings of the configuration and of xTRs stay. With --if-revision it
deletes the mapping of one EID only if it was put at this revision.`,
		Example: `  lispctl mapping delete 10.1.0.0/16 '[7]10.2.0.0/16'
  lispctl mapping delete --within 10.0.0.0/8`,
		Args: arguments(0, importBatch),
	}
	completes(cmd, -1, putEIDs, programMapServer)
	cmd.Flags().StringVar(&within, "within", "", "all that were put inside of this EID-prefix")
	cmd.Flags().Uint64Var(&revision, "if-revision", 0, "only if the mapping was put at this revision")
	socket := socketFlag(cmd, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (within == "") == (len(args) == 0) {
			return fmt.Errorf("expected either EIDs or --within (see %s --help)", cmd.CommandPath())
		}
		if cmd.Flags().Changed("if-revision") && len(args) != 1 {
			return errors.New("--if-revision is for one EID")
		}
		check := args
		if within != "" {
			check = []string{within}
		}
		return withMappings(cmd, *socket, check, func(ctx context.Context, c eidolonv1.MappingServiceClient) error {
			if within == "" {
				req := &eidolonv1.DeleteMappingsRequest{Eids: args}
				if cmd.Flags().Changed("if-revision") {
					req.IfRevisions = []uint64{revision}
				}
				resp, err := c.DeleteMappings(ctx, req)
				if err != nil {
					return err
				}
				return out.output(cmd).done(mappingsJSON{len(args), resp.GetRevision()}, "%d mappings deleted, revision %d", len(args), resp.GetRevision())
			}
			n, err := deleteWithin(cmd.Context(), c, within)
			if err != nil && n > 0 {
				return fmt.Errorf("%w; %d mappings are deleted, repeat it for the rest", explain(err), n)
			}
			if err != nil {
				return err
			}
			return out.output(cmd).done(mappingsJSON{Mappings: n}, "%d mappings deleted", n)
		})
	}
	return cmd
}

// deleteWithin deletes what was put inside of an EID and returns how many that
// were, also with an error.
func deleteWithin(ctx context.Context, c eidolonv1.MappingServiceClient, within string) (deleted int, err error) {
	var eids []string
	// A static or registered mapping of the same EID goes before one that was
	// put, so all are looked at.
	err = listMappings(ctx, c, &eidolonv1.ListMappingsRequest{Within: within}, func(m *eidolonv1.Mapping) error {
		if m.GetPutRevision() > 0 {
			eids = append(eids, m.GetRecord().GetEid())
		}
		return nil
	})
	for ; err == nil && len(eids) > 0; eids = eids[min(len(eids), importBatch):] {
		batch := eids[:min(len(eids), importBatch)]
		timed, cancel := context.WithTimeout(ctx, answerTime)
		_, err = c.DeleteMappings(timed, &eidolonv1.DeleteMappingsRequest{Eids: batch})
		cancel()
		if err == nil {
			deleted += len(batch)
		}
	}
	return deleted, err
}

// listMappings calls each for the mappings that a request selects.
func listMappings(ctx context.Context, c eidolonv1.MappingServiceClient, req *eidolonv1.ListMappingsRequest, each func(*eidolonv1.Mapping) error) error {
	stream, err := c.ListMappings(ctx, req)
	if err != nil {
		return err
	}
	return received(stream.Recv, func(resp *eidolonv1.ListMappingsResponse) error {
		for _, m := range resp.GetMappings() {
			if err := each(m); err != nil {
				return err
			}
		}
		return nil
	})
}

// origins are the names of origins on the command line.
var origins = map[string]eidolonv1.MappingOrigin{
	"api":        eidolonv1.MappingOrigin_MAPPING_ORIGIN_API,
	"static":     eidolonv1.MappingOrigin_MAPPING_ORIGIN_STATIC,
	"registered": eidolonv1.MappingOrigin_MAPPING_ORIGIN_REGISTERED,
	"all":        eidolonv1.MappingOrigin_MAPPING_ORIGIN_UNSPECIFIED,
}

func newMappingExport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export [EID]",
		Short: "Write the records of mappings, for mapping import and put",
		Long: `export writes the records of the mappings that were put, or with --origin of
others, one after the other and in the order of EIDs; with an argument only those
inside of this EID. mapping import and mapping put --file read them.`,
		Example: `  lispctl mapping export > mappings.jsonl
  lispctl mapping export 10.0.0.0/8 --origin all -o yaml`,
		Args: arguments(0, 1),
	}
	completes(cmd, 1, liveEIDs, programMapServer)
	origin := cmd.Flags().String("origin", "api", "whose mappings: api, static, registered or all")
	completeWords(cmd, "origin", slices.Sorted(maps.Keys(origins))...)
	socket := socketFlag(cmd, programMapServer)
	out := formatFlag(cmd, formatJSONL)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		from, ok := origins[*origin]
		if !ok {
			return fmt.Errorf("--origin: found %q, expected api, static, registered or all", *origin)
		}
		req := &eidolonv1.ListMappingsRequest{Origin: from}
		if len(args) > 0 {
			req.Within = args[0]
		}
		return withMappings(cmd, *socket, args, func(_ context.Context, c eidolonv1.MappingServiceClient) error {
			l := out.output(cmd).list("EID-PREFIX", "TTL", "LOCATORS")
			if err := listMappings(cmd.Context(), c, req, func(m *eidolonv1.Mapping) error {
				r := m.GetRecord()
				return l.add(r, r.GetEid(), ttlText(r.GetRecordTtl()), locatorsText(r))
			}); err != nil {
				return err
			}
			return l.end()
		})
	}
	return cmd
}

func newMappingImport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Put the records of a file that mapping export wrote",
		Long: `import puts all records of a file (- for standard input), plain or in gzip: JSON
objects one after the other, or a list of them in JSON or YAML, as mapping export
writes them. The file is read and checked whole before anything is sent. Then
batches of at most 20,000 records are put, each all or none; what was reported as
durable survives a crash of the map-server, so that an import that was
interrupted is repeated.

lispctl import loads BGP tables.`,
		Args: arguments(1, 1),
	}
	socket := socketFlag(cmd, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		records, err := openRecords(cmd, args[0])
		if err != nil {
			return err
		}
		c, err := dial(cmd.Context(), *socket, programMapServer)
		if err != nil {
			return err
		}
		defer c.close()
		if err := putAll(cmd.Context(), c, uint64(len(records)), batches(records), cmd.ErrOrStderr()); err != nil {
			return err
		}
		return out.output(cmd).done(mappingsJSON{Mappings: len(records)}, "%d mappings imported", len(records))
	}
	return cmd
}

// batches cuts records into what one message may hold.
func batches(records []*eidolonv1.Record) iter.Seq[[]*eidolonv1.Record] {
	return func(yield func([]*eidolonv1.Record) bool) {
		for len(records) > 0 {
			n := 0
			for octets := 0; n < min(len(records), importBatch) && (n == 0 || octets < importOctets); n++ {
				octets += proto.Size(records[n])
			}
			if !yield(records[:n]) {
				return
			}
			records = records[n:]
		}
	}
}

// openRecords reads the records of a file, - for standard input.
func openRecords(cmd *cobra.Command, file string) ([]*eidolonv1.Record, error) {
	var in io.Reader = cmd.InOrStdin()
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
	records, err := readRecords(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return records, nil
}
