package mapping

import (
	"testing"
	"time"
)

// TestLifetime: every TTL that a record can carry makes a lifetime that is not
// negative and not over a week, the ones that no Duration can hold too.
func TestLifetime(t *testing.T) {
	const week = 7 * 24 * time.Hour
	for _, c := range []struct {
		ttl  uint32
		want time.Duration
	}{
		{0, 0},
		{1, time.Minute},
		{DefaultTTL, 24 * time.Hour},
		{7*24*60 - 1, week - time.Minute},
		{7 * 24 * 60, week},
		{200_000_000, week}, // 380 years
		{1 << 31, week},
		{TTLReceiver - 1, week},
		{TTLReceiver, 24 * time.Hour},
	} {
		if got := (&Record{TTL: c.ttl}).Lifetime(); got != c.want {
			t.Errorf("TTL %d: %v, want %v", c.ttl, got, c.want)
		}
	}
}
