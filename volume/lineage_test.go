package volume

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// before gives, for each head of a history, those in it that it follows.
func before(past []Past) map[HeadHash]map[HeadHash]bool {
	out := make(map[HeadHash]map[HeadHash]bool)
	for _, p := range past { // in order
		all := make(map[HeadHash]bool)
		for _, h := range p.Parents {
			if up, ok := out[h]; ok {
				all[h] = true
				for g := range up {
					all[g] = true
				}
			}
		}
		out[p.Hash] = all
	}
	return out
}

func TestWhatIsTakenOutLeavesWhoFollowsWhom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 30).Draw(t, "heads")
		past := make([]Past, n)
		for i := range past {
			past[i] = Past{Number: uint64(i + 1), Hash: HeadHash{byte(i + 1)}}
			for _, back := range rapid.SliceOfNDistinct(rapid.IntRange(1, 3), 0, 2, rapid.ID[int]).Draw(t, "parents") {
				if back <= i {
					past[i].Parents = append(past[i].Parents, past[i-back].Hash)
				}
			}
			slices.SortFunc(past[i].Parents, HeadHash.compare)
		}
		drop := make([]bool, n)
		for i := range drop {
			drop[i] = rapid.Bool().Draw(t, "drop")
		}
		was := before(past)
		got := Without(past, func(i int) bool { return drop[i] })
		full := false
		for _, p := range got {
			if err := checkParents(p.Parents); err != nil {
				t.Fatal(err)
			}
			full = full || len(p.Parents) == MaxParents
		}
		if full {
			return // it may have been more
		}
		want := make(map[HeadHash]map[HeadHash]bool)
		for i, p := range past {
			if drop[i] {
				continue
			}
			want[p.Hash] = make(map[HeadHash]bool)
			for j, q := range past {
				if !drop[j] && was[p.Hash][q.Hash] {
					want[p.Hash][q.Hash] = true
				}
			}
		}
		if diff := cmp.Diff(want, before(got)); diff != "" {
			t.Fatalf("others follow others (-want +got):\n%s", diff)
		}
	})
}

func TestOfManyParentsTheLatestStay(t *testing.T) {
	past := []Past{{Number: 1, Hash: HeadHash{100}, Pin: true}}
	var parents, want []HeadHash
	for i := range 12 {
		h := HeadHash{byte(100 - i)}
		past = append(past, Past{Number: uint64(i + 1), Hash: h})
		parents = append(parents, h)
		if i >= 4 {
			want = append([]HeadHash{h}, want...)
		}
	}
	last := Past{Number: 14, Hash: HeadHash{200}, Parents: []HeadHash{{150}}}
	past = append(past, Past{Number: 13, Hash: HeadHash{150}, Parents: parents}, last)
	got := Without(past, func(i int) bool { return past[i].Number == 13 })
	if diff := cmp.Diff(want, got[len(got)-1].Parents); diff != "" || len(got) != len(past)-1 {
		t.Errorf("got others (-want +got):\n%s", diff)
	}
	if fmt.Sprint(last.Parents) != fmt.Sprint([]HeadHash{{150}}) {
		t.Error("what was given was changed")
	}
}
