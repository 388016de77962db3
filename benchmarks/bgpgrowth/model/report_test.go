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
			r.RIBPaths, r.HeapBytes, r.Updates = 20*r.FIBMax, 100*20*r.FIBMax+float64(i%2), 30*r.FIBMax
			runs = append(runs, r)
			f := measure.New(measure.KindFailure, arm, "")
			f.Speakers, f.Sites, f.MRAI, f.Updates, f.ConvergenceMs = 10, n, 0, 12, 500
			runs = append(runs, f)
		}
	}
	c := measure.New(measure.KindFailure, measure.ArmEidolon, measure.VariantAll)
	c.Sites, c.Messages, c.Users, c.SMRs = 500, 31, 8, 8
	runs = append(runs, c)
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
		"A failure of a provider causes 12 UPDATE messages among the routers, and 31 messages of the mapping system",
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
	list := Coefficients(made())
	if len(list) != 3*len(quantities) {
		t.Fatalf("%d coefficients", len(list))
	}
	for _, f := range list {
		if f.Name == quantities[0].name && f.Arm == measure.ArmPI && (math.Abs(f.Line.Slope-2) > 0.01 || f.HeldOut != 8000 || f.Line.High != 4000 || !f.Line.Extrapolates(f.HeldOut)) {
			t.Errorf("%+v", f)
		}
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
