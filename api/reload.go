package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
)

// ErrNoDaemon is that nobody listens on a socket.
var ErrNoDaemon = errors.New("no daemon listens on the socket")

// Reload has the daemon that listens on a Unix socket of this host read its
// configuration file again, and returns when it is in use. After an error, which
// is in words for people, the one before is. The daemon must be of program, as
// Controlled has it.
func Reload(ctx context.Context, program, socket string) (Reloaded, error) {
	path, err := filepath.Abs(socket)
	if err != nil {
		return Reloaded{}, err
	}
	var d net.Dialer
	switch c, err := d.DialContext(ctx, "unix", path); {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return Reloaded{}, fmt.Errorf("%w %s", ErrNoDaemon, path)
	case err != nil:
		return Reloaded{}, err
	default:
		c.Close()
	}
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return Reloaded{}, err
	}
	defer conn.Close()
	daemon := eidolonv1.NewAdminServiceClient(conn)
	v, err := daemon.GetVersion(ctx, &eidolonv1.GetVersionRequest{})
	if err == nil && v.GetProgram() != program {
		return Reloaded{}, fmt.Errorf("%s is the socket of %s, expected %s", path, v.GetProgram(), program)
	}
	if err != nil {
		return Reloaded{}, fmt.Errorf("%s: %s", path, status.Convert(err).Message())
	}
	done, err := daemon.Reload(ctx, &eidolonv1.ReloadRequest{})
	if err != nil {
		return Reloaded{}, errors.New(status.Convert(err).Message())
	}
	return Reloaded{Warnings: done.GetWarnings(), Restart: done.GetRestartKeys()}, nil
}
