package main

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/internal/netns"
	"github.com/eidolon-lisp/eidolon/mapping/bgp/bgptest"
)

const setsFile = `
locator_sets:
  - {name: both, locators: [{interface: up, family: ipv4, priority: 1, weight: 70}, {address: 192.0.2.99, priority: 2, weight: 30}]}
  - {name: spare, locators: [{interface: none}]}
database_mappings: [{eid: 10.1.0.0/16, locator_set: both}, {eid: 10.2.0.0/16, locator_set: both}]
map_servers: [{address: 192.0.2.10, authentication_key: {key_id: 1, key: an example key of enough octets}}]
map_resolvers: [192.0.2.10]
api: {socket: SOCKET}
log: {level: warn}
`

// A daemon shows its locator-sets as they are: after an address has come, an order of
// an operator, and a reload that names the sets otherwise.
func TestLocatorSets(t *testing.T) {
	netns.NeedTUN(t)
	ns := netns.Fresh(t, 2)
	if err := errors.Join(netns.Veth(ns[0], "up", ns[1], "net", 1500), ns[0].AddAddress("up", netip.MustParsePrefix("192.0.2.1/24"))); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	socket, path := filepath.Join(dir, "xtr.sock"), filepath.Join(dir, "xtr.yml")
	write := func(edits ...string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(strings.NewReplacer(append(edits, "SOCKET", socket)...).Replace(setsFile)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	daemon := startDaemon(t, ns[0], path)
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := eidolonv1.NewRouterServiceClient(conn)
	show := func() (text string) {
		resp, err := c.ListLocatorSets(t.Context(), &eidolonv1.ListLocatorSetsRequest{})
		if err != nil {
			return err.Error()
		}
		for _, s := range resp.GetLocatorSets() {
			text += s.GetName() + " " + strings.Join(s.GetDatabaseMappings(), " ") + ":"
			for _, l := range s.GetLocators() {
				text += strings.Join([]string{" [", l.GetLocator().GetAddress(), l.GetInterface(), l.GetState().String(), "]"}, " ")
				if l.GetLocator().GetPriority() == 255 {
					text += " not used"
				}
			}
			text += "\n"
		}
		return strings.ReplaceAll(text, "LOCAL_LOCATOR_STATE_", "")
	}
	want := func(what, text string) {
		t.Helper()
		bgptest.Eventually(t, 20*time.Second, what, func() bool { return show() == text })
	}
	const spare = "spare : [  none NO_CARRIER ]\n"
	both := "both 10.1.0.0/16 10.2.0.0/16: [ 192.0.2.1 up UP ] [ 192.0.2.99  UNSPECIFIED ]\n"
	want("the sets of the file", both+spare)
	if _, err := c.DrainLocator(t.Context(), &eidolonv1.DrainLocatorRequest{Locator: "up"}); err != nil {
		t.Fatal(err)
	}
	want("an interface that is drained", strings.Replace(both, "UP ]", "UP ] not used", 1)+spare)
	if _, err := c.UndrainLocator(t.Context(), &eidolonv1.UndrainLocatorRequest{Locator: "up"}); err != nil {
		t.Fatal(err)
	}
	write("name: both", "name: main", "10.1.0.0/16, locator_set: both", "10.1.0.0/16, locator_set: main", "10.2.0.0/16, locator_set: both", "10.2.0.0/16, locator_set: spare")
	if err := daemon.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	want("the sets of another file", "main 10.1.0.0/16: [ 192.0.2.1 up UP ] [ 192.0.2.99  UNSPECIFIED ]\nspare 10.2.0.0/16: [  none NO_CARRIER ]\n")
	list, err := c.ListDatabaseMappings(t.Context(), &eidolonv1.ListDatabaseMappingsRequest{})
	if err != nil || len(list.GetDatabaseMappings()) != 2 || list.GetDatabaseMappings()[0].GetLocatorSet() != "main" || list.GetDatabaseMappings()[1].GetLocatorSet() != "spare" {
		t.Errorf("database-mappings %v, %v", list, err)
	}
}
