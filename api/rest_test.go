package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
)

// serveREST serves services on a real socket and their REST on a real listener.
func serveREST(t *testing.T, services ...Service) (eidolonv1.MappingServiceClient, *httptest.Server, *rest) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, Config{Socket: path}, services...) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	waitFor(t, path)
	r, err := newREST(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.close() })
	s := httptest.NewServer(httpHandler(HTTPConfig{Program: "mapserver", Stats: statistics()}, r, discard()))
	t.Cleanup(s.Close)
	return eidolonv1.NewMappingServiceClient(dial(t, path)), s, r
}

// fetch makes one request and returns the status and the JSON of the body.
func fetch(t *testing.T, method, url, body string) (status int, answer map[string]any, header http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 0 && json.Unmarshal(b, &answer) != nil {
		answer = map[string]any{"text": string(b)}
	}
	return resp.StatusCode, answer, resp.Header
}

func TestREST(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	s, _ := newServer(t, "")
	c, web, calls := serveREST(t, Mappings(s), Admin("mapserver", s.Stats))
	revision := change(t, c, putting("10.0.0.0/8", "192.0.2.1"), putting("[7]2001:db8::/32", "192.0.2.1"), putting("10.1.0.0/16 from 10.2.0.0/16", "192.0.2.1"))
	get := func(path string) (int, map[string]any, http.Header) { return fetch(t, "GET", web.URL+path, "") }

	status, answer, _ := get("/v1/mappings?page_size=2&origin=MAPPING_ORIGIN_API")
	list, _ := answer["mappings"].([]any)
	if status != 200 || len(list) != 2 || answer["next_page_token"] == "" || answer["revision"] != fmt.Sprint(revision) {
		t.Fatalf("a page: %d, %v", status, answer)
	}
	first, _ := list[0].(map[string]any)["record"].(map[string]any)
	if first["eid"] != "10.0.0.0/8" || first["record_ttl"] != float64(1440) || list[0].(map[string]any)["put_revision"] != fmt.Sprint(revision) {
		t.Errorf("a mapping: %v", list[0])
	}
	status, answer, _ = get(fmt.Sprintf("/v1/mappings?page_size=2&origin=MAPPING_ORIGIN_API&page_token=%v", answer["next_page_token"]))
	if list, _ = answer["mappings"].([]any); status != 200 || len(list) != 1 || answer["next_page_token"] != "" {
		t.Errorf("the last page: %d, %v", status, answer)
	}
	for _, e := range []string{"10.0.0.0/8", "%5B7%5D2001:db8::/32", "10.1.0.0%2F16%20from%2010.2.0.0/16"} {
		if status, answer, _ = get("/v1/mappings:get?eid=" + e); status != 200 {
			t.Errorf("get %s: %d, %v", e, status, answer)
		}
	}
	if status, answer, _ = get("/v1/mappings:lookup?eid=10.9.8.7"); status != 200 || answer["mapping"].(map[string]any)["record"].(map[string]any)["eid"] != "10.0.0.0/8" {
		t.Errorf("lookup: %d, %v", status, answer)
	}
	if status, answer, _ = get("/v1/version"); status != 200 || answer["program"] != "mapserver" {
		t.Errorf("version: %d, %v", status, answer)
	}

	// Errors have the codes and the details of gRPC.
	if status, answer, _ = get("/v1/mappings:get?eid=99.0.0.0/8"); status != 404 || answer["code"] != float64(5) {
		t.Errorf("what is not there: %d, %v", status, answer)
	}
	status, answer, _ = get("/v1/mappings?within=x")
	if text := fmt.Sprint(answer["details"]); status != 400 || answer["code"] != float64(3) || !strings.Contains(text, "google.rpc.BadRequest") || !strings.Contains(text, "field:within") {
		t.Errorf("a bad field: %d, %v", status, answer)
	}
	if status, answer, _ = get("/v1/router/map-servers"); status != 501 {
		t.Errorf("a service that is not there: %d, %v", status, answer)
	}
	if status, _, _ = get("/v1/nothing"); status != 404 {
		t.Errorf("a path that is not there: %d", status)
	}

	// Nothing can be changed, by whatever method and header.
	for _, x := range []struct{ method, path, body string }{
		{"POST", "/v1/mappings:batch", `{"operations": [{"delete": "10.0.0.0/8"}]}`},
		{"POST", "/v1/mappings:delete", `{"eids": ["10.0.0.0/8"]}`},
		{"DELETE", "/v1/mappings:delete?eids=10.0.0.0/8", ""},
		{"PUT", "/v1/mappings:put", `{"records": [{"eid": "11.0.0.0/8"}]}`},
		{"POST", "/v1/mappings", ""},
	} {
		status, answer, header := fetch(t, x.method, web.URL+x.path, x.body)
		if text, _ := answer["message"].(string); status != 405 || header.Get("Allow") != "GET" || !strings.Contains(text, "as api.tcp of the daemon allows") {
			t.Errorf("%s %s: %d, %v", x.method, x.path, status, answer)
		}
	}
	req, _ := http.NewRequest("GET", web.URL+"/v1/mappings:delete?eids=10.0.0.0/8", nil)
	req.Header.Set("X-HTTP-Method-Override", "POST")
	if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode/100 == 2 {
		t.Errorf("with another method in a header: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
	if got := s.Snapshot().Revision; got != revision {
		t.Errorf("revision %d, want %d: something was changed", got, revision)
	}

	// A name that leads here by somebody's DNS is refused.
	for host, want := range map[string]int{"127.0.0.1:1": 200, "[::1]": 200, "localhost": 200, "ms1:9342": 200, "evil.example": 421, "evil.example:80": 421} {
		req, _ := http.NewRequest("GET", web.URL+"/v1/version", nil)
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != want {
			t.Errorf("as %s: %v, %v, want %d", host, resp, err, want)
			continue
		}
		resp.Body.Close()
	}

	// Calls are bounded.
	for range maxREST {
		calls.room <- struct{}{}
	}
	if status, _, header := get("/v1/version"); status != 503 || header.Get("Retry-After") == "" {
		t.Errorf("one call too many: %d", status)
	}
	for range maxREST {
		<-calls.room
	}
}

// TestRESTWatch: a stream is one JSON object a line, and comes as it happens.
func TestRESTWatch(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	s, _ := newServer(t, "")
	c, web, calls := serveREST(t, Mappings(s))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", web.URL+"/v1/mappings:watch?within=10.0.0.0/8", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func() (m struct{ Result watchMessage }) {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("the stream ended: %v", lines.Err())
		}
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		return m
	}
	if m := next(); !m.Result.Snapshot || len(m.Result.Changes) > 0 || m.Result.Revision != fmt.Sprint(s.Snapshot().Revision) {
		t.Errorf("the snapshot: %+v", m)
	}
	for i := range 3 {
		revision := change(t, c, putting("10.1.0.0/16", fmt.Sprintf("192.0.2.%d", i+1)))
		if m := next(); len(m.Result.Changes) != 1 || m.Result.Changes[0].EID != "10.1.0.0/16" || m.Result.Revision != fmt.Sprint(revision) {
			t.Errorf("change %d: %+v", i, m)
		}
	}
	cancel()
	for range 500 {
		if len(calls.room) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the call goes on when nobody listens")
}

// registrar notes the calls of services, as Service_Method.
type registrar map[string]bool

func (r registrar) RegisterService(d *grpc.ServiceDesc, _ any) {
	name := strings.TrimPrefix(d.ServiceName, "eidolon.v1.") + "_"
	for _, m := range d.Methods {
		r[name+m.MethodName] = true
	}
	for _, s := range d.Streams {
		r[name+s.StreamName] = true
	}
}

// watchMessage is a WatchMappingsResponse as JSON.
type watchMessage struct {
	Changes []struct {
		EID string `json:"eid"`
	}
	Revision string
	Snapshot bool
}

// TestOpenAPI: the document has every call but the one that streams both ways,
// and those that are GET, which is what is served, only read.
func TestOpenAPI(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	_, web, _ := serveREST(t, Admin("xtr", statistics())) // without the streams that do not end
	status, doc, header := fetch(t, "GET", web.URL+"/openapi.json", "")
	paths, _ := doc["paths"].(map[string]any)
	bearer, _ := doc["securityDefinitions"].(map[string]any)["bearer"].(map[string]any)
	if schemes := fmt.Sprint(doc["schemes"]); schemes != "[http https]" || bearer["type"] != "apiKey" || bearer["in"] != "header" || bearer["name"] != "Authorization" {
		t.Errorf("schemes %v, bearer %v", schemes, bearer)
	}
	if status != 200 || header.Get("Content-Type") != "application/json" || doc["swagger"] != "2.0" || len(paths) < 20 {
		t.Fatalf("the document: %d, %.200v", status, doc)
	}
	reads := regexp.MustCompile(`^[A-Z][A-Za-z]+Service_(Get|List|Page|Lookup|Explain|Watch|Monitor)`)
	var found []string
	for path, v := range paths {
		for method, v := range v.(map[string]any) {
			id, _ := v.(map[string]any)["operationId"].(string)
			found = append(found, id)
			if (method == "get") != reads.MatchString(id) || method != "get" && method != "post" {
				t.Errorf("%s %s is %s", method, path, id)
			}
			if v.(map[string]any)["summary"] == nil {
				t.Errorf("%s has no summary", id)
			}
			if status, answer, _ := fetch(t, strings.ToUpper(method), web.URL+path, "{}"); method == "post" && status != 405 ||
				method == "get" && (status == 404 && answer["code"] == nil || status == 405) {
				t.Errorf("%s %s: %d, %v", method, path, status, answer)
			}
		}
	}
	want := make(map[string]bool)
	for _, s := range []Service{Admin(""), Mappings(nil), Sites(nil), Router(nil, nil), BGP(nil), ALT(nil)} {
		r := make(registrar)
		s.register(r)
		maps.Copy(want, r)
	}
	delete(want, "MappingService_ImportMappings")
	slices.Sort(found)
	if all := slices.Sorted(maps.Keys(want)); !slices.Equal(found, all) {
		t.Errorf("the document has\n%v, there are\n%v", found, all)
	}
}
