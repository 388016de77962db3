package main

import (
	"io"
	"strings"
)

// palette colours headers, and words that say how something stands; false leaves
// all as it is.
type palette bool

// paletteOf is one that colours on a terminal, unless the environment has NO_COLOR
// (no-color.org) or the terminal is a dumb one.
func paletteOf(w io.Writer, env func(string) string) palette {
	return palette(env("NO_COLOR") == "" && env("TERM") != "dumb" && isTerminal(w))
}

// Control sequences of terminals (ECMA-48).
const (
	bold   = "\x1b[1m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	plain  = "\x1b[0m"
	// clearScreen empties the screen and goes to its upper left corner.
	clearScreen = "\x1b[2J\x1b[H"
)

var colours = map[string]string{
	"up": green, "registered": green, "established": green, "pass": green, "serving": green,
	"down": red, "dead": red, "gone": red, "no-carrier": red, "unconfirmed": red, "too-many-prefixes": red, "unreachable": red, "fail": red, "not-serving": red,
	"held": yellow, "pending": yellow, "drained": yellow, "withdrawn": yellow, "warn": yellow, "skip": yellow,
}

// word colours text whose first word says how something stands.
func (p palette) word(text string) string {
	first, _, _ := strings.Cut(text, " ")
	if c := colours[strings.TrimRight(first, ",:")]; bool(p) && c != "" {
		return c + text + plain
	}
	return text
}

func (p palette) header(text string) string {
	if !p {
		return text
	}
	return bold + text + plain
}
