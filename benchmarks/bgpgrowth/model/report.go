package model

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/measure"
)

// armNames are the arms as the report has them.
var armNames = map[string]string{
	measure.ArmPI: "A, provider-independent prefixes", measure.ArmHoles: "B, holes and more-specifics", measure.ArmEidolon: "C, Eidolon",
	measure.ArmMixed: "D, mixed", measure.ArmBest: "E, BGP with all aggregated",
}

// quantity is something that is fitted over runs of several sizes.
type quantity struct {
	name, unit string
	// of returns what the rows of a line have in common, and whether a row is of any.
	of   func(measure.Run) (group, bool)
	size func(measure.Run) float64 // the rows with the largest are held out
	x, y func(measure.Run) float64
}

// group is what one line is fitted for. Of what hangs on nothing that BGP does,
// Speakers is 0: the rows beside all zones are of one line.
type group struct {
	Arm, Variant string
	Speakers     int
}

func (g group) String() string {
	if g.Variant != "" {
		return armNames[g.Arm] + ", " + g.Variant
	}
	return armNames[g.Arm]
}

func sites(r measure.Run) float64    { return float64(r.Sites) }
func speakers(r measure.Run) float64 { return float64(r.Speakers) }

// inBGP is of a kind of row in the arms where all sites are in BGP.
func inBGP(kind string) func(measure.Run) (group, bool) {
	return func(r measure.Run) (group, bool) {
		return group{r.Arm, "", r.Speakers}, r.Kind == kind && (r.Arm == measure.ArmPI || r.Arm == measure.ArmHoles || r.Arm == measure.ArmBest) && (r.MRAI == 0 || math.IsNaN(r.MRAI))
	}
}

// inEidolon is of a kind of row of the mapping system.
func inEidolon(kind string) func(measure.Run) (group, bool) {
	return func(r measure.Run) (group, bool) {
		return group{r.Arm, r.Variant, 0}, r.Kind == kind && r.Arm == measure.ArmEidolon && !math.IsNaN(r.Messages)
	}
}

// anyZone is of all numbers of speakers together.
func anyZone(of func(measure.Run) (group, bool)) func(measure.Run) (group, bool) {
	return func(r measure.Run) (group, bool) {
		g, ok := of(r)
		g.Speakers = 0
		return g, ok
	}
}

const routesOfRouter = "routes in the fullest router"

var quantities = []quantity{
	{routesOfRouter, "a site", inBGP(measure.KindTable), sites, sites, func(r measure.Run) float64 { return r.FIBMax }},
	{"paths in all routers", "a site", inBGP(measure.KindTable), sites, sites, func(r measure.Run) float64 { return r.RIBPaths }},
	{"heap of all routers, octets", "a path", inBGP(measure.KindTable), sites, func(r measure.Run) float64 { return r.RIBPaths }, func(r measure.Run) float64 { return r.HeapBytes }},
	{"heap of all routers, octets", "a prefix", inBGP(measure.KindTable), sites, func(r measure.Run) float64 { return r.Prefixes }, func(r measure.Run) float64 { return r.HeapBytes }},
	{"UPDATEs to announce all", "a site", inBGP(measure.KindTable), sites, sites, func(r measure.Run) float64 { return r.Updates }},
	{"cold start of a session, us", "a route", inBGP(measure.KindRestart), sites, func(r measure.Run) float64 { return r.RestoredSeen }, func(r measure.Run) float64 { return 1e3 * r.RestoredMs }},
	{"UPDATEs of a failure", "a router", anyZone(inBGP(measure.KindFailure)), speakers, speakers, func(r measure.Run) float64 { return r.Updates }},
	{"messages of a failure", "a user of the mapping", inEidolon(measure.KindFailure), func(r measure.Run) float64 { return r.Users }, func(r measure.Run) float64 { return r.Users }, func(r measure.Run) float64 { return r.Messages }},
	{"heap of the map-server, octets", "a record", inEidolon(measure.KindMapping), sites, func(r measure.Run) float64 { return r.Records }, func(r measure.Run) float64 { return r.RecordHeap }},
	{"registrations and their answers a second", "a site", inEidolon(measure.KindMapping), sites, sites, func(r measure.Run) float64 { return (r.Registers + r.Notifies) / r.Seconds }},
}

// Fitted is a coefficient with what it says of the rows that were held out.
type Fitted struct {
	Group      group
	Name, Unit string
	Line       Line
	// HeldOut is the mean x of the N rows of the largest size, which the line has not
	// seen; Measured the mean of what they were, Predicted and Half what the line
	// expected.
	HeldOut, Measured, Predicted, Half float64
	N                                  int
}

// Within reports whether what was held out is in the interval.
func (f Fitted) Within() bool { return math.Abs(f.Measured-f.Predicted) <= f.Half }

// Coefficients fits every quantity for each of its groups, with the rows of the
// largest size held out. Where there are too few others there is none.
func Coefficients(runs []measure.Run) (list []Fitted) {
	for _, q := range quantities {
		groups := map[group][]measure.Run{}
		for _, r := range runs {
			if g, ok := q.of(r); ok && !math.IsNaN(q.x(r)) && !math.IsNaN(q.y(r)) {
				groups[g] = append(groups[g], r)
			}
		}
		for g, all := range groups {
			largest := 0.0
			for _, r := range all {
				largest = max(largest, q.size(r))
			}
			var x, y []float64
			f := Fitted{Group: g, Name: q.name, Unit: q.unit}
			for _, r := range all {
				if q.size(r) < largest {
					x, y = append(x, q.x(r)), append(y, q.y(r))
					continue
				}
				f.N++
				f.HeldOut += q.x(r)
				f.Measured += q.y(r)
			}
			f.HeldOut, f.Measured = f.HeldOut/float64(f.N), f.Measured/float64(f.N)
			var err error
			if f.Line, err = Fit(x, y); err != nil {
				continue
			}
			f.Predicted, f.Half = f.Line.Predict(f.HeldOut, f.N)
			list = append(list, f)
		}
	}
	slices.SortFunc(list, func(a, b Fitted) int {
		return cmp.Or(strings.Compare(a.Group.Arm, b.Group.Arm), cmp.Compare(a.Group.Speakers, b.Group.Speakers), strings.Compare(a.Group.Variant, b.Group.Variant),
			strings.Compare(a.Name, b.Name), strings.Compare(a.Unit, b.Unit))
	})
	return list
}

// Inputs says what a report is of.
type Inputs struct {
	Command, Commit, Machine string
	Sites                    string // where the sites are from
}

var provenance = regexp.MustCompile(`(?m)^    (go run \./benchmarks/bgpgrowth.*)\n\n(.*), commit (\S+)\. Sites: `)

// Provenance returns by what command, on what machine and at which commit the runs
// of a report were measured, "unknown" where it does not say.
func Provenance(report []byte) (command, machine, commit string) {
	if m := provenance.FindSubmatch(report); m != nil {
		return string(m[1]), string(m[2]), string(m[3])
	}
	return "unknown", "an unknown machine", "unknown"
}

// Report writes all that the runs say, in Markdown. Nothing in it is there that
// is not computed from the runs or from what is published.
func Report(w io.Writer, in Inputs, runs []measure.Run) error {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# What multihoming costs the global table, and what Eidolon changes\n")
	p("%s\n", Claim(runs))
	p("    %s\n\n%s, commit %s. Sites: %s. Each run is a row of [runs.csv](runs.csv).", in.Command, in.Machine, in.Commit, in.Sites)
	tableSection(p, runs)
	failureSection(p, runs)
	mappingSection(p, runs)
	adoptionSection(p, runs)
	coefficientSection(p, runs)
	yearsSection(p)
	_, err := io.WriteString(w, b.String())
	return err
}

// Claim is the first paragraph: the claim and its limits, in numbers.
func Claim(runs []measure.Run) string {
	last, shares := Published[len(Published)-1], Decomposed[len(Decomposed)-1]
	text := fmt.Sprintf("If every multihomed stub of %.0f announced nothing, the table of %.0f IPv4 prefixes would be %.2f times smaller (%.0f %% of it are theirs), and not more; "+
		"if only what they announce beyond their own largest prefixes went, %.2f times. ",
		shares.Year, Decomposed2024(), Saved(shares.Multihomed), 100*shares.Multihomed, Saved(shares.Extra))
	if a, e, ok := perSite(runs); ok {
		text += fmt.Sprintf("On the routers here a site costs each default-free router %.1f ± %.1f routes with provider-independent prefixes, %.1f ± %.1f where it aggregates all that it can, "+
			"and none with Eidolon. ", a.Slope, a.SlopeHalf, e.Slope, e.SlopeHalf)
	}
	if zones, updates, lisp, ok := perFailure(runs); ok {
		text += fmt.Sprintf("A failure of a provider causes on average %s UPDATE messages among %s routers, and %.0f messages of the mapping system, which go to who uses the site's mapping. ",
			list(updates), list(zones), lisp)
	}
	return text + fmt.Sprintf("Sites that keep their old prefixes, announced by proxies for the rest of the Internet, save nothing before all have moved. The table grows anyway, by %.1f %% a year since %.0f.",
		100*Growth(Published[7], last), Published[7].Year)
}

// Decomposed2024 is the size of the last table whose shares are known.
func Decomposed2024() float64 {
	want := Decomposed[len(Decomposed)-1].Year
	for _, p := range Published {
		if math.Abs(p.Year-want) < 0.05 {
			return p.Entries
		}
	}
	return math.NaN()
}

// list writes numbers as in a sentence.
func list(x []float64) (text string) {
	for i, v := range x {
		switch {
		case i > 0 && i == len(x)-1:
			text += " and "
		case i > 0:
			text += ", "
		}
		text += fmt.Sprintf("%.0f", v)
	}
	return text
}

// perSite returns the routes of a site in arms A and E, with the fewest speakers.
func perSite(runs []measure.Run) (a, e Line, ok bool) {
	var haveA, haveE bool
	for _, f := range Coefficients(runs) {
		if f.Name == routesOfRouter && f.Group.Arm == measure.ArmPI && !haveA {
			a, haveA = f.Line, true
		}
		if f.Name == routesOfRouter && f.Group.Arm == measure.ArmBest && !haveE {
			e, haveE = f.Line, true
		}
	}
	return a, e, haveA && haveE
}

// perFailure returns the mean numbers of messages of a failure: in arm A without a
// minimum interval, all sizes together, for each number of routers, and in arm C with
// all ways.
func perFailure(runs []measure.Run) (zones, updates []float64, lisp float64, ok bool) {
	in := func(r measure.Run) bool {
		return r.Kind == measure.KindFailure && r.Arm == measure.ArmPI && r.MRAI == 0
	}
	for _, r := range runs {
		if in(r) && !slices.Contains(zones, speakers(r)) {
			zones = append(zones, speakers(r))
		}
	}
	slices.Sort(zones)
	for _, z := range zones {
		updates = append(updates, mean(runs, func(r measure.Run) (float64, bool) { return r.Updates, in(r) && speakers(r) == z }))
	}
	lisp = mean(runs, func(r measure.Run) (float64, bool) {
		return r.Messages, r.Kind == measure.KindFailure && r.Arm == measure.ArmEidolon && r.Variant == measure.VariantAll
	})
	return zones, updates, lisp, len(zones) > 0 && !math.IsNaN(lisp)
}

// mean of what is picked and is a number; NaN if there is nothing.
func mean(runs []measure.Run, pick func(measure.Run) (float64, bool)) float64 {
	sum, n := 0.0, 0.0
	for _, r := range runs {
		if v, ok := pick(r); ok && !math.IsNaN(v) {
			sum, n = sum+v, n+1
		}
	}
	return sum / n
}

type printer func(format string, args ...any)

func tableSection(p printer, runs []measure.Run) {
	p("\n## Tables and memory\n")
	p("| arm | routers | sites | prefixes | routes in the fullest router | paths in all routers | heap of all, MB | octets of heap a path | UPDATEs to announce all |")
	p("|---|---|---|---|---|---|---|---|---|")
	for _, r := range runs {
		if r.Kind == measure.KindTable && r.Arm != measure.ArmMixed {
			p("| %s | %d | %d | %s | %s | %s | %s | %s | %s |", armNames[r.Arm], r.Speakers, r.Sites, number(r.Prefixes), number(r.FIBMax), number(r.RIBPaths), number(r.HeapBytes/1e6), each(r), number(r.Updates))
		}
	}
}

func coefficientSection(p printer, runs []measure.Run) {
	p("\n## Coefficients\n")
	fits := Coefficients(runs)
	if len(fits) == 0 {
		p("There are too few sizes for coefficients.")
		return
	}
	p("Straight lines through the runs of all sizes but the largest, with 95 %% intervals, and what they say of the largest, which they have not seen and which is beyond what they were fitted on: that is the test. " +
		"The size is the number of sites; of the messages of a failure it is that of routers, and of users of the mapping, where several failures are held out and their mean is compared.\n")
	p("| arm | routers | what | for each | runs | coefficient | of the largest: predicted | measured | |")
	p("|---|---|---|---|---|---|---|---|---|")
	for _, f := range fits {
		verdict := "inside"
		if !f.Within() {
			verdict = "**outside**"
		}
		zone := "any"
		if f.Group.Speakers > 0 {
			zone = fmt.Sprint(f.Group.Speakers)
		}
		p("| %v | %s | %s | %s | %d | %s ± %s | %s ± %s | %s | %s |", f.Group, zone, f.Name, f.Unit, f.Line.N, number(f.Line.Slope), number(f.Line.SlopeHalf), number(f.Predicted), number(f.Half), number(f.Measured), verdict)
	}
}

// each is the heap of a path; of few paths it is lost in what else a process has.
func each(r measure.Run) string {
	if r.RIBPaths < 1000 || r.HeapBytes <= 0 {
		return "–"
	}
	return number(r.HeapBytes / r.RIBPaths)
}

func failureSection(p printer, runs []measure.Run) {
	p("\n## The loss of a provider, in BGP\n")
	p("GoBGP has no minimum route advertisement interval; relays between the routers hold changes of a prefix back for 0, 5 and 30 s. Neither is a bound for other implementations. Means of all failures.\n")
	p("| arm | routers | sites | interval, s | failures | UPDATEs | prefixes in them | octets | routers that heard | s until the last change |")
	p("|---|---|---|---|---|---|---|---|---|---|")
	type cell struct {
		arm             string
		speakers, sites int
		mrai            float64
	}
	var order []cell
	groups := map[cell][]measure.Run{}
	for _, r := range runs {
		if r.Kind != measure.KindFailure || math.IsNaN(r.MRAI) || r.Arm == measure.ArmMixed || math.IsNaN(r.Updates) {
			continue
		}
		c := cell{r.Arm, r.Speakers, r.Sites, r.MRAI}
		if groups[c] == nil {
			order = append(order, c)
		}
		groups[c] = append(groups[c], r)
	}
	for _, c := range order {
		g := groups[c]
		of := func(f func(measure.Run) float64) string {
			return number(mean(g, func(r measure.Run) (float64, bool) { return f(r), true }))
		}
		p("| %s | %d | %d | %g | %d | %s | %s | %s | %s | %s |", armNames[c.arm], c.speakers, c.sites, c.mrai, len(g), of(func(r measure.Run) float64 { return r.Updates }),
			of(func(r measure.Run) float64 { return r.Announced + r.Withdrawn }), of(func(r measure.Run) float64 { return r.Bytes }), of(func(r measure.Run) float64 { return r.Touched }),
			of(func(r measure.Run) float64 { return r.ConvergenceMs / 1e3 }))
	}
}

func mappingSection(p printer, runs []measure.Run) {
	p("\n## The mapping system\n")
	p("| how who uses a mapping hears of a change | routers | sites | users of the mapping | messages of a failure | octets | SMRs | Map-Requests | publications | probes | s until all know | UPDATEs |")
	p("|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, r := range runs {
		if r.Kind == measure.KindFailure && r.Arm == measure.ArmEidolon && !math.IsNaN(r.Messages) {
			p("| %s | %s | %d | %s | %s | %s | %s | %s | %s | %s | %s | %s |", r.Variant, zone(r), r.Sites, number(r.Users), number(r.Messages), number(r.MessageBytes), number(r.SMRs), number(r.Requests), number(r.Publications), number(r.Probes), number(r.ConvergenceMs/1e3), number(r.Updates))
		}
	}
	p("\n| how | routers | sites | records | octets of heap a record | xTRs | messages a second at rest | of them registrations | probes |")
	p("|---|---|---|---|---|---|---|---|---|")
	for _, r := range runs {
		if r.Kind == measure.KindMapping {
			p("| %s | %s | %d | %s | %s | %s | %s | %s | %s |", r.Variant, zone(r), r.Sites, number(r.Records), number(r.RecordHeap/r.Records), number(r.XTRs), number(r.Messages/r.Seconds), number((r.Registers+r.Notifies)/r.Seconds), number(r.Probes/r.Seconds))
		}
	}
	p("\nAn ITR whose traffic goes to sites by a Zipf law, with a map-cache for all of them or for a part:\n")
	p("| sites | exponent | map-cache, of the sites | first packets | missed | entries | a first packet waits, ms, p50 | p99 | max |")
	p("|---|---|---|---|---|---|---|---|---|")
	for _, r := range runs {
		if r.Kind == measure.KindCache {
			p("| %d | %g | %g | %s | %.1f %% | %s | %s | %s | %s |", r.Sites, r.Zipf, r.Cache, number(r.Packets), 100*r.Misses/r.Packets, number(r.Entries), number(r.FirstP50Ms), number(r.FirstP99Ms), number(r.FirstMaxMs))
		}
	}
	p("\nA cold start, of a session of BGP and of an ITR whose map-cache is empty while its traffic goes on:\n")
	p("| arm | routers | sites | routes or entries | s until they are there again | messages |")
	p("|---|---|---|---|---|---|")
	for _, r := range runs {
		if r.Kind == measure.KindRestart {
			messages := r.Updates
			if r.Arm == measure.ArmEidolon {
				messages = r.Messages
			}
			p("| %s | %d | %d | %s | %s | %s |", armNames[r.Arm], r.Speakers, r.Sites, number(r.RestoredSeen), number(r.RestoredMs/1e3), number(messages))
		}
	}
}

// zone is how many routers BGP had beside the mapping system, which may have been none.
func zone(r measure.Run) string {
	if r.Variant != measure.VariantAll {
		return "–"
	}
	return fmt.Sprint(r.Speakers)
}

func adoptionSection(p printer, runs []measure.Run) {
	p("\n## Some have moved\n")
	p("| what proxy-ITRs announce | moved | prefixes | routes in the fullest router | UPDATEs of a failure |")
	p("|---|---|---|---|---|")
	for _, r := range runs {
		if r.Kind != measure.KindTable || r.Arm != measure.ArmMixed {
			continue
		}
		what := "blocks that EIDs are of"
		if r.Variant == measure.VariantOldPI {
			what = "each prefix that sites had"
		}
		updates := mean(runs, func(f measure.Run) (float64, bool) {
			return f.Updates, f.Kind == measure.KindFailure && f.Arm == r.Arm && f.Variant == r.Variant && f.Adoption == r.Adoption && f.Sites == r.Sites
		})
		p("| %s | %.0f %% | %s | %s | %s |", what, 100*r.Adoption, number(r.Prefixes), number(r.FIBMax), number(updates))
	}
}

func yearsSection(p printer) {
	p("\n## The global table, 1990 to 2026, and what would be left\n")
	p("Sources: bgp.potaroo.net (G. Huston), tables of RouteViews and AS relationships of CAIDA; rounded before 2002. Of 2024 the origins of an eighth of the prefixes are not classified, so that its shares are lower bounds.\n")
	p("| year | IPv4 prefixes | growth a year since the line above |")
	p("|---|---|---|")
	for i, x := range Published {
		g := "–"
		if i > 0 {
			g = fmt.Sprintf("%.1f %%", 100*Growth(Published[i-1], x))
		}
		p("| %.1f | %.0f | %s |", x.Year, x.Entries, g)
	}
	p("\n| year | of multihomed stubs | beyond their own largest prefixes | of stubs with one provider | table without the first, times smaller | without the second | without all stubs |")
	p("|---|---|---|---|---|---|---|")
	for _, s := range Decomposed {
		p("| %.1f | %.1f %% | %.1f %% | %.1f %% | %.2f | %.2f | %.2f |", s.Year, 100*s.Multihomed, 100*s.Extra, 100*s.SingleHomed, Saved(s.Multihomed), Saved(s.Extra), Saved(s.Multihomed+s.SingleHomed))
	}
	shares, last := Decomposed[len(Decomposed)-1], Published[len(Published)-1]
	low, high := Growth(Published[7], last), Growth(Published[5], Published[7])
	p("\nA projection, and beyond what was measured: the table of %.1f grows by %.1f to %.1f %% a year, as it did since 2020 and from 2014 to 2020, and keeps the shares of %.1f. Prefixes in %.0f:\n", last.Year, 100*low, 100*high, shares.Year, last.Year+10)
	p("| multihomed stubs that have moved | EIDs out of blocks | old prefixes kept |")
	p("|---|---|---|")
	for _, moved := range []float64{0, 0.1, 0.25, 0.5, 0.75, 0.9, 1} {
		span := func(keep bool) string {
			a := Adoption(last.Entries*math.Pow(1+low, 10), shares, moved, projectedBlocks, keep)
			b := Adoption(last.Entries*math.Pow(1+high, 10), shares, moved, projectedBlocks, keep)
			return fmt.Sprintf("%.2f to %.2f million", a/1e6, b/1e6)
		}
		p("| %.0f %% | %s | %s |", 100*moved, span(false), span(true))
	}
}

// projectedBlocks is how many blocks of EIDs proxies announce: a few for each of
// the five registries.
const projectedBlocks = 20

// number is short.
func number(x float64) string {
	switch a := math.Abs(x); {
	case math.IsNaN(x) || math.IsInf(x, 0):
		return "–"
	case a >= 100 || x == math.Trunc(x):
		return fmt.Sprintf("%.0f", x)
	case a >= 10:
		return fmt.Sprintf("%.1f", x)
	case a < 1:
		return fmt.Sprintf("%.2g", x)
	}
	return fmt.Sprintf("%.2f", x)
}
