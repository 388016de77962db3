package api

import (
	"context"
	"encoding/base64"
	"fmt"
	"hash/fnv"
	"iter"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
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
	// maxPageSize bounds a page, or a message of a stream, in octets, below what a
	// client takes.
	maxPageSize = 2 << 20
	// maxWhole bounds an answer that is not a page, in octets: a client takes 4 MiB
	// unless it asks for more.
	maxWhole = 4<<20 - 64<<10
)

// pageFilter is what ListMappings and PageMappings are asked for, but for the page.
type pageFilter struct {
	within, covering mapping.EID
	origin           eidolonv1.MappingOrigin
	site             string
}

// mappingFilter reads the filters of a request.
func mappingFilter(req interface {
	GetWithin() string
	GetCovering() string
	GetOrigin() eidolonv1.MappingOrigin
	GetSite() string
}) (f pageFilter, ferr *fieldError) {
	f.origin, f.site = req.GetOrigin(), req.GetSite()
	if f.within, ferr = optionalEID("within", req.GetWithin()); ferr != nil {
		return f, ferr
	}
	if f.covering, ferr = optionalEID("covering", req.GetCovering()); ferr != nil {
		return f, ferr
	}
	if f.within.IsValid() && f.covering.IsValid() {
		return f, badField("covering", "it is given together with within")
	}
	return f, originWanted(f.origin)
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

// listed returns the page of a list that req asks for or, without page_size and
// page_token, all of it in the order that it has.
func listed[T, K any, M proto.Message](req pageRequest, filter string, k keys[T, K], list []T, convert func(T) M) (of []M, next string, err error) {
	if paged(req) {
		return page(req, filter, k, list, convert)
	}
	octets := 0
	for _, t := range list {
		m := convert(t)
		if octets += sizeInside(m); octets > maxWhole {
			return nil, "", tooLarge(len(list))
		}
		of = append(of, m)
	}
	return of, "", nil
}

func paged(req pageRequest) bool { return req.GetPageSize() != 0 || req.GetPageToken() != "" }

// sizeInside returns how many octets a message takes as one of a list.
func sizeInside(m proto.Message) int { return 1 + protowire.SizeBytes(proto.Size(m)) }

// tooLarge is the status of a request for n items at once that are too many for a
// message.
func tooLarge(n int) error {
	text := fmt.Sprintf("all %d at once are more than a message holds, expected a page_size to ask for pages", n)
	return details(codes.ResourceExhausted, "page_size: "+text, &errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "page_size", Description: text}},
	})
}

// batches sends the items of a stream in messages that a client takes.
type batches[M proto.Message] struct {
	send   func([]M) error
	items  []M
	octets int
}

func (b *batches[M]) add(m M) error {
	size := sizeInside(m)
	if len(b.items) == listBatch || b.octets+size > maxPageSize {
		if err := b.flush(); err != nil {
			return err
		}
	}
	b.items, b.octets = append(b.items, m), b.octets+size
	return nil
}

// flush sends what there is.
func (b *batches[M]) flush() error {
	if len(b.items) == 0 {
		return nil
	}
	items := b.items
	b.items, b.octets = nil, 0
	return b.send(items)
}

// eidKeys are those of items with an EID.
func eidKeys[T any](of func(T) mapping.EID) keys[T, mapping.EID] {
	return keys[T, mapping.EID]{of: of, compare: mapping.EID.Compare, text: mapping.EID.String, parse: mapping.ParseEID}
}

// keys order a list for its pages: no two items have the same.
type keys[T, K any] struct {
	of      func(T) K
	compare func(a, b K) int
	text    func(K) string
	parse   func(string) (K, error)
}

// page returns the page of a list that req asks for, in the order of its keys, and
// the token for the next. filter is what the list was selected by.
func page[T, K any, M proto.Message](req pageRequest, filter string, k keys[T, K], list []T, convert func(T) M) (of []M, next string, err error) {
	size, ferr := pageSize(req)
	if ferr != nil {
		return nil, "", invalid(ferr)
	}
	after, given, ferr := readPageToken(filter, req.GetPageToken(), k.parse)
	if ferr != nil {
		return nil, "", invalid(ferr)
	}
	type place struct {
		key  K
		item int
	}
	var rest []place
	for i, t := range list {
		if key := k.of(t); !given || k.compare(key, after) > 0 {
			rest = append(rest, place{key, i})
		}
	}
	slices.SortFunc(rest, func(a, b place) int { return k.compare(a.key, b.key) })
	octets := 0
	for i, p := range rest {
		m := convert(list[p.item])
		octets += sizeInside(m)
		if len(of) == size || len(of) > 0 && octets > maxPageSize {
			return of, pageToken(filter, k.text(rest[i-1].key)), nil
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
	var after mapping.EID
	var size int
	f, ferr := mappingFilter(req)
	if ferr == nil {
		after, ferr = f.after(req.GetPageToken())
	}
	if ferr == nil {
		size, ferr = pageSize(req)
	}
	if ferr != nil {
		return nil, invalid(ferr)
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
