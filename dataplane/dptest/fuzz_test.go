package dptest_test

import (
	"testing"

	"github.com/eidolon-lisp/eidolon/dataplane/dptest"
)

func FuzzCore(f *testing.F) { dptest.Fuzz(f) }
