package main

import (
	"context"
	"errors"
	"iter"

	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

// was goes through an earlier tree beside a walk, to tell which files are as
// they were. Only one goroutine may use it.
type was struct {
	next func() (node.Item, error, bool)
	stop func()
	at   node.Item // the item to come
	here bool      // at is set
	err  error     // nothing more is to be had
}

var errEnough = errors.New("nobody wants more")

// newWas lists the tree that a link leads to. The caller calls close.
func newWas(ctx context.Context, api interface {
	List(ctx context.Context, source string, recursive bool, yield func(node.Item) error) error
}, link string) *was {
	w := new(was)
	w.next, w.stop = iter.Pull2(func(yield func(node.Item, error) bool) {
		err := api.List(ctx, link, true, func(i node.Item) error {
			if !yield(i, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(node.Item{}, err)
		}
	})
	return w
}

// close ends it.
func (w *was) close() {
	if w != nil {
		w.stop()
	}
}

// same tells whether a file is as it was: the same inode, size and time. Files
// are asked for in the order of a walk.
func (w *was) same(path string, e *volume.Entry) bool {
	if w == nil || e.Kind != volume.FileEntry || e.Inode == 0 {
		return false
	}
	for w.err == nil {
		if !w.here {
			item, err, ok := w.next()
			switch {
			case err != nil:
				w.err = err
			case !ok:
				w.err = errEnough
			}
			w.at, w.here = item, true
			continue
		}
		switch c := volume.ComparePaths(w.at.Path, path); {
		case c > 0:
			return false
		case c == 0:
			o := &w.at.Entry
			return o.Kind == volume.FileEntry && o.Inode == e.Inode && o.Size == e.Size && o.MTime.Equal(e.MTime)
		}
		w.here = false
	}
	return false
}
