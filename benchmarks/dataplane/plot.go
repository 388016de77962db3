package main

import (
	"bytes"
	"fmt"
	"slices"
)

// The plot: a panel for each case, in it a row for each arm, a bar for the
// median and a dot for each round.
const (
	plotWidth = 900
	plotLabel = 190
	plotRow   = 18
	plotTop   = 40
	plotHead  = 30
	plotRight = 150 // for the figures behind the bars
)

var plotColours = map[string]string{plainArm: "#7f8c8d", "vxlan": "#2455a4", "wireguard": "#8e44ad", "tun": "#c0392b", "tun-shipped": "#f1948a", "bpf": "#2e8b57", "tun-bpf": "#d68910", "bpf-tun": "#b7950b", "tun-other": "#e59866", "bpf-other": "#82e0aa"}

func (r *results) plot() []byte {
	var body bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&body, format+"\n", args...) }
	y, at, top := plotTop, "", 0.0
	lines := r.lines()
	for _, l := range lines {
		if key := l.group + l.testCase.name; key != at {
			at, top = key, 0
			for _, o := range lines {
				if o.group == l.group && o.testCase.name == l.testCase.name {
					top = max(top, slices.Max(o.column(value)))
				}
			}
			g := groups[slices.IndexFunc(groups, func(g group) bool { return g.name == l.group })]
			p(`<text x="10" y="%d" class="head">%s: %s, %s</text>`, y+20, g.what, l.testCase.what, l.testCase.unit)
			y += plotHead
		}
		x := func(v float64) float64 { return plotLabel + v/max(top, 1e-9)*(plotWidth-plotLabel-plotRight) }
		v := l.column(value)
		p(`<text x="%d" y="%d" class="label">%s</text>`, plotLabel-8, y+12, l.label())
		p(`<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s" fill-opacity="0.6"/>`, plotLabel, y+2, x(median(v))-plotLabel, plotRow-5, plotColours[l.arm])
		for _, one := range v {
			p(`<circle cx="%.1f" cy="%d" r="2.5" fill="%s"/>`, x(one), y+8, plotColours[l.arm])
		}
		text := number(median(v))
		if l.arm != plainArm && len(l.ratios) > 0 {
			text += fmt.Sprintf(" (%s of plain)", number(median(l.ratios)))
		}
		p(`<text x="%.1f" y="%d">%s</text>`, x(slices.Max(v))+8, y+12, text)
		y += plotRow
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">
<style>
.head { font-weight: bold; font-size: 13px }
.label { text-anchor: end }
</style>
<rect width="100%%" height="100%%" fill="white"/>
<text x="10" y="20" class="head">Across two routers: bars are medians, dots single rounds</text>
`, plotWidth, y+20, plotWidth, y+20)
	b.Write(body.Bytes())
	b.WriteString("</svg>\n")
	return b.Bytes()
}
