package bpf

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
)

func TestVerifier(t *testing.T) {
	spec, err := loadLisp()
	if err != nil {
		t.Fatal(err)
	}
	load := func(level ebpf.LogLevel) (*ebpf.Collection, error) {
		return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: level, LogSizeStart: 1 << 24}})
	}
	c, err := load(ebpf.LogLevelStats)
	var ve *ebpf.VerifierError
	if errors.As(err, &ve) {
		_, again := load(ebpf.LogLevelInstruction | ebpf.LogLevelStats) // with what led to it
		errors.As(again, &ve)
		l := ve.Log
		if len(l) > 60 {
			l = l[len(l)-60:]
		}
		for _, s := range l {
			t.Log(s)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Log(c.Programs["ingress"].VerifierLog)
}
