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
type former struct {
	*list
	dir   *File
	found string // the name that was found last
	still bool   // all that came so far is as it was, and nothing is missing
	upTo  string // the last name of it, while it is in no queue; "": none
}

// newFormer goes through a directory; nil: there was none.
func newFormer(dir *File) *former {
	if dir == nil || dir.entry.Kind != DirEntry {
		return nil
	}
	return &former{list: newList(dir), dir: dir}
}

// find gives the entry of a name, or nil, and whether others were passed by that
// nobody asked for. Names are asked for in their order.
func (f *former) find(ctx context.Context, name string) (was *File, passed bool, err error) {
	for f != nil {
		at, err := f.peek(ctx)
		switch {
		case err != nil:
			return nil, false, fmt.Errorf("parent: %w", err)
		case at == nil || at.entry.Name > name:
			return nil, passed, nil
		case at.entry.Name == name:
			f.found = name
			return at, passed, nil
		}
		passed = passed || at.entry.Name != f.found
		if _, err := f.next(ctx); err != nil {
			return nil, false, fmt.Errorf("parent: %w", err)
		}
	}
	return nil, false, nil
}

// ends tells whether nothing is left that was not asked for.
func (f *former) ends(ctx context.Context) (bool, error) {
	at, err := f.peek(ctx)
	if at != nil && at.entry.Name == f.found {
		if _, err = f.next(ctx); err == nil {
			at, err = f.peek(ctx)
		}
	}
	if err != nil {
		return false, fmt.Errorf("parent: %w", err)
	}
	return at == nil, nil
}

// A directory in which all is as it was is taken over whole, so that its lists are
// not written again. Until it is known that it is, nothing of it is in its queue;
// when something comes that is otherwise, what has come before is taken from the
// parent once more.

// differ notes that something in the innermost directory is not as it was, and so
// none of those that are open.
func (w *writer) differ(ctx context.Context) error {
	for _, d := range w.dirs {
		f := d.former
		if f == nil || !f.still {
			continue
		}
		f.still = false
		var err error
		if d.lists, err = f.dir.chunks(ctx); err != nil {
			return err
		}
		for l := newList(f.dir.lean()); f.upTo != ""; {
			c, err := l.next(ctx)
			if err == nil && c == nil {
				err = fmt.Errorf("%w: %q is not there any more", ErrCorrupt, f.upTo)
			}
			if err != nil {
				return fmt.Errorf("parent: %w", err)
			}
			e, err := c.graft(c.entry.Name)
			if err != nil {
				return fmt.Errorf("parent: %w", err)
			}
			if err := w.queue(ctx, d, waiting{entry: e}); err != nil {
				return err
			}
			if c.entry.Name == f.upTo {
				break
			}
		}
	}
	return nil
}

// wholeDir gives the innermost directory, of which all has come, as the parent has it,
// if all in it is as it was and the packs that its list is in can stay; else it
// differs.
func (w *writer) wholeDir(ctx context.Context) (was *File, ok bool, err error) {
	was, ok, err = w.lookWhole(ctx)
	if err == nil && !ok {
		err = w.differ(ctx)
	}
	return was, ok, err
}

func (w *writer) lookWhole(ctx context.Context) (was *File, ok bool, err error) {
	f := w.dirs[len(w.dirs)-1].former
	if f == nil || !f.still {
		return nil, false, nil
	}
	if ok, err := f.ends(ctx); err != nil || !ok {
		return nil, false, err
	}
	if len(f.dir.entry.parts) == 0 {
		return f.dir, true, nil
	}
	m := NewMark(f.dir.src)
	if err := m.parts(ctx, f.dir, f.dir.entry.parts, f.dir.entry.depth); err != nil {
		return nil, false, fmt.Errorf("parent: %w", err)
	}
	for id := range m.Packs {
		if !w.stays(id) {
			return nil, false, nil
		}
	}
	for id := range m.Packs {
		w.keep(id)
	}
	return f.dir, true, nil
}

// asParent makes the parent what is written, of which all is as it was, if it is the
// root of a tree on its own. It reports whether it has.
func (w *writer) asParent(ctx context.Context) (bool, error) {
	was := w.opt.Parent
	if _, ok := was.Inventory(); !ok || w.commit != nil || w.opt.Part {
		return false, nil
	}
	ids, err := was.Packs(ctx)
	if err != nil {
		return false, fmt.Errorf("parent: %w", err)
	}
	for _, id := range ids {
		w.keep(id)
	}
	w.root, w.entry = was.root, was.entry
	return true, nil
}

// asWas tells whether e is in all what the parent has, content, place and
// all; of a directory, all but what is in it.
func (e *Entry) asWas(was *File) bool {
	if was == nil {
		return false
	}
	o := &was.entry
	if e.Name != o.Name || !sameOwn(e, o) || e.Group != o.Group || e.Inode != o.Inode {
		return false
	}
	if e.Kind == DirEntry {
		return true
	}
	return e.Size == o.Size && e.Target == o.Target && e.Device == o.Device && e.Sparse == o.Sparse
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
