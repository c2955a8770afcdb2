package volume

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/p2pfs/p2pfs/pack"
)

const (
	// A directory has at most spareDirs directories below it, and dirsPerFile more
	// for each entry there that is none. No honest tree comes near; and without a
	// bound a tree of a few kilobytes, each directory of which is there twice in the one
	// above, would never end: only what is no directory is counted in entries.
	spareDirs   = 1 << 20
	dirsPerFile = 64

	// maxHeld is how many bytes of lists are kept of directories in which others
	// are being gone through. Beyond that they are read again.
	maxHeld = 16 << 20
)

// maxDirs is how many directories may be below one that says it has so many files.
func maxDirs(files int64) int64 {
	if files > (math.MaxInt64-spareDirs)/dirsPerFile {
		return math.MaxInt64
	}
	return spareDirs + files*dirsPerFile
}

// list is a directory that is being listed, or a part of it. What it has read can
// be let go of at any time, and is read again then.
type list struct {
	dir          *File
	pos, end     int64  // of what comes next, and of all, in the content of dir
	some         bool   // a part of it: whether the counts of dir are right cannot be told
	last         string // name that came last
	files, bytes int64  // that came

	at    pack.Ref // the chunk that rest is in
	rest  []byte   // of it, from pos on
	ahead *File    // what comes next, if it is known
	size  int      // of that, in rest
}

func newList(dir *File) *list { return &list{dir: dir, end: dir.entry.Size} }

// lean is f as far as listing it needs it.
func (f *File) lean() *File {
	e := &f.entry
	return &File{src: f.src, root: f.root, entry: Entry{
		Kind: e.Kind, Name: e.Name, Size: e.Size, Files: e.Files, Bytes: e.Bytes, inline: e.inline, depth: e.depth, parts: e.parts,
	}}
}

// next gives the next entry, nil at the end.
func (l *list) next(ctx context.Context) (*File, error) {
	f, err := l.peek(ctx)
	if f == nil {
		return nil, err
	}
	files, bytes := f.entry.counts()
	l.files, l.bytes, l.last = l.files+files, l.bytes+bytes, f.entry.Name
	l.pos, l.rest = l.pos+int64(l.size), l.rest[l.size:]
	l.ahead = nil
	return f, nil
}

// peek gives what next will give.
func (l *list) peek(ctx context.Context) (*File, error) {
	var err error
	for l.ahead == nil && err == nil {
		switch {
		case len(l.rest) > 0:
			err = l.decode()
		case l.pos < l.end:
			err = l.fill(ctx)
		case !l.some && (l.files != l.dir.entry.Files || l.bytes != l.dir.entry.Bytes):
			err = fmt.Errorf("%w: it lists %d files with %d bytes, and says %d with %d", ErrCorrupt, l.files, l.bytes, l.dir.entry.Files, l.dir.entry.Bytes)
		default:
			return nil, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list %q: %w", l.dir.entry.Name, err)
	}
	return l.ahead, nil
}

// fill reads the chunk that pos is in.
func (l *list) fill(ctx context.Context) error {
	f := l.dir
	if len(f.entry.parts) == 0 {
		l.at, l.rest = f.root, f.entry.inline[l.pos:]
		return nil
	}
	for p, err := range f.pieces(ctx, l.pos, l.pos+1) {
		if err != nil {
			return err
		}
		plain, err := readChunk(ctx, f.src, p.ref, maxListed)
		if err != nil {
			return err
		}
		l.at, l.rest = p.ref, plain[p.skip:]
		return nil
	}
	return fmt.Errorf("%w: nothing at %d of %d", ErrCorrupt, l.pos, l.end)
}

// decode takes the next entry out of the chunk.
func (l *list) decode() error {
	b := l.rest
	if len(b) < 4 || int64(binary.BigEndian.Uint32(b)) > int64(len(b)-4) {
		return fmt.Errorf("%w: a list that ends in an entry", ErrCorrupt)
	}
	n := int(binary.BigEndian.Uint32(b))
	e, err := decodeEntry(b[4 : 4+n])
	if err == nil {
		err = e.resolve(l.at)
	}
	if err != nil {
		return err
	}
	if e.Name <= l.last {
		return fmt.Errorf("%w: %q after %q", ErrCorrupt, e.Name, l.last)
	}
	if e.inventory != (pack.Ref{}) {
		return fmt.Errorf("%w: %q has an inventory and is no root", ErrCorrupt, e.Name)
	}
	if files, bytes := e.counts(); files > l.dir.entry.Files-l.files || bytes > l.dir.entry.Bytes-l.bytes {
		return fmt.Errorf("%w: it lists more than it says", ErrCorrupt)
	}
	l.ahead, l.size = &File{src: l.dir.src, root: l.at, entry: *e}, 4+n
	return nil
}

// held is how many bytes of memory it has of what it has read, more or less.
func (l *list) held() int {
	n := 0
	if l.rest != nil && len(l.dir.entry.parts) > 0 {
		n = int(l.at.Size)
	}
	l.dir.mu.Lock()
	defer l.dir.mu.Unlock()
	for _, o := range l.dir.nodes {
		n += len(o.parts) * recordLen(1)
	}
	return n
}

// let lets go of what it has read.
func (l *list) let() {
	l.rest, l.ahead = nil, nil
	l.dir.mu.Lock()
	defer l.dir.mu.Unlock()
	l.dir.nodes = nil
}

// descent is the lists of directories in one another that are open.
type descent struct {
	lists []*list // the innermost last
	left  int64   // directories that may come
	hold  int     // maxHeld; less in tests
}

func newDescent(dirs int64) descent { return descent{left: dirs, hold: maxHeld} }

// enter opens directories in the innermost.
func (d *descent) enter(lists ...*list) error {
	if d.left--; d.left < 0 {
		return fmt.Errorf("%w: there is no end of directories", ErrCorrupt)
	}
	held := 0
	for _, l := range slices.Backward(d.lists) {
		if held += l.held(); held > d.hold {
			l.let()
		}
	}
	d.lists = append(d.lists, lists...)
	return nil
}

// leave closes the n innermost.
func (d *descent) leave(n int) {
	k := len(d.lists) - n
	clear(d.lists[k:])
	d.lists = d.lists[:k]
}
