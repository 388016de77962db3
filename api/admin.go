package api

import (
	"context"
	"iter"
	"strings"

	"google.golang.org/grpc"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/internal/version"
)

type admin struct {
	eidolonv1.UnimplementedAdminServiceServer
	program string
	stats   []func() iter.Seq2[string, uint64]
}

// Admin is the AdminService of a program. The statistics are those of stats,
// one after the other; they are called from several goroutines.
func Admin(program string, stats ...func() iter.Seq2[string, uint64]) Service {
	return &admin{program: program, stats: stats}
}

func (a *admin) register(r grpc.ServiceRegistrar) { eidolonv1.RegisterAdminServiceServer(r, a) }

func (a *admin) GetVersion(context.Context, *eidolonv1.GetVersionRequest) (*eidolonv1.GetVersionResponse, error) {
	return versionOf(a.program), nil
}

func versionOf(program string) *eidolonv1.GetVersionResponse {
	v := version.Get()
	return &eidolonv1.GetVersionResponse{Program: program, Version: v.Version, Revision: v.Revision, GoVersion: v.Go}
}

func (a *admin) GetStatistics(_ context.Context, req *eidolonv1.GetStatisticsRequest) (*eidolonv1.GetStatisticsResponse, error) {
	resp := new(eidolonv1.GetStatisticsResponse)
	for _, stats := range a.stats {
		for name, value := range stats() {
			if strings.HasPrefix(name, req.GetPrefix()) {
				resp.Statistics = append(resp.Statistics, &eidolonv1.Statistic{Name: name, Value: value})
			}
		}
	}
	return resp, nil
}

// JoinStats returns a function that walks the statistics of several, one after
// the other.
func JoinStats(stats ...func() iter.Seq2[string, uint64]) func() iter.Seq2[string, uint64] {
	return func() iter.Seq2[string, uint64] {
		return func(yield func(string, uint64) bool) {
			for _, s := range stats {
				for name, v := range s() {
					if !yield(name, v) {
						return
					}
				}
			}
		}
	}
}
