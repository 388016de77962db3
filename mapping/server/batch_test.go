package server

import (
	"bytes"
	"testing"

	"github.com/eidolon-lisp/eidolon/mapping"
)

// The messages of one batch are answered as if they came one by one, and the
// answers do not share memory.
func TestBatchAnswersAreThoseOfSingleMessages(t *testing.T) {
	b := newBench(t, twoSites(), nil)
	b.register(registering{key: rightKey, records: []*mapping.Record{rec("10.2.0.0/16", "192.0.2.2")}})
	var msgs [][]byte
	for i, e := range []string{"10.9.0.1", "11.0.0.1", "10.2.0.1", "2001:db8::1", "10.2.0.1", "10.1.0.1"} {
		msgs = append(msgs, encodeRequest(t, asking{nonce: uint64(i + 1), eids: []mapping.EID{eid(e)}}.defaults()))
	}
	msgs = append(msgs, []byte{0xff}, nil)
	var want [][]byte
	for _, msg := range msgs {
		out, _ := b.r.handle(b.now, msg, itr4, local4)
		for _, d := range out {
			want = append(want, bytes.Clone(d.payload))
		}
	}
	if len(want) < 6 {
		t.Fatalf("only %d answers", len(want))
	}
	b.r.begin()
	for _, msg := range msgs {
		b.r.take(b.now, msg, itr4, local4)
	}
	if len(b.r.out) != len(want) {
		t.Fatalf("%d answers to the batch, %d to its messages", len(b.r.out), len(want))
	}
	for i, d := range b.r.out {
		if !bytes.Equal(d.payload, want[i]) {
			t.Errorf("answer %d is %x, alone it is %x", i, d.payload, want[i])
		}
	}
}
