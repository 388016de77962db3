package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
)

// maxKeyFile bounds what is read of a key file, in octets: a key and a newline.
const maxKeyFile = 1024 + 2

func newSite() *cobra.Command {
	key := group("key", "Change the keys of a site that was put", newSiteKeyPut(), newSiteKeyDelete())
	key.Long = `Changes the keys of a site that was put. To change a key without losing a
registration, put one with another key-id, change it on the xTRs, then delete the
old one. Keys are read from files, and never shown.`
	cmd := group("site", "Change the sites of a map-server", newSitePut(), newSiteDelete(), key)
	cmd.Long = `Changes the sites of a map-server that are put here, beside those of its
configuration; they survive a restart. lispctl show site shows all of them. Sites of
the configuration are changed there, and taken with a reload.`
	return cmd
}

// withSites calls do with the sites of a map-server, for one answer.
func withSites(cmd *cobra.Command, at target, do func(context.Context, eidolonv1.SiteServiceClient) error) error {
	c, err := dial(cmd.Context(), at, programMapServer)
	if err != nil {
		return err
	}
	defer c.close()
	ctx, cancel := context.WithTimeout(cmd.Context(), answerTime)
	defer cancel()
	return explain(do(ctx, eidolonv1.NewSiteServiceClient(c.conn)))
}

// keyFlags are what a key is made of.
type keyFlags struct {
	file, algorithm string
	id              uint8
}

func (f *keyFlags) on(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "key-file", "", "the file that holds the key; - for standard input")
	cmd.Flags().Uint8Var(&f.id, "key-id", 1, "the number that tells the key from others of the site")
	cmd.Flags().StringVar(&f.algorithm, "algorithm", "hmac-sha-256-128-hkdf", "what is authenticated with: "+strings.Join(algorithms, ", "))
	completeWords(cmd, "algorithm", algorithms...)
}

var algorithms = []string{"hmac-sha-1-96", "hmac-sha-256-128", "hmac-sha-256-128-hkdf"}

func parseAlgorithm(flag, s string) (eidolonv1.AuthenticationAlgorithm, error) {
	n, ok := eidolonv1.AuthenticationAlgorithm_value["AUTHENTICATION_ALGORITHM_"+strings.ToUpper(strings.ReplaceAll(s, "-", "_"))]
	if !ok || n == 0 {
		return 0, fmt.Errorf("--%s: found %q, expected %s", flag, s, strings.Join(algorithms, ", "))
	}
	return eidolonv1.AuthenticationAlgorithm(n), nil
}

// key reads the key, without one newline at its end, as the daemons do.
func (f *keyFlags) key(cmd *cobra.Command) (*eidolonv1.AuthenticationKey, error) {
	a, err := parseAlgorithm("algorithm", f.algorithm)
	if err != nil {
		return nil, err
	}
	from := cmd.InOrStdin()
	if f.file != "-" {
		file, err := os.Open(f.file)
		if err != nil {
			return nil, fmt.Errorf("--key-file: %w", err)
		}
		defer file.Close()
		from = file
	}
	b, err := io.ReadAll(io.LimitReader(from, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("--key-file: %w", err)
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if secret == "" || len(b) > maxKeyFile {
		return nil, errors.New("--key-file: expected a key of 1 to 1024 octets")
	}
	return &eidolonv1.AuthenticationKey{KeyId: uint32(f.id), Algorithm: a, Secret: secret}, nil
}

// parseSitePrefix reads "10.1.0.0/16" or, with policies behind it,
// "10.1.0.0/16,accept-more-specifics,proxy-reply=always,request-policy=deny".
func parseSitePrefix(s string) (*eidolonv1.SitePrefix, error) {
	parts := strings.Split(s, ",")
	e, err := mapping.ParseEID(parts[0])
	if err != nil {
		return nil, err
	}
	p := &eidolonv1.SitePrefix{Eid: e.String()}
	for _, policy := range parts[1:] {
		name, value, _ := strings.Cut(policy, "=")
		word := strings.ToUpper(strings.ReplaceAll(value, "-", "_"))
		var n int32
		switch name {
		case "accept-more-specifics":
			if p.AcceptMoreSpecifics = value == ""; p.AcceptMoreSpecifics {
				n = 1
			}
		case "proxy-reply":
			n = eidolonv1.ProxyReplyPolicy_value["PROXY_REPLY_POLICY_"+word]
			p.ProxyReply = eidolonv1.ProxyReplyPolicy(n)
		case "request-policy":
			n = eidolonv1.RequestPolicy_value["REQUEST_POLICY_"+word]
			p.RequestPolicy = eidolonv1.RequestPolicy(n)
		}
		if n == 0 {
			return nil, fmt.Errorf("found %q, expected accept-more-specifics, proxy-reply= with as-registered, always or never, or request-policy= with allow, deny or deny-temporarily", policy)
		}
	}
	return p, nil
}

func newSitePut() *cobra.Command {
	var f keyFlags
	var prefixes []string
	var minimum string
	req := new(eidolonv1.PutSiteRequest)
	var revision uint64
	cmd := &cobra.Command{
		Use:   "put NAME",
		Short: "Add or replace a site",
		Long: `put adds a site, or replaces one that was put: all of it but its keys, which stay if
no --key-file is given. It is durable and in effect when it returns; what the site
may not register any more has ended.

Policies follow an EID-prefix, each after a comma: accept-more-specifics,
proxy-reply=always or never, request-policy=deny or deny-temporarily.

With --if-revision it does so only if the revision at which the site was put,
put_revision of show site -o json, is still this one; 0 if none was put.`,
		Example: `  lispctl site put branch --prefix 10.7.0.0/16,accept-more-specifics --prefix 2001:db8:7::/48 --key-file branch.key
  lispctl site put branch --prefix 10.7.0.0/16,request-policy=deny`,
		Args: arguments(1, 1),
	}
	completes(cmd, 1, liveSites, programMapServer)
	fl := cmd.Flags()
	fl.StringArrayVar(&prefixes, "prefix", nil, "an EID-prefix that the site may register, with its policies; may be repeated")
	f.on(cmd)
	fl.StringVar(&minimum, "minimum-algorithm", "hmac-sha-256-128", "the weakest that is accepted")
	fl.StringArrayVar(&req.XtrIds, "xtr-id", nil, "an xTR-ID that may register, 32 hexadecimal digits; may be repeated (default: all)")
	fl.Uint32Var(&req.MaxRegistrations, "max-registrations", 0, "how many pairs of EID-prefix and xTR may be registered (default 65536)")
	fl.Uint64Var(&revision, "if-revision", 0, "only if the site was put at this revision; 0: not at all")
	completeWords(cmd, "minimum-algorithm", algorithms...)
	socket := socketFlag(cmd, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req.Name = args[0]
		var err error
		if req.MinimumAlgorithm, err = parseAlgorithm("minimum-algorithm", minimum); err != nil {
			return err
		}
		for _, s := range prefixes {
			p, err := parseSitePrefix(s)
			if err != nil {
				return fmt.Errorf("--prefix: %w", err)
			}
			req.Prefixes = append(req.Prefixes, p)
		}
		if f.file != "" {
			key, err := f.key(cmd)
			if err != nil {
				return err
			}
			req.Keys = []*eidolonv1.AuthenticationKey{key}
		} else if fl.Changed("key-id") || fl.Changed("algorithm") {
			return errors.New("--key-id and --algorithm are of a key: expected --key-file, too")
		}
		if fl.Changed("if-revision") {
			req.IfRevision = &revision
		}
		return withSites(cmd, *socket, func(ctx context.Context, c eidolonv1.SiteServiceClient) error {
			resp, err := c.PutSite(ctx, req)
			if err != nil {
				return err
			}
			return out.output(cmd).done(resp, "site %s put, revision %d", req.GetName(), resp.GetRevision())
		})
	}
	return cmd
}

func newSiteDelete() *cobra.Command {
	req := new(eidolonv1.DeleteSiteRequest)
	var revision uint64
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a site that was put, and what it registered",
		Args:  arguments(1, 1),
	}
	completes(cmd, 1, liveSites, programMapServer)
	cmd.Flags().Uint64Var(&revision, "if-revision", 0, "only if the site was put at this revision")
	socket := socketFlag(cmd, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req.Name = args[0]
		if cmd.Flags().Changed("if-revision") {
			req.IfRevision = &revision
		}
		return withSites(cmd, *socket, func(ctx context.Context, c eidolonv1.SiteServiceClient) error {
			resp, err := c.DeleteSite(ctx, req)
			if err != nil {
				return err
			}
			return out.output(cmd).done(resp, "site %s deleted, revision %d", req.GetName(), resp.GetRevision())
		})
	}
	return cmd
}

func newSiteKeyPut() *cobra.Command {
	var f keyFlags
	cmd := &cobra.Command{
		Use:     "put NAME",
		Short:   "Add a key, or replace the one with its key-id",
		Example: `  lispctl site key put branch --key-id 2 --key-file next.key`,
		Args:    arguments(1, 1),
	}
	completes(cmd, 1, liveSites, programMapServer)
	f.on(cmd)
	if err := cmd.MarkFlagRequired("key-file"); err != nil {
		panic(err) // it is there
	}
	socket := socketFlag(cmd, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		key, err := f.key(cmd)
		if err != nil {
			return err
		}
		return withSites(cmd, *socket, func(ctx context.Context, c eidolonv1.SiteServiceClient) error {
			resp, err := c.PutSiteKey(ctx, &eidolonv1.PutSiteKeyRequest{Name: args[0], Key: key})
			if err != nil {
				return err
			}
			return out.output(cmd).done(resp, "key %d of site %s put, revision %d", f.id, args[0], resp.GetRevision())
		})
	}
	return cmd
}

func newSiteKeyDelete() *cobra.Command {
	var id uint8
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a key",
		Long: `delete deletes a key. What was registered with it ends when it is not refreshed
with another. The last key of a site can't be deleted.`,
		Args: arguments(1, 1),
	}
	completes(cmd, 1, liveSites, programMapServer)
	cmd.Flags().Uint8Var(&id, "key-id", 0, "the number of the key")
	if err := cmd.MarkFlagRequired("key-id"); err != nil {
		panic(err) // it is there
	}
	socket := socketFlag(cmd, programMapServer)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withSites(cmd, *socket, func(ctx context.Context, c eidolonv1.SiteServiceClient) error {
			resp, err := c.DeleteSiteKey(ctx, &eidolonv1.DeleteSiteKeyRequest{Name: args[0], KeyId: uint32(id)})
			if err != nil {
				return err
			}
			return out.output(cmd).done(resp, "key %d of site %s deleted, revision %d", id, args[0], resp.GetRevision())
		})
	}
	return cmd
}
