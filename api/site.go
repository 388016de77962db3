package api

import (
	"context"
	"iter"

	"google.golang.org/grpc"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
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
	resp := new(eidolonv1.ListSitesResponse)
	found := req.GetName() == ""
	for _, st := range s.db.Sites() {
		if req.GetName() != "" && st.Name != req.GetName() {
			continue
		}
		found = true
		site := siteToProto(st)
		for _, p := range st.Prefixes {
			if related(filter, p.EID) {
				site.Prefixes = append(site.Prefixes, sitePrefixToProto(p))
			}
		}
		if len(site.Prefixes) > 0 || !filter.IsValid() {
			resp.Sites = append(resp.Sites, site)
		}
	}
	if !found {
		return nil, notFound("name", "there is no site %q", req.GetName())
	}
	return resp, nil
}

func (s *sites) ListRegistrations(req *eidolonv1.ListRegistrationsRequest, stream grpc.ServerStreamingServer[eidolonv1.ListRegistrationsResponse]) error {
	within, ferr := optionalEID("within", req.GetWithin())
	if ferr != nil {
		return invalid(ferr)
	}
	batch := new(eidolonv1.ListRegistrationsResponse)
	for st := range s.db.Database(within) {
		if req.GetSite() != "" && req.GetSite() != st.Site || len(st.Registrants) == 0 {
			continue
		}
		batch.Registrations = append(batch.Registrations, registrationsToProto(st)...)
		if len(batch.Registrations) >= listBatch {
			if err := stream.Send(batch); err != nil {
				return err
			}
			batch = new(eidolonv1.ListRegistrationsResponse)
		}
	}
	if len(batch.Registrations) == 0 {
		return nil
	}
	return stream.Send(batch)
}
