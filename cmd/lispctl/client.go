package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
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
	at      target
}

func (c *client) close() { c.conn.Close() }

// target is where a daemon is, and who lispctl is there.
type target struct {
	// socket is a Unix socket; address is instead of it a host and port, with TLS.
	socket, address string
	// The others are files that belong to address.
	ca, cert, key, token string
}

// String names the daemon for people.
func (t target) String() string {
	if t.address != "" {
		return t.address
	}
	return t.socket
}

// socketFlag adds the flags that say where the daemon is to a command.
func socketFlag(cmd *cobra.Command, programs ...string) *target {
	paths := make([]string, len(programs))
	for i, p := range programs {
		paths[i] = defaultSocket(p)
	}
	t := addressFlags(cmd)
	cmd.Flags().StringVar(&t.socket, "socket", "", "Unix socket of the daemon (default "+strings.Join(paths, " or ")+")")
	return t
}

// remoteFlags are those for a daemon elsewhere, with the variables of the
// environment that stand in for them.
var remoteFlags = []struct {
	flag, env, usage string
	of               func(*target) *string
}{
	{"address", "EIDOLON_ADDRESS", "host:port of the daemon, over TLS, instead of a socket", func(t *target) *string { return &t.address }},
	{"ca", "EIDOLON_CA", "file of the CA of the daemon's certificate, in PEM (default those of the system)", func(t *target) *string { return &t.ca }},
	{"cert", "EIDOLON_CERT", "file of a client certificate, in PEM", func(t *target) *string { return &t.cert }},
	{"key", "EIDOLON_KEY", "file of the key of --cert, in PEM", func(t *target) *string { return &t.key }},
	{"token-file", "EIDOLON_TOKEN_FILE", "file of a bearer token, instead of a certificate", func(t *target) *string { return &t.token }},
}

func addressFlags(cmd *cobra.Command) *target {
	t := new(target)
	for _, f := range remoteFlags {
		cmd.Flags().StringVar(f.of(t), f.flag, "", f.usage+" [$"+f.env+"]")
	}
	completeWords(cmd, "address")
	return t
}

// targetOf returns what the flags of a command say.
func targetOf(cmd *cobra.Command) (t target) {
	if f := cmd.Flag("socket"); f != nil && f.Value.Type() == "string" {
		t.socket = f.Value.String()
	}
	for _, r := range remoteFlags {
		if f := cmd.Flag(r.flag); f != nil {
			*r.of(&t) = f.Value.String()
		}
	}
	return t
}

// complete takes what was not given from the environment, unless a socket was.
func (t target) complete() (target, error) {
	for _, f := range remoteFlags {
		switch given := *f.of(&t) != ""; {
		case given && t.socket != "":
			return t, fmt.Errorf("--%s and --socket exclude each other", f.flag)
		case given && t.address == "" && os.Getenv("EIDOLON_ADDRESS") == "":
			return t, fmt.Errorf("--%s needs --address", f.flag)
		}
	}
	if t.socket != "" {
		return t, nil
	}
	// A token that was asked for is not to be joined by a certificate, or the
	// other way, that happens to be in the environment.
	token, pair := t.token != "", t.cert != "" || t.key != ""
	for _, f := range remoteFlags {
		if of := f.of(&t); *of == "" && !(token && (f.flag == "cert" || f.flag == "key")) && !(pair && f.flag == "token-file") {
			*of = os.Getenv(f.env)
		}
	}
	return t, nil
}

func defaultSocket(program string) string { return filepath.Join(socketDir, program+".sock") }

// dial connects to the daemon at t, or, when that is nowhere, to the first of
// programs that answers on its usual socket. It fails when the daemon is none of
// programs.
func dial(ctx context.Context, t target, programs ...string) (*client, error) {
	t, err := t.complete()
	if err != nil {
		return nil, err
	}
	if t.address != "" {
		return dialRemote(ctx, t, programs)
	}
	return dialLocal(ctx, t.socket, programs...)
}

// dialLocal is dial for a daemon of this host.
func dialLocal(ctx context.Context, socket string, programs ...string) (*client, error) {
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
	return nil, noDaemon(missing, "name another socket with --socket, or a daemon elsewhere with --address")
}

// connectAll prepares a connection to the daemon at t, or, when that is nowhere, to
// each of programs that has its usual socket. Nobody is asked who is there.
func connectAll(t target, programs ...string) ([]*client, error) {
	t, err := t.complete()
	if err != nil {
		return nil, err
	}
	var c *client
	switch {
	case t.address != "":
		c, err = connectRemote(t)
	case t.socket != "":
		c, err = connectLocal(t.socket)
	default:
		return connectPresent(programs)
	}
	if err != nil {
		return nil, err
	}
	return []*client{c}, nil
}

func connectPresent(programs []string) (list []*client, err error) {
	for _, p := range programs {
		path := defaultSocket(p)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			continue
		}
		c, err := connectLocal(path)
		if err != nil {
			for _, c := range list {
				c.close()
			}
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

// noDaemon is the error when none of the usual sockets is there.
func noDaemon(missing []string, hint string) error {
	if len(missing) == 1 {
		return fmt.Errorf("no daemon runs here: there is no %s (%s)", missing[0], hint)
	}
	return fmt.Errorf("no daemon runs here: there is neither %s (%s)", strings.Join(missing, " nor "), hint)
}

func dialOne(ctx context.Context, socket string, programs []string) (*client, error) {
	c, err := connectLocal(socket)
	if err != nil {
		return nil, err
	}
	return meet(ctx, c, programs)
}

// connectLocal prepares a connection to a Unix socket. Nobody is asked who is there:
// the program of the client is not known.
func connectLocal(socket string) (*client, error) {
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
	return &client{conn: conn, at: target{socket: path}}, nil
}

// dialRemote connects over TLS.
func dialRemote(ctx context.Context, t target, programs []string) (*client, error) {
	c, err := connectRemote(t)
	if err != nil {
		return nil, err
	}
	return meet(ctx, c, programs)
}

// connectRemote is connectLocal over TLS.
func connectRemote(t target) (*client, error) {
	if _, port, err := net.SplitHostPort(t.address); err != nil || port == "" {
		return nil, fmt.Errorf("--address: found %q, expected a host and a port, such as mapserver.example.org:9344", t.address)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS13}
	if t.ca != "" {
		text, err := os.ReadFile(t.ca)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--ca: %s holds no certificate in PEM", t.ca)
		}
	}
	opts := []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer))}
	switch {
	case t.cert != "" || t.key != "":
		if t.cert == "" || t.key == "" {
			return nil, errors.New("--cert and --key need each other")
		}
		pair, err := tls.LoadX509KeyPair(t.cert, t.key)
		if err != nil {
			return nil, fmt.Errorf("--cert and --key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	case t.token == "":
		return nil, fmt.Errorf("%s wants to know who you are: give --cert and --key, or --token-file", t.address)
	}
	if t.token != "" {
		token, err := readToken(t.token)
		if err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
		opts = append(opts, grpc.WithPerRPCCredentials(bearer(token)))
	}
	conn, err := grpc.NewClient("dns:///"+t.address, append(opts, grpc.WithTransportCredentials(credentials.NewTLS(c)))...)
	if err != nil {
		return nil, err
	}
	return &client{conn: conn, at: t}, nil
}

// bearer is a token that goes with each call.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (t bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (bearer) RequireTransportSecurity() bool { return true }

// meet asks who is there, and closes c unless it is one of programs.
func meet(ctx context.Context, c *client, programs []string) (*client, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	v, err := eidolonv1.NewAdminServiceClient(c.conn).GetVersion(ctx, &eidolonv1.GetVersionRequest{})
	if err != nil {
		c.close()
		return nil, fmt.Errorf("%s: %w", c.at, explain(err))
	}
	c.program = v.GetProgram()
	if slices.Contains(programs, c.program) {
		return c, nil
	}
	c.close()
	if c.at.address != "" {
		return nil, fmt.Errorf("at %s is %s, expected %s", c.at, c.program, strings.Join(programs, " or "))
	}
	return nil, fmt.Errorf("%s is the socket of %s, expected %s", c.at, c.program, strings.Join(programs, " or "))
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
	case codes.Unauthenticated:
		return fmt.Errorf("the daemon does not know who you are: %s", s.Message())
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
