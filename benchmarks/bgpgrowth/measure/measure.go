// Package measure is what a run of bgpgrowth measured, as rows of a CSV file: the
// programs that run speakers and map-servers write it, the model reads it.
package measure

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"strconv"
)

// Arms.
const (
	ArmPI      = "A" // each site announces provider-independent prefixes
	ArmHoles   = "B" // holes in provider blocks, and more-specifics for traffic engineering
	ArmEidolon = "C" // sites announce nothing and register their mappings
	ArmMixed   = "D" // a share of the sites is as in C, the others as in A
	ArmBest    = "E" // as A, each origin having aggregated all that it can
)

// Variants of an arm; an arm that is not named here has the empty one.
const (
	// ArmEidolon: how those who use a mapping hear of a change.
	VariantSMR    = "smr"
	VariantProbes = "probes" // by silence alone: nobody tells them
	VariantPubSub = "pubsub"
	VariantAll    = "all"
	// ArmMixed: what the proxy-ITRs announce for the sites that moved.
	VariantBlocks = "blocks" // the few blocks that their EIDs are of
	VariantOldPI  = "old-pi" // each prefix that the sites had before
)

// Kinds of rows, by what they measure. The fields of other kinds are NaN.
const (
	// KindTable is the state of all speakers after all announcements, and what it
	// took to get there.
	KindTable = "table"
	// KindFailure is the loss of one of a site's providers, and KindRepair its
	// return. Repetition counts the failures of a run.
	KindFailure = "failure"
	KindRepair  = "repair"
	// KindRestart is a speaker's session that is lost and comes back with all
	// routes (BGP), or an ITR that begins with an empty map-cache while the traffic
	// goes on (Eidolon).
	KindRestart = "restart"
	// KindMapping is the state of the map-server with all sites registered, and the
	// messages at rest.
	KindMapping = "mapping"
	// KindCache is an ITR under traffic to sites that are chosen by a Zipf law.
	KindCache = "cache"
	// KindReplay is what a collector recorded, sent to the speakers (the MRAI says
	// how) or, with no MRAI, as changes of mappings. Variant is the file, and Cache
	// how many subscribe to each mapping.
	KindReplay = "replay"
)

// Run is one row. What was not measured is NaN. Counts are what went over the wire
// or stands in tables; nothing of it is computed from a model.
type Run struct {
	// The key: no two rows agree in all of these.
	Kind       string  `csv:"kind"`
	Arm        string  `csv:"arm"`
	Variant    string  `csv:"variant"`
	Speakers   int     `csv:"speakers"`   // D: routers of the default-free zone
	Sites      int     `csv:"sites"`      // N
	Repetition int     `csv:"repetition"` // from 0
	MRAI       float64 `csv:"mrai_s"`     // seconds: 0, 5 or 30
	Adoption   float64 `csv:"adoption"`   // share of the sites that have moved, 0 to 1
	Zipf       float64 `csv:"zipf"`       // exponent of the traffic
	Cache      float64 `csv:"cache_limit"`

	Seed   uint64 `csv:"seed"`
	Source string `csv:"source"` // of the sites

	// KindTable. Sums are over all speakers.
	Prefixes   float64 `csv:"prefixes"`    // different ones that are announced at all
	RIBPaths   float64 `csv:"rib_paths"`   // sum
	FIBEntries float64 `csv:"fib_entries"` // sum: best paths
	RIBMax     float64 `csv:"rib_paths_max"`
	FIBMax     float64 `csv:"fib_entries_max"` // of the speaker with the most
	HeapBytes  float64 `csv:"heap_bytes"`      // of all speakers, grown by the announcements, after collections
	Sessions   float64 `csv:"sessions"`        // among speakers, all established
	Edges      float64 `csv:"edge_sessions"`   // between speakers and sites

	// KindTable (from the first announcement to rest), KindFailure, KindRepair and
	// KindRestart (from the event to rest): what went over the sessions.
	Updates       float64 `csv:"updates"`         // UPDATE messages among speakers, as delivered, but for withdrawals of what was not announced
	Announced     float64 `csv:"nlri_announced"`  // prefixes in them
	Withdrawn     float64 `csv:"nlri_withdrawn"`  //
	Bytes         float64 `csv:"update_bytes"`    // of these messages, headers of BGP included
	EdgeUpdates   float64 `csv:"edge_updates"`    // sent by sites to speakers
	EdgeBytes     float64 `csv:"edge_bytes"`      //
	Offered       float64 `csv:"updates_offered"` // by the speakers, before the MRAI
	Completed     float64 `csv:"completed"`       // withdrawals that GoBGP left out and the relays added
	Touched       float64 `csv:"routers_touched"` // speakers that got or sent any of them
	ConvergenceMs float64 `csv:"convergence_ms"`  // from the event to the last change anywhere
	FirstMs       float64 `csv:"first_change_ms"` // to the first message among speakers, or of the mapping system

	// KindFailure and KindRepair.
	Providers    float64 `csv:"providers"`     // of the site, before the failure
	SitePrefixes float64 `csv:"site_prefixes"` // announced or registered
	Live         float64 `csv:"live"`          // 1: a site with sessions or an xTR of its own
	Users        float64 `csv:"users"`         // xTRs that have the site's mapping in use
	Changed      float64 `csv:"users_changed"` // of those, how many got to know

	// Messages of the mapping system, all of them: in KindFailure, KindRepair and
	// KindRestart from the event to rest, in KindMapping and KindCache over
	// Seconds.
	Seconds       float64 `csv:"seconds"`
	Records       float64 `csv:"records"`       // registered EID-prefixes (KindMapping)
	RecordHeap    float64 `csv:"record_heap"`   // bytes of the map-server's heap, grown by them
	XTRs          float64 `csv:"xtrs"`          // live ones
	Subscribed    float64 `csv:"subscribed"`    // subscriptions that the map-server has (KindMapping)
	Registers     float64 `csv:"registers"`     // Map-Registers
	Notifies      float64 `csv:"notifies"`      // Map-Notifies to registrants
	Publications  float64 `csv:"publications"`  // Map-Notifies to subscribers
	Acks          float64 `csv:"acks"`          // Map-Notify-Acks
	SMRs          float64 `csv:"smrs"`          //
	Requests      float64 `csv:"requests"`      // Map-Requests that are no SMR, probe or subscription
	Subscriptions float64 `csv:"subscriptions"` // Map-Requests that subscribe
	Probes        float64 `csv:"probes"`        // Map-Requests that probe
	Replies       float64 `csv:"replies"`       // Map-Replies, to probes too
	Infos         float64 `csv:"infos"`         // Info-Requests and Info-Replies
	Messages      float64 `csv:"messages"`      // all of the above
	MessageBytes  float64 `csv:"message_bytes"` // their UDP payloads

	// KindCache and KindRestart of Eidolon.
	Packets      float64 `csv:"packets"`         // first packets of flows that met the map-cache
	Misses       float64 `csv:"misses"`          //
	Entries      float64 `csv:"cache_entries"`   // in the end
	FirstP50Ms   float64 `csv:"first_p50_ms"`    // a first packet waits for its mapping
	FirstP99Ms   float64 `csv:"first_p99_ms"`    //
	FirstMaxMs   float64 `csv:"first_max_ms"`    //
	RestoredMs   float64 `csv:"restored_ms"`     // until what was there before is there again
	RestoredSeen float64 `csv:"restored_routes"` // how many routes or entries that are
}

// New is a row in which nothing is measured yet.
func New(kind, arm, variant string) Run {
	r := Run{Kind: kind, Arm: arm, Variant: variant}
	v := reflect.ValueOf(&r).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Float64 {
			f.SetFloat(math.NaN())
		}
	}
	return r
}

// Key tells rows apart.
type Key struct {
	Kind, Arm, Variant          string
	Speakers, Sites, Repetition int
	MRAI, Adoption, Zipf, Cache string // as written: NaN is no key
}

// Key returns the key of a row.
func (r Run) Key() Key {
	return Key{r.Kind, r.Arm, r.Variant, r.Speakers, r.Sites, r.Repetition,
		number(r.MRAI), number(r.Adoption), number(r.Zipf), number(r.Cache)}
}

// number writes a value; NaN is the empty string.
func number(x float64) string {
	if math.IsNaN(x) {
		return ""
	}
	return strconv.FormatFloat(x, 'g', -1, 64)
}

// Header returns the names of the columns.
func Header() []string {
	t := reflect.TypeFor[Run]()
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = t.Field(i).Tag.Get("csv")
	}
	return names
}

func (r *Run) fields() []string {
	v := reflect.ValueOf(r).Elem()
	out := make([]string, v.NumField())
	for i := range out {
		switch f := v.Field(i); f.Kind() {
		case reflect.Float64:
			out[i] = number(f.Float())
		case reflect.Int:
			out[i] = strconv.FormatInt(f.Int(), 10)
		case reflect.Uint64:
			out[i] = strconv.FormatUint(f.Uint(), 10)
		case reflect.String:
			out[i] = f.String()
		}
	}
	return out
}

func parse(fields []string) (Run, error) {
	r := New("", "", "")
	v := reflect.ValueOf(&r).Elem()
	for i, s := range fields {
		var err error
		switch f := v.Field(i); f.Kind() {
		case reflect.Float64:
			x := math.NaN()
			if s != "" {
				x, err = strconv.ParseFloat(s, 64)
			}
			f.SetFloat(x)
		case reflect.Int:
			var n int64
			n, err = strconv.ParseInt(s, 10, 0)
			f.SetInt(n)
		case reflect.Uint64:
			var n uint64
			n, err = strconv.ParseUint(s, 10, 64)
			f.SetUint(n)
		case reflect.String:
			f.SetString(s)
		}
		if err != nil {
			return r, fmt.Errorf("column %s: %w", Header()[i], err)
		}
	}
	return r, nil
}

// Read reads rows. The header must be that of this version of the program.
func Read(in io.Reader) ([]Run, error) {
	c := csv.NewReader(in)
	head := Header()
	c.FieldsPerRecord = len(head)
	var runs []Run
	for line := 0; ; line++ {
		fields, err := c.Read()
		if errors.Is(err, io.EOF) {
			return runs, nil
		}
		if err != nil {
			return runs, err
		}
		if line == 0 {
			for i := range head {
				if fields[i] != head[i] {
					return nil, fmt.Errorf("column %d is %q, expected %q: the file is of another version", i+1, fields[i], head[i])
				}
			}
			continue
		}
		r, err := parse(fields)
		if err != nil {
			return runs, fmt.Errorf("row %d: %w", line+1, err)
		}
		runs = append(runs, r)
	}
}

// ReadFile reads the rows of a file.
func ReadFile(path string) ([]Run, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	runs, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return runs, nil
}

// File is a CSV file that rows are added to, which survive the program: what is in
// it at the beginning need not be measured again.
type File struct {
	f    *os.File
	done map[Key]bool
	runs []Run
}

// Open opens or makes the file at path. A last row that was not written whole, as
// when the program was killed, is removed.
func Open(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	whole := bytes.LastIndexByte(b, '\n') + 1
	x := &File{f: f, done: make(map[Key]bool)}
	if x.runs, err = Read(bytes.NewReader(b[:whole])); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i := range x.runs {
		x.done[x.runs[i].Key()] = true
	}
	if err := f.Truncate(int64(whole)); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := f.Seek(int64(whole), io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	if whole == 0 {
		if err := Write(f, nil); err != nil {
			f.Close()
			return nil, err
		}
	}
	return x, nil
}

// Has reports whether there is a row with the key of r.
func (f *File) Has(r Run) bool { return f.done[r.Key()] }

// Runs returns the rows, those added since included. The slice is the file's.
func (f *File) Runs() []Run { return f.runs }

// Add writes rows at the end, all at once, and refuses one that is there already.
func (f *File) Add(runs ...Run) error {
	for i := range runs {
		if f.Has(runs[i]) {
			return fmt.Errorf("a second row for %+v", runs[i].Key())
		}
		f.done[runs[i].Key()] = true
	}
	f.runs = append(f.runs, runs...)
	return write(f.f, runs, false)
}

// Write writes rows below a header.
func Write(out io.Writer, runs []Run) error { return write(out, runs, true) }

func write(out io.Writer, runs []Run, header bool) error {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	if header {
		w.Write(Header())
	}
	for i := range runs {
		w.Write(runs[i].fields())
	}
	w.Flush()
	_, err := out.Write(b.Bytes())
	return err
}

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }
