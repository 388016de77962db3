package api

import (
	"context"
	"encoding/base64"
	"fmt"
	"hash/fnv"
	"iter"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

const (
	defaultPage, maxPage = listBatch, 1000
	// maxPageScan bounds the mappings that a page looks at, whether they are
	// asked for or not.
	maxPageScan = 50_000
	// maxPageSize bounds a page, in octets, below what a client takes.
	maxPageSize = 2 << 20
)

// pageFilter is what PageMappings is asked for, but for the page.
type pageFilter struct {
	within, covering mapping.EID
	origin           eidolonv1.MappingOrigin
	site             string
}

func (f pageFilter) takes(st server.MappingStatus) bool {
	return (f.site == "" || f.site == st.Site) &&
		(f.origin == eidolonv1.MappingOrigin_MAPPING_ORIGIN_UNSPECIFIED || f.origin == originToProto(st.Origin))
}

// token is the page token for what comes after e.
func (f pageFilter) token(e mapping.EID) string { return pageToken(f.text(), e.String()) }

func (f pageFilter) text() string {
	return fmt.Sprintf("%v|%v|%v|%q", f.within, f.covering, f.origin, f.site)
}

// after reads a token.
func (f pageFilter) after(token string) (e mapping.EID, ferr *fieldError) {
	e, _, ferr = readPageToken(f.text(), token, mapping.ParseEID)
	if ferr == nil && token != "" && f.within.IsValid() && !f.within.Covers(e) {
		ferr = otherRequest()
	}
	return e, ferr
}

// pageToken is the token for what comes after a place in the list that a request
// with a filter asks for.
func pageToken(filter, place string) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%s %s", digest(filter), place))
}

func digest(filter string) string {
	h := fnv.New64a()
	h.Write([]byte(filter))
	return fmt.Sprintf("%016x", h.Sum64())
}

// readPageToken reads a token of a request with the same filter; given is false
// for none.
func readPageToken[K any](filter, token string, parse func(string) (K, error)) (place K, given bool, ferr *fieldError) {
	if token == "" {
		return place, false, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	of, rest, ok := strings.Cut(string(text), " ")
	if err == nil && ok {
		place, err = parse(rest)
	}
	switch {
	case err != nil || !ok:
		return place, false, badField("page_token", "found %.80q, expected a next_page_token", token)
	case of != digest(filter):
		return place, false, otherRequest()
	}
	return place, true, nil
}

func otherRequest() *fieldError {
	return badField("page_token", "it is of a request with other fields")
}

// pageRequest is a request for a page.
type pageRequest interface {
	GetPageSize() int32
	GetPageToken() string
}

// pageSize reads how many items a page may have.
func pageSize(req pageRequest) (int, *fieldError) {
	size := int(req.GetPageSize())
	switch {
	case size < 0:
		return 0, badField("page_size", "found %d, expected 0 to %d", size, maxPage)
	case size == 0:
		return defaultPage, nil
	}
	return min(size, maxPage), nil
}

// keys order a list for its pages: no two items have the same.
type keys[T, K any] struct {
	of      func(T) K
	compare func(a, b K) int
	text    func(K) string
	parse   func(string) (K, error)
}

// page sorts a list and returns the page of it that req asks for, and the token for
// the next. filter is what the list was selected by.
func page[T, K any, M proto.Message](req pageRequest, filter string, k keys[T, K], list []T, convert func(T) M) (of []M, next string, err error) {
	size, ferr := pageSize(req)
	if ferr != nil {
		return nil, "", invalid(ferr)
	}
	after, given, ferr := readPageToken(filter, req.GetPageToken(), k.parse)
	if ferr != nil {
		return nil, "", invalid(ferr)
	}
	list = slices.SortedFunc(slices.Values(list), func(a, b T) int { return k.compare(k.of(a), k.of(b)) })
	if given {
		i, there := slices.BinarySearchFunc(list, after, func(t T, after K) int { return k.compare(k.of(t), after) })
		if there {
			i++
		}
		list = list[i:]
	}
	octets := 0
	for i, t := range list {
		m := convert(t)
		octets += proto.Size(m)
		if len(of) == size || len(of) > 0 && octets > maxPageSize {
			return of, pageToken(filter, k.text(k.of(list[i-1]))), nil
		}
		of = append(of, m)
	}
	return of, "", nil
}

// walk walks what the page may be made of.
func (f pageFilter) walk(d server.Snapshot, after mapping.EID) iter.Seq[server.MappingStatus] {
	if !f.covering.IsValid() {
		return d.Mappings(f.within, after)
	}
	all := d.Covering(f.covering)
	if after.IsValid() {
		// What is left is behind the last one that was shown, or where it was.
		i := slices.IndexFunc(all, func(st server.MappingStatus) bool {
			e := st.Record.EID
			if e.Source.IsValid() != after.Source.IsValid() {
				return e.Source.IsValid()
			}
			return e.Compare(after) > 0
		})
		if i < 0 {
			i = len(all)
		}
		all = all[i:]
	}
	return slices.Values(all)
}

func (s *mappings) PageMappings(_ context.Context, req *eidolonv1.PageMappingsRequest) (*eidolonv1.PageMappingsResponse, error) {
	f := pageFilter{origin: req.GetOrigin(), site: req.GetSite()}
	var after mapping.EID
	var size int
	var ferr *fieldError
	for _, read := range []func(){
		func() { f.within, ferr = optionalEID("within", req.GetWithin()) },
		func() { f.covering, ferr = optionalEID("covering", req.GetCovering()) },
		func() { ferr = originWanted(f.origin) },
		func() { after, ferr = f.after(req.GetPageToken()) },
		func() { size, ferr = pageSize(req) },
	} {
		if read(); ferr != nil {
			return nil, invalid(ferr)
		}
	}
	if f.within.IsValid() && f.covering.IsValid() {
		return nil, invalid(badField("covering", "it is given together with within"))
	}
	d := s.db.Snapshot()
	resp := &eidolonv1.PageMappingsResponse{Revision: d.Revision}
	octets, scanned := 0, 0
	var last mapping.EID
	for st := range f.walk(d, after) {
		if len(resp.Mappings) == size || octets >= maxPageSize || scanned == maxPageScan {
			resp.NextPageToken = f.token(last)
			break
		}
		scanned++
		last = st.Record.EID
		if f.takes(st) {
			m := mappingToProto(st)
			octets += proto.Size(m)
			resp.Mappings = append(resp.Mappings, m)
		}
	}
	return resp, nil
}
