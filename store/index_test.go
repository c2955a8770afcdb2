package store

import (
	"errors"
	"testing"

	"github.com/p2pfs/p2pfs/pack"
)

func TestIndex(t *testing.T) {
	s, err := Open("", Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a, b := [8]byte{1}, [8]byte{2}
	want := Place{Pack: pack.ID{3}, Off: 1<<25 - 1, Len: 1, Size: 1 << 40}
	if err := s.Index(a, map[Chunk]Place{{1}: want, {2}: {Pack: pack.ID{4}}}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Indexed(a, Chunk{1}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if _, err := s.Indexed(b, Chunk{1}); !errors.Is(err, ErrNotFound) {
		t.Errorf("another volume: got %v", err)
	}
	if _, err := s.Indexed(a, Chunk{9}); !errors.Is(err, ErrNotFound) {
		t.Errorf("another chunk: got %v", err)
	}
	if s.IsIndexed(a) {
		t.Error("it is said to be indexed whole")
	}
	if err := s.SetIndexed(a); err != nil || !s.IsIndexed(a) || s.IsIndexed(b) {
		t.Errorf("not kept: %v", err)
	}
}
