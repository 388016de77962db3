package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

const (
	// healthTime bounds a check of health: who runs containers does not wait long.
	healthTime = 2 * time.Second
	// serviceReady is what the health service calls a daemon that is ready, as
	// /readyz says; "" is the process.
	serviceReady = "ready"
)

func newHealth() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Check that a daemon serves, or is ready; for the checks of containers",
		Long: `health asks the standard health service (grpc.health.v1) of a daemon whether it serves,
with --ready whether it is ready, as /readyz says. Without --socket or --address it
asks each daemon that has its usual socket on this host.

The exit code is 0 when all that were asked serve, and 1 when one does not, or does
not answer within 2 s, or when there is none.`,
		Example: `  lispctl health
  lispctl health --ready --socket /run/eidolon/xtr.sock`,
		Args: arguments(0, 0),
	}
	completes(cmd, 0, nil)
	ready := cmd.Flags().Bool("ready", false, "whether it is ready, not only there")
	socket := socketFlag(cmd, programXTR, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		clients, err := connectAll(*socket, programXTR, programMapServer)
		if err != nil {
			return err
		}
		if len(clients) == 0 {
			return noDaemon([]string{defaultSocket(programXTR), defaultSocket(programMapServer)}, "name another socket with --socket, or a daemon elsewhere with --address")
		}
		service := ""
		if *ready {
			service = serviceReady
		}
		failed := error(nil)
		l := out.output(cmd).list("DAEMON", "STATUS")
		for _, c := range clients {
			got, err := c.health(cmd.Context(), service)
			c.close()
			if err != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "lispctl: %v: %v\n", c.at, err)
			}
			if err != nil || got != healthv1.HealthCheckResponse_SERVING {
				failed = &exitError{code: exitFailure}
			}
			if err := l.add(healthJSON{c.at.String(), service, got.String()}, c.at, enumText(got, "")); err != nil {
				return err
			}
		}
		return errors.Join(l.end(), failed)
	}
	return cmd
}

// healthJSON is the health of a daemon for programs.
type healthJSON struct {
	// Daemon is the socket or the address that was asked.
	Daemon string `json:"daemon"`
	// Service is what the health service was asked for.
	Service string `json:"service"`
	// Status is a ServingStatus of grpc.health.v1; UNKNOWN without an answer.
	Status string `json:"status"`
}

// health asks for the health of a service, UNKNOWN with an error.
func (c *client) health(ctx context.Context, service string) (healthv1.HealthCheckResponse_ServingStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	resp, err := healthv1.NewHealthClient(c.conn).Check(ctx, &healthv1.HealthCheckRequest{Service: service})
	switch {
	case err == nil:
		return resp.GetStatus(), nil
	case service == serviceReady && status.Code(err) == codes.NotFound:
		return healthv1.HealthCheckResponse_UNKNOWN, errors.New("the daemon does not tell whether it is ready")
	}
	return healthv1.HealthCheckResponse_UNKNOWN, explain(err)
}
