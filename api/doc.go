// Package api is the gRPC interface of both daemons: the services, the only
// conversion between domain types and protobuf, and the Unix socket that they
// are served on.
//
// A daemon makes the services it has and serves them:
//
//	err := api.Serve(ctx, api.Config{Socket: "/run/eidolon/mapserver.sock"},
//		api.Admin("mapserver", server.Stats), api.Mappings(server), api.Sites(server))
//
// Whatever a client sends is checked whole before anything is changed. Errors
// have a canonical code; INVALID_ARGUMENT names the fields in its details
// (google.rpc.BadRequest).
package api
