package model

import (
	"fmt"
	"image/color"
	"math"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/eidolon-lisp/eidolon/benchmarks/bgpgrowth/measure"
)

var colours = []color.Color{
	color.RGBA{0x24, 0x55, 0xa4, 0xff}, color.RGBA{0xc0, 0x39, 0x2b, 0xff}, color.RGBA{0x2e, 0x8b, 0x57, 0xff}, color.RGBA{0x8e, 0x44, 0xad, 0xff}, color.RGBA{0xd6, 0x89, 0x10, 0xff},
}

// Plots writes the plots as SVG and PNG into a directory: the global table by year
// with what adoption would leave of it, routes by sites with the lines that were
// fitted, and routes by adoption. Those that there are no runs for are left out.
func Plots(dir string, runs []measure.Run) error {
	for name, draw := range map[string]func([]measure.Run) (*plot.Plot, error){"years": yearsPlot, "routes": routesPlot, "adoption": adoptionPlot} {
		p, err := draw(runs)
		if err != nil {
			return fmt.Errorf("plot %s: %w", name, err)
		}
		if p == nil {
			continue
		}
		p.Legend.Top, p.Legend.Left = true, true
		p.Add(plotter.NewGrid())
		for _, ext := range []string{".svg", ".png"} {
			if err := p.Save(18*vg.Centimeter, 12*vg.Centimeter, filepath.Join(dir, name+ext)); err != nil {
				return fmt.Errorf("plot %s: %w", name, err)
			}
		}
	}
	return nil
}

// add draws points of one kind, and a line through them if lines says so.
func add(p *plot.Plot, i int, name string, xy plotter.XYs, lines, points bool) error {
	var thumbs []plot.Thumbnailer
	if lines {
		l, err := plotter.NewLine(xy)
		if err != nil {
			return err
		}
		l.Color, l.Width = colours[i%len(colours)], vg.Points(1.2)
		p.Add(l)
		thumbs = append(thumbs, l)
	}
	if points {
		s, err := plotter.NewScatter(xy)
		if err != nil {
			return err
		}
		s.GlyphStyle = draw.GlyphStyle{Color: colours[i%len(colours)], Radius: vg.Points(2.5), Shape: draw.CircleGlyph{}}
		p.Add(s)
		thumbs = append(thumbs, s)
	}
	p.Legend.Add(name, thumbs...)
	return nil
}

func yearsPlot([]measure.Run) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = "IPv4 prefixes in the global table; lines beyond 2026 are a projection"
	p.X.Label.Text, p.Y.Label.Text = "year", "million prefixes"
	var past plotter.XYs
	for _, x := range Published {
		past = append(past, plotter.XY{X: x.Year, Y: x.Entries / 1e6})
	}
	if err := add(p, 0, "published", past, true, true); err != nil {
		return nil, err
	}
	shares, last := Decomposed[len(Decomposed)-1], Published[len(Published)-1]
	yearly := Growth(Published[7], last)
	for i, c := range []struct {
		name  string
		moved float64
		keep  bool
	}{{"nobody moves, or old prefixes are kept", 0, false}, {"half of the multihomed stubs on EIDs out of blocks", 0.5, false}, {"all of them", 1, false}} {
		var xy plotter.XYs
		for y := last.Year; y <= last.Year+10; y++ {
			xy = append(xy, plotter.XY{X: y, Y: Adoption(last.Entries*math.Pow(1+yearly, y-last.Year), shares, c.moved*(y-last.Year)/10, projectedBlocks, c.keep) / 1e6})
		}
		if err := add(p, i+1, c.name+", by "+fmt.Sprintf("%.0f", last.Year+10), xy, true, false); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func routesPlot(runs []measure.Run) (*plot.Plot, error) {
	byArm := map[string]plotter.XYs{}
	speakers := math.MaxInt
	for _, r := range runs {
		if r.Kind == measure.KindTable && r.Arm != measure.ArmMixed {
			speakers = min(speakers, r.Speakers)
		}
	}
	for _, r := range runs {
		if r.Kind == measure.KindTable && r.Arm != measure.ArmMixed && r.Speakers == speakers && !math.IsNaN(r.FIBMax) {
			byArm[r.Arm] = append(byArm[r.Arm], plotter.XY{X: float64(r.Sites), Y: r.FIBMax})
		}
	}
	if len(byArm) == 0 {
		return nil, nil
	}
	p := plot.New()
	p.Title.Text = fmt.Sprintf("Routes in the fullest of %d routers", speakers)
	p.X.Label.Text, p.Y.Label.Text = "sites", "routes"
	var arms []string
	for arm := range byArm {
		arms = append(arms, arm)
	}
	slices.Sort(arms)
	for i, arm := range arms {
		xy := byArm[arm]
		slices.SortFunc(xy, func(a, b plotter.XY) int { return int(a.X - b.X) })
		if err := add(p, i, armNames[arm], xy, true, true); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func adoptionPlot(runs []measure.Run) (*plot.Plot, error) {
	variants := []string{measure.VariantBlocks, measure.VariantOldPI}
	names := []string{"EIDs out of blocks", "old prefixes kept, announced by proxies"}
	p := plot.New()
	p.Title.Text = "Routes in the fullest router while sites move"
	p.X.Label.Text, p.Y.Label.Text = "share of the sites that have moved", "routes"
	drawn := false
	for i, v := range variants {
		var xy plotter.XYs
		for _, r := range runs {
			if r.Kind == measure.KindTable && r.Arm == measure.ArmMixed && r.Variant == v && !math.IsNaN(r.FIBMax) {
				xy = append(xy, plotter.XY{X: r.Adoption, Y: r.FIBMax})
			}
		}
		if len(xy) == 0 {
			continue
		}
		drawn = true
		slices.SortFunc(xy, func(a, b plotter.XY) int { return int(math.Copysign(1, a.X-b.X)) })
		if err := add(p, i, names[i], xy, true, true); err != nil {
			return nil, err
		}
	}
	if !drawn {
		return nil, nil
	}
	p.Y.Min = 0
	return p, nil
}
