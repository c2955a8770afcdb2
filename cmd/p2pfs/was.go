package main

import (
	"context"

	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

// was goes through an earlier tree beside a walk, to tell which files are as
// they were. Only one goroutine may use it.
type was struct {
	batches chan []node.Item // closed at the end of the list, which may come early: files are read then
	stop    context.CancelFunc
	items   []node.Item // of the batch that was taken last: the first is to come
	over    bool        // nothing more is to be had
}

const (
	// wasBatch is how many items of the earlier tree are taken over at one go, and
	// wasAhead how many such are read beside the walk: it takes as long to read
	// them as to look at the files.
	wasBatch = 256
	wasAhead = 4
)

// newWas lists the tree that a link leads to. The caller calls close, which ends
// what it has begun.
func newWas(ctx context.Context, api interface {
	List(ctx context.Context, source string, recursive bool, yield func(node.Item) error) error
}, link string) *was {
	ctx, stop := context.WithCancel(ctx)
	w := &was{batches: make(chan []node.Item, wasAhead), stop: stop}
	go func() {
		defer close(w.batches)
		var batch []node.Item
		give := func() error {
			select {
			case w.batches <- batch:
				batch = nil
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		_ = api.List(ctx, link, true, func(i node.Item) error {
			if batch = append(batch, i); len(batch) < wasBatch {
				return nil
			}
			return give()
		})
		_ = give()
	}()
	return w
}

// close ends it.
func (w *was) close() {
	if w == nil {
		return
	}
	w.stop()
	for range w.batches { // until the list has ended
	}
}

// same tells whether a file is as it was: the same inode, size and time. Files
// are asked for in the order of a walk.
func (w *was) same(path string, e *volume.Entry) bool {
	if w == nil || e.Kind != volume.FileEntry || e.Inode == 0 {
		return false
	}
	for !w.over {
		if len(w.items) == 0 {
			var ok bool
			if w.items, ok = <-w.batches; !ok {
				w.over = true
			}
			continue
		}
		at := &w.items[0]
		switch c := volume.ComparePaths(at.Path, path); {
		case c > 0:
			return false
		case c == 0:
			o := &at.Entry
			return o.Kind == volume.FileEntry && o.Inode == e.Inode && o.Size == e.Size && o.MTime.Equal(e.MTime)
		}
		w.items = w.items[1:]
	}
	return false
}
