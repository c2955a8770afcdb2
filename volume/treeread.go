package volume

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

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
		l := lister{dir: f}
		going, err := l.all(ctx, func(c *File) bool { return yield(c, nil) })
		if err == nil && going && (l.files != f.entry.Files || l.bytes != f.entry.Bytes) {
			err = fmt.Errorf("%w: it lists %d files with %d bytes, and says %d with %d", ErrCorrupt, l.files, l.bytes, f.entry.Files, f.entry.Bytes)
		}
		if err != nil {
			yield(nil, fmt.Errorf("list %q: %w", f.entry.Name, err))
		}
	}
}

// lister is one List.
type lister struct {
	dir          *File
	last         string // name given last
	files, bytes int64
}

// all gives all entries; going is false where yield wants no more.
func (l *lister) all(ctx context.Context, yield func(*File) bool) (going bool, err error) {
	f := l.dir
	if len(f.entry.parts) == 0 {
		return l.chunk(f.entry.inline, f.root, yield)
	}
	for p, err := range f.pieces(ctx, 0, f.entry.Size) {
		if err != nil {
			return true, err
		}
		plain, err := readChunk(ctx, f.src, p.ref, maxListed)
		if err != nil {
			return true, err
		}
		if going, err := l.chunk(plain, p.ref, yield); err != nil || !going {
			return going, err
		}
	}
	return true, nil
}

// chunk gives the entries of a part of the list, which stands in the chunk at.
func (l *lister) chunk(b []byte, at pack.Ref, yield func(*File) bool) (going bool, err error) {
	for len(b) > 0 {
		if len(b) < 4 || int64(binary.BigEndian.Uint32(b)) > int64(len(b)-4) {
			return true, fmt.Errorf("%w: a list that ends in an entry", ErrCorrupt)
		}
		n := int(binary.BigEndian.Uint32(b))
		e, err := decodeEntry(b[4 : 4+n])
		if err == nil {
			err = e.resolve(at)
		}
		if err != nil {
			return true, err
		}
		b = b[4+n:]
		if e.Name <= l.last {
			return true, fmt.Errorf("%w: %q after %q", ErrCorrupt, e.Name, l.last)
		}
		if e.inventory != (pack.Ref{}) {
			return true, fmt.Errorf("%w: %q has an inventory and is no root", ErrCorrupt, e.Name)
		}
		l.last = e.Name
		files, bytes := e.counts()
		l.files, l.bytes = l.files+files, l.bytes+bytes
		if l.files < 0 || l.bytes < 0 || l.files > l.dir.entry.Files || l.bytes > l.dir.entry.Bytes {
			return true, fmt.Errorf("%w: it lists more than it says", ErrCorrupt)
		}
		if !yield(&File{src: l.dir.src, root: at, entry: *e}) {
			return false, nil
		}
	}
	return true, nil
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
// of a [Walk]. It ends after an error.
func (f *File) Walk(ctx context.Context) iter.Seq2[Path, error] {
	return func(yield func(Path, error) bool) {
		f.walkTree(ctx, "", 0, yield)
	}
}

func (f *File) walkTree(ctx context.Context, path string, depth int, yield func(Path, error) bool) bool {
	if !yield(Path{Path: path, File: f}, nil) {
		return false
	}
	if f.entry.Kind != DirEntry {
		return true
	}
	if depth >= MaxDepth {
		yield(Path{}, fmt.Errorf("%q: %w: more than %d directories deep", path, ErrCorrupt, MaxDepth))
		return false
	}
	if path != "" {
		path += "/"
	}
	for c, err := range f.List(ctx) {
		if err != nil {
			yield(Path{}, err)
			return false
		}
		if !c.walkTree(ctx, path+c.entry.Name, depth+1, yield) {
			return false
		}
	}
	return true
}

// Chunks gives the chunks that the contents of f and of all files below it are
// in; those that are in several several times.
func (f *File) Chunks(ctx context.Context, each func(pack.Ref) error) error {
	for p, err := range f.Walk(ctx) {
		if err != nil {
			return err
		}
		if p.entry.Kind != FileEntry {
			continue
		}
		for c, err := range p.pieces(ctx, 0, p.entry.Size) {
			if err == nil && len(p.entry.parts) > 0 {
				err = each(c.ref)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// WriteTree gives take all of f, as Walk does, and writes the content of each file
// to the writer that take gave for it, unless that is nil, before the next is
// taken. It fetches ahead as WriteTo does, over the ends of files.
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
