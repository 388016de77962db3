package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
)

// The programs whose daemons lispctl talks to, as GetVersion names them, and
// where their sockets are unless configured otherwise.
const (
	programXTR       = "xtr"
	programMapServer = "mapserver"
	socketDir        = "/run/eidolon"
)

// answerTime bounds a call that returns one message.
const answerTime = 10 * time.Second

// maxAnswer bounds a message of a daemon, in octets. It is the operator's own
// daemon; the bound only keeps a mistake from filling the memory.
const maxAnswer = 64 << 20

// client is a connection to a daemon.
type client struct {
	conn    *grpc.ClientConn
	program string
	socket  string
}

func (c *client) close() { c.conn.Close() }

// socketFlag adds --socket to a command.
func socketFlag(cmd *cobra.Command, programs ...string) *string {
	paths := make([]string, len(programs))
	for i, p := range programs {
		paths[i] = defaultSocket(p)
	}
	return cmd.Flags().String("socket", "", "Unix socket of the daemon (default "+strings.Join(paths, " or ")+")")
}

func defaultSocket(program string) string { return filepath.Join(socketDir, program+".sock") }

// dial connects to the daemon on socket, or, when that is empty, to the first
// of programs that answers on its usual socket. It fails when the daemon is
// none of programs.
func dial(ctx context.Context, socket string, programs ...string) (*client, error) {
	if socket != "" {
		return dialOne(ctx, socket, programs)
	}
	var missing []string
	for _, p := range programs {
		path := defaultSocket(p)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			missing = append(missing, path)
			continue
		}
		c, err := dialOne(ctx, path, programs)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	return nil, noDaemon(missing, "name another socket with --socket")
}

// noDaemon is the error when none of the usual sockets is there.
func noDaemon(missing []string, hint string) error {
	if len(missing) == 1 {
		return fmt.Errorf("no daemon runs here: there is no %s (%s)", missing[0], hint)
	}
	return fmt.Errorf("no daemon runs here: there is neither %s (%s)", strings.Join(missing, " nor "), hint)
}

func dialOne(ctx context.Context, socket string, programs []string) (*client, error) {
	path, err := filepath.Abs(socket)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("no daemon is running on %s: %w", path, errors.Unwrap(err))
	} else if info.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("%s is not a socket", path)
	}
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, socket: path}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	v, err := eidolonv1.NewAdminServiceClient(conn).GetVersion(ctx, &eidolonv1.GetVersionRequest{})
	if err != nil {
		c.close()
		return nil, fmt.Errorf("%s: %w", path, explain(err))
	}
	c.program = v.GetProgram()
	for _, p := range programs {
		if p == c.program {
			return c, nil
		}
	}
	c.close()
	return nil, fmt.Errorf("%s is the socket of %s, expected %s", path, c.program, strings.Join(programs, " or "))
}

// explain turns a gRPC status into words for people.
func explain(err error) error {
	s, ok := status.FromError(err)
	if !ok || err == nil {
		return err
	}
	switch s.Code() {
	case codes.Unavailable:
		return fmt.Errorf("the daemon does not answer: %s", s.Message())
	case codes.DeadlineExceeded:
		return errors.New("the daemon took too long to answer")
	case codes.Canceled:
		return context.Canceled
	case codes.Unimplemented:
		return fmt.Errorf("the daemon does not know this: %s", s.Message())
	case codes.InvalidArgument:
		for _, d := range s.Details() {
			if bad, ok := d.(*errdetails.BadRequest); ok && len(bad.GetFieldViolations()) > 0 {
				v := bad.GetFieldViolations()[0]
				return fmt.Errorf("%s: %s", v.GetField(), v.GetDescription())
			}
		}
	}
	return errors.New(s.Message())
}
