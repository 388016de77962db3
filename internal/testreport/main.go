// Testreport reads the output of go test -json, and prints what a person wants
// to know of it: a line for each package, the output of each failed test, every
// skipped test with its reason, and the totals. It exits with 1 when a test
// failed or none ran, and with CI=true also when a test of a rule or of an
// attack was skipped: the conformance page says that they hold.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"sort"
	"strings"
)

type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
	FailedBuild                   string
}

// promised are the tests that other pages point to.
var promised = regexp.MustCompile(`^Test((A|I|E|S|R|P|L|DP|LC|LA)[0-9]+|Abuse)_`)

func main() { os.Exit(report(os.Stdin, os.Stdout, os.Getenv("CI") == "true")) }

func report(r io.Reader, w io.Writer, ci bool) int {
	type key struct{ pkg, test string }
	output := map[key][]string{}
	var passed, failed int
	var skips []string
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				w.Write(line) // the go command's own words, such as a build error
			}
			k := key{e.Package, e.Test}
			switch e.Action {
			case "output", "build-output":
				if e.Action == "build-output" {
					fmt.Fprint(w, e.Output)
				}
				output[k] = append(output[k], e.Output)
			case "pass", "fail", "skip":
				if e.Test == "" {
					if e.Action == "fail" {
						failed++
						fmt.Fprint(w, strings.Join(output[k], ""))
					}
					fmt.Fprintf(w, "%-4s %s %.1fs\n", map[string]string{"pass": "ok", "fail": "FAIL", "skip": "none"}[e.Action], e.Package, e.Elapsed)
					break
				}
				switch e.Action {
				case "pass":
					passed++
				case "fail":
					failed++
					fmt.Fprintf(w, "FAIL %s %s\n%s", e.Package, e.Test, strings.Join(output[k], ""))
				case "skip":
					if ci && promised.MatchString(e.Test) {
						failed++
						fmt.Fprintf(w, "FAIL %s %s was skipped, and must not be here\n", e.Package, e.Test)
					}
					skips = append(skips, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(output[k])))
				}
				delete(output, k)
			}
		}
		if err != nil {
			break
		}
	}
	sort.Strings(skips)
	for _, s := range skips {
		fmt.Fprintln(w, "SKIP", s)
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", passed, failed, len(skips))
	if failed > 0 || passed == 0 {
		return 1
	}
	return 0
}

// reason finds the words of t.Skip in a test's output.
func reason(lines []string) string {
	for _, l := range lines {
		l = strings.TrimSpace(l)
		if l != "" && !strings.HasPrefix(l, "===") && !strings.HasPrefix(l, "---") {
			return l
		}
	}
	return "no reason given"
}
