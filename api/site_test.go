package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/server"
)

// serveSites serves a map-server that has a configured site.
func serveSites(t *testing.T) (*server.Server, eidolonv1.SiteServiceClient) {
	t.Helper()
	db, err := server.New(t.Context(), server.Config{Sites: []server.Site{{
		Name: "fixed", Keys: []auth.Key{{ID: 1, Algorithm: auth.SHA256, Secret: []byte("of the file")}},
		Prefixes: []server.SitePrefix{{EID: mapping.MustParseEID("10.1.0.0/16")}},
	}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return db, eidolonv1.NewSiteServiceClient(serve(t, Sites(db)))
}

const siteSecret = "known to nobody else"

func branch() *eidolonv1.PutSiteRequest {
	return &eidolonv1.PutSiteRequest{
		Name: "branch",
		Prefixes: []*eidolonv1.SitePrefix{
			{Eid: "10.2.0.0/16", AcceptMoreSpecifics: true, ProxyReply: eidolonv1.ProxyReplyPolicy_PROXY_REPLY_POLICY_NEVER},
			{Eid: "[7]2001:db8::/32", RequestPolicy: eidolonv1.RequestPolicy_REQUEST_POLICY_DENY_TEMPORARILY, Registered: 9},
		},
		Keys:             []*eidolonv1.AuthenticationKey{{KeyId: 1, Secret: siteSecret}},
		XtrIds:           []string{"00112233445566778899aabbccddeeff"},
		MaxRegistrations: 100,
	}
}

// A site that is put is shown as it is, but for its keys, and changes and goes
// again.
func TestPutSite(t *testing.T) {
	db, c := serveSites(t)
	ctx := t.Context()
	put, err := c.PutSite(ctx, branch())
	if err != nil {
		t.Fatal(err)
	}
	want := &eidolonv1.Site{
		Name: "branch", Origin: eidolonv1.SiteOrigin_SITE_ORIGIN_API, PutRevision: put.GetRevision(), MaxRegistrations: 100,
		Prefixes: []*eidolonv1.SitePrefix{
			{Eid: "10.2.0.0/16", AcceptMoreSpecifics: true, ProxyReply: eidolonv1.ProxyReplyPolicy_PROXY_REPLY_POLICY_NEVER, RequestPolicy: eidolonv1.RequestPolicy_REQUEST_POLICY_ALLOW},
			{Eid: "[7]2001:db8::/32", ProxyReply: eidolonv1.ProxyReplyPolicy_PROXY_REPLY_POLICY_AS_REGISTERED, RequestPolicy: eidolonv1.RequestPolicy_REQUEST_POLICY_DENY_TEMPORARILY},
		},
		Keys:             []*eidolonv1.SiteKey{{KeyId: 1, Algorithm: eidolonv1.AuthenticationAlgorithm_AUTHENTICATION_ALGORITHM_HMAC_SHA_256_128_HKDF}},
		MinimumAlgorithm: eidolonv1.AuthenticationAlgorithm_AUTHENTICATION_ALGORITHM_HMAC_SHA_256_128,
		XtrIds:           []string{"00112233445566778899aabbccddeeff"},
	}
	if !proto.Equal(put.GetSite(), want) || db.Snapshot().Revision != put.GetRevision() {
		t.Errorf("put at %d: %v\nwant %v", put.GetRevision(), put.GetSite(), want)
	}
	list, err := c.ListSites(ctx, &eidolonv1.ListSitesRequest{})
	if err != nil || len(list.GetSites()) != 2 || !proto.Equal(list.GetSites()[1], want) {
		t.Errorf("the list is %v, %v", list, err)
	}
	if fixed := list.GetSites()[0]; fixed.GetOrigin() != eidolonv1.SiteOrigin_SITE_ORIGIN_CONFIGURATION || fixed.GetPutRevision() != 0 || len(fixed.GetKeys()) != 1 {
		t.Errorf("the configured site is %v", fixed)
	}
	for _, secret := range []string{siteSecret, "of the file"} {
		if text := protojson.Format(list); strings.Contains(text, secret) || strings.Contains(text, "secret") {
			t.Errorf("a key is told: %s", text)
		}
	}

	// Without keys they stay as they are; a rollover adds one and removes the old.
	keys := func(s *eidolonv1.Site) (ids []uint32) {
		for _, k := range s.GetKeys() {
			ids = append(ids, k.GetKeyId())
		}
		return ids
	}
	less := branch()
	less.Keys, less.Prefixes, less.IfRevision = nil, less.Prefixes[:1], proto.Uint64(put.GetRevision())
	changed, err := c.PutSite(ctx, less)
	if err != nil || len(changed.GetSite().GetPrefixes()) != 1 || !slices.Equal(keys(changed.GetSite()), []uint32{1}) || changed.GetRevision() != put.GetRevision()+1 {
		t.Errorf("changed: %v, %v", changed, err)
	}
	key := &eidolonv1.AuthenticationKey{KeyId: 2, Secret: "the next one", Algorithm: eidolonv1.AuthenticationAlgorithm_AUTHENTICATION_ALGORITHM_HMAC_SHA_256_128}
	two, err := c.PutSiteKey(ctx, &eidolonv1.PutSiteKeyRequest{Name: "branch", Key: key})
	if err != nil || !slices.Equal(keys(two.GetSite()), []uint32{1, 2}) {
		t.Errorf("a key more: %v, %v", two, err)
	}
	one, err := c.DeleteSiteKey(ctx, &eidolonv1.DeleteSiteKeyRequest{Name: "branch", KeyId: 1, IfRevision: proto.Uint64(two.GetSite().GetPutRevision())})
	if err != nil || !slices.Equal(keys(one.GetSite()), []uint32{2}) {
		t.Errorf("a key less: %v, %v", one, err)
	}
	_, err = c.DeleteSiteKey(ctx, &eidolonv1.DeleteSiteKeyRequest{Name: "branch", KeyId: 2})
	wantCode(t, err, codes.FailedPrecondition, "the last one")
	_, err = c.DeleteSiteKey(ctx, &eidolonv1.DeleteSiteKeyRequest{Name: "branch", KeyId: 9})
	wantCode(t, err, codes.NotFound, "no key 9")

	// Preconditions.
	for what, at := range map[string]uint64{"old": put.GetRevision(), "none": 0} {
		_, err := c.DeleteSite(ctx, &eidolonv1.DeleteSiteRequest{Name: "branch", IfRevision: proto.Uint64(at)})
		wantCode(t, err, codes.Aborted, fmt.Sprintf("at revision %d, not %d", one.GetRevision(), at))
		found := false
		for _, d := range status.Convert(err).Details() {
			p, ok := d.(*errdetails.PreconditionFailure)
			found = found || ok && p.Violations[0].Subject == "branch" && p.Violations[0].Type == "REVISION"
		}
		if !found {
			t.Errorf("%s: the details are %v", what, status.Convert(err).Details())
		}
	}
	gone, err := c.DeleteSite(ctx, &eidolonv1.DeleteSiteRequest{Name: "branch", IfRevision: proto.Uint64(one.GetRevision())})
	if err != nil || gone.GetRevision() != one.GetRevision()+1 || len(db.Sites()) != 1 {
		t.Errorf("deleted: %v, %v", gone, err)
	}
	_, err = c.DeleteSite(ctx, &eidolonv1.DeleteSiteRequest{Name: "branch"})
	wantCode(t, err, codes.NotFound, "branch")
	_, err = c.PutSiteKey(ctx, &eidolonv1.PutSiteKeyRequest{Name: "branch", Key: key})
	wantCode(t, err, codes.NotFound, "branch")
}

// What is wrong with a site is named by its field, and no error has a key.
func TestPutBadSite(t *testing.T) {
	db, c := serveSites(t)
	ctx := t.Context()
	for _, x := range []struct {
		field  string
		change func(*eidolonv1.PutSiteRequest)
	}{
		{"name", func(r *eidolonv1.PutSiteRequest) { r.Name = "" }},
		{"name", func(r *eidolonv1.PutSiteRequest) { r.Name = strings.Repeat("x", 256) }},
		{"keys", func(r *eidolonv1.PutSiteRequest) { r.Keys = nil }},
		{"keys[0].key_id", func(r *eidolonv1.PutSiteRequest) { r.Keys[0].KeyId = 256 }},
		{"keys[0].secret", func(r *eidolonv1.PutSiteRequest) { r.Keys[0].Secret = "" }},
		{"keys[0].secret", func(r *eidolonv1.PutSiteRequest) { r.Keys[0].Secret = strings.Repeat(siteSecret, 100) }},
		{"keys[0].algorithm", func(r *eidolonv1.PutSiteRequest) { r.Keys[0].Algorithm = 4 }},
		{"keys[0].algorithm", func(r *eidolonv1.PutSiteRequest) { r.Keys[0].Algorithm = 1 }},
		{"keys[1].key_id", func(r *eidolonv1.PutSiteRequest) { r.Keys = append(r.Keys, r.Keys[0]) }},
		{"minimum_algorithm", func(r *eidolonv1.PutSiteRequest) { r.MinimumAlgorithm = -1 }},
		{"prefixes[0].eid", func(r *eidolonv1.PutSiteRequest) { r.Prefixes[0].Eid = "10.2.0.0/33" }},
		{"prefixes[1].eid", func(r *eidolonv1.PutSiteRequest) { r.Prefixes[1].Eid = "" }},
		{"prefixes[1].eid", func(r *eidolonv1.PutSiteRequest) { r.Prefixes[1].Eid = r.Prefixes[0].Eid }},
		{"prefixes[1].eid", func(r *eidolonv1.PutSiteRequest) { r.Prefixes[1].Eid = "10.1.0.0/16" }},
		{"prefixes[0].proxy_reply", func(r *eidolonv1.PutSiteRequest) { r.Prefixes[0].ProxyReply = 4 }},
		{"prefixes[0].request_policy", func(r *eidolonv1.PutSiteRequest) { r.Prefixes[0].RequestPolicy = -1 }},
		{"xtr_ids[0]", func(r *eidolonv1.PutSiteRequest) { r.XtrIds[0] = "0011" }},
		{"xtr_ids[0]", func(r *eidolonv1.PutSiteRequest) { r.XtrIds[0] = strings.Repeat("0", 32) }},
		{"max_registrations", func(r *eidolonv1.PutSiteRequest) { r.MaxRegistrations = 1 << 31 }},
	} {
		req := branch()
		x.change(req)
		_, err := c.PutSite(ctx, req)
		wantField(t, err, x.field)
		if err != nil && strings.Contains(err.Error(), siteSecret) {
			t.Errorf("%s: the error has the key", x.field)
		}
	}
	fixed := branch()
	fixed.Name = "fixed"
	_, err := c.PutSite(ctx, fixed)
	wantCode(t, err, codes.FailedPrecondition, "of the configuration")
	_, err = c.DeleteSite(ctx, &eidolonv1.DeleteSiteRequest{Name: "fixed"})
	wantCode(t, err, codes.FailedPrecondition, "of the configuration")
	_, err = c.PutSiteKey(ctx, &eidolonv1.PutSiteKeyRequest{Name: "fixed", Key: fixed.Keys[0]})
	wantCode(t, err, codes.FailedPrecondition, "of the configuration")
	if len(db.Sites()) != 1 {
		t.Error("something was put")
	}
	if _, err := c.PutSite(ctx, branch()); err != nil {
		t.Fatal(err)
	}
	_, err = c.PutSiteKey(ctx, &eidolonv1.PutSiteKeyRequest{Name: "branch", Key: &eidolonv1.AuthenticationKey{KeyId: 2, Algorithm: 1, Secret: siteSecret}})
	wantField(t, err, "key.algorithm")
	_, err = c.PutSiteKey(ctx, &eidolonv1.PutSiteKeyRequest{Name: "branch"})
	wantField(t, err, "key.secret")
}

// What becomes of a site is in the audit log, with what it was, and no key is; only
// who operates may change one.
func TestSitesAreAudited(t *testing.T) {
	s := serveSecure(t, nil)
	ctx := t.Context()
	for _, token := range []string{readToken, registerToken} {
		c := eidolonv1.NewSiteServiceClient(s.dial(nil, token))
		_, err := c.PutSite(ctx, branch())
		wantCode(t, err, codes.PermissionDenied, "PutSite")
		_, err = c.DeleteSiteKey(ctx, &eidolonv1.DeleteSiteKeyRequest{Name: "branch"})
		wantCode(t, err, codes.PermissionDenied, "DeleteSiteKey")
	}
	refused := len(s.lines(s.audit))
	c := eidolonv1.NewSiteServiceClient(s.dial(nil, operateToken))
	if _, err := c.PutSite(ctx, branch()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.PutSiteKey(ctx, &eidolonv1.PutSiteKeyRequest{Name: "branch", Key: &eidolonv1.AuthenticationKey{KeyId: 2, Secret: siteSecret}}); err != nil {
		t.Fatal(err)
	}
	bad := branch()
	bad.XtrIds = []string{"x"}
	if _, err := c.PutSite(ctx, bad); err == nil {
		t.Error("a bad site is put")
	}
	if _, err := c.DeleteSite(ctx, &eidolonv1.DeleteSiteRequest{Name: "branch"}); err != nil {
		t.Fatal(err)
	}
	lines := s.lines(s.audit)[refused:]
	if len(lines) != 4 {
		t.Fatalf("the audit log has %+v", lines)
	}
	before := "null"
	for i, keys := range []int{1, 2, 0, 0} {
		l := lines[i]
		if i == 2 {
			if l.Result != codes.InvalidArgument.String() || !strings.Contains(l.What, "branch") {
				t.Errorf("of a bad site: %+v", l)
			}
			continue
		}
		if l.Who != "operator" || l.What != "site branch" || l.Result != "OK" || string(l.Before) != before || strings.Count(string(l.After), "key_id") != keys {
			t.Errorf("line %d is %+v", i, l)
		}
		before = string(l.After)
	}
	if text := fmt.Sprintf("%s", lines) + s.log.String(); strings.Contains(text, siteSecret) {
		t.Errorf("a key is told: %s", text)
	}
}
