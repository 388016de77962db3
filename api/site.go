package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sort"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// SiteDatabase is what the SiteService needs of a map-server; *server.Server
// has it. The methods are called from several goroutines.
type SiteDatabase interface {
	// Sites returns the sites in the order of the configuration.
	Sites() []server.SiteStatus
	// Database walks the mappings inside e, or all with the zero EID, in
	// order.
	Database(e mapping.EID) iter.Seq[server.MappingStatus]
	// ChangeSite makes of a site of the API what change makes of it; see
	// server.Server.
	ChangeSite(ctx context.Context, name string, change func(was *server.Site, revision uint64) (*server.Site, error)) (uint64, error)
}

var _ SiteDatabase = (*server.Server)(nil)

type sites struct {
	eidolonv1.UnimplementedSiteServiceServer
	db SiteDatabase
}

// Sites is the SiteService of a map-server.
func Sites(db SiteDatabase) Service { return &sites{db: db} }

func (s *sites) register(r grpc.ServiceRegistrar) { eidolonv1.RegisterSiteServiceServer(r, s) }

func (s *sites) ListSites(_ context.Context, req *eidolonv1.ListSitesRequest) (*eidolonv1.ListSitesResponse, error) {
	filter, ferr := optionalEID("eid", req.GetEid())
	if ferr != nil {
		return nil, invalid(ferr)
	}
	list := s.db.Sites()
	if name := req.GetName(); name != "" {
		list = slices.DeleteFunc(list, func(st server.SiteStatus) bool { return st.Name != name })
		if len(list) == 0 {
			return nil, notFound("name", "there is no site %q", name)
		}
	}
	return listSites(req, list, filter)
}

// sitePart is an EID-prefix of a site; prefix is nil for a site without any.
type sitePart struct {
	site   *server.SiteStatus
	prefix *server.PrefixStatus
}

// compare orders parts for pages: sites by name, one of the configuration before one
// that was put, and by EID-prefix.
func (p sitePart) compare(o sitePart) int {
	return cmp.Or(strings.Compare(p.site.Name, o.site.Name), cmp.Compare(min(p.site.Put, 1), min(o.site.Put, 1)), p.eid().Compare(o.eid()))
}

func (p sitePart) eid() (e mapping.EID) {
	if p.prefix != nil {
		e = p.prefix.EID
	}
	return e
}

func (p sitePart) text() string {
	text, _ := json.Marshal([]any{p.site.Name, p.site.Put > 0, p.prefix != nil, p.eid().String()}) // of such values it does not fail
	return string(text)
}

func parseSitePart(text string) (p sitePart, err error) {
	var name, eid string
	var put, prefix bool
	if err := json.Unmarshal([]byte(text), &[]any{&name, &put, &prefix, &eid}); err != nil {
		return p, err
	}
	p.site = &server.SiteStatus{Name: name}
	if put {
		p.site.Put = 1
	}
	if prefix {
		p.prefix = new(server.PrefixStatus)
		p.prefix.EID, err = mapping.ParseEID(eid)
	}
	return p, err
}

// listSites returns the sites with the EID-prefixes that are related to filter: the
// page that req asks for, or all.
func listSites(req *eidolonv1.ListSitesRequest, list []server.SiteStatus, filter mapping.EID) (*eidolonv1.ListSitesResponse, error) {
	var parts []sitePart
	for i := range list {
		st := &list[i]
		for j := range st.Prefixes {
			if related(filter, st.Prefixes[j].EID) {
				parts = append(parts, sitePart{st, &st.Prefixes[j]})
			}
		}
		if len(st.Prefixes) == 0 && !filter.IsValid() {
			parts = append(parts, sitePart{site: st})
		}
	}
	size, most, of := len(list), maxWhole, fmt.Sprintf("%q %v", req.GetName(), filter)
	if paged(req) {
		var ferr *fieldError
		if size, ferr = pageSize(req); ferr != nil {
			return nil, invalid(ferr)
		}
		after, given, ferr := readPageToken(of, req.GetPageToken(), parseSitePart)
		if ferr != nil {
			return nil, invalid(ferr)
		}
		slices.SortFunc(parts, sitePart.compare)
		if given {
			parts = parts[sort.Search(len(parts), func(i int) bool { return parts[i].compare(after) > 0 }):]
		}
		most = maxPageSize
	}
	resp := new(eidolonv1.ListSitesResponse)
	var site *eidolonv1.Site
	octets := 0
	for i, p := range parts {
		begins := i == 0 || parts[i-1].site != p.site
		if begins {
			site = siteToProto(*p.site)
			octets += 8 + sizeInside(site) // its length grows with its prefixes
		}
		var prefix *eidolonv1.SitePrefix
		if p.prefix != nil {
			prefix = sitePrefixToProto(*p.prefix)
			octets += sizeInside(prefix)
		}
		if i > 0 && octets > most || begins && len(resp.Sites) == size {
			if !paged(req) {
				return nil, tooLarge(len(list))
			}
			resp.NextPageToken = pageToken(of, parts[i-1].text())
			break
		}
		if begins {
			resp.Sites = append(resp.Sites, site)
		}
		if prefix != nil {
			site.Prefixes = append(site.Prefixes, prefix)
		}
	}
	return resp, nil
}

func (s *sites) ListRegistrations(req *eidolonv1.ListRegistrationsRequest, stream grpc.ServerStreamingServer[eidolonv1.ListRegistrationsResponse]) error {
	within, ferr := optionalEID("within", req.GetWithin())
	if ferr != nil {
		return invalid(ferr)
	}
	out := batches[*eidolonv1.Registration]{send: func(list []*eidolonv1.Registration) error {
		return stream.Send(&eidolonv1.ListRegistrationsResponse{Registrations: list})
	}}
	for st := range s.db.Database(within) {
		if req.GetSite() != "" && req.GetSite() != st.Site || len(st.Registrants) == 0 {
			continue
		}
		for _, r := range registrationsToProto(st) {
			if err := out.add(r); err != nil {
				return err
			}
		}
	}
	return out.flush()
}

func (s *sites) PutSite(ctx context.Context, req *eidolonv1.PutSiteRequest) (*eidolonv1.PutSiteResponse, error) {
	next, ferr := siteFromProto(req)
	if ferr != nil {
		return nil, invalid(ferr)
	}
	site, revision, err := s.change(ctx, "put site", req.GetName(), req.IfRevision, func(was *server.Site) (*server.Site, error) {
		if len(next.Keys) == 0 && was != nil {
			next.Keys = was.Keys
		}
		return next, nil
	})
	if err != nil {
		return nil, err
	}
	return &eidolonv1.PutSiteResponse{Site: site, Revision: revision}, nil
}

func (s *sites) DeleteSite(ctx context.Context, req *eidolonv1.DeleteSiteRequest) (*eidolonv1.DeleteSiteResponse, error) {
	_, revision, err := s.change(ctx, "delete site", req.GetName(), req.IfRevision, func(*server.Site) (*server.Site, error) { return nil, nil })
	if err != nil {
		return nil, err
	}
	return &eidolonv1.DeleteSiteResponse{Revision: revision}, nil
}

const puttingKey = "put site key"

func (s *sites) PutSiteKey(ctx context.Context, req *eidolonv1.PutSiteKeyRequest) (*eidolonv1.PutSiteKeyResponse, error) {
	key, ferr := keyFromProto(req.GetKey())
	if ferr != nil {
		return nil, invalid(ferr.within("key"))
	}
	site, revision, err := s.change(ctx, puttingKey, req.GetName(), req.IfRevision, func(was *server.Site) (*server.Site, error) {
		if was == nil {
			return nil, server.ErrNoSite
		}
		next := *was
		next.Keys = append(slices.DeleteFunc(slices.Clone(was.Keys), func(k auth.Key) bool { return k.ID == key.ID }), key)
		return &next, nil
	})
	if err != nil {
		return nil, err
	}
	return &eidolonv1.PutSiteKeyResponse{Site: site, Revision: revision}, nil
}

func (s *sites) DeleteSiteKey(ctx context.Context, req *eidolonv1.DeleteSiteKeyRequest) (*eidolonv1.DeleteSiteKeyResponse, error) {
	site, revision, err := s.change(ctx, "delete site key", req.GetName(), req.IfRevision, func(was *server.Site) (*server.Site, error) {
		if was == nil {
			return nil, server.ErrNoSite
		}
		next := *was
		next.Keys = slices.DeleteFunc(slices.Clone(was.Keys), func(k auth.Key) bool { return uint32(k.ID) == req.GetKeyId() })
		switch {
		case len(next.Keys) == len(was.Keys):
			return nil, notFound("key_id", "site %s has no key %d", req.GetName(), req.GetKeyId())
		case len(next.Keys) == 0:
			return nil, details(codes.FailedPrecondition, fmt.Sprintf("key %d is the last one of site %s: put another first", req.GetKeyId(), req.GetName()),
				&errdetails.PreconditionFailure{Violations: []*errdetails.PreconditionFailure_Violation{{Type: "LAST_KEY", Subject: req.GetName()}}})
		}
		return &next, nil
	})
	if err != nil {
		return nil, err
	}
	return &eidolonv1.DeleteSiteKeyResponse{Site: site, Revision: revision}, nil
}

// change makes of a site that was put what to makes of it, if it is at the revision
// given, and returns it with that of the database. Secrets are in no error.
func (s *sites) change(ctx context.Context, doing, name string, at *uint64, to func(was *server.Site) (*server.Site, error)) (*eidolonv1.Site, uint64, error) {
	if name == "" {
		return nil, 0, invalid(badField("name", "it is required"))
	}
	var before, after any
	revision, err := s.db.ChangeSite(ctx, name, func(was *server.Site, found uint64) (*server.Site, error) {
		if at != nil && *at != found {
			text := fmt.Sprintf("site %s is at revision %d, not %d", name, found, *at)
			return nil, details(codes.Aborted, text,
				&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "if_revision", Description: text}}},
				&errdetails.PreconditionFailure{Violations: []*errdetails.PreconditionFailure_Violation{{Type: "REVISION", Subject: name, Description: text}}})
		}
		next, err := to(was)
		before, after = definition(was), definition(next)
		return next, err
	})
	if err != nil {
		return nil, 0, siteFailed(doing, name, err)
	}
	callOf(ctx).changed("site "+name, before, after)
	for _, st := range s.db.Sites() {
		if st.Name == name && st.Put != 0 {
			site := siteToProto(st)
			for _, p := range st.Prefixes {
				site.Prefixes = append(site.Prefixes, sitePrefixToProto(p))
			}
			return site, revision, nil
		}
	}
	return nil, revision, nil
}

// definition is a site without what counts for it and without its secrets; nil
// for none.
func definition(x *server.Site) any {
	if x == nil {
		return nil
	}
	out := siteToProto(server.SiteStatus{Name: x.Name, Keys: x.Keys, MinAlgorithm: x.MinAlgorithm, XTRIDs: x.XTRIDs, MaxRegistrations: x.MaxRegistrations})
	out.Origin = 0
	for _, p := range x.Prefixes {
		out.Prefixes = append(out.Prefixes, sitePrefixToProto(server.PrefixStatus{SitePrefix: p}))
	}
	return out
}

func siteFailed(doing, name string, err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	if bad, ok := errors.AsType[*server.SiteError](err); ok {
		field := cmp.Or(bad.Field, "name")
		if _, of, ok := strings.Cut(field, "]."); ok && doing == puttingKey {
			field = "key." + of // the request has no other
		}
		return invalid(&fieldError{field, bad.Err})
	}
	switch {
	case errors.Is(err, server.ErrNoSite):
		return notFound("name", "no site %q was put", name)
	case errors.Is(err, server.ErrConfigured):
		return notConfigured("sites", fmt.Sprintf("site %s is of the configuration: change it there", name))
	case errors.Is(err, server.ErrTooManySites):
		return details(codes.ResourceExhausted, err.Error(), &errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{Subject: "sites", Description: err.Error()}}})
	}
	return failed(doing, err)
}
