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
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
	var ve *ebpf.VerifierError
	if errors.As(err, &ve) {
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
