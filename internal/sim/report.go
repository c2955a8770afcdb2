package main

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"time"
)

// total is what became of many worlds.
type total struct {
	Seeds, Failed, Spoiled  int
	Hidden                  int
	LostPacks, SpoiledPacks int
	Repairs, Restored       int
	Moved, Bound            int64
	LostBytes, Destroyed    int64
	MaxDue, MaxHidden       time.Duration
	MaxClaim                time.Duration
	Least                   int
	PackDays, ByteDays      float64
	traffic                 [phases][kinds]traffic
}

func (t *total) add(r *report) {
	if t.Seeds == 0 {
		t.Least = r.Least
	}
	t.Seeds++
	if r.failed() {
		t.Failed++
	}
	if len(r.Spoiled) > 0 {
		t.Spoiled++
	}
	t.Hidden += len(r.Hidden)
	t.LostPacks += len(r.Lost)
	t.SpoiledPacks += len(r.Spoiled)
	t.Repairs += r.Repairs
	t.Restored += r.Restored
	t.Moved += r.Moved
	t.Bound += r.Bound
	t.LostBytes += r.LostBytes
	t.Destroyed += r.Destroyed
	t.MaxDue = max(t.MaxDue, r.MaxDue)
	t.MaxHidden = max(t.MaxHidden, r.MaxHidden)
	t.MaxClaim = max(t.MaxClaim, r.MaxClaim)
	t.Least = min(t.Least, r.Least)
	t.PackDays += r.PackDays
	t.ByteDays += r.ByteDays
	for i := range t.traffic {
		for j := range t.traffic[i] {
			t.traffic[i][j].calls += r.traffic[i][j].calls
			t.traffic[i][j].bytes += r.traffic[i][j].bytes
		}
	}
}

// String says it in a few lines.
func (t *total) String() string {
	return fmt.Sprintf(`%d seeds, %.0f pack-years: %d failed, in %d (%.2f %%) the premise failed, %d packs lost within it, %d beyond
%d repairs of %.1f shards; %.2f bytes moved per byte restored, (k + missing)/missing is %.2f; %.2f per byte destroyed
longest: repair due %v, health above the truth %v, bad shard unseen %v of its peer's presence; least live - k: %d`,
		t.Seeds, t.PackDays/365, t.Failed, t.Spoiled, 100*float64(t.Spoiled)/float64(max(t.Seeds, 1)), t.LostPacks, t.SpoiledPacks,
		t.Repairs, ratio(int64(t.Restored), int64(t.Repairs)), ratio(t.Moved, t.LostBytes), ratio(t.Bound, t.LostBytes), ratio(t.Moved, t.Destroyed),
		t.MaxDue, t.MaxClaim, t.MaxHidden, t.Least)
}

func ratio(a, b int64) float64 { return float64(a) / float64(max(b, 1)) }

// years has worlds live side by side, one for each seed from first on, and
// tells of each.
func years(first uint64, n int, length time.Duration, law func(seed uint64) config, tell func(*report)) *total {
	var t total
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := first
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for {
				mu.Lock()
				seed := next
				next++
				mu.Unlock()
				if seed >= first+uint64(n) {
					return
				}
				r := run(law(seed), length)
				mu.Lock()
				t.add(r)
				if tell != nil {
					tell(r)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return &t
}

// write says what went wrong in a world.
func (r *report) write(to io.Writer) {
	for _, x := range []struct {
		what string
		list []string
	}{
		{"lost though no more than m holders were between two repairs", r.Lost},
		{"repair not done in time", r.Late},
		{"health claims more than there is", r.Claims},
		{"bad shard not found in time", r.Hidden},
		{"deleted, and there again", r.Undead},
		{"premise failed: more than m holders lost between two repairs", r.Spoiled},
	} {
		if len(x.list) > 0 {
			fmt.Fprintf(to, "seed %d: %s: %s\n", r.seed, x.what, strings.Join(x.list, "; "))
		}
	}
}
