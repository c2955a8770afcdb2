package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

func TestPathsCompareInTheOrderOfAWalk(t *testing.T) {
	order := []string{"", "a", "a/b", "a/b/c", "a/b!", "a/c", "a!", "a!/b", "a.b", "b"}
	for i, a := range order {
		for j, b := range order {
			got := volume.ComparePaths(a, b)
			if (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%q and %q: got %d", a, b, got)
			}
		}
	}
	if !slices.IsSortedFunc(order, volume.ComparePaths) {
		t.Error("not in order")
	}
}

type listed struct {
	items []node.Item
	fail  error
}

func (l listed) List(_ context.Context, _ string, _ bool, yield func(node.Item) error) error {
	for _, i := range l.items {
		if err := yield(i); err != nil {
			return err
		}
	}
	return l.fail
}

func TestFilesAsTheyWereAreFound(t *testing.T) {
	file := func(inode uint64, size int64, sec int64) volume.Entry {
		return volume.Entry{Kind: volume.FileEntry, Inode: inode, Size: size, MTime: time.Unix(sec, 5)}
	}
	l := listed{items: []node.Item{
		{Path: "a", Entry: file(1, 10, 1)}, {Path: "b", Entry: volume.Entry{Kind: volume.DirEntry}},
		{Path: "b/a", Entry: file(2, 10, 1)}, {Path: "b/b", Entry: file(3, 10, 1)}, {Path: "b/c", Entry: file(4, 10, 1)},
		{Path: "b.c", Entry: file(0, 10, 1)}, {Path: "c", Entry: file(5, 10, 1)},
	}}
	ask := []struct {
		path string
		e    volume.Entry
		want bool
	}{
		{"a", file(1, 10, 1), true},
		{"aa", file(1, 10, 1), false},   // not there
		{"b/a", file(2, 11, 1), false},  // another size
		{"b/b", file(3, 10, 2), false},  // another time
		{"b/c", file(9, 10, 1), false},  // another inode
		{"b.c", file(0, 10, 1), false},  // none known
		{"c", file(5, 10, 1), true},     // after others
		{"zz", file(5, 10, 1), false},   // after the end
		{"zz/b", file(5, 10, 1), false}, // and again
	}
	w := newWas(t.Context(), l, "link")
	for _, c := range ask {
		if got := w.same(c.path, &c.e); got != c.want {
			t.Errorf("%q: got %v, want %v", c.path, got, c.want)
		}
	}
	w.close()

	l.items, l.fail = l.items[:1], errors.New("no more")
	w = newWas(t.Context(), l, "link")
	defer w.close()
	if a, b := file(1, 10, 1), file(5, 10, 1); !w.same("a", &a) || w.same("c", &b) || !w.over {
		t.Error("a list that fails: it is not over, or what came before is not there")
	}
	for i := range 10 * wasAhead * wasBatch { // more than is read ahead
		l.items = append(l.items, node.Item{Path: fmt.Sprintf("b/%06d", i), Entry: file(uint64(10+i), 10, 1)})
	}
	for _, path := range []string{"", "b/000300", "b/009000"} {
		w := newWas(t.Context(), l, "link")
		if path != "" {
			var i uint64
			fmt.Sscanf(path, "b/%d", &i)
			if e := file(10+i, 10, 1); !w.same(path, &e) {
				t.Errorf("%s is not found", path)
			}
		}
		w.close() // ends what still goes on
	}
	var none *was
	if a := file(1, 10, 1); none.same("a", &a) {
		t.Error("no earlier tree has a file")
	}
}
