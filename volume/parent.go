package volume

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/p2pfs/p2pfs/chunk"
	"github.com/p2pfs/p2pfs/pack"
)

// ErrStale is wrapped when a file is said to be as it was, and was not.
var ErrStale = errors.New("not as it was")

// former is a directory as the parent of a tree has it, which is gone through
// beside the one that is written. Only one goroutine may use it.
type former struct {
	dir  *File
	next func() (*File, error, bool)
	stop func()
	at   *File // the entry to come; nil: next has to be asked
	over bool
}

// newFormer goes through a directory; nil: there was none.
func newFormer(ctx context.Context, dir *File) *former {
	if dir == nil || dir.entry.Kind != DirEntry {
		return nil
	}
	f := &former{dir: dir}
	f.next, f.stop = iter.Pull2(dir.List(ctx))
	return f
}

// close ends it.
func (f *former) close() {
	if f != nil {
		f.stop()
	}
}

// find gives the entry of a name, or nil. Names are asked for in their order.
func (f *former) find(name string) (*File, error) {
	for f != nil && !f.over {
		if f.at == nil {
			at, err, ok := f.next()
			if err != nil {
				return nil, fmt.Errorf("parent: %w", err)
			}
			f.at, f.over = at, !ok
			continue
		}
		switch {
		case f.at.entry.Name == name:
			return f.at, nil
		case f.at.entry.Name > name:
			return nil, nil
		}
		f.at = nil
	}
	return nil, nil
}

// chunks gives the chunks of f's content by their keys, the first maxKnown.
func (f *File) chunks(ctx context.Context) (map[chunk.Key]pack.Ref, error) {
	if f == nil || len(f.entry.parts) == 0 {
		return nil, nil
	}
	of := make(map[chunk.Key]pack.Ref)
	for p, err := range f.pieces(ctx, 0, f.entry.Size) {
		if err != nil {
			return nil, fmt.Errorf("parent: %w", err)
		}
		if of[p.ref.Key] = p.ref; len(of) >= maxKnown {
			break
		}
	}
	return of, nil
}

// packsOf calls add with each pack that parts refer to, those of nodes among
// them.
func (f *File) packsOf(ctx context.Context, parts []part, level int, add func(pack.ID)) error {
	for _, p := range parts {
		add(p.Pack)
		if level == 0 {
			continue
		}
		sub, err := f.node(ctx, p, level-1)
		if err != nil {
			return err
		}
		if err := f.packsOf(ctx, sub, level-1, add); err != nil {
			return err
		}
	}
	return nil
}

// same takes the content of a file over from the parent.
func (w *writer) same(ctx context.Context, e *Entry, was *File, size int64) error {
	if was == nil || was.entry.Kind != FileEntry || was.entry.Size != size || !was.entry.MTime.Equal(e.MTime) {
		return ErrStale
	}
	e.Size, e.inline, e.depth, e.parts = size, was.entry.inline, was.entry.depth, was.entry.parts
	w.done += size
	return was.packsOf(ctx, e.parts, e.depth, w.keep)
}

// keep notes that a pack is needed that was there before.
func (w *writer) keep(id pack.ID) {
	if w.kept == nil {
		w.kept = make(map[pack.ID]bool)
	}
	if !w.kept[id] && w.opt.Kept != nil {
		w.opt.Kept(id)
	}
	w.kept[id] = true
}
