package api

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/api/web"
	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/internal/fanout"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// Limits of what a row of the page tells.
const (
	// pageLocators, pageRegistrations and pagePrefixes bound what one row lists;
	// it has the number of all of them.
	pageLocators      = 16
	pageRegistrations = 8
	pagePrefixes      = 16
	// siteMappings is how many mappings of a site are looked at for its
	// locators.
	siteMappings = 64
	// pageQueue is how many events the page may be behind.
	pageQueue = 256
)

// Page is the web page of a daemon.
type Page struct {
	views map[string]web.View
	watch func(web.Query) (web.Stream, error)
}

// PageMapServer shows the sites and mappings of a map-server.
func PageMapServer(db interface {
	Database
	SiteDatabase
}) *Page {
	return &Page{
		views: map[string]web.View{
			"sites": func(_ context.Context, q web.Query) (any, error) {
				return web.Collect(q, sitesFor(db, q.Text), func(st server.SiteStatus) any { return siteRow(db, st) }), nil
			},
			"mappings": func(_ context.Context, q web.Query) (any, error) {
				within, err := searched(q)
				if err != nil {
					return nil, err
				}
				return web.Collect(q, mappingsFor(db, within), mappingRow), nil
			},
		},
		watch: func(q web.Query) (web.Stream, error) {
			return watchFor(q, false, db.Watch, func(e server.Event) (mapping.EID, *eidolonv1.Event) {
				e.Record, e.Previous = shortened(e.Record), shortened(e.Previous)
				return e.EID, serverEventToProto(e)
			})
		},
	}
}

// PageXTR shows the locators, registrations and map-cache of an xTR.
func PageXTR(x XTR, fib Forwarding) *Page {
	s := &router{xtr: x, fib: fib}
	return &Page{
		views: map[string]web.View{
			"locators": func(ctx context.Context, q web.Query) (any, error) {
				resp, err := s.ListLocalLocators(ctx, nil)
				return web.Collect(q, slices.Values(resp.GetLocalLocators()), row), err
			},
			"database": func(_ context.Context, q web.Query) (any, error) {
				filter, err := searched(q)
				if err != nil {
					return nil, err
				}
				return web.Collect(q, databasesFor(x, filter), databaseRow), nil
			},
			"servers": func(ctx context.Context, q web.Query) (any, error) {
				resp, err := s.ListMapServers(ctx, nil)
				return web.Collect(q, slices.Values(resp.GetMapServers()), row), err
			},
			"resolvers": func(ctx context.Context, q web.Query) (any, error) {
				resp, err := s.ListMapResolvers(ctx, nil)
				return web.Collect(q, slices.Values(resp.GetMapResolvers()), row), err
			},
			"cache": func(_ context.Context, q web.Query) (any, error) {
				filter, err := searched(q)
				if err != nil {
					return nil, err
				}
				now := fib.Snapshot()
				return web.Collect(q, cachedFor(x, filter), func(e mapping.CacheEntry) any { return cacheRow(e, now) }), nil
			},
			"remote": func(_ context.Context, q web.Query) (any, error) {
				return web.Collect(q, slices.Values(slices.DeleteFunc(s.remoteLocators(), func(l *eidolonv1.RemoteLocator) bool {
					return !strings.Contains(l.GetAddress(), strings.ToLower(q.Text))
				})), row), nil
			},
		},
		watch: func(q web.Query) (web.Stream, error) {
			return watchFor(q, true, x.Watch, func(e xtr.Event) (mapping.EID, *eidolonv1.Event) {
				e.Record, e.Previous = shortened(e.Record), shortened(e.Previous)
				return e.EID, routerEventToProto(e)
			})
		},
	}
}

// page returns what is served of p: with what every daemon has.
func (p *Page) page(cfg HTTPConfig) web.Page {
	views := map[string]web.View{
		"status": func(context.Context, web.Query) (any, error) {
			return struct {
				Version  any      `json:"version"`
				NotReady []string `json:"notReady"`
			}{row(versionOf(cfg.Program)), append([]string{}, cfg.Observed.notReady()...)}, nil
		},
		"statistics": func(context.Context, web.Query) (any, error) {
			told := struct {
				Counters map[string]uint64 `json:"counters"`
				Gauges   map[string]uint64 `json:"gauges"`
			}{map[string]uint64{}, map[string]uint64{}}
			for name, v := range cfg.Stats() {
				if _, ok := gauges[name]; ok {
					told.Gauges[name] = v
				} else {
					told.Counters[name] = v
				}
			}
			return told, nil
		},
		"eid": func(_ context.Context, q web.Query) (any, error) { // whether it can be searched for
			e, err := searched(q)
			return e.String(), err
		},
	}
	maps.Copy(views, p.views)
	return web.Page{Views: views, Watch: p.watch}
}

// row is a message as JSON.
func row[M proto.Message](m M) any {
	b, err := protojson.Marshal(m)
	if err != nil { // a string that is no UTF-8: no field of ours has one
		return nil
	}
	return json.RawMessage(b)
}

// record says of a row's record what the row itself, which has only some of the
// locators, does not.
type record struct {
	// Locators is how many there are.
	Locators int `json:"locators"`
	// Names are the texts of those that the row has.
	Names []string `json:"names"`
}

func recordOf(r *mapping.Record) record {
	out := record{Locators: len(r.Locators), Names: []string{}}
	for _, l := range shortened(r).Locators {
		out.Names = append(out.Names, locatorName(l))
	}
	return out
}

// locatorName returns a locator's text: the address, or all that stands in its
// place on the wire.
func locatorName(l mapping.Locator) string {
	if l.Opaque == "" {
		return l.Addr.String()
	}
	if a, _, err := wire.DecodeAddress([]byte(l.Opaque)); err == nil {
		return a.String()
	}
	return fmt.Sprintf("%x", l.Opaque)
}

// shortened returns r, which may be nil, with pageLocators at most.
func shortened(r *mapping.Record) *mapping.Record {
	if r == nil || len(r.Locators) <= pageLocators {
		return r
	}
	c := *r
	c.Locators = c.Locators[:pageLocators]
	return &c
}

// searched reads the EID of a search; the zero EID stands for all.
func searched(q web.Query) (mapping.EID, error) {
	if q.Text == "" {
		return mapping.EID{}, nil
	}
	e, err := mapping.ParseEID(q.Text)
	if err != nil {
		return e, fmt.Errorf("%w: %w", web.ErrBadQuery, err)
	}
	return e, nil
}

// sitesFor walks the sites that have text in their name, or the EID that it is
// in one of their prefixes, or the other way round.
func sitesFor(db SiteDatabase, text string) iter.Seq[server.SiteStatus] {
	e, err := mapping.ParseEID(text)
	return func(yield func(server.SiteStatus) bool) {
		for _, st := range db.Sites() {
			named := strings.Contains(strings.ToLower(st.Name), strings.ToLower(text))
			if !named && (err != nil || !slices.ContainsFunc(st.Prefixes, func(p server.PrefixStatus) bool { return related(e, p.EID) })) {
				continue
			}
			if !yield(st) {
				return
			}
		}
	}
}

// siteLocator is a locator of a site, and in how many of its mappings it is.
type siteLocator struct {
	Name      string `json:"name"`
	Mappings  int    `json:"mappings"`
	Reachable int    `json:"reachable"`
}

func siteRow(db SiteDatabase, st server.SiteStatus) any {
	site := siteToProto(st)
	for _, p := range st.Prefixes[:min(len(st.Prefixes), pagePrefixes)] {
		site.Prefixes = append(site.Prefixes, sitePrefixToProto(p))
	}
	locators, looked := locatorsOf(db, st)
	return struct {
		Site any `json:"site"`
		// Prefixes is how many there are.
		Prefixes int           `json:"prefixes"`
		Locators []siteLocator `json:"locators"`
		// Looked is how many mappings that is of.
		Looked int `json:"looked"`
	}{row(site), len(st.Prefixes), locators, looked}
}

// locatorsOf returns the locators of the first mappings of a site.
func locatorsOf(db SiteDatabase, st server.SiteStatus) (list []siteLocator, looked int) {
	list = []siteLocator{}
	at := make(map[string]int)
	walked := 0
	for _, p := range st.Prefixes[:min(len(st.Prefixes), pagePrefixes)] {
		for m := range db.Database(p.EID) {
			if walked++; walked > siteMappings {
				return list, looked
			}
			if m.Site != st.Name {
				continue // of a site inside this one
			}
			looked++
			for _, l := range shortened(m.Record).Locators {
				name := locatorName(l)
				i, there := at[name]
				if !there {
					if len(list) == pageLocators {
						continue
					}
					i = len(list)
					at[name], list = i, append(list, siteLocator{Name: name})
				}
				list[i].Mappings++
				if l.Flags&mapping.Reachable != 0 {
					list[i].Reachable++
				}
			}
		}
	}
	return list, looked
}

// mappingsFor walks the mappings inside within, before them the one that holds
// it.
func mappingsFor(db Database, within mapping.EID) iter.Seq[server.MappingStatus] {
	return func(yield func(server.MappingStatus) bool) {
		if within.IsValid() {
			if m, ok := db.Lookup(within); ok && !within.Covers(m.Record.EID) && !yield(m) {
				return
			}
		}
		db.Database(within)(yield)
	}
}

func mappingRow(st server.MappingStatus) any {
	all, registrations := st.Record, len(st.Registrants)
	st.Record, st.Registrants = shortened(all), st.Registrants[:min(registrations, pageRegistrations)]
	m := mappingToProto(st)
	for _, r := range m.GetRegistrations() {
		r.Record = nil // the mapping's is what they come to
	}
	return struct {
		record
		Registrations int `json:"registrations"`
		Mapping       any `json:"mapping"`
	}{recordOf(all), registrations, row(m)}
}

func databasesFor(x XTR, filter mapping.EID) iter.Seq[xtr.DatabaseStatus] {
	return func(yield func(xtr.DatabaseStatus) bool) {
		for _, d := range x.Databases() {
			if related(filter, d.EID) && !yield(d) {
				return
			}
		}
	}
}

func databaseRow(d xtr.DatabaseStatus) any {
	all := &mapping.Record{EID: d.EID, Locators: d.Locators}
	d.Locators = shortened(all).Locators
	d.Registrations = d.Registrations[:min(len(d.Registrations), pageRegistrations)]
	return struct {
		record
		Database any `json:"database"`
	}{recordOf(all), row(databaseToProto(d))}
}

func cachedFor(x XTR, filter mapping.EID) iter.Seq[mapping.CacheEntry] {
	return func(yield func(mapping.CacheEntry) bool) {
		for _, e := range x.MapCache() {
			if related(filter, e.Record.EID) && !yield(e) {
				return
			}
		}
	}
}

func cacheRow(e mapping.CacheEntry, fib *dataplane.Snapshot) any {
	all := e.Record
	e.Record = shortened(all)
	return struct {
		record
		Entry any `json:"entry"`
	}{recordOf(all), row(cacheEntryToProto(e, fib))}
}

// events is a watch of the page.
type events[E any] struct {
	sub     *fanout.Subscription[E]
	filter  mapping.EID
	none    bool // those about no EID are wanted
	convert func(E) (mapping.EID, *eidolonv1.Event)
}

// watchFor subscribes to the events about the EID of a search.
func watchFor[E any](q web.Query, none bool, watch func(queue int) (*fanout.Subscription[E], error), convert func(E) (mapping.EID, *eidolonv1.Event)) (web.Stream, error) {
	filter, err := searched(q)
	if err != nil {
		return nil, err
	}
	sub, err := watch(pageQueue)
	if err != nil {
		return nil, err
	}
	return &events[E]{sub, filter, none, convert}, nil
}

func (s *events[E]) Close() { s.sub.Close() }

// Next also ends when the daemon does.
func (s *events[E]) Next(ctx context.Context) (out []json.RawMessage, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if serving, ok := ctx.Value(servingKey{}).(context.Context); ok {
		defer context.AfterFunc(serving, func() { cancel(errEnding) })()
	}
	for len(out) == 0 {
		items, err := s.sub.Next(ctx)
		if err != nil {
			return nil, err
		}
		for _, it := range items {
			p := &eidolonv1.Event{Kind: eidolonv1.EventKind_EVENT_KIND_LOST, Lost: it.Lost}
			if it.Lost == 0 {
				var e mapping.EID
				if e, p = s.convert(it.Event); !wanted(s.filter, e, s.none) {
					continue
				}
			}
			if b, ok := row(p).(json.RawMessage); ok {
				out = append(out, b)
			}
		}
	}
	return out, nil
}
