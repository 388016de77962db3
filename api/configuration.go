package api

import (
	"context"
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/internal/config"
)

// Limits of our own.
const (
	// maxConfiguration bounds a configuration, in octets; the .proto file tells it.
	maxConfiguration = 4 << 20
	// maxDifferences bounds the differences in an answer.
	maxDifferences = 1000
)

// FileViolation is the type of the violation that names the file which a daemon
// can't replace.
const FileViolation = "FILE"

// given checks that a configuration can be looked at.
func (c *controlled) given(text []byte) error {
	switch {
	case c.controls.Trial == nil:
		return status.Error(codes.Unimplemented, "this daemon takes no configuration")
	case len(text) == 0 || len(text) > maxConfiguration:
		return invalid(badField("configuration", "found %d octets, expected 1 to %d", len(text), maxConfiguration))
	}
	return nil
}

func (c *controlled) DiffConfiguration(_ context.Context, req *eidolonv1.DiffConfigurationRequest) (*eidolonv1.DiffConfigurationResponse, error) {
	if err := c.given(req.GetConfiguration()); err != nil {
		return nil, err
	}
	diffs, warnings, err := c.controls.Trial.Compare(req.GetConfiguration())
	if err != nil {
		return nil, notTaken("the configuration is not good", err)
	}
	resp := &eidolonv1.DiffConfigurationResponse{Count: uint64(len(diffs)), File: c.controls.Trial.Path}
	for _, d := range diffs[:min(len(diffs), maxDifferences)] {
		resp.Differences = append(resp.Differences, &eidolonv1.ConfigurationDifference{Key: d.Key, Before: d.Before, After: d.After, Restart: d.Restart})
	}
	for _, w := range warnings {
		resp.Warnings = append(resp.Warnings, w.Error())
	}
	if err := config.Installable(resp.File); err != nil {
		resp.FileError = err.Error()
	}
	return resp, nil
}

func (c *controlled) ApplyConfiguration(ctx context.Context, req *eidolonv1.ApplyConfigurationRequest) (*eidolonv1.ApplyConfigurationResponse, error) {
	if err := c.given(req.GetConfiguration()); err != nil {
		return nil, err
	}
	wait := time.Duration(req.GetConfirmSeconds()) * time.Second
	if wait > config.MaxTrial {
		return nil, invalid(badField("confirm_seconds", "found %d, expected 0 to %d", req.GetConfirmSeconds(), int(config.MaxTrial.Seconds())))
	}
	done, id, err := c.controls.Trial.Apply(req.GetConfiguration(), wait)
	if err != nil {
		return nil, trialFailed(err)
	}
	callOf(ctx).reloaded(done)
	return &eidolonv1.ApplyConfigurationResponse{Warnings: done.Warnings, RestartKeys: done.Restart, Id: id}, nil
}

func (c *controlled) ConfirmConfiguration(_ context.Context, req *eidolonv1.ConfirmConfigurationRequest) (*eidolonv1.ConfirmConfigurationResponse, error) {
	if c.controls.Trial == nil {
		return nil, c.given(nil)
	}
	do := c.controls.Trial.Confirm
	if req.GetRevert() {
		do = c.controls.Trial.Revert
	}
	if err := do(req.GetId()); err != nil {
		return nil, trialFailed(err)
	}
	return new(eidolonv1.ConfirmConfigurationResponse), nil
}

// trialFailed is the status of a configuration that was not applied, confirmed or
// taken back.
func trialFailed(err error) error {
	if bad, ok := errors.AsType[*config.InstallError](err); ok {
		return details(codes.FailedPrecondition, err.Error(), &errdetails.PreconditionFailure{
			Violations: []*errdetails.PreconditionFailure_Violation{{Type: FileViolation, Subject: bad.Path, Description: bad.Err.Error()}}})
	}
	switch {
	case errors.Is(err, config.ErrTrial):
		return status.Error(codes.Aborted, err.Error())
	case errors.Is(err, config.ErrNoTrial):
		return notFound("id", "%v", err)
	}
	return notTaken("the configuration is not applied, the running one stays", err)
}
