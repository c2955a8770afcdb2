package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // small worlds, much garbage
	}
	os.Exit(m.Run())
}

// sizes of the runs.
const (
	ciSeeds    = 200
	yearPacks  = 6
	soakSeeds  = 10_000
	soakSlice  = 100
	mostSpoilt = .02 // of seeds in which the premise may fail
)

// pick is n, or little under the race detector, which is ten times slower.
func pick(n, little int) int {
	if raced {
		return little
	}
	return n
}

// In years of the churn of docs/churn.md every due repair is done in time, and
// nothing that was acknowledged is lost while no more than m of a pack's holders
// are lost between two repairs.
//
// A seed that fails is lived through again with P2PFS_SEED=7. With P2PFS_SOAK
// there are 10,000, in slices: which are done is kept in years.txt, which is
// in git, or the file that P2PFS_SOAK_FILE names, and a run goes on where another
// has ended.
func TestYearsOfChurn(t *testing.T) {
	law := func(seed uint64) config {
		c := stated(seed)
		c.packs = yearPacks
		return c
	}
	tell := func(r *report) {
		r.write(os.Stderr)
		if r.failed() {
			t.Errorf("seed %d failed: P2PFS_SEED=%d go test -run %s ./internal/sim", r.seed, r.seed, t.Name())
		}
	}
	switch {
	case os.Getenv("P2PFS_SEED") != "":
		seed, err := strconv.ParseUint(os.Getenv("P2PFS_SEED"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(years(seed, 1, year, law, tell))
	case os.Getenv("P2PFS_SOAK") != "":
		soak(t, law, tell)
	default:
		check(t, years(1, pick(ciSeeds, 2), year, law, tell))
	}
}

func check(t *testing.T, all *total) {
	t.Helper()
	t.Log(all)
	if share := float64(all.Spoiled) / float64(all.Seeds); share > mostSpoilt {
		t.Errorf("the premise failed in %d of %d seeds, at most %.0f %% may", all.Spoiled, all.Seeds, 100*mostSpoilt)
	}
	if all.Repairs == 0 || float64(all.Moved) > 1.05*float64(all.Bound) {
		t.Errorf("%d repairs moved %d bytes, the bound is %d", all.Repairs, all.Moved, all.Bound)
	}
	if got := ratio(all.Moved, all.Destroyed); got > mostMoved {
		t.Errorf("repairs moved %.1f bytes for each that was destroyed, want %.1f at most", got, mostMoved)
	}
}

// mostMoved is how many bytes repairs may move for each that was destroyed: a
// repair of six missing shards at 8+12 moves 13/6, and those that were only away
// are the rest.
const mostMoved = 7.

// soak lives through the slices that are not done.
func soak(t *testing.T, law func(uint64) config, tell func(*report)) {
	path := os.Getenv("P2PFS_SOAK_FILE")
	if path == "" {
		path = "years.txt"
	}
	program := fingerprint(t)
	done := map[uint64]bool{}
	spoiled := 0
	if b, err := os.ReadFile(path); err == nil {
		for line := range strings.Lines(string(b)) {
			var of string
			var first uint64
			var bad int
			if n, _ := fmt.Sscan(line, &of, &first, &bad); n == 3 && of == program && !done[first] {
				done[first] = true
				spoiled += bad
			}
		}
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	began, end := time.Now(), time.Time{}
	if d, ok := t.Deadline(); ok {
		end = d
	}
	t.Logf("%d of %d slices are done by %s", len(done), soakSeeds/soakSlice, path)
	lived := 0
	for first := uint64(1); first <= soakSeeds; first += soakSlice {
		if done[first] {
			continue
		}
		if lived > 0 && !end.IsZero() && time.Until(end) < 2*time.Since(began)/time.Duration(lived) {
			t.Fatalf("out of time: run it again, it goes on with seed %d", first)
		}
		all := years(first, soakSlice, year, law, tell)
		t.Logf("seeds %d to %d: %v", first, first+soakSlice-1, all)
		spoiled += all.Spoiled
		lived++
		if all.Failed > 0 {
			continue // its seeds are printed; it is lived through again
		}
		if _, err := fmt.Fprintln(f, program, first, all.Spoiled); err != nil {
			t.Fatal(err)
		}
	}
	if float64(spoiled) > mostSpoilt*soakSeeds {
		t.Errorf("the premise failed in %d of %d seeds", spoiled, soakSeeds)
	}
}

// fingerprint names what is lived through: the code that watches, audits and
// repairs, and the worlds. Slices of another are not done.
func fingerprint(t *testing.T) string {
	t.Helper()
	h := sha256.New()
	fmt.Fprintln(h, yearPacks, soakSlice, year)
	for _, dir := range []string{"../../repair", "."} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go")) // sorted
		if err != nil || len(files) == 0 {
			t.Fatalf("sources in %s: %v", dir, err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(h, filepath.ToSlash(path), len(b))
			h.Write(b)
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

// The same seed is the same world, to the last byte on every disk.
func TestASeedIsAWorld(t *testing.T) {
	c := stated(3)
	c.packs = 4
	a, b := run(c, 60*day), run(c, 60*day)
	if a.trace != b.trace {
		t.Errorf("two runs of seed 3 differ: %x, %x", a.trace, b.trace)
	}
	c.seed = 4
	if d := run(c, 60*day); d.trace == a.trace {
		t.Error("seeds 3 and 4 are the same world")
	}
}
