package model

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/measure"
)

// made are runs whose coefficients are known: 2 routes a site in arm A, 1.5 in E.
func made() (runs []measure.Run) {
	for arm, slope := range map[string]float64{measure.ArmPI: 2, measure.ArmHoles: 3, measure.ArmBest: 1.5} {
		for i, n := range []int{500, 1000, 2000, 4000, 8000} {
			r := measure.New(measure.KindTable, arm, "")
			r.Speakers, r.Sites = 10, n
			r.FIBMax = slope*float64(n) + 7 + float64(i%2) // hardly any noise
			r.Prefixes = r.FIBMax
			r.RIBPaths, r.HeapBytes, r.Updates = 20*r.FIBMax, 100*20*r.FIBMax+float64(i%2), 30*r.FIBMax
			runs = append(runs, r)
			for _, d := range []int{40, 10, 20} { // 1.2 a router
				f := measure.New(measure.KindFailure, arm, "")
				f.Speakers, f.Sites, f.MRAI, f.Updates, f.ConvergenceMs = d, n, 0, 1.2*float64(d)+0.1*float64(i%2), 500
				runs = append(runs, f)
			}
			s := measure.New(measure.KindRestart, arm, "") // 30 us a route
			s.Speakers, s.Sites, s.MRAI, s.RestoredSeen, s.RestoredMs = 10, n, 0, float64(5*n), 0.03*float64(5*n)+float64(i%2)
			runs = append(runs, s)
		}
	}
	for i, n := range []int{500, 1000, 2000, 4000, 8000} { // 4 messages a user, 1500 octets a record, a registration every 60 s
		for users := 4; users <= 24; users += 4 {
			c := measure.New(measure.KindFailure, measure.ArmEidolon, measure.VariantAll)
			c.Speakers, c.Sites, c.Messages, c.Users, c.SMRs = 10+10*(i%2), n, float64(4*users+i%2), float64(users), 8
			runs = append(runs, c)
		}
		m := measure.New(measure.KindMapping, measure.ArmEidolon, measure.VariantAll)
		m.Speakers, m.Sites, m.Records, m.RecordHeap = 10+10*(i%2), n, float64(n), float64(1500*n+10*(i%2))
		m.Seconds, m.Registers, m.Notifies, m.Messages = 60, float64(n), float64(n), float64(3*n+i%2)
		runs = append(runs, m)
	}
	for _, v := range []string{measure.VariantBlocks, measure.VariantOldPI} {
		for _, x := range []float64{0, 0.5, 1} {
			d := measure.New(measure.KindTable, measure.ArmMixed, v)
			d.Speakers, d.Sites, d.Adoption, d.FIBMax = 10, 1000, x, 2000*(1-x)+5
			runs = append(runs, d)
		}
	}
	return runs
}

func TestReport(t *testing.T) {
	runs := made()
	var b strings.Builder
	if err := Report(&b, Inputs{Command: "go run ./benchmarks/bgpgrowth", Commit: "abc", Machine: "a machine", Sites: "made up"}, runs); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"a site costs each default-free router 2.0 ± 0.0 routes with provider-independent prefixes, 1.5 ± 0.0 where it aggregates",
		"A failure of a provider causes on average 12, 24 and 48 UPDATE messages among 10, 20 and 40 routers, and 56 messages of the mapping system",
		"| C, Eidolon, all | any | messages of a failure | a user of the mapping | 25 | 4 ± ", "| A, provider-independent prefixes | any | UPDATEs of a failure | a router | 10 | 1.20 ± ",
		"would be 1.27 times smaller (21 % of it are theirs)",
		"| C, Eidolon |", // not measured: not there
		"| blocks that EIDs are of | 50 % |", "| 2025.9 | 1036829 |", "go run ./benchmarks/bgpgrowth",
	} {
		if strings.Contains(b.String(), want) == (want == "| C, Eidolon |") {
			t.Errorf("%q: there %v\n%s", want, strings.Contains(b.String(), want), b.String())
		}
	}
	if n := strings.Count(b.String(), "| inside |"); n < 6 {
		t.Errorf("%d of the predictions hold:\n%s", n, b.String())
	}
	// A run that does not do what the line says is called so.
	for i := range runs {
		if runs[i].Kind == measure.KindTable && runs[i].Arm == measure.ArmPI && runs[i].Sites == 8000 {
			runs[i].FIBMax *= 2
		}
	}
	b.Reset()
	if err := Report(&b, Inputs{}, runs); err != nil || !strings.Contains(b.String(), "**outside**") {
		t.Errorf("%v:\n%s", err, b.String())
	}
	// Nothing measured is no reason to say anything of it.
	b.Reset()
	if err := Report(&b, Inputs{}, nil); err != nil || strings.Contains(b.String(), "NaN") || strings.Contains(b.String(), "a site costs") {
		t.Errorf("%v:\n%s", err, b.String())
	}
}

func TestCoefficients(t *testing.T) {
	want := map[string]float64{ // of arms A and C
		"routes in the fullest router a site": 2, "paths in all routers a site": 40, "heap of all routers, octets a path": 100, "heap of all routers, octets a prefix": 2000,
		"UPDATEs to announce all a site": 60, "cold start of a session, us a route": 30, "UPDATEs of a failure a router": 1.2,
		"messages of a failure a user of the mapping": 4, "heap of the map-server, octets a record": 1500, "registrations and their answers a second a site": 1. / 30,
	}
	if len(want) != len(quantities) {
		t.Errorf("%d quantities", len(quantities))
	}
	for _, f := range Coefficients(made()) {
		if f.Group.Arm != measure.ArmPI && f.Group.Arm != measure.ArmEidolon {
			continue
		}
		name := f.Name + " " + f.Unit
		if w, ok := want[name]; !ok || math.Abs(f.Line.Slope-w) > 0.01*w || !f.Line.Extrapolates(f.HeldOut) || math.Abs(f.Predicted-f.Measured) > 0.01*f.Measured {
			t.Errorf("%+v, want a slope of %v", f, w)
		}
		delete(want, name)
		switch {
		case f.Name == routesOfRouter && (f.HeldOut != 8000 || f.N != 1 || f.Line.High != 4000),
			f.Unit == "a router" && (f.HeldOut != 40 || f.N != 5),
			f.Unit == "a user of the mapping" && (f.HeldOut != 24 || f.N != 5 || f.Line.N != 25):
			t.Errorf("%+v", f)
		}
	}
	if len(want) > 0 {
		t.Errorf("no line for %v", want)
	}
}

func TestPlots(t *testing.T) {
	dir := t.TempDir()
	if err := Plots(dir, made()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"years", "routes", "adoption"} {
		svg, err := os.Open(filepath.Join(dir, name+".svg"))
		if err != nil {
			t.Fatal(err)
		}
		for d := xml.NewDecoder(svg); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		svg.Close()
		if png, err := os.ReadFile(filepath.Join(dir, name+".png")); err != nil || !strings.HasPrefix(string(png), "\x89PNG") {
			t.Errorf("%s: %v", name, err)
		}
	}
	none := t.TempDir()
	if err := Plots(none, nil); err != nil {
		t.Fatal(err)
	}
	if list, _ := filepath.Glob(filepath.Join(none, "*.svg")); len(list) != 1 {
		t.Errorf("plots of nothing: %v", list)
	}
}

// A report that is written again tells who measured, not who wrote.
func TestProvenance(t *testing.T) {
	var b bytes.Buffer
	in := Inputs{Command: "go run ./benchmarks/bgpgrowth -seed 2", Machine: "2 cores of something, Linux 6, go1", Commit: "0123456789ab-dirty", Sites: "none"}
	if err := Report(&b, in, made()); err != nil {
		t.Fatal(err)
	}
	if command, machine, commit := Provenance(b.Bytes()); command != in.Command || machine != in.Machine || commit != in.Commit {
		t.Errorf("read %q, %q, %q of the report of %+v", command, machine, commit, in)
	}
	if command, _, commit := Provenance(nil); command != "unknown" || commit != "unknown" {
		t.Errorf("read %q, %q of nothing", command, commit)
	}
}
