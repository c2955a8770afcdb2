package repair

import (
	"fmt"
	"math/bits"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// all gives n holders of a shard each.
func all(n int) []Sight {
	seen := make([]Sight, n)
	for s := range seen {
		seen[s] = Sight{Shard: s, Peer: fmt.Sprint("peer ", s), Presence: Present}
	}
	return seen
}

func TestThresholdsAreThoseOfTheDesign(t *testing.T) {
	for _, c := range []struct{ k, m, due, urgent int }{
		{8, 12, 14, 10}, {4, 6, 7, 5}, {2, 3, 4, 2}, {1, 2, 2, 1}, {1, 1, 1, 1}, {1, 0, 0, 0}, {4, 16, 12, 6},
	} {
		if due, urgent := Threshold(c.k, c.m), Urgent(c.k, c.m); due != c.due || urgent != c.urgent {
			t.Errorf("%d+%d: got due at %d and urgent at %d, want %d and %d", c.k, c.m, due, urgent, c.due, c.urgent)
		}
	}
}

// Every loss pattern of every scheme with n up to 12: what is left either
// restores all that is missing, on peers that hold nothing of it yet, or is
// told to be lost.
func TestEveryLossPatternIsRepairedOrReportedLost(t *testing.T) {
	for n := 1; n <= 12; n++ {
		for k := 1; k <= n; k++ {
			m := n - k
			for gone := range 1 << n {
				seen := all(n)
				for s := range seen {
					if gone>>s&1 == 1 {
						seen[s].Presence = Gone
					}
				}
				v := Diagnose(k, m, seen)
				left := n - bits.OnesCount(uint(gone))
				if v.Live != left || v.Counted != left || v.Lost != (left < k) {
					t.Fatalf("%d+%d, gone %b: got %+v, want %d live", k, m, gone, v, left)
				}
				if due := left <= Threshold(k, m) || left <= Urgent(k, m); v.Due != due {
					t.Fatalf("%d+%d, gone %b: got %+v, want due %t", k, m, gone, v, due)
				}
				if !v.Due {
					continue
				}
				var want []int
				for s := range n {
					if gone>>s&1 == 1 {
						want = append(want, s)
					}
				}
				if !slices.Equal(v.Missing, want) {
					t.Fatalf("%d+%d, gone %b: got missing %v, want %v", k, m, gone, v.Missing, want)
				}
				if v.Lost {
					continue
				}
				var free []Candidate
				for i := range len(want) {
					free = append(free, Candidate{Peer: fmt.Sprint("new ", i)})
				}
				chosen, _ := Place(free, len(want), m, nil)
				for i, c := range chosen {
					seen = append(seen, Sight{want[i], c.Peer, Present})
				}
				if v = Diagnose(k, m, seen); v.Live != n || v.Due && len(v.Missing) > 0 {
					t.Fatalf("%d+%d, gone %b: after the repair: got %+v", k, m, gone, v)
				}
			}
		}
	}
}

// Tahoe-LAFS counted shares: two of them on one machine were counted as
// healthy, and were lost together.
func TestTahoeTwoSharesOnOneMachineAreOne(t *testing.T) {
	seen := all(4)
	seen[3].Peer = seen[2].Peer
	if v := Diagnose(2, 2, seen); v.Live != 3 || !v.Due || !slices.Equal(v.Missing, []int{3}) {
		t.Errorf("got %+v, want 3 live and the fourth shard missing", v)
	}
}

// SeaweedFS's rebuilding failed just when it was needed: with as few shards
// left as can be.
func TestSeaweedFSRepairWorksWithTheLastShardsLeft(t *testing.T) {
	seen := all(14)
	for s := range 4 {
		seen[s].Presence = Gone
	}
	v := Diagnose(10, 4, seen)
	if v.Lost || !v.Urgent || !slices.Equal(v.Missing, []int{0, 1, 2, 3}) {
		t.Errorf("got %+v, want an urgent repair of shards 0 to 3", v)
	}
}

func TestAbsenceIsNotLoss(t *testing.T) {
	seen := all(20)
	for s := range 9 { // 11 live: more than where it is urgent
		seen[s].Presence = Absent
	}
	if v := Diagnose(8, 12, seen); v.Live != 11 || v.Counted != 20 || v.Due {
		t.Errorf("9 absent: got %+v, want nothing due", v)
	}
	seen[9].Presence = Absent
	if v := Diagnose(8, 12, seen); !v.Urgent || len(v.Missing) != 10 {
		t.Errorf("10 absent: got %+v, want all 10 restored at once", v)
	}
	seen = all(20)
	for s := range 6 {
		seen[s].Presence = Gone
	}
	seen[6].Presence = Absent
	if v := Diagnose(8, 12, seen); !v.Due || v.Urgent || len(v.Missing) != 6 {
		t.Errorf("6 gone, 1 absent: got %+v, want the 6 restored and not the absent one", v)
	}
}

// Match is compared with the greatest number that any assignment reaches.
func TestMatchIsGreatest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "n")
		var seen []Sight
		for range rapid.IntRange(0, 12).Draw(t, "holders") {
			seen = append(seen, Sight{rapid.IntRange(-1, n).Draw(t, "shard"), fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "peer")), Presence(rapid.IntRange(0, 2).Draw(t, "presence"))})
		}
		least := Presence(rapid.IntRange(1, 2).Draw(t, "least"))
		got := Match(n, seen, least)
		peers := make(map[string]bool)
		for s, p := range got {
			if peers[p] || !slices.ContainsFunc(seen, func(x Sight) bool { return x.Shard == s && x.Peer == p && x.Presence >= least }) {
				t.Fatalf("got %v of %v", got, seen)
			}
			peers[p] = true
		}
		if want := greatest(n, 0, seen, least, map[string]bool{}); len(got) != want {
			t.Fatalf("got %d of %v, want %d", len(got), seen, want)
		}
	})
}

// greatest tries everything.
func greatest(n, shard int, seen []Sight, least Presence, used map[string]bool) int {
	if shard == n {
		return 0
	}
	best := greatest(n, shard+1, seen, least, used)
	for _, s := range seen {
		if s.Shard == shard && s.Presence >= least && !used[s.Peer] {
			used[s.Peer] = true
			best = max(best, 1+greatest(n, shard+1, seen, least, used))
			delete(used, s.Peer)
		}
	}
	return best
}
