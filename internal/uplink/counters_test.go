package uplink

import (
	"slices"
	"testing"
)

func TestAppendCounters(t *testing.T) {
	const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  123456      11    0    0    0     0          0         0   123456      11    0    0    0     0       0          0
   up1: 9000000000 7000000000 1 2  0     0          0         0     5000      60    0    0    0     0       0          0
up1.100:1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0
   up2:  1 2 3
`
	want := []Counters{{"up1", 60, 7_000_000_000}, {"up1.100", 4, 2}}
	if got := appendCounters(nil, []byte(text), []string{"up2", "up1.100", "up1", "none"}); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
