package api

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// fieldError is something wrong in a request, with the path of the field:
// "records[3].locators[0].priority".
type fieldError struct {
	field string
	err   error
}

func (e *fieldError) Error() string { return e.field + ": " + e.err.Error() }
func (e *fieldError) Unwrap() error { return e.err }

func badField(field, format string, args ...any) *fieldError {
	return &fieldError{field, fmt.Errorf(format, args...)}
}

// within puts the path of what holds the field before it.
func (e *fieldError) within(path string) *fieldError {
	return &fieldError{path + "." + e.field, e.err}
}

// invalid is the status of a request with a bad field.
func invalid(e *fieldError) error {
	return details(codes.InvalidArgument, e.Error(), &errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: e.field, Description: e.err.Error()}},
	})
}

// notFound is the status of a request whose field names what is not there.
func notFound(field, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	return details(codes.NotFound, text, &errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: text}},
	})
}

// notPermitted is the status of a request whose field has EIDs that are not the
// user's; eid is empty where it stands for all.
func notPermitted(field, user, eid, text string) error {
	return details(codes.PermissionDenied, field+": "+text,
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: text}}},
		&errdetails.ErrorInfo{Reason: "EID_NOT_PERMITTED", Domain: "eidolon", Metadata: map[string]string{"user": user, "eid": eid}})
}

// notConfigured is the status of a call for what the daemon has not.
func notConfigured(key, text string) error {
	return details(codes.FailedPrecondition, text, &errdetails.PreconditionFailure{
		Violations: []*errdetails.PreconditionFailure_Violation{{Type: "CONFIGURATION", Subject: key, Description: text}},
	})
}

// details gives a status the details of what is wrong.
func details(code codes.Code, text string, what ...protoadapt.MessageV1) error {
	s, err := status.New(code, text).WithDetails(what...)
	if err != nil {
		return status.Error(code, text)
	}
	return s.Err()
}

// batchFailed is the status of a batch that changed nothing. op and condition
// are the paths of the fields of operation %d, and of its precondition.
func batchFailed(doing string, err error, op, condition string) error {
	if bad, ok := errors.AsType[*server.ConflictError](err); ok {
		fields, conditions := new(errdetails.BadRequest), new(errdetails.PreconditionFailure)
		for _, c := range bad.Conflicts {
			why := (&server.ConflictError{Conflicts: []server.Conflict{c}}).Error()
			fields.FieldViolations = append(fields.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: fmt.Sprintf(condition, c.Index), Description: why})
			conditions.Violations = append(conditions.Violations, &errdetails.PreconditionFailure_Violation{Type: "REVISION", Subject: c.EID.String(), Description: why})
		}
		return details(codes.Aborted, doing+": "+bad.Error(), fields, conditions)
	}
	if bad, ok := errors.AsType[*server.OpError](err); ok {
		code := codes.InvalidArgument
		if errors.Is(err, server.ErrNoMapping) {
			code = codes.NotFound
		}
		return details(code, doing+": "+bad.Error(), &errdetails.BadRequest{
			FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: fmt.Sprintf(op, bad.Index), Description: bad.Error()}},
		})
	}
	return failed(doing, err)
}

// resync is the status of who follows the database and must begin again.
func resync(e *server.ResyncError) error {
	return details(codes.OutOfRange, e.Error(), &errdetails.ErrorInfo{Reason: "RESYNC_REQUIRED", Domain: "eidolon", Metadata: map[string]string{
		"after_revision":  fmt.Sprint(e.After),
		"oldest_revision": fmt.Sprint(e.Oldest),
		"revision":        fmt.Sprint(e.Revision),
	}})
}

// failed is the status of a change or query that did not succeed.
func failed(doing string, err error) error {
	code := codes.Internal
	switch {
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, mapping.ErrStoreClosed):
		code = codes.Unavailable
	}
	return status.Errorf(code, "%s: %v", doing, err)
}
