package api

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"sync"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/internal/config"
)

// Controls are what an operator can change of any running daemon. The methods
// are called from several goroutines.
type Controls struct {
	// Reload reads the configuration again and returns when it is in use; after
	// an error the one before is.
	Reload func() (Reloaded, error)
	// Logs are what is logged.
	Logs Logs
	// Trial applies configurations; nil where none can be.
	Trial *config.Trial
}

// Reloaded is what became of a configuration.
type Reloaded = config.Reloaded

// Logs are the subsystems of a daemon and from which level on they log.
type Logs interface {
	// Levels walks them in the order of the documentation.
	Levels() iter.Seq2[string, slog.Level]
	// SetLevel changes one, or all with "". It fails when there is no such.
	SetLevel(subsystem string, level slog.Level) error
}

// controlled is the AdminService with what an operator can change.
type controlled struct {
	*admin
	controls Controls
	// setting is held while levels change, so that the audit log knows what was
	// there before.
	setting sync.Mutex
}

// Controlled is Admin with controls.
func Controlled(program string, c Controls, stats ...func() iter.Seq2[string, uint64]) Service {
	a := &admin{program: program, stats: stats}
	return &controlled{admin: a, controls: c}
}

func (c *controlled) register(r grpc.ServiceRegistrar) { eidolonv1.RegisterAdminServiceServer(r, c) }

func (c *controlled) Reload(ctx context.Context, _ *eidolonv1.ReloadRequest) (*eidolonv1.ReloadResponse, error) {
	done, err := c.controls.Reload()
	if err != nil {
		return nil, notTaken("the configuration is not reloaded, the running one stays", err)
	}
	callOf(ctx).reloaded(done)
	return &eidolonv1.ReloadResponse{Warnings: done.Warnings, RestartKeys: done.Restart}, nil
}

// notTaken is the status of a configuration that was not taken.
func notTaken(text string, err error) error {
	failure := new(errdetails.PreconditionFailure)
	if es, ok := errors.AsType[config.Errors](err); ok {
		for _, e := range es[:min(len(es), maxViolations)] {
			failure.Violations = append(failure.Violations, &errdetails.PreconditionFailure_Violation{
				Type: "CONFIGURATION", Subject: fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column), Description: e.Message})
		}
	} else {
		failure.Violations = []*errdetails.PreconditionFailure_Violation{{Type: "CONFIGURATION", Description: err.Error()}}
	}
	return details(codes.FailedPrecondition, text+": "+err.Error(), failure)
}

// maxViolations bounds what the details of an error name.
const maxViolations = 64

var levelsToProto = map[slog.Level]eidolonv1.LogLevel{
	slog.LevelDebug: eidolonv1.LogLevel_LOG_LEVEL_DEBUG,
	slog.LevelInfo:  eidolonv1.LogLevel_LOG_LEVEL_INFO,
	slog.LevelWarn:  eidolonv1.LogLevel_LOG_LEVEL_WARN,
	slog.LevelError: eidolonv1.LogLevel_LOG_LEVEL_ERROR,
}

func (c *controlled) GetLogLevel(_ context.Context, req *eidolonv1.GetLogLevelRequest) (*eidolonv1.GetLogLevelResponse, error) {
	levels := c.levels(req.GetSubsystem())
	if levels == nil {
		return nil, notFound("subsystem", "there is no subsystem %q", req.GetSubsystem())
	}
	return &eidolonv1.GetLogLevelResponse{Levels: levels}, nil
}

// levels returns those of a subsystem, or of all with "".
func (c *controlled) levels(name string) (out []*eidolonv1.SubsystemLogLevel) {
	for n, l := range c.controls.Logs.Levels() {
		if name == "" || n == name {
			out = append(out, &eidolonv1.SubsystemLogLevel{Subsystem: n, Level: levelsToProto[l]})
		}
	}
	return out
}

// levelNames are levels as the audit log tells them.
func levelNames(list []*eidolonv1.SubsystemLogLevel) map[string]string {
	names := make(map[string]string, len(list))
	for _, l := range list {
		names[l.GetSubsystem()] = strings.ToLower(strings.TrimPrefix(l.GetLevel().String(), "LOG_LEVEL_"))
	}
	return names
}

func (c *controlled) SetLogLevel(ctx context.Context, req *eidolonv1.SetLogLevelRequest) (*eidolonv1.SetLogLevelResponse, error) {
	c.setting.Lock()
	defer c.setting.Unlock()
	before := c.levels(req.GetSubsystem())
	if before == nil {
		return nil, notFound("subsystem", "there is no subsystem %q", req.GetSubsystem())
	}
	for level, p := range levelsToProto {
		if p == req.GetLevel() {
			if err := c.controls.Logs.SetLevel(req.GetSubsystem(), level); err != nil {
				return nil, notFound("subsystem", "%v", err)
			}
			after := c.levels(req.GetSubsystem())
			callOf(ctx).changed("log levels", levelNames(before), levelNames(after))
			return &eidolonv1.SetLogLevelResponse{Levels: after}, nil
		}
	}
	return nil, invalid(badField("level", "found %v, expected one of LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN and LOG_LEVEL_ERROR", req.GetLevel()))
}
