package repair

import (
	"testing"
	"time"
)

// With probes 12 hours apart the pause after the sixteenth failure had become
// negative, and the repair was begun again at once, for ever (seed 118).
func TestPausesOfRetriesGrowAndEnd(t *testing.T) {
	for _, probe := range []time.Duration{time.Second, 20 * time.Second, 12 * time.Hour, 30 * 24 * time.Hour} {
		k := &Keeper{Config: Config{Probe: probe}}
		last := time.Duration(0)
		for tries := range 1000 {
			d := k.retry(tries)
			if d < last || d < min(retryFirst*probe, retryMost) || d > retryMost {
				t.Fatalf("probe %v, try %d: got %v after %v", probe, tries, d, last)
			}
			last = d
		}
	}
}
