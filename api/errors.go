package api

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/server"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
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
	s, err := status.New(codes.InvalidArgument, e.Error()).WithDetails(&errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: e.field, Description: e.err.Error()}},
	})
	if err != nil {
		return status.Error(codes.InvalidArgument, e.Error())
	}
	return s.Err()
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
	case errors.Is(err, server.ErrNoMapping), errors.Is(err, xtr.ErrNoLocator):
		code = codes.NotFound
	case errors.Is(err, mapping.ErrBadEID):
		code = codes.InvalidArgument
	}
	return status.Errorf(code, "%s: %v", doing, err)
}
