package repair

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestPlaceSpreadsOverZones(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SampledFrom([]string{"", "a", "b", "c"})
		n := rapid.IntRange(1, 20).Draw(t, "n")
		per := rapid.IntRange(0, 12).Draw(t, "per zone")
		var cs []Candidate
		for i := range rapid.IntRange(0, 40).Draw(t, "peers") {
			cs = append(cs, Candidate{fmt.Sprint(i), Zones(names.Draw(t, "zone"), names.Draw(t, "group"))})
		}
		taken := make(Crowd)
		for range rapid.IntRange(0, 6).Draw(t, "taken") {
			taken.Add(Candidate{Zones: Zones(names.Draw(t, "zone taken"), "")}, 1)
		}
		before := maps.Clone(taken)
		chosen, spare := Place(cs, n, per, taken)
		if len(chosen) != min(n, len(cs)) || len(chosen)+len(spare) != len(cs) {
			t.Fatalf("%d chosen and %d spare of %d, want %d", len(chosen), len(spare), len(cs), n)
		}
		seen := make(map[string]bool)
		if !maps.Equal(taken, before) {
			t.Fatal("the count of those taken was changed")
		}
		in := maps.Clone(taken)
		for _, c := range append(slices.Clone(chosen), spare...) {
			if seen[c.Peer] {
				t.Fatalf("%s twice", c.Peer)
			}
			seen[c.Peer] = true
		}
		for _, c := range chosen {
			in.Add(c, 1)
		}
		// A zone is crowded only where nobody else was to be had.
		for z, k := range in {
			if k <= max(per, 1) || k == taken[z] {
				continue
			}
			for _, c := range spare {
				if in.Room(c, max(per, 1)) {
					t.Fatalf("%d in %s although %s in %v was free", k, z, c.Peer, c.Zones)
				}
			}
		}
	})
}

func TestPlaceKeepsTheOthersWhenOneLeaves(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var cs []Candidate
		for i := range 30 {
			cs = append(cs, Candidate{Peer: fmt.Sprint(i)})
		}
		before, _ := Place(cs, 20, 12, nil)
		gone := r.IntN(20)
		after, _ := Place(append(cs[:gone:gone], cs[gone+1:]...), 20, 12, nil)
		moved := 0
		for _, c := range before {
			found := false
			for _, d := range after {
				found = found || c.Peer == d.Peer
			}
			if !found {
				moved++
			}
		}
		if moved != 1 {
			t.Fatalf("%d left the choice when one peer left", moved)
		}
	}
}
