package config

import (
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// NeedsRestart returns the keys, as they stand in the file, in which next
// differs from c and that a running xTR does not change: all but
// database_mappings, locator_sets, uplinks, map_servers, map_resolvers, log and who
// may call the API.
func (c *XTR) NeedsRestart(next *XTR) []string {
	a, b := *c, *next
	for _, x := range []*XTR{&a, &b} {
		x.DatabaseMappings, x.LocatorSets, x.Uplinks, x.Log, x.Warnings, x.Text = nil, nil, nil, Log{}, nil, nil
		x.API = x.API.restart()
		x.MapServers, x.MapResolvers, x.ResolverKeys = nil, nil, nil
	}
	return different(reflect.ValueOf(a), reflect.ValueOf(b))
}

// NeedsRestart returns the keys, as they stand in the file, in which next
// differs from c and that a running map-server does not change: all but sites,
// log and who may call the API.
func (c *MapServer) NeedsRestart(next *MapServer) []string {
	a, b := *c, *next
	for _, x := range []*MapServer{&a, &b} {
		x.Sites, x.Log, x.Warnings, x.Text = nil, Log{}, nil, nil
		x.API = x.API.restart()
	}
	return different(reflect.ValueOf(a), reflect.ValueOf(b))
}

// Changed returns the keys, as they stand in the file, in which next differs
// from c, whatever becomes of them. What stands in files that keys name counts
// as theirs.
func (c *XTR) Changed(next *XTR) []string {
	a, b := *c, *next
	a.Warnings, b.Warnings, a.Text, b.Text = nil, nil, nil, nil
	return different(reflect.ValueOf(a), reflect.ValueOf(b))
}

// Changed returns the keys, as they stand in the file, in which next differs
// from c, whatever becomes of them. What stands in files that keys name counts
// as theirs.
func (c *MapServer) Changed(next *MapServer) []string {
	a, b := *c, *next
	a.Warnings, b.Warnings, a.Text, b.Text = nil, nil, nil, nil
	return different(reflect.ValueOf(a), reflect.ValueOf(b))
}

// different returns the keys of the fields in which two structs differ.
func different(va, vb reflect.Value) (keys []string) {
	for i := range va.NumField() {
		key := keyName(va.Type().Field(i).Name)
		if !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// keyName returns the key in the file of a field of XTR or MapServer.
func keyName(field string) string {
	switch field {
	case "XTRID":
		return "xtr_id"
	case "Learned":
		return fromBGP
	case "ResolverKeys":
		return "map_resolvers"
	case "MapCacheLimit":
		return "map_cache"
	case "PubSub":
		return "pubsub"
	case "UsePETR":
		return "use_petr"
	case "ProxyITR":
		return "proxy_itr"
	case "ProxyETR":
		return "proxy_etr"
	}
	var b strings.Builder
	letters := []rune(field)
	for i, l := range letters {
		if i > 0 && unicode.IsUpper(l) && (unicode.IsLower(letters[i-1]) || i+1 < len(letters) && unicode.IsLower(letters[i+1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(l))
	}
	return b.String()
}
