package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/eidolon-lisp/eidolon/internal/config"
)

// Limits of our own.
const (
	// maxMessage bounds a message from a client, in octets: a full batch of
	// records with a handful of locators each.
	maxMessage = 8 << 20
	// maxBatch bounds the records of one message; the .proto files tell it.
	maxBatch = 20_000
	// listBatch is how many entries a list sends in one message.
	listBatch = 256
	// maxHeaders bounds the headers of a call, in octets.
	maxHeaders = 16 << 10
	// maxStreams bounds the calls under way on one connection.
	maxStreams = 64
	// stopGrace is how long calls may go on after the end was asked for.
	stopGrace = 3 * time.Second
	// dialGrace is how long a daemon that may be alive has to accept.
	dialGrace = 2 * time.Second
)

// discard returns a logger that logs nothing.
func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// ErrInUse is wrapped by Serve's error when another daemon answers on the
// socket.
var ErrInUse = errors.New("another process answers there")

// Config says where and how services are served.
type Config struct {
	// Socket is the path of the Unix socket. Its directory is made, with mode
	// 0755, when it does not exist. The socket gets mode 0660.
	Socket string
	// Access says who may call, and where else services are served. With nil
	// they are on the socket only, and changes are told in the log.
	Access *Access
	// Ready is what the health service tells of the service "ready"; nil: it
	// knows none of that name.
	Ready *Readiness
	// Logger gets refused peers; nil discards.
	Logger *slog.Logger
}

// Service is a gRPC service of this package, ready to be served.
type Service interface {
	register(grpc.ServiceRegistrar)
}

// Serve serves on a Unix socket, and on TCP with TLS where its Access has that, as
// REST too, until ctx ends; then calls under way have a few seconds to end and the socket
// is removed. It also serves the standard health service and reflection. A
// socket that is left over from a process that was killed is replaced; one that
// answers is ErrInUse, and anything else at that path is an error.
//
// On the socket only root, the user that the process runs as, and members of the
// group that it belongs to are served, and may call everything; over TCP the users
// of the Access, each as far as its roles go.
func Serve(ctx context.Context, cfg Config, services ...Service) error {
	log := cfg.Logger
	if log == nil {
		log = discard()
	}
	lis, gid, err := listen(cfg.Socket)
	if err != nil {
		return fmt.Errorf("API socket %s: %w", cfg.Socket, err)
	}
	access := cfg.Access
	if access == nil {
		if access, err = NewAccess(config.API{}, log); err != nil {
			lis.Close()
			return err
		}
	}
	listeners, err := access.listen(ctx, lis)
	if err != nil {
		return err
	}
	forREST, err := access.listenREST(ctx)
	if err != nil {
		for _, l := range listeners {
			l.Close()
		}
		return err
	}
	var calls *secureREST
	if len(forREST) > 0 {
		if calls, err = newSecureREST(access, log); err != nil {
			for _, l := range append(listeners, forREST...) {
				l.Close()
			}
			return err
		}
		listeners = append(listeners, calls.bridge)
	}
	s := grpc.NewServer(
		grpc.Creds(&transport{peerCredentials{uid: uint32(os.Geteuid()), gid: gid, log: log}, access}),
		grpc.InTapHandle(access.admit),
		grpc.ChainUnaryInterceptor(access.unary),
		grpc.ChainStreamInterceptor(access.stream, untilStopped(ctx)),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second, MaxConnectionIdle: 30 * time.Minute}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	for _, service := range services {
		service.register(s)
	}
	healthy := health.NewServer()
	for name := range s.GetServiceInfo() {
		healthy.SetServingStatus(name, healthv1.HealthCheckResponse_SERVING)
	}
	healthv1.RegisterHealthServer(s, &healthService{healthy, cfg.Ready, ctx})
	reflection.Register(s)
	if err := undeclared(s.GetServiceInfo()); err != nil {
		for _, l := range append(listeners, forREST...) {
			l.Close()
		}
		return err
	}

	var wg sync.WaitGroup
	defer wg.Wait()
	ended := make(chan struct{})
	defer close(ended)
	wg.Go(func() {
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		healthy.Shutdown()
		hard := time.AfterFunc(stopGrace, s.Stop)
		defer hard.Stop()
		s.GracefulStop()
	})
	failures := make(chan error, len(listeners)+1)
	if calls != nil {
		wg.Go(func() {
			until, stop := context.WithCancel(ctx)
			defer stop()
			go func() { // it ends with the others
				select {
				case <-ended:
					stop()
				case <-until.Done():
				}
			}()
			if err := calls.run(until, forREST); err != nil {
				failures <- err
				s.Stop()
			}
		})
	}
	for _, l := range listeners {
		wg.Go(func() {
			if err := s.Serve(l); err != nil && ctx.Err() == nil {
				failures <- fmt.Errorf("API on %v: %w", l.Addr(), err)
				s.Stop()
				return
			}
			failures <- nil
		})
	}
	for range listeners {
		err = errors.Join(err, <-failures)
	}
	return err
}

// listen makes the socket and returns the group that it belongs to.
func listen(path string) (_ *net.UnixListener, gid uint32, err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, 0, err
	}
	// Two daemons that start at once must not each take the other's socket
	// for a stale one.
	unlock, err := lockDirectory(dir)
	if err != nil {
		return nil, 0, err
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, 0, err
	}
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			lis.Close()
		}
	}()
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, 0, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, 0, errors.New("the group of the socket is not known")
	}
	return lis, st.Gid, nil
}

func lockDirectory(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		d.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { d.Close() }, nil
}

// removeStale removes a socket that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("there is a %v that is not a socket", info.Mode())
	}
	c, err := net.DialTimeout("unix", path, dialGrace)
	switch {
	case err == nil:
		c.Close()
		return ErrInUse
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("is the socket stale? %w", err)
}
