package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
)

// The plot: a panel for each failure, in it a row for each arm and round-trip
// time, a dot for each run and direction on a logarithmic scale.
const (
	plotWidth  = 900
	plotLabel  = 190
	plotRow    = 22
	plotTop    = 50
	plotHead   = 34
	plotMinMS  = 1.0
	plotMaxMS  = 200_000.0
	plotMargin = 60 // on the right: what never ended
)

func plotX(v float64) float64 {
	if math.IsInf(v, 1) {
		return plotWidth - plotMargin/2
	}
	v = min(max(v, plotMinMS), plotMaxMS)
	return plotLabel + math.Log(v/plotMinMS)/math.Log(plotMaxMS/plotMinMS)*(plotWidth-plotLabel-plotMargin)
}

// plot draws the outages of all runs as an SVG.
func plot(rows []row) []byte {
	cells := byCell(rows)
	var body bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&body, format+"\n", args...) }
	y := plotTop
	for _, f := range failures {
		var list []cell
		for _, c := range sortedCells(cells) {
			if c.Failure == f.name {
				list = append(list, c)
			}
		}
		if len(list) == 0 {
			continue
		}
		p(`<text x="10" y="%d" class="head">%s</text>`, y+20, f.what)
		y += plotHead
		top := y
		for _, c := range list {
			p(`<text x="%d" y="%d" class="label">%s, %d ms</text>`, plotLabel-10, y+15, c.Arm, c.RTT)
			for i, column := range []string{"out_outage_ms", "in_outage_ms"} {
				vs := values(cells[c], column)
				if len(vs) == 0 {
					// Without datagrams, the stall of TCP stands for both.
					if i == 0 {
						continue
					}
					vs, column = values(cells[c], "tcp_stall_ms"), "tcp_stall_ms"
				}
				slices.Sort(vs)
				for _, v := range vs {
					p(`<circle cx="%.1f" cy="%d" r="3" class="%s"><title>%s</title></circle>`, plotX(v), y+7+7*i, column[:3], ms(v))
				}
			}
			y += plotRow
		}
		for v := plotMinMS; v <= plotMaxMS; v *= 10 {
			p(`<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" class="grid"/>`, plotX(v), plotX(v), top, y)
			p(`<text x="%.1f" y="%d" class="tick">%s</text>`, plotX(v), y+12, ms(v))
		}
		p(`<text x="%.1f" y="%d" class="tick">never</text>`, plotX(math.Inf(1)), y+12)
		y += 24
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">
<style>
.head { font-weight: bold; font-size: 13px }
.label { text-anchor: end }
.tick { text-anchor: middle; font-size: 10px; fill: #555 }
.grid { stroke: #ddd }
.out { fill: #c0392b; fill-opacity: 0.6 }
.in_ { fill: #2455a4; fill-opacity: 0.6 }
.tcp { fill: #2e8b57; fill-opacity: 0.6 }
</style>
<rect width="100%%" height="100%%" fill="white"/>
<text x="10" y="20" class="head">Outage of a UDP stream of 1 ms, each run a dot:</text>
<circle cx="330" cy="16" r="4" class="out"/><text x="340" y="20">from the site</text>
<circle cx="440" cy="16" r="4" class="in_"/><text x="450" y="20">to the site</text>
<circle cx="540" cy="16" r="4" class="tcp"/><text x="550" y="20">stall of TCP, where there is no UDP</text>
`, plotWidth, y+10, plotWidth, y+10)
	b.Write(body.Bytes())
	b.WriteString("</svg>\n")
	return b.Bytes()
}
