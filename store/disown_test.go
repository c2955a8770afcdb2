package store

import (
	"errors"
	"testing"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
)

func TestDisownPacksLeavesWhatAnotherRootRefersTo(t *testing.T) {
	s, err := Open("", Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	owned := func(i byte) OwnedPack {
		return OwnedPack{ID: pack.ID{i}, Scheme: erasure.Scheme{K: 1, M: 2}, Len: 4096, Number: 1}
	}
	a, b := Root{ID: RootID{1}, Link: "l", Name: "a"}, Root{ID: RootID{2}, Link: "l", Name: "b"}
	if err := errors.Join(s.Own(a, []OwnedPack{owned(1), owned(2), owned(3)}), s.Own(b, []OwnedPack{owned(3)})); err != nil {
		t.Fatal(err)
	}
	if err := s.DisownPacks(a.ID, []pack.ID{{1}, {3}, {9}}); err != nil {
		t.Fatal(err)
	}
	for i, want := range map[byte]bool{1: false, 2: true, 3: true} {
		if _, err := s.OwnedPack(pack.ID{i}); (err == nil) != want {
			t.Errorf("pack %d: got %v, want it there: %v", i, err, want)
		}
	}
	if roots, err := s.RootsOf(pack.ID{3}, 5); err != nil || len(roots) != 1 || roots[0] != b.ID {
		t.Errorf("pack 3 is under %v, %v", roots, err)
	}
	if _, err := s.Root(a.ID); err != nil {
		t.Errorf("the root is gone: %v", err)
	}
}

func TestResealNeedsAnEmptyCatalog(t *testing.T) {
	s, err := Open("", Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Reseal([32]byte{7}); err != nil {
		t.Fatal(err)
	}
	root := Root{ID: RootID{1}, Link: "l", Name: "a"}
	if err := s.Own(root, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Reseal([32]byte{8}); !errors.Is(err, ErrHave) {
		t.Errorf("got %v, want %v", err, ErrHave)
	}
	if r, err := s.Root(root.ID); err != nil || r.Name != "a" {
		t.Errorf("got %+v, %v", r, err)
	}
}
