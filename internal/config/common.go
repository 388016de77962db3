package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// HTTP says where metrics and health are told.
type HTTP struct {
	// Listen is invalid when nothing is told over HTTP.
	Listen netip.AddrPort
	// Pprof is possible on a loopback address only.
	Pprof bool
	// REST is whether calls of the API that only read are served, too.
	REST bool
	// Page is whether there is the web page too.
	Page bool
}

// RESTOf returns the socket of a whose calls are served as REST, "" if none are.
func (h HTTP) RESTOf(a API) string {
	if !h.REST {
		return ""
	}
	return a.Socket
}

// Log says what is logged and how.
type Log struct {
	Level slog.Level
	// Format is "text" or "json".
	Format string
	// Levels are those of subsystems that do not have Level.
	Levels map[string]slog.Level
}

// Subsystems returns the names of what has a log level of its own in a daemon.
func Subsystems(k Kind) []string {
	switch k {
	case KindXTR:
		return []string{"daemon", "control", "resolve", "register", "probe", "answer", "plane", "uplinks", "bgp", "api"}
	case KindMapServer:
		return []string{"daemon", "server", "alt", "api"}
	}
	return nil
}

func (v value) http(port uint16) (h HTTP) {
	o, ok := v.object()
	if !ok {
		return h
	}
	listen := o.need("listen", fmt.Sprintf("the address to listen on, such as 127.0.0.1:%d", port))
	h.Listen, _ = listen.addrPort(port, true)
	listen.needsAddr(NeedTCP, h.Listen)
	p := o.get("pprof")
	h.Pprof = p.boolean(false)
	if h.Pprof && h.Listen.IsValid() && !h.Listen.Addr().IsLoopback() {
		p.fail("found true with listen: %s; profiles show what is in memory, and are served on a loopback address only", h.Listen)
	}
	rest, page := o.get("rest"), o.get("page")
	h.REST, h.Page = rest.boolean(false), page.boolean(false)
	for _, open := range []struct {
		value
		on bool
	}{{rest, h.REST}, {page, h.Page}} {
		if open.on && h.Listen.IsValid() && !h.Listen.Addr().IsLoopback() {
			open.warn("found true with listen: %s; who can connect there reads everything, without a password and in clear", h.Listen)
		}
	}
	o.end()
	return h
}

func (v value) log(k Kind) Log {
	l := Log{Level: slog.LevelInfo, Format: "text"}
	if o, ok := v.object(); ok {
		l.Level = o.get("level").logLevel()
		l.Format = o.get("format").enum("text", "json")
		if levels, ok := o.get("levels").object(); ok {
			l.Levels = make(map[string]slog.Level)
			for _, name := range Subsystems(k) {
				own := levels.get(name)
				level := own.logLevel()
				own.form.otherwise("") // log.level
				if own.given() {
					l.Levels[name] = level
				}
			}
			levels.end()
		}
		o.end()
	}
	return l
}

// logLevel reads the least level that is logged.
func (v value) logLevel() slog.Level {
	return map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}[v.enum("info", "debug", "warn", "error")]
}

// maxLocators is what the Locator Count field of a record can say (RFC 9301
// section 5.4).
const maxLocators = 255

// locators reads a list of locators and sorts it. It adds the addresses to
// underlay unless that is nil. Those that name an interface go to set, unless
// that is nil and they are not allowed.
func (v value) locators(underlay names[netip.Addr], set *locatorSet) []mapping.Locator {
	const want = "locators such as {address: 192.0.2.1, priority: 1, weight: 100}"
	var locs []mapping.Locator
	for i, item := range v.atLeastOne(want) {
		if i == maxLocators {
			item.fail("found more than %d locators, which a record can't carry", maxLocators)
			break
		}
		o, ok := item.object()
		if !ok {
			continue
		}
		if set != nil && o.fields["interface"].given() {
			l := o.uplinkLocator()
			o.end()
			switch {
			case l.Interface == "":
			case slices.ContainsFunc(set.uplinks, l.overlaps):
				item.fail("interface %s is in the list twice", l.Interface)
			default:
				set.uplinks, set.at = append(set.uplinks, l), append(set.at, item)
			}
			continue
		}
		what := "an IPv4 or IPv6 address"
		if set != nil {
			o.known = append(o.known, "interface")
			what += ", or instead of it interface, the name of one"
		}
		address := o.need("address", what)
		a, ok := address.rloc()
		l := mapping.MakeLocator(a,
			uint8(o.get("priority").integer(0, 255, 1)),
			uint8(o.get("weight").integer(0, 255, 100)))
		name, named := o.get("name").locatorName()
		o.end()
		if !ok {
			continue
		}
		if named {
			l.Opaque = string(wire.NamedAddress(a, name).Bytes())
		}
		if slices.ContainsFunc(locs, func(x mapping.Locator) bool { return x.Addr == a }) {
			address.fail("locator %v is in the list twice", a)
			continue
		}
		locs = append(locs, l)
		if underlay != nil {
			underlay[a] = address
			address.needsIP(NeedLocator, a)
		}
	}
	slices.SortFunc(locs, mapping.Locator.Compare)
	return locs
}

// locatorName reads the name that is sent with a locator (RFC 9735 section 9).
func (v value) locatorName() (string, bool) {
	v.form.is(nameForm)
	const want = "1 to 63 printable ASCII characters"
	s, ok := v.text(want)
	if !ok {
		return "", false
	}
	if len(s) < 1 || len(s) > 63 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		v.fail("found %q, expected %s", s, want)
		return "", false
	}
	return s, true
}

// names remembers where each of several things that must differ was given.
type names[K comparable] map[K]value

// add reports k as given before, or remembers it.
func (n names[K]) add(k K, v value, what string) bool {
	if first, twice := n[k]; twice {
		v.fail("%s %v is given twice, first at line %d", what, k, first.at.Line)
		return false
	}
	n[k] = v
	return true
}

// Kind tells the two kinds of file apart.
type Kind string

const (
	KindXTR       Kind = "xtr"
	KindMapServer Kind = "mapserver"
)

// ParseKind reads the name of a kind.
func ParseKind(s string) (Kind, error) {
	if k := Kind(s); k == KindXTR || k == KindMapServer {
		return k, nil
	}
	return "", fmt.Errorf("unknown kind of configuration %q, expected %s or %s", s, KindXTR, KindMapServer)
}

// Detect tells by its keys which kind of file path is. It fails when the file
// can't be read or parsed, or has keys of neither or of both.
func Detect(path string) (Kind, error) {
	_, root, err := readFile(path)
	if err != nil {
		return "", err
	}
	o, _ := root.object()
	only := map[Kind][]string{
		KindXTR:       {"locator_sets", "database_mappings", "map_servers", "map_resolvers", "instances", "map_cache", "miss", "plane", "use_petr", "proxy_itr", "proxy_etr", "host"},
		KindMapServer: {"listen", "sites", "static_mappings", "request_rate", "alt"},
	}
	count := make(map[Kind]int)
	for kind, keys := range only {
		for _, k := range keys {
			if _, ok := o.fields[k]; ok {
				count[kind]++
			}
		}
	}
	switch {
	case count[KindXTR] > count[KindMapServer]:
		return KindXTR, nil
	case count[KindMapServer] > count[KindXTR]:
		return KindMapServer, nil
	}
	return "", fmt.Errorf("%s: the keys do not tell whether this is for xtr or mapserver", path)
}

// Check reads a file of the given kind. warnings is nil or an Errors, and
// nil after an error.
func Check(path string, kind Kind) (warnings, err error) {
	var doubts Errors
	switch kind {
	case KindXTR:
		c, err := LoadXTR(path)
		if err != nil {
			return nil, err
		}
		doubts = c.Warnings
	case KindMapServer:
		c, err := LoadMapServer(path)
		if err != nil {
			return nil, err
		}
		doubts = c.Warnings
	default:
		return nil, fmt.Errorf("unknown kind of configuration %q", kind)
	}
	if len(doubts) == 0 {
		return nil, nil
	}
	return doubts, nil
}
