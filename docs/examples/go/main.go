// Go changes mappings of a map-server over its gRPC API, and keeps a copy of
// them:
//
//	go run ./docs/examples/go /run/eidolon/mapserver.sock
//	go run ./docs/examples/go -ca ca.pem -token-file token mapserver.example:9343
//
// With -once it ends when the copy has the change.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
)

func main() {
	once := flag.Bool("once", false, "end when the copy has the change")
	ca := flag.String("ca", "", "`file` of the CA that has signed the certificate of the map-server; those of the system if left out")
	token := flag.String("token-file", "", "`file` with the token of the user")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, flag.Arg(0), *ca, *token, *once, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// connect connects to a Unix socket, or by TLS to a host and port, for the user
// whose token is in a file.
func connect(daemon, caFile, tokenFile string) (*grpc.ClientConn, error) {
	if strings.Contains(daemon, "/") {
		return grpc.NewClient("unix:"+daemon, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	config := &tls.Config{}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate", caFile)
		}
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(config))}
	if tokenFile != "" {
		b, err := os.ReadFile(tokenFile)
		if err != nil {
			return nil, err
		}
		options = append(options, grpc.WithPerRPCCredentials(token(bytes.TrimSpace(b))))
	}
	return grpc.NewClient(daemon, options...)
}

// token is sent with each call.
type token string

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}
func (token) RequireTransportSecurity() bool { return true }

func run(ctx context.Context, daemon, caFile, tokenFile string, once bool, out io.Writer) error {
	conn, err := connect(daemon, caFile, tokenFile)
	if err != nil {
		return err
	}
	defer conn.Close()
	c := eidolonv1.NewMappingServiceClient(conn)

	revision, err := put(ctx, c, "[7]2001:db8:7::/48", "192.0.2.7")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "put at revision %d\n", revision)
	if err := list(ctx, c, "[7]::/0", out); err != nil {
		return err
	}
	return watch(ctx, c, out, func(have uint64) bool { return once && have >= revision })
}

// put puts a mapping if nobody changes it meanwhile; else it reads it and tries
// again.
func put(ctx context.Context, c eidolonv1.MappingServiceClient, eid, rloc string) (uint64, error) {
	for {
		found, err := c.GetMapping(ctx, &eidolonv1.GetMappingRequest{Eid: eid})
		if err != nil && status.Code(err) != codes.NotFound {
			return 0, err
		}
		revision := found.GetMapping().GetPutRevision() // 0: it must not exist
		resp, err := c.BatchMappings(ctx, &eidolonv1.BatchMappingsRequest{Operations: []*eidolonv1.MappingOperation{{
			Operation: &eidolonv1.MappingOperation_Put{Put: &eidolonv1.Record{
				Eid:      eid,
				Locators: []*eidolonv1.Locator{{Address: rloc, Priority: 1, Weight: 100}},
			}},
			IfRevision: &revision,
		}}})
		if status.Code(err) == codes.Aborted {
			continue
		}
		return resp.GetRevision(), err
	}
}

// list prints the mappings inside an EID-prefix, page by page.
func list(ctx context.Context, c eidolonv1.MappingServiceClient, within string, out io.Writer) error {
	req := &eidolonv1.PageMappingsRequest{Within: within, PageSize: 100}
	for {
		page, err := c.PageMappings(ctx, req)
		if err != nil {
			return err
		}
		for _, m := range page.GetMappings() {
			fmt.Fprintf(out, "there is %s with %d locators\n", m.GetRecord().GetEid(), len(m.GetRecord().GetLocators()))
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			return nil
		}
	}
}

// watch keeps a copy until it is enough. Who was too slow, or came too late,
// begins again with a snapshot.
func watch(ctx context.Context, c eidolonv1.MappingServiceClient, out io.Writer, enough func(uint64) bool) error {
	have := make(map[string]*eidolonv1.Mapping)
	var after *uint64
	for {
		ctx, cancel := context.WithCancel(ctx)
		stream, err := c.WatchMappings(ctx, &eidolonv1.WatchMappingsRequest{AfterRevision: after})
		for err == nil {
			var m *eidolonv1.WatchMappingsResponse
			if m, err = stream.Recv(); err != nil {
				break
			}
			for _, ch := range m.GetChanges() {
				if ch.GetMapping() != nil {
					have[ch.GetEid()] = ch.GetMapping()
					fmt.Fprintf(out, "revision %d: %s is there\n", ch.GetRevision(), ch.GetEid())
				} else {
					delete(have, ch.GetEid())
					fmt.Fprintf(out, "revision %d: %s is gone\n", ch.GetRevision(), ch.GetEid())
				}
			}
			if r := m.GetRevision(); r > 0 {
				after = &r
				if enough(r) {
					fmt.Fprintf(out, "the copy has %d mappings at revision %d\n", len(have), r)
					cancel()
					return nil
				}
			}
		}
		cancel()
		if status.Code(err) != codes.OutOfRange {
			return err
		}
		after = nil
		clear(have)
	}
}
