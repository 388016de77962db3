package api

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/internal/config"
)

// TestConfiguration: differences, and a configuration that is applied, confirmed
// and taken back.
func TestConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mapserver.yml")
	withBurst := func(n int) []byte { return fmt.Appendf(nil, "listen: [192.0.2.1]\nreply_rate: {burst: %d}\n", n) }
	if err := os.WriteFile(path, withBurst(1), 0o600); err != nil {
		t.Fatal(err)
	}
	running, err := config.LoadMapServer(path)
	if err != nil {
		t.Fatal(err)
	}
	trial := &config.Trial{Path: path, Kind: config.KindMapServer, Log: slog.New(slog.DiscardHandler), Running: func() *config.Text { return running.Text },
		Take: func(text []byte) (done Reloaded, back func() error, err error) {
			next, err := config.ParseMapServer(path, text)
			if err != nil {
				return done, nil, err
			}
			before := running
			running = next
			return Reloaded{Warnings: []string{"a doubt"}, Restart: []string{"reply_rate"}}, func() error { running = before; return nil }, nil
		}}
	c := eidolonv1.NewAdminServiceClient(serve(t, Controlled("mapserver", Controls{Trial: trial})))
	diff := func(text []byte) (*eidolonv1.DiffConfigurationResponse, error) {
		return c.DiffConfiguration(t.Context(), &eidolonv1.DiffConfigurationRequest{Configuration: text})
	}
	d, err := diff(withBurst(2))
	if err != nil || d.GetCount() != 1 || d.GetFile() != path || d.GetFileError() != "" {
		t.Fatalf("%v, %v", d, err)
	}
	if x := d.GetDifferences()[0]; x.GetKey() != "reply_rate.burst" || x.GetBefore() != "1" || x.GetAfter() != "2" || !x.GetRestart() {
		t.Errorf("%v", x)
	}
	_, err = diff([]byte("listen: [192.0.2.1]\nlitsen: 5\n"))
	wantCode(t, err, codes.FailedPrecondition, "litsen")
	if v := detail[*errdetails.PreconditionFailure](t, err).GetViolations(); len(v) != 1 || v[0].GetSubject() != path+":2:1" {
		t.Errorf("what is wrong: %v", v)
	}
	for _, text := range [][]byte{nil, []byte(strings.Repeat(" ", maxConfiguration+1))} {
		_, err = diff(text)
		wantField(t, err, "configuration")
	}
	many := "listen: [192.0.2.1]\nreply_rate: {burst: 1}\nstatic_mappings:\n"
	for i := range maxDifferences + 7 {
		many += fmt.Sprintf("  - {eid: 10.0.%d.%d/32, action: drop}\n", i/256, i%256)
	}
	if d, err := diff([]byte(many)); err != nil || d.GetCount() != 1 && (d.GetCount() != maxDifferences+7 || len(d.GetDifferences()) != maxDifferences) {
		t.Errorf("%d of %d differences, %v", len(d.GetDifferences()), d.GetCount(), err)
	}

	apply := func(text []byte, seconds uint32) (*eidolonv1.ApplyConfigurationResponse, error) {
		return c.ApplyConfiguration(t.Context(), &eidolonv1.ApplyConfigurationRequest{Configuration: text, ConfirmSeconds: seconds})
	}
	confirm := func(id string, revert bool) error {
		_, err := c.ConfirmConfiguration(t.Context(), &eidolonv1.ConfirmConfigurationRequest{Id: id, Revert: revert})
		return err
	}
	_, err = apply(withBurst(2), 3601)
	wantField(t, err, "confirm_seconds")
	_, err = apply([]byte("listen: 5\n"), 0)
	wantCode(t, err, codes.FailedPrecondition, "the running one stays")
	wantNotFound(t, confirm("", false), "id")
	a, err := apply(withBurst(2), 3600)
	if err != nil || a.GetId() == "" || len(a.GetWarnings()) != 1 || len(a.GetRestartKeys()) != 1 {
		t.Fatalf("%v, %v", a, err)
	}
	_, err = apply(withBurst(3), 3600)
	wantCode(t, err, codes.Aborted, "waits")
	wantNotFound(t, confirm("x", false), "id")
	if err := confirm(a.GetId(), true); err != nil || running.ReplyRate.Burst != 1 {
		t.Errorf("taken back: %v, %v", running.ReplyRate, err)
	}
	if a, err := apply(withBurst(4), 0); err != nil || a.GetId() != "" {
		t.Errorf("%v, %v", a, err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != string(withBurst(4)) {
		t.Errorf("%s, %v", text, err)
	}

	// A file that can't be replaced is said to be so before, and then.
	trial.Path = filepath.Join(path, "nowhere")
	if d, err := diff(withBurst(2)); err != nil || d.GetFileError() == "" {
		t.Errorf("%v, %v", d, err)
	}
	_, err = apply(withBurst(5), 0)
	wantCode(t, err, codes.FailedPrecondition, trial.Path)
	if v := detail[*errdetails.PreconditionFailure](t, err).GetViolations(); len(v) != 1 || v[0].GetType() != FileViolation {
		t.Errorf("%v", v)
	}
	if running.ReplyRate.Burst != 4 {
		t.Errorf("in use is %v", running.ReplyRate)
	}

	none := eidolonv1.NewAdminServiceClient(serve(t, Controlled("mapserver", Controls{})))
	_, err = none.ConfirmConfiguration(t.Context(), &eidolonv1.ConfirmConfigurationRequest{})
	wantCode(t, err, codes.Unimplemented, "")
	wantCode(t, trialFailed(&config.InstallError{Path: "x", Err: fs.ErrPermission}), codes.FailedPrecondition, "permission")
	wantCode(t, trialFailed(errors.New("odd")), codes.FailedPrecondition, "odd")
}
