package model

import (
	"fmt"
	"image/color"
	"math"
	"path/filepath"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
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
		for _, ext := range []string{".svg", ".png"} {
			if err := p.Save(18*vg.Centimeter, 12*vg.Centimeter, filepath.Join(dir, name+ext)); err != nil {
				return fmt.Errorf("plot %s: %w", name, err)
			}
		}
	}
	return nil
}

const usual = vg.Length(1.5) // width of a line

// newPlot returns an empty plot, with its legend at the top left.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	for _, s := range []*text.Style{&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle} {
		s.Font.Variant = "Sans"
	}
	p.Title.TextStyle.Font.Size = vg.Points(13)
	p.Title.Padding, p.X.Padding, p.Y.Padding = vg.Points(8), 0, 0
	p.Legend.TextStyle.Font.Size, p.Legend.Padding, p.Legend.ThumbnailWidth = vg.Points(11), vg.Points(3), vg.Points(24)
	p.Legend.Top, p.Legend.Left, p.Legend.XOffs, p.Legend.YOffs = true, true, vg.Points(8), -vg.Points(4)
	p.Y.Tick.Marker = grouped{}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{0xe4}, color.Gray{0xe4}
	p.Add(grid)
	return p
}

// grouped are the usual ticks, with commas between the thousands.
type grouped struct{}

func (grouped) Ticks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i, t := range ticks {
		if t.Label != "" && high > 1000 {
			label := strconv.FormatFloat(t.Value, 'f', 0, 64)
			for n := len(label) - 3; n > 0; n -= 3 {
				label = label[:n] + "," + label[n:]
			}
			ticks[i].Label = label
		}
	}
	return ticks
}

// add draws a line of some width through points, and the points if points says
// so.
func add(p *plot.Plot, i int, name string, xy plotter.XYs, width vg.Length, points bool) error {
	l, err := plotter.NewLine(xy)
	if err != nil {
		return err
	}
	l.Color, l.Width = colours[i%len(colours)], width
	p.Add(l)
	thumbs := []plot.Thumbnailer{l}
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
	p := newPlot("IPv4 prefixes in the global table; lines beyond 2026 are a projection", "year", "million prefixes")
	p.Y.Min = 0
	var ticks plot.ConstantTicks
	for y := 1990; y <= 2035; y += 5 {
		ticks = append(ticks, plot.Tick{Value: float64(y), Label: strconv.Itoa(y)})
	}
	p.X.Tick.Marker = ticks
	var past plotter.XYs
	for _, x := range Published {
		past = append(past, plotter.XY{X: x.Year, Y: x.Entries / 1e6})
	}
	if err := add(p, 0, "published", past, usual, true); err != nil {
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
		if err := add(p, i+1, c.name+", by "+fmt.Sprintf("%.0f", last.Year+10), xy, usual, false); err != nil {
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
	p := newPlot(fmt.Sprintf("Routes in the fullest of %d routers", speakers), "sites", "routes")
	p.X.Min, p.Y.Min, p.X.Tick.Marker = 0, 0, grouped{}
	var arms []string
	for arm := range byArm {
		arms = append(arms, arm)
	}
	slices.Sort(arms)
	for i, arm := range arms {
		xy := byArm[arm]
		slices.SortFunc(xy, func(a, b plotter.XY) int { return int(a.X - b.X) })
		width := usual
		if i == 0 {
			width *= 3 // so that it is seen where another runs along it
		}
		if err := add(p, i, armNames[arm], xy, width, true); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func adoptionPlot(runs []measure.Run) (*plot.Plot, error) {
	variants := []string{measure.VariantBlocks, measure.VariantOldPI}
	names := []string{"EIDs out of blocks", "old prefixes kept, announced by proxies"}
	p := newPlot("Routes in the fullest router while sites move", "of the sites have moved, %", "routes")
	p.Legend.Top, p.Legend.YOffs = false, vg.Points(4) // below the lines
	p.X.Min, p.Y.Min = 0, 0
	p.X.Tick.Marker = plot.ConstantTicks{{Value: 0, Label: "0"}, {Value: 25, Label: "25"}, {Value: 50, Label: "50"}, {Value: 75, Label: "75"}, {Value: 100, Label: "100"}}
	drawn := false
	for i, v := range variants {
		var xy plotter.XYs
		for _, r := range runs {
			if r.Kind == measure.KindTable && r.Arm == measure.ArmMixed && r.Variant == v && !math.IsNaN(r.FIBMax) {
				xy = append(xy, plotter.XY{X: 100 * r.Adoption, Y: r.FIBMax})
			}
		}
		if len(xy) == 0 {
			continue
		}
		drawn = true
		slices.SortFunc(xy, func(a, b plotter.XY) int { return int(math.Copysign(1, a.X-b.X)) })
		if err := add(p, i, names[i], xy, usual, true); err != nil {
			return nil, err
		}
	}
	if !drawn {
		return nil, nil
	}
	return p, nil
}
