package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/csv"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/dfz"
	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/mapsys"
	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/measure"
	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/mrt"
	"github.com/eidolon-lisp/eidolon/benchmarks/rig"
)

// replayJob is a file of BGP updates that is sent to speakers as it was recorded, or
// as the changes of mappings that the same changes would be.
type replayJob struct {
	File     string
	Speed    float64       // how many times faster than it was recorded
	MRAI     time.Duration // of the relays
	Mapping  bool          // changes of mappings, to a map-server
	Watchers int           // that subscribe to all mappings
}

func (r *replayJob) String() string {
	if r.Mapping {
		return fmt.Sprintf("%s as changes of mappings, %d subscribers each", filepath.Base(r.File), r.Watchers)
	}
	return fmt.Sprintf("%s to speakers, MRAI %v", filepath.Base(r.File), r.MRAI)
}

// replay runs one.
func (j job) replay(ctx context.Context, topo dfz.Topology, say func(string, ...any)) ([]measure.Run, error) {
	f, err := mrt.ReadFile(j.Replay.File)
	if err != nil {
		return nil, err
	}
	r := j.done()
	if j.Replay.Mapping {
		err = j.Replay.mapping(ctx, f, &r, say)
	} else {
		err = j.Replay.speakers(ctx, f, topo, &r, say)
	}
	return []measure.Run{r}, err
}

// row is what the row of a replay has before anything is measured.
func (r *replayJob) row(j job) measure.Run {
	x := measure.New(measure.KindReplay, "", filepath.Base(r.File))
	x.Speakers, x.Seed, x.Source = j.Speakers, j.Seed, fmt.Sprintf("%s, %v times as fast", x.Variant, r.Speed)
	if r.Mapping {
		x.Cache = float64(r.Watchers)
	} else {
		x.MRAI = r.MRAI.Seconds()
	}
	return x
}

// clock waits for the moments of a file.
type clock struct {
	begin, first time.Time
	speed        float64
}

func (c *clock) until(ctx context.Context, t time.Time) error {
	if d := time.Until(c.begin.Add(time.Duration(float64(t.Sub(c.first)) / c.speed))); d > 0 {
		return sleep(ctx, d)
	}
	return ctx.Err()
}

// speakers gives each peer of the collector a session with a speaker, over which it
// says what it said to the collector.
func (r *replayJob) speakers(ctx context.Context, f *mrt.File, topo dfz.Topology, row *measure.Run, say func(string, ...any)) error {
	z, err := dfz.Start(ctx, topo, nil)
	if err != nil {
		return err
	}
	defer z.Close()
	edges := make(map[mrt.Peer]*dfz.Edge)
	for i := range f.Updates {
		if p := f.Updates[i].Peer; edges[p] == nil {
			if edges[p], err = z.Dial(ctx, topo.Edge[len(edges)%len(topo.Edge)], p.AS); err != nil {
				return err
			}
		}
	}
	sessions, err := z.Sessions(ctx)
	if err != nil {
		return err
	}
	if sessions != len(topo.Links) {
		return fmt.Errorf("%d of %d sessions are established", sessions, len(topo.Links))
	}
	// What is withdrawn first was there before.
	prime, err := before(f, edges)
	if err != nil {
		return err
	}
	for i, x := range prime {
		if err := x.edge.Replay(nil, x.attrs, x.list); err != nil {
			return err
		}
		if i%100 == 0 {
			say("routes from before, %d of %d", i, len(prime))
		}
	}
	if err := z.Rest(ctx, loadLimit); err != nil {
		return err
	}
	z.SetMRAI(r.MRAI)
	z.Track(nil)
	c := clock{begin: time.Now(), first: f.Updates[0].Time, speed: r.Speed}
	for i := range f.Updates {
		u := &f.Updates[i]
		if len(u.Announced)+len(u.Withdrawn) == 0 {
			continue
		}
		if err := c.until(ctx, u.Time); err != nil {
			return err
		}
		e := edges[u.Peer]
		var attrs []byte
		if len(u.Announced) > 0 {
			if attrs, err = u.AppendAttributes(nil, e.Local()); err != nil {
				return fmt.Errorf("UPDATE %d: %w", i, err)
			}
		}
		if err := e.Replay(u.Withdrawn, attrs, u.Announced); err != nil {
			return fmt.Errorf("UPDATE %d: %w", i, err)
		}
		if i%100 == 0 {
			say("UPDATE %d of %d", i, len(f.Updates))
		}
	}
	end := time.Now()
	say("comes to rest")
	if err := z.Rest(ctx, loadLimit); err != nil {
		return err
	}
	total := z.Total()
	if total.Updates == 0 {
		return errors.New("nothing was seen among the speakers")
	}
	row.Seconds = end.Sub(c.begin).Seconds()
	row.Sessions, row.Edges = float64(sessions), float64(z.Edges())
	row.Updates, row.Bytes, row.Announced, row.Withdrawn = total.Updates, total.Bytes, total.Announced, total.Withdrawn
	row.Offered, row.EdgeUpdates, row.EdgeBytes = total.Offered, total.EdgeUpdates, total.EdgeBytes
	row.ConvergenceMs = milliseconds(max(0, total.Last.Sub(end)))
	if sessions, err = z.Sessions(ctx); err == nil && float64(sessions) != row.Sessions {
		err = fmt.Errorf("%d of %v sessions are left", sessions, row.Sessions)
	}
	return err
}

// routes is what a peer said before the file begins.
type routes struct {
	edge  *dfz.Edge
	attrs []byte
	list  []netip.Prefix
}

// before returns routes to what peers withdraw without having announced it: with the
// attributes that the same peer gives the prefix later, or, if it never does, with
// those of its first announcement of anything.
func before(f *mrt.File, edges map[mrt.Peer]*dfz.Edge) ([]routes, error) {
	type pair struct {
		peer   mrt.Peer
		prefix netip.Prefix
	}
	said := make(map[pair]*mrt.Update)
	missing := make(map[pair]bool)
	var order []pair
	first := make(map[mrt.Peer]*mrt.Update)
	for i := range f.Updates {
		u := &f.Updates[i]
		for _, p := range u.Withdrawn {
			if k := (pair{u.Peer, p}); said[k] == nil && !missing[k] {
				missing[k] = true
				order = append(order, k)
			}
		}
		for _, p := range u.Announced {
			if k := (pair{u.Peer, p}); said[k] == nil {
				said[k] = u
			}
			if first[u.Peer] == nil {
				first[u.Peer] = u
			}
		}
	}
	var list []routes
	for _, k := range order {
		u := said[k]
		if u == nil {
			u = first[k.peer]
		}
		if u == nil {
			continue // a peer that only withdraws: nothing that speakers pass on
		}
		attrs, err := u.AppendAttributes(nil, edges[k.peer].Local())
		if err != nil {
			return nil, err
		}
		list = append(list, routes{edges[k.peer], attrs, []netip.Prefix{k.prefix}})
	}
	return list, nil
}

// mapping registers what changes as sites would.
func (r *replayJob) mapping(ctx context.Context, f *mrt.File, row *measure.Run, say func(string, ...any)) error {
	_, changes := mrt.Analyse(f)
	if len(changes) == 0 {
		return fmt.Errorf("%s: nothing changes", f.Name)
	}
	number := make(map[netip.Prefix]int)
	cfg := mapsys.Config{PubSub: true, Watchers: r.Watchers}
	eids := &space{next: 4 << 24, end: 10 << 24}
	for _, c := range changes {
		if _, ok := number[c.Prefix]; ok {
			continue
		}
		// One of the same size of its own: some of the real ones are inside of others,
		// which would be one mapping more or less here.
		p, err := eids.take(max(24, c.Prefix.Bits()))
		if err != nil {
			return err
		}
		number[c.Prefix] = len(cfg.Sites)
		cfg.Sites = append(cfg.Sites, mapsys.Site{EID: p, Uplinks: 2})
	}
	s, err := mapsys.New(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	say("%d registrations", len(cfg.Sites))
	if _, err := s.RegisterAll(ctx); err != nil {
		return err
	}
	say("%d subscriptions", r.Watchers*len(cfg.Sites))
	if err := s.Watch(ctx); err != nil {
		return err
	}
	s.Begin()
	c := clock{begin: time.Now(), first: changes[0].Time, speed: r.Speed}
	reachable := make(map[int]bool)
	for i := range cfg.Sites {
		reachable[i] = true
	}
	for i, x := range changes {
		if err := c.until(ctx, x.Time); err != nil {
			return err
		}
		var locators []netip.Addr
		for _, as := range x.After {
			locators = append(locators, locator(as))
		}
		n := number[x.Prefix]
		reachable[n] = len(locators) > 0
		if err := s.Change(ctx, n, locators); err != nil {
			return err
		}
		if i%100 == 0 {
			say("change %d of %d", i, len(changes))
		}
	}
	end := time.Now()
	count, err := s.Changes(ctx)
	if err != nil {
		return err
	}
	want := 0
	for _, ok := range reachable {
		if ok {
			want++
		}
	}
	for w := range r.Watchers {
		if n := s.Known(w); n != want {
			return fmt.Errorf("a subscriber knows locators of %d sites in the end, expected %d", n, want)
		}
	}
	row.Seconds, row.Records, row.Subscribed = end.Sub(c.begin).Seconds(), float64(len(cfg.Sites)), float64(r.Watchers*len(cfg.Sites))
	row.Users, row.Changed = float64(r.Watchers), float64(len(changes))
	row.ConvergenceMs = milliseconds(max(0, count.Last.Sub(end)))
	seconds := row.Seconds
	putMessages(row, count, end.Sub(c.begin))
	row.Seconds = seconds
	if count.Registers < len(changes) {
		return fmt.Errorf("%d Map-Registers for %d changes", count.Registers, len(changes))
	}
	return s.Close()
}

// locator is the address that a site has from one of its providers.
func locator(as uint32) netip.Addr {
	h := fnv.New32a()
	h.Write(binary.BigEndian.AppendUint32(nil, as))
	k := h.Sum32()
	return netip.AddrFrom4([4]byte{100, 64 | byte(k>>16)&63, byte(k >> 8), byte(k)})
}

// Limits of a replay: a file is replayed to the map-server within the lifetime of a
// registration, of which none is renewed meanwhile.
const maxMappingReplay = 100 * time.Second

var (
	replayMRAIs    = []time.Duration{0, 5 * time.Second, 30 * time.Second}
	replayWatchers = []int{0, 4}
)

// replayed is what there is of a file.
type replayed struct {
	file     *mrt.File
	stats    mrt.Stats
	speakers []measure.Run
	mapping  []measure.Run
}

// replay replays files and writes replay.md and replay.csv.
func replay(ctx context.Context, o options) error {
	var jobs []job
	var all []*replayed
	of := make(map[string]*replayed)
	for _, path := range o.mrt {
		f, err := mrt.ReadFile(path)
		if err != nil {
			return err
		}
		x := &replayed{file: f}
		x.stats, _ = mrt.Analyse(f)
		if x.stats.Announced == 0 {
			return fmt.Errorf("%s: no IPv4 prefix is announced in %d UPDATEs", path, x.stats.Updates)
		}
		all = append(all, x)
		if of[f.Name] != nil {
			return fmt.Errorf("two files have the name %s", f.Name)
		}
		of[f.Name] = x
		base := job{Speakers: 10, Seed: o.seed}
		for _, mrai := range replayMRAIs {
			base.Replay = &replayJob{File: path, Speed: o.speed, MRAI: mrai}
			jobs = append(jobs, base)
		}
		for _, n := range replayWatchers {
			speed := max(o.speed, float64(x.stats.Window)/float64(maxMappingReplay))
			base.Replay = &replayJob{File: path, Speed: speed, Mapping: true, Watchers: n}
			jobs = append(jobs, base)
		}
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	file, err := measure.Open(filepath.Join(o.out, "replay-runs.csv"))
	if err != nil {
		return err
	}
	defer file.Close()
	want := make(map[measure.Key]measure.Run)
	for _, j := range jobs {
		want[j.done().Key()] = j.done()
	}
	for _, r := range file.Runs() {
		if w, ok := want[r.Key()]; ok && (r.Source != w.Source || r.Seed != w.Seed) {
			return fmt.Errorf("%s has a run of %s with seed %d, expected %s with %d: give another -out", o.out, r.Source, r.Seed, w.Source, w.Seed)
		}
	}
	// At the speed of the recording the worlds wait more than they work.
	if err := measureAll(ctx, jobs, atOnce, file); err != nil {
		return err
	}
	for _, r := range file.Runs() {
		x := of[r.Variant]
		switch _, ok := want[r.Key()]; {
		case !ok:
		case math.IsNaN(r.MRAI):
			x.mapping = append(x.mapping, r)
		default:
			x.speakers = append(x.speakers, r)
		}
	}
	for _, x := range all { // as in the lists of what is varied
		slices.SortFunc(x.speakers, func(a, b measure.Run) int { return cmp.Compare(a.MRAI, b.MRAI) })
		slices.SortFunc(x.mapping, func(a, b measure.Run) int { return cmp.Compare(a.Cache, b.Cache) })
	}
	table := replayTable(all)
	var md strings.Builder
	replayReport(&md, o, all, table)
	if err := os.WriteFile(filepath.Join(o.out, "replay.md"), []byte(md.String()), 0o644); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(o.out, "replay.csv"))
	if err != nil {
		return err
	}
	w := csv.NewWriter(f)
	for _, line := range table {
		w.Write(append([]string{line.what}, line.values...))
	}
	w.Flush()
	_, err = io.WriteString(os.Stdout, md.String())
	return errors.Join(err, w.Error(), f.Close())
}

// line is one of the table: a quantity, and its value for each file.
type line struct {
	what   string
	values []string
}

func replayTable(all []*replayed) []line {
	var lines []line
	head := line{what: "quantity"}
	for _, x := range all {
		head.values = append(head.values, x.file.Name)
	}
	lines = append(lines, head)
	add := func(what string, value func(x *replayed) float64) {
		l := line{what: what}
		for _, x := range all {
			v := value(x)
			l.values = append(l.values, strconv.FormatFloat(v, 'f', digits(v), 64))
		}
		lines = append(lines, l)
	}
	stat := func(what string, value func(s *mrt.Stats) float64) {
		add(what, func(x *replayed) float64 { return value(&x.stats) })
	}
	stat("seconds", func(s *mrt.Stats) float64 { return s.Window.Seconds() })
	stat("peers of the collector", func(s *mrt.Stats) float64 { return float64(s.Peers) })
	stat("UPDATEs", func(s *mrt.Stats) float64 { return float64(s.Updates) })
	stat("UPDATEs a second, mean", func(s *mrt.Stats) float64 { return s.PerSecond.Mean })
	stat("UPDATEs in the busiest second", func(s *mrt.Stats) float64 { return s.PerSecond.Max })
	stat("octets of an UPDATE, mean", func(s *mrt.Stats) float64 { return s.OctetsEach.Mean })
	stat("octets of an UPDATE, median", func(s *mrt.Stats) float64 { return s.OctetsEach.Median })
	stat("octets of an UPDATE, 99 %", func(s *mrt.Stats) float64 { return s.OctetsEach.P99 })
	stat("IPv4 prefixes of an UPDATE that has any, mean", func(s *mrt.Stats) float64 { return s.PrefixesEach.Mean })
	stat("IPv4 prefixes of an UPDATE that has any, median", func(s *mrt.Stats) float64 { return s.PrefixesEach.Median })
	stat("IPv4 prefixes of an UPDATE that has any, largest", func(s *mrt.Stats) float64 { return s.PrefixesEach.Max })
	stat("IPv4 prefixes announced", func(s *mrt.Stats) float64 { return float64(s.Announced) })
	stat("IPv4 prefixes withdrawn", func(s *mrt.Stats) float64 { return float64(s.Withdrawn) })
	stat("announced again just as before", func(s *mrt.Stats) float64 { return float64(s.Again) })
	stat("announced again with the same path", func(s *mrt.Stats) float64 { return float64(s.SamePath) })
	stat("different IPv4 prefixes", func(s *mrt.Stats) float64 { return float64(s.Prefixes) })
	stat("events (messages about a prefix within 30 s)", func(s *mrt.Stats) float64 { return float64(s.Events) })
	for i, mrai := range replayMRAIs {
		with := fmt.Sprintf("speakers, MRAI %v: ", mrai)
		row := func(what string, value func(r *measure.Run) float64) {
			add(with+what, func(x *replayed) float64 { return value(&x.speakers[i]) })
		}
		if i == 0 {
			row("UPDATEs in, from the peers", func(r *measure.Run) float64 { return r.EdgeUpdates })
			row("sessions among speakers", func(r *measure.Run) float64 { return r.Sessions })
		}
		row("UPDATEs among speakers", func(r *measure.Run) float64 { return r.Updates })
		row("for each that came in", func(r *measure.Run) float64 { return r.Updates / r.EdgeUpdates })
		row("octets among speakers", func(r *measure.Run) float64 { return r.Bytes })
		row("octets of an UPDATE, mean", func(r *measure.Run) float64 { return r.Bytes / r.Updates })
		row("prefixes announced", func(r *measure.Run) float64 { return r.Announced })
		row("prefixes withdrawn", func(r *measure.Run) float64 { return r.Withdrawn })
		row("seconds from the last message in to the last change", func(r *measure.Run) float64 { return r.ConvergenceMs / 1000 })
	}
	stat("changes of the neighbours of an origin, at most", func(s *mrt.Stats) float64 { return float64(s.Changes) })
	stat("of these, what was before is known", func(s *mrt.Stats) float64 { return float64(s.Known) })
	stat("of these, of origins that carry for nobody", func(s *mrt.Stats) float64 { return float64(s.ChangesStub) })
	for i, n := range replayWatchers {
		with := fmt.Sprintf("mappings, %d subscribers each: ", n)
		row := func(what string, value func(r *measure.Run) float64) {
			add(with+what, func(x *replayed) float64 { return value(&x.mapping[i]) })
		}
		row("changes", func(r *measure.Run) float64 { return r.Changed })
		row("messages", func(r *measure.Run) float64 { return r.Messages })
		row("messages for each change", func(r *measure.Run) float64 { return r.Messages / r.Changed })
		row("octets (UDP payloads)", func(r *measure.Run) float64 { return r.MessageBytes })
		row("octets of a message, mean", func(r *measure.Run) float64 { return r.MessageBytes / r.Messages })
		row("Map-Registers", func(r *measure.Run) float64 { return r.Registers })
		row("Map-Notifies to the site", func(r *measure.Run) float64 { return r.Notifies })
		row("Map-Notifies to subscribers", func(r *measure.Run) float64 { return r.Publications })
		row("Map-Notify-Acks", func(r *measure.Run) float64 { return r.Acks })
		row("seconds that the changes took", func(r *measure.Run) float64 { return r.Seconds })
	}
	return lines
}

// digits are those behind the point that say something.
func digits(v float64) int {
	if v == float64(int64(v)) || v >= 1000 {
		return 0
	}
	return 2
}

// replayReport writes the report: what was done and the table.
func replayReport(w io.Writer, o options, all []*replayed, table []line) {
	fmt.Fprintf(w, "# Recorded BGP updates, through speakers and as changes of mappings\n\n    go run ./benchmarks/bgpgrowth %s\n\n%s, commit %s, seed %d.\n\n", strings.Join(shown(os.Args[1:]), " "), rig.Machine(), rig.Commit(), o.seed)
	fmt.Fprintf(w, "Each peer of the collector has a session with one of 10 GoBGP speakers, as a customer, and says at the same moments (%v times as fast) what it said to the collector; "+
		"relays count what the speakers then tell each other. What a peer withdraws without having announced it in the file is announced before the count begins. "+
		"Only IPv4 is replayed.\n\n", o.speed)
	fmt.Fprintf(w, "The same changes as mappings: a prefix stands for an EID-prefix, and each neighbour of its origin that some peer's path goes over for a locator. "+
		"When these change, the site registers the new ones with a live map-server, and so do its subscribers hear of it. Where a peer speaks of a prefix for the first time, "+
		"the path that it had before is not in the file: such changes are counted and replayed, so there are fewer in truth. "+
		"All that happens to a path behind the first neighbour of the origin changes no mapping. In the other direction, what a site does and these peers do not see is missing. "+
		"No registration is renewed while changes are counted; at rest each site sends one Map-Register a minute besides.\n\n")
	for i, l := range table {
		fmt.Fprintf(w, "| %s | %s |\n", l.what, strings.Join(l.values, " | "))
		if i == 0 {
			fmt.Fprintf(w, "|---|%s\n", strings.Repeat("---:|", len(l.values)))
		}
	}
	for _, x := range all {
		s := x.stats
		fmt.Fprintf(w, "\n%s: %d UPDATEs about %d IPv4 prefixes, which are %d events. At most %d of them are changes that a site would register (%.0f %% of the announced and withdrawn prefixes), "+
			"%d of these certainly. ", x.file.Name, s.Updates, s.Prefixes, s.Events, s.Changes, 100*float64(s.Changes)/float64(s.Announced+s.Withdrawn), s.Known)
		if x.file.Malformed > 0 || s.Others > 0 {
			fmt.Fprintf(w, "%d records were malformed, and %d prefixes of other families are not replayed. ", x.file.Malformed, s.Others)
		}
		bgp, none, some := &x.speakers[0], &x.mapping[0], &x.mapping[len(x.mapping)-1]
		perUser := (some.Messages/some.Changed - none.Messages/none.Changed) / some.Users
		fmt.Fprintf(w, "Among ten routers they are %.0f UPDATEs with %.0f octets; the mapping system has %.1f messages for each change and %.1f more for each subscriber, "+
			"which is %.0f messages in all without subscribers. As many messages as among the routers, it has with %.1f subscribers of each mapping.\n",
			bgp.Updates, bgp.Bytes, none.Messages/none.Changed, perUser, none.Messages, (bgp.Updates-none.Messages)/(perUser*none.Changed))
	}
}

// shown are arguments without the directories of files.
func shown(args []string) (out []string) {
	for i, a := range slices.Clone(args) {
		if i > 0 && strings.TrimLeft(args[i-1], "-") == "mrt" {
			a = filepath.Base(a)
		}
		out = append(out, a)
	}
	return out
}
