package dptest_test

import (
	"testing"

	"github.com/eidolon-lisp/eidolon/dataplane"
	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
)

func TestConformance(t *testing.T) { dptest.Run(t, dptest.Memory) }

// The corpus reaches every reason that the core gives, but for those about a
// moment or a queue, and has no two cases of one name.
func TestCorpusIsWhole(t *testing.T) {
	elsewhere := []dataplane.DropReason{
		dataplane.DropHoldFull, dataplane.DropHoldTimeout, // of a hold queue
		dataplane.DropSendTooBig, dataplane.DropSendUnreachable, dataplane.DropSendDenied, dataplane.DropSendBuffer,
		dataplane.DropSendNoSocket, dataplane.DropSendError, // of an underlay
		dataplane.DropHostRead, dataplane.DropHostWrite, dataplane.DropHostQueue, dataplane.DropReceiveBuffer, // of a host side
	}
	reached, names := make(map[dataplane.DropReason]bool), make(map[string]bool)
	for _, r := range elsewhere {
		reached[r] = true
	}
	for _, c := range dptest.Corpus() {
		if reached[c.Drop] = true; names[c.Name] {
			t.Errorf("two cases %q", c.Name)
		}
		names[c.Name] = true
		if (c.Out == nil) == (c.In == nil) {
			t.Errorf("%q has not one packet", c.Name)
		}
	}
	for _, r := range dataplane.DropReasons() {
		if !reached[r] {
			t.Errorf("no case is dropped as %v", r)
		}
	}
	t.Logf("%d cases", len(names))
}
