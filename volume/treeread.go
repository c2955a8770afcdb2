package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

var (
	// ErrNotFound is wrapped when a tree has nothing at a path.
	ErrNotFound = errors.New("not in the tree")
	// ErrNotDir is wrapped when what is not a directory is to be listed.
	ErrNotDir = errors.New("not a directory")
)

// Path is an entry of a tree and where it is: below the directory that was
// walked, with slashes.
type Path struct {
	Path string
	*File

	// From is where the content of a file that WriteTree writes begins, in bytes.
	From int64
}

// ComparePaths compares two paths as a walk comes to them: a directory before
// what is in it, the names in a directory by their bytes.
func ComparePaths(a, b string) int {
	for {
		x, restA, moreA := strings.Cut(a, "/")
		y, restB, moreB := strings.Cut(b, "/")
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
		switch {
		case moreA && moreB:
			a, b = restA, restB
		case moreA:
			return 1
		case moreB:
			return -1
		default:
			return 0
		}
	}
}

// List gives what is in a directory, in the order of its names. It ends after
// an error; what it gives is good as far as it goes.
func (f *File) List(ctx context.Context) iter.Seq2[*File, error] {
	return func(yield func(*File, error) bool) {
		if f.entry.Kind != DirEntry {
			yield(nil, fmt.Errorf("list %q: %w", f.entry.Name, ErrNotDir))
			return
		}
		l := newList(f)
		for {
			c, err := l.next(ctx)
			if err != nil || c == nil || !yield(c, nil) {
				if err != nil {
					yield(nil, err)
				}
				return
			}
		}
	}
}

// Lookup gives the entry at a path below f, which has slashes between names,
// and may begin or end with one. Links are not followed.
func (f *File) Lookup(ctx context.Context, path string) (*File, error) {
	at := f
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		if err := CheckName(name); err != nil {
			return nil, fmt.Errorf("%q: %w: %w", path, ErrNotFound, err)
		}
		next, err := at.child(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", path, err)
		}
		at = next
	}
	return at, nil
}

// child gives the entry of a name in a directory.
func (f *File) child(ctx context.Context, name string) (*File, error) {
	for c, err := range f.List(ctx) {
		if err != nil {
			return nil, err
		}
		if c.entry.Name == name {
			return c, nil
		}
		if c.entry.Name > name {
			break
		}
	}
	return nil, fmt.Errorf("%q: %w", name, ErrNotFound)
}

// Walk gives f itself, with the path "", and all that is below it, in the order
// of a [Walk]. It ends after an error. Below a directory that says it has n files
// there are at most 64 n + 2^20 directories: so what a Walk can take is known from
// the entry of f, and it needs bounded memory.
func (f *File) Walk(ctx context.Context) iter.Seq2[Path, error] {
	return func(yield func(Path, error) bool) {
		w := walker{ctx: ctx, descent: newDescent(maxDirs(f.entry.Files)), yield: yield}
		if err := w.walk(f); err != nil {
			yield(Path{}, err)
		}
	}
}

// walker is one Walk.
type walker struct {
	descent
	ctx   context.Context
	path  []byte // of the innermost directory, with a slash where something comes before names
	cuts  []int  // where the paths of the directories that are open end
	yield func(Path, error) bool
}

func (w *walker) walk(f *File) error {
	if !w.yield(Path{File: f}, nil) || f.entry.Kind != DirEntry {
		return nil
	}
	w.lists, w.cuts = append(w.lists, newList(f.lean())), append(w.cuts, 0)
	for n := len(w.lists); n > 0; n = len(w.lists) {
		c, err := w.lists[n-1].next(w.ctx)
		if err != nil {
			return err
		}
		if c == nil {
			w.leave(1)
			w.cuts = w.cuts[:n-1]
			continue
		}
		w.path = append(w.path[:w.cuts[n-1]], c.entry.Name...)
		if !w.yield(Path{Path: string(w.path), File: c}, nil) {
			return nil
		}
		if c.entry.Kind != DirEntry {
			continue
		}
		if n >= MaxDepth {
			return fmt.Errorf("%q: %w: more than %d directories deep", c.entry.Name, ErrCorrupt, MaxDepth)
		}
		w.path = append(w.path, '/')
		if err := w.enter(newList(c.lean())); err != nil {
			return err
		}
		w.cuts = append(w.cuts, len(w.path))
	}
	return nil
}

// Chunks gives the chunks that the contents of f and of all files below it are
// in; those that are in several several times.
func (f *File) Chunks(ctx context.Context, each func(pack.Ref) error) error {
	m := NewMark(f.src)
	m.each = each
	return m.Tree(ctx, f)
}

// WriteTree gives take all of f, as Walk does, but that entries have the same Group
// only if they are one file: trees that were put into a volume one by one may have
// taken the same number for several. It writes the content of each file to the
// writer that take gave for it, unless that is nil, before the next is taken. It
// fetches ahead as WriteTo does, over the ends of files.
//
// Of the content of files up to the path after, that one too, nothing is written,
// nor fetched, and nothing of the first off bytes of the next file; with "" that
// is the first there is.
func (f *File) WriteTree(ctx context.Context, ahead int, after string, off int64, take func(Path) (io.Writer, error)) error {
	steps := func(ctx context.Context) iter.Seq2[step, error] {
		return func(yield func(step, error) bool) { f.treeSteps(ctx, after, off, yield) }
	}
	var w io.Writer
	err := emit(ctx, f.src, steps, max(ahead, 0), func(s step, b []byte) (err error) {
		if s.file != nil {
			w, err = take(Path{Path: s.path, File: s.file, From: s.from})
			return err
		}
		if w != nil {
			_, err = w.Write(b)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read %q: %w", f.entry.Name, err)
	}
	return nil
}

// treeSteps gives the steps of all of f, content from off of the first file
// after a path on.
func (f *File) treeSteps(ctx context.Context, after string, off int64, yield func(step, error) bool) {
	groups := make(map[uint64][32]byte)
	for p, err := range f.Walk(ctx) {
		if err != nil {
			yield(step{}, err)
			return
		}
		if p.entry.Kind == FileEntry {
			if after != "" && ComparePaths(p.Path, after) <= 0 {
				p.From = p.entry.Size
			} else {
				p.From, off = min(max(off, 0), p.entry.Size), 0
			}
		}
		if g := p.entry.Group; g != 0 {
			now := p.entry.sum()
			if was, ok := groups[g]; !ok {
				groups[g] = now
			} else if was != now {
				p.File = &File{src: p.src, root: p.root, entry: p.entry}
				p.File.entry.Group = 0
			}
		}
		if !yield(step{file: p.File, path: p.Path, from: p.From}, nil) {
			return
		}
		if p.From == p.entry.Size || p.entry.Kind != FileEntry {
			continue
		}
		for s, err := range p.steps(ctx, p.From, p.entry.Size) {
			if !yield(s, err) {
				return
			}
		}
	}
}

// sum is that of what all names of a file have in common.
func (e *Entry) sum() [32]byte {
	b := fmt.Appendf(nil, "%d %o %d %d %d %d %d %d %d %d %q", e.Kind, e.Mode, e.UID, e.GID, e.MTime.Unix(), e.MTime.Nanosecond(), e.Size, e.Device,
		e.depth, len(e.inline), e.Target)
	b = append(b, e.inline...)
	for _, p := range e.parts {
		b = append(b, p.Key[:]...)
	}
	return digest.Of(b)
}
