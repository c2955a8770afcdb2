package volume

import (
	"context"
	"errors"
	"fmt"

	"github.com/p2pfs/p2pfs/chunk"
	"github.com/p2pfs/p2pfs/pack"
)

// ErrStale is wrapped when a file is said to be as it was, and was not.
var ErrStale = errors.New("not as it was")

// former is a directory as the parent of a tree has it, which is gone through
// beside the one that is written. Only one goroutine may use it.
type former struct{ *list }

// newFormer goes through a directory; nil: there was none.
func newFormer(dir *File) *former {
	if dir == nil || dir.entry.Kind != DirEntry {
		return nil
	}
	return &former{newList(dir)}
}

// find gives the entry of a name, or nil. Names are asked for in their order.
func (f *former) find(ctx context.Context, name string) (*File, error) {
	for f != nil {
		at, err := f.peek(ctx)
		switch {
		case err != nil:
			return nil, fmt.Errorf("parent: %w", err)
		case at == nil || at.entry.Name > name:
			return nil, nil
		case at.entry.Name == name:
			return at, nil
		}
		if _, err := f.next(ctx); err != nil {
			return nil, fmt.Errorf("parent: %w", err)
		}
	}
	return nil, nil
}

// chunks gives the chunks of f's content by their keys: of the first maxKnown, which
// may be the same over and over.
func (f *File) chunks(ctx context.Context) (map[chunk.Key]pack.Ref, error) {
	if f == nil || len(f.entry.parts) == 0 {
		return nil, nil
	}
	of := make(map[chunk.Key]pack.Ref)
	n := 0
	for p, err := range f.pieces(ctx, 0, f.entry.Size) {
		if err != nil {
			return nil, fmt.Errorf("parent: %w", err)
		}
		of[p.ref.Key] = p.ref
		if n++; n >= maxKnown {
			break
		}
	}
	return of, nil
}

// same takes the content of a file over from the parent.
func (w *writer) same(ctx context.Context, e *Entry, was *File, size int64) error {
	if was == nil || was.entry.Kind != FileEntry || was.entry.Size != size || !was.entry.MTime.Equal(e.MTime) {
		return ErrStale
	}
	e.Size, e.inline, e.depth, e.parts = size, was.entry.inline, was.entry.depth, was.entry.parts
	w.done += size
	if e.depth == 0 {
		for _, p := range e.parts {
			w.keep(p.Pack)
		}
		return nil
	}
	m := NewMark(was.src)
	if err := m.parts(ctx, was, e.parts, e.depth); err != nil {
		return err
	}
	for id := range m.Packs {
		w.keep(id)
	}
	return nil
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
