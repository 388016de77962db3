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
func (f pageFilter) token(e mapping.EID) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%s %v", f.digest(), e))
}

func (f pageFilter) digest() string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%v|%v|%v|%q", f.within, f.covering, f.origin, f.site)
	return fmt.Sprintf("%016x", h.Sum64())
}

// after reads a token.
func (f pageFilter) after(token string) (e mapping.EID, ferr *fieldError) {
	if token == "" {
		return e, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	digest, place, ok := strings.Cut(string(text), " ")
	if err == nil && ok {
		e, err = mapping.ParseEID(place)
	}
	switch {
	case err != nil || !ok:
		return e, badField("page_token", "found %.80q, expected a next_page_token", token)
	case digest != f.digest() || f.within.IsValid() && !f.within.Covers(e):
		return e, badField("page_token", "it is of a request with other fields")
	}
	return e, nil
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
	var ferr *fieldError
	for _, read := range []func(){
		func() { f.within, ferr = optionalEID("within", req.GetWithin()) },
		func() { f.covering, ferr = optionalEID("covering", req.GetCovering()) },
		func() { ferr = originWanted(f.origin) },
		func() { after, ferr = f.after(req.GetPageToken()) },
	} {
		if read(); ferr != nil {
			return nil, invalid(ferr)
		}
	}
	size := int(req.GetPageSize())
	switch {
	case f.within.IsValid() && f.covering.IsValid():
		return nil, invalid(badField("covering", "it is given together with within"))
	case size < 0:
		return nil, invalid(badField("page_size", "found %d, expected 0 to %d", size, maxPage))
	case size == 0:
		size = defaultPage
	}
	size = min(size, maxPage)
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
