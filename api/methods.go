package api

import (
	"errors"
	"fmt"
	"iter"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
)

// method is what is declared of a method of a service. One that is not declared
// can't be called.
type method struct {
	// roles are those of which one is needed.
	roles Role
	// open methods may be called by every user: they tell nothing of sites,
	// mappings or traffic.
	open bool
	// changes says that it changes something, which is audited.
	changes bool
	// eids walks the EIDs of a message of the caller, with the fields that they
	// are in. RoleRegister is bounded by them: it calls nothing without.
	eids func(message any) iter.Seq2[string, string]
}

var (
	open     = method{open: true}
	read     = method{roles: RoleRead}
	operates = method{roles: RoleOperate, changes: true}
)

// registers is a method that changes the mappings of the EIDs in a message.
func registers[M any](eids func(m M, yield func(field, eid string) bool)) method {
	return method{roles: RoleOperate | RoleRegister, changes: true, eids: eidsOf(eids)}
}

// reads is a method that tells of the EIDs in a message only.
func reads[M any](eids func(m M, yield func(field, eid string) bool)) method {
	return method{roles: RoleRead | RoleRegister, eids: eidsOf(eids)}
}

// eidsOf takes a message of another type for one that names all EIDs.
func eidsOf[M any](eids func(m M, yield func(field, eid string) bool)) func(any) iter.Seq2[string, string] {
	return func(message any) iter.Seq2[string, string] {
		return func(yield func(string, string) bool) {
			if m, ok := message.(M); ok {
				eids(m, yield)
				return
			}
			yield(fmt.Sprintf("%T", message), "")
		}
	}
}

// recordEIDs walks the EIDs of records.
func recordEIDs[M interface{ GetRecords() []*eidolonv1.Record }](m M, yield func(field, eid string) bool) {
	for i, r := range m.GetRecords() {
		if !yield(fmt.Sprintf("records[%d].eid", i), r.GetEid()) {
			return
		}
	}
}

// methods declares every method of every service, by its full name.
var methods = map[string]method{
	eidolonv1.AdminService_GetVersion_FullMethodName:           open,
	eidolonv1.AdminService_GetStatistics_FullMethodName:        read,
	eidolonv1.AdminService_Reload_FullMethodName:               operates,
	eidolonv1.AdminService_DiffConfiguration_FullMethodName:    {roles: RoleOperate},
	eidolonv1.AdminService_ApplyConfiguration_FullMethodName:   operates,
	eidolonv1.AdminService_ConfirmConfiguration_FullMethodName: operates,
	eidolonv1.AdminService_GetLogLevel_FullMethodName:          read,
	eidolonv1.AdminService_SetLogLevel_FullMethodName:          operates,

	eidolonv1.MappingService_GetMapping_FullMethodName: reads(func(m *eidolonv1.GetMappingRequest, yield func(_, _ string) bool) {
		yield("eid", m.GetEid())
	}),
	eidolonv1.MappingService_ListMappings_FullMethodName: reads(func(m *eidolonv1.ListMappingsRequest, yield func(_, _ string) bool) {
		yield("within", m.GetWithin())
	}),
	eidolonv1.MappingService_PageMappings_FullMethodName: reads(func(m *eidolonv1.PageMappingsRequest, yield func(_, _ string) bool) {
		yield("within", m.GetWithin())
	}),
	eidolonv1.MappingService_WatchMappings_FullMethodName: reads(func(m *eidolonv1.WatchMappingsRequest, yield func(_, _ string) bool) {
		yield("within", m.GetWithin())
	}),
	eidolonv1.MappingService_LookupMapping_FullMethodName: read,
	eidolonv1.MappingService_PutMappings_FullMethodName:   registers(recordEIDs[*eidolonv1.PutMappingsRequest]),
	eidolonv1.MappingService_DeleteMappings_FullMethodName: registers(func(m *eidolonv1.DeleteMappingsRequest, yield func(_, _ string) bool) {
		for i, e := range m.GetEids() {
			if !yield(fmt.Sprintf("eids[%d]", i), e) {
				return
			}
		}
	}),
	eidolonv1.MappingService_BatchMappings_FullMethodName: registers(func(m *eidolonv1.BatchMappingsRequest, yield func(_, _ string) bool) {
		for i, op := range m.GetOperations() {
			field, eid := fmt.Sprintf("operations[%d].delete", i), op.GetDelete()
			if r := op.GetPut(); r != nil {
				field, eid = fmt.Sprintf("operations[%d].put.eid", i), r.GetEid()
			}
			if !yield(field, eid) {
				return
			}
		}
	}),
	eidolonv1.MappingService_ImportMappings_FullMethodName:    registers(recordEIDs[*eidolonv1.ImportMappingsRequest]),
	eidolonv1.MappingService_ExplainMapping_FullMethodName:    read,
	eidolonv1.MappingService_ListSubscriptions_FullMethodName: read,
	eidolonv1.MappingService_MonitorMappings_FullMethodName:   read,

	eidolonv1.SiteService_ListSites_FullMethodName:         read,
	eidolonv1.SiteService_ListRegistrations_FullMethodName: read,
	eidolonv1.SiteService_PutSite_FullMethodName:           operates,
	eidolonv1.SiteService_DeleteSite_FullMethodName:        operates,
	eidolonv1.SiteService_PutSiteKey_FullMethodName:        operates,
	eidolonv1.SiteService_DeleteSiteKey_FullMethodName:     operates,

	eidolonv1.RouterService_ListDatabaseMappings_FullMethodName: read,
	eidolonv1.RouterService_ListLocatorSets_FullMethodName:      read,
	eidolonv1.RouterService_ListMapServers_FullMethodName:       read,
	eidolonv1.RouterService_ListMapResolvers_FullMethodName:     read,
	eidolonv1.RouterService_ListMapCache_FullMethodName:         read,
	eidolonv1.RouterService_LookupMapCache_FullMethodName:       read,
	eidolonv1.RouterService_ClearMapCache_FullMethodName:        operates,
	eidolonv1.RouterService_ListRemoteLocators_FullMethodName:   read,
	eidolonv1.RouterService_ListLocalLocators_FullMethodName:    read,
	eidolonv1.RouterService_DrainLocator_FullMethodName:         operates,
	eidolonv1.RouterService_UndrainLocator_FullMethodName:       operates,
	eidolonv1.RouterService_SetLocator_FullMethodName:           operates,
	eidolonv1.RouterService_ExplainFlow_FullMethodName:          read,
	eidolonv1.RouterService_MonitorRouter_FullMethodName:        read,

	// It changes nothing, but shows the traffic of hosts, and there is one at a
	// time.
	eidolonv1.TraceService_TraceFlow_FullMethodName: {roles: RoleOperate},

	eidolonv1.BGPService_GetBGP_FullMethodName: read,
	eidolonv1.ALTService_GetALT_FullMethodName: read,

	healthv1.Health_Check_FullMethodName: open,
	healthv1.Health_Watch_FullMethodName: open,
	healthv1.Health_List_FullMethodName:  open,

	reflectionv1.ServerReflection_ServerReflectionInfo_FullMethodName:      open,
	reflectionv1alpha.ServerReflection_ServerReflectionInfo_FullMethodName: open,
}

// undeclared fails when services have methods that nobody could call.
func undeclared(services map[string]grpc.ServiceInfo) error {
	var errs []error
	for service, info := range services {
		for _, m := range info.Methods {
			if name := "/" + service + "/" + m.Name; !methods[name].declared() {
				errs = append(errs, fmt.Errorf("API: no role is declared for %s", name))
			}
		}
	}
	return errors.Join(errs...)
}

func (m method) declared() bool { return m.open || m.roles != 0 }
