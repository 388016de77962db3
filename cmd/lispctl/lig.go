package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/eidolon-lisp/eidolon/api"
	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

func newLig() *cobra.Command {
	var resolver, source, keyFile string
	var keyID uint8
	var count int
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "lig EID",
		Short: "Ask a map-resolver for the locators of an EID",
		Long: `lig sends a Map-Request to a map-resolver, as an xTR would, and prints the
Map-Reply (RFC 6835). Without --resolver it asks the map-resolvers of the xTR
that runs on this host.

The reply comes to a UDP port of lig's own, so no daemon needs to be stopped.

Exit codes:
  0  there are locators
  1  wrong usage, such as an EID that is none, or it could not be sent
  2  no answer
  3  there is an answer, but without locators (a negative Map-Reply)`,
		Example: `  lispctl lig 10.2.0.1 --resolver 203.0.113.10
  lispctl lig '[7]2001:db8:2::/48' --resolver 2001:db8::10 -o json`,
		Args: arguments(1, 1),
	}
	completes(cmd, 1, liveEIDs, programXTR)
	f := cmd.Flags()
	f.StringVar(&resolver, "resolver", "", "address of the map-resolver, with or without a port")
	f.StringVar(&source, "source", "", "source EID to name in the Map-Request")
	f.IntVar(&count, "count", 3, "Map-Requests to send until one is answered, 1 to 5")
	f.DurationVar(&timeout, "timeout", 2*time.Second, "how long to wait for each answer")
	f.StringVar(&keyFile, "lisp-sec-key", "", "file with the key shared with the map-resolver, to have the answer protected by LISP-SEC")
	f.Uint8Var(&keyID, "lisp-sec-key-id", 1, "its key_id")
	socket := socketFlag(cmd, programXTR)
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q := xtr.LigQuery{Count: count, Timeout: timeout}
		var err error
		if q.EID, err = mapping.ParseEID(args[0]); err != nil {
			return err
		}
		if q.EID.Source.IsValid() {
			return fmt.Errorf("%v has a source prefix; give the source as --source", q.EID)
		}
		if source != "" {
			if q.Source, err = netip.ParseAddr(source); err != nil {
				return fmt.Errorf("--source: found %q, expected an IPv4 or IPv6 address", source)
			}
		}
		if count < 1 || count > 5 {
			return fmt.Errorf("--count: found %d, expected 1 to 5", count)
		}
		if timeout < time.Millisecond || timeout > time.Minute {
			return fmt.Errorf("--timeout: found %v, expected 1ms to 1m", timeout)
		}
		if keyFile != "" {
			secret, err := os.ReadFile(keyFile)
			if err != nil {
				return fmt.Errorf("--lisp-sec-key: %w", err)
			}
			// As a key_file of the configuration: a newline at the end does
			// not count.
			secret = bytes.TrimSuffix(bytes.TrimSuffix(secret, []byte("\n")), []byte("\r"))
			if len(secret) == 0 {
				return fmt.Errorf("--lisp-sec-key: %s holds no key", keyFile)
			}
			q.Key = auth.WrapKey{ID: keyID, Secret: secret}
		}
		if q.Resolver, err = chooseResolver(cmd.Context(), resolver, *socket); err != nil {
			return err
		}
		return lig(cmd.Context(), q, out.output(cmd))
	}
	return cmd
}

// chooseResolver reads the address of a map-resolver, or asks the xTR for one.
func chooseResolver(ctx context.Context, address string, at target) (netip.AddrPort, error) {
	if address != "" {
		return parseAddrPort(address)
	}
	c, err := dial(ctx, at, programXTR)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("no --resolver given, and the local xTR can't be asked for one: %w", err)
	}
	defer c.close()
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	resp, err := eidolonv1.NewRouterServiceClient(c.conn).ListMapResolvers(ctx, &eidolonv1.ListMapResolversRequest{})
	if err != nil {
		return netip.AddrPort{}, explain(err)
	}
	if len(resp.GetMapResolvers()) == 0 {
		return netip.AddrPort{}, errors.New("no --resolver given, and the local xTR has no map-resolver")
	}
	best := resp.GetMapResolvers()[0]
	for _, r := range resp.GetMapResolvers() {
		if r.GetUp() {
			best = r
			break
		}
	}
	return parseAddrPort(best.GetAddress())
}

// parseAddrPort reads an address with or without a port; without, it is that of
// the LISP control plane.
func parseAddrPort(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, wire.Port), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("--resolver: found %q, expected an IP address with or without a port", s)
	}
	return ap, nil
}

func lig(ctx context.Context, q xtr.LigQuery, o output) error {
	res, err := xtr.LigDial(ctx, q)
	if errors.Is(err, xtr.ErrNoReply) {
		return &exitError{code: exitNoAnswer, err: err}
	}
	if err != nil {
		return err
	}
	rec := covering(res.Records, q.EID)
	if rec == nil {
		return &exitError{code: exitNoAnswer, err: fmt.Errorf("%v answered for something else than %v", res.From, q.EID)}
	}
	if o.structured() {
		var a ligJSON
		if a, err = ligAnswer(q, res, rec); err == nil {
			err = o.object(a)
		}
	} else {
		err = printLig(o, q, res, rec)
	}
	if err == nil && rec.Negative() {
		return &exitError{code: exitNegative}
	}
	return err
}

// covering returns the longest of the records that hold e.
func covering(recs []*mapping.Record, e mapping.EID) (best *mapping.Record) {
	for _, r := range recs {
		if r.EID.Covers(e) && (best == nil || r.EID.Prefix.Bits() > best.EID.Prefix.Bits()) {
			best = r
		}
	}
	return best
}

// actionMeaning says what an ITR does with packets.
var actionMeaning = map[mapping.Action]string{
	mapping.NoAction:        "packets are not encapsulated; the xTR decides",
	mapping.NativelyForward: "no LISP site has it; what is there is reached without encapsulation",
	mapping.SendMapRequest:  "packets make the xTR ask again",
	mapping.Drop:            "packets are dropped",
	mapping.DropPolicy:      "packets are dropped: a policy denies them",
	mapping.DropAuth:        "packets are dropped: the authentication failed",
}

func printLig(o output, q xtr.LigQuery, res xtr.LigResult, rec *mapping.Record) error {
	w := o.w
	fmt.Fprintf(w, "%v is in %v\n", q.EID, rec.EID)
	fmt.Fprintf(w, "answered by %v in %s%s\n", res.From, milliseconds(res.RTT), attempts(res.Sent))
	auth := ""
	if rec.Authoritative {
		auth = ", authoritative"
	}
	if rec.Version != 0 {
		auth += fmt.Sprintf(", map-version %d", rec.Version)
	}
	fmt.Fprintf(w, "record-ttl %s%s\n", ttlText(rec.TTL), auth)
	if rec.Negative() {
		meaning, ok := actionMeaning[rec.Action]
		if !ok {
			meaning = "unassigned, packets are dropped"
		}
		fmt.Fprintf(w, "no locators, action %v: %s\n", rec.Action, meaning)
	} else {
		fmt.Fprintln(w)
		t := o.table("LOCATOR", "PRIORITY", "WEIGHT", "STATE", "FLAGS", "+MULTICAST-PRIORITY", "+MULTICAST-WEIGHT")
		for _, l := range rec.Locators {
			t.row(locatorName(l), l.Priority, l.Weight, state(l), l.Flags, l.MPriority, l.MWeight)
		}
		if err := t.end(); err != nil {
			return err
		}
	}
	if len(res.Records) > 1 {
		fmt.Fprintf(w, "\nmore-specifics and others in the answer:\n")
		for _, r := range res.Records {
			if r != rec {
				fmt.Fprintf(w, "  %v\n", r)
			}
		}
	}
	return nil
}

func attempts(sent int) string {
	if sent <= 1 {
		return ""
	}
	return fmt.Sprintf(", at the %d. Map-Request", sent)
}

func locatorName(l mapping.Locator) string {
	if l.Opaque == "" {
		return l.Addr.String()
	}
	if a, _, err := wire.DecodeAddress([]byte(l.Opaque)); err == nil {
		return a.String()
	}
	return fmt.Sprintf("%x", l.Opaque)
}

// state says whether packets may be sent to a locator.
func state(l mapping.Locator) string {
	switch {
	case !l.Addr.IsValid():
		return "not an address"
	case l.Flags&mapping.Reachable == 0:
		return "unreachable"
	case l.Priority == mapping.PriorityUnusable:
		return "not for unicast"
	}
	return "up"
}

// ligJSON is the answer to lig for programs. What is a record is the API's Record.
type ligJSON struct {
	EID        string `json:"eid"`
	Resolver   string `json:"resolver"`
	AnsweredBy string `json:"answered_by"`
	// RTTMilliseconds is the time from the Map-Request to the reply.
	RTTMilliseconds float64 `json:"rtt_ms"`
	// MapRequests is how many were sent.
	MapRequests int               `json:"map_requests"`
	Nonce       string            `json:"nonce"`
	Negative    bool              `json:"negative"`
	Record      json.RawMessage   `json:"record"`
	Others      []json.RawMessage `json:"other_records,omitempty"`
}

func ligAnswer(q xtr.LigQuery, res xtr.LigResult, rec *mapping.Record) (ligJSON, error) {
	a := ligJSON{
		EID:             q.EID.String(),
		Resolver:        q.Resolver.String(),
		AnsweredBy:      res.From.String(),
		RTTMilliseconds: float64(res.RTT.Microseconds()) / 1000,
		MapRequests:     res.Sent,
		Nonce:           fmt.Sprintf("0x%016x", res.Nonce),
		Negative:        rec.Negative(),
	}
	for _, r := range res.Records {
		b, err := marshal(api.RecordMessage(r))
		if err != nil {
			return a, err
		}
		if r == rec {
			a.Record = b
		} else {
			a.Others = append(a.Others, b)
		}
	}
	return a, nil
}
