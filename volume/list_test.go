package volume

import (
	"context"
	"sync"
	"testing"

	"github.com/p2pfs/p2pfs/pack"
)

// listing is a source that remembers lists, and counts what is read.
type listing struct {
	*packs

	lists  *Lists
	mu     sync.Mutex
	opened map[pack.Ref]int // by place and length
}

func (l *listing) Lists() *Lists { return l.lists }

func (l *listing) Open(ctx context.Context, id pack.ID, off, n int) (Range, error) {
	l.mu.Lock()
	l.opened[pack.Ref{Pack: id, Off: uint32(off), Len: uint32(n)}]++
	l.mu.Unlock()
	return l.packs.Open(ctx, id, off, n)
}

func TestListsAreReadOnce(t *testing.T) {
	leaves := smallFiles(1500)
	p := newPacks()
	lists := NewLists(8 << 20)
	written, _, _ := writeTree(t, p, leaves, Options{Lists: lists})
	other, _, _ := writeTree(t, p, manyLeaves(30, 3), Options{})
	src := &listing{packs: p, lists: lists, opened: make(map[pack.Ref]int)}
	walk := func(l Link) int {
		f, err := OpenRoot(t.Context(), src, l)
		if err != nil {
			t.Fatal(err)
		}
		clear(src.opened)
		n := 0
		for _, err := range f.Walk(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	if n := walk(written); n != len(leaves) || len(src.opened) != 0 {
		t.Errorf("a tree that was just written: %d entries, %d chunks read", n, len(src.opened))
	}
	if n := walk(other); n != 31 || len(src.opened) == 0 {
		t.Errorf("one that was not: %d entries, %d chunks read", n, len(src.opened))
	}
	if n := walk(other); n != 31 || len(src.opened) != 0 {
		t.Errorf("again: %d entries, %d chunks read", n, len(src.opened))
	}
	if lists.held <= 0 || lists.held > lists.most {
		t.Errorf("%d bytes are held, at most %d may be", lists.held, lists.most)
	}
}

// What does not fit is forgotten, and read again.
func TestListsAreBounded(t *testing.T) {
	leaves := manyLeaves(30, 4)
	p := newPacks()
	for _, most := range []int{0, 30_000, 300_000} {
		lists := NewLists(most)
		l, _, _ := writeTree(t, p, leaves, Options{Lists: lists})
		src := &listing{packs: p, lists: lists, opened: make(map[pack.Ref]int)}
		f, err := OpenRoot(t.Context(), src, l)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 3 {
					n := 0
					for _, err := range f.Walk(t.Context()) {
						if err != nil {
							t.Error(err)
						}
						n++
					}
					if n != len(leaves) {
						t.Errorf("%d entries, want %d", n, len(leaves))
					}
				}
			})
		}
		wg.Wait()
		lists.mu.Lock()
		held := 0
		for _, c := range lists.chunks.Values() {
			held += c.weight
		}
		if held != lists.held || held > most {
			t.Errorf("%d bytes are held, %d are counted, at most %d may be", held, lists.held, most)
		}
		lists.mu.Unlock()
	}
}
