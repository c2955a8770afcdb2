package volume

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2/simplelru"

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

	chunk *listChunk // that pos is in; nil: not read
	at    int        // of what comes next, in chunk
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
	l.pos += int64(l.chunk.ends[l.at] - l.chunk.begin(l.at))
	l.at++
	return f, nil
}

// peek gives what next will give.
func (l *list) peek(ctx context.Context) (*File, error) {
	f, err := l.look(ctx)
	if err != nil {
		return nil, fmt.Errorf("list %q: %w", l.dir.entry.Name, err)
	}
	return f, nil
}

func (l *list) look(ctx context.Context) (*File, error) {
	if l.chunk == nil || l.at == len(l.chunk.entries) {
		switch {
		case l.pos < l.end:
			if err := l.fill(ctx); err != nil {
				return nil, err
			}
		case !l.some && (l.files != l.dir.entry.Files || l.bytes != l.dir.entry.Bytes):
			return nil, fmt.Errorf("%w: it lists %d files with %d bytes, and says %d with %d", ErrCorrupt, l.files, l.bytes, l.dir.entry.Files, l.dir.entry.Bytes)
		default:
			return nil, nil
		}
	}
	e := &l.chunk.entries[l.at]
	if e.Name <= l.last {
		return nil, fmt.Errorf("%w: %q after %q", ErrCorrupt, e.Name, l.last)
	}
	if e.inventory != (pack.Ref{}) {
		return nil, fmt.Errorf("%w: %q has an inventory and is no root", ErrCorrupt, e.Name)
	}
	if files, bytes := e.counts(); files > l.dir.entry.Files-l.files || bytes > l.dir.entry.Bytes-l.bytes {
		return nil, fmt.Errorf("%w: it lists more than it says", ErrCorrupt)
	}
	return &File{src: l.dir.src, root: l.chunk.ref, entry: *e}, nil
}

// fill reads the chunk that pos is in.
func (l *list) fill(ctx context.Context) (err error) {
	f := l.dir
	if len(f.entry.parts) == 0 {
		if l.chunk, err = decodeList(f.root, f.entry.inline); err != nil {
			return err
		}
		return l.seek(int(l.pos))
	}
	for p, err := range f.pieces(ctx, l.pos, l.pos+1) {
		if err != nil {
			return err
		}
		if l.chunk, err = readList(ctx, f.src, p.ref); err != nil {
			return err
		}
		return l.seek(p.skip)
	}
	return fmt.Errorf("%w: nothing at %d of %d", ErrCorrupt, l.pos, l.end)
}

// seek goes to the entry that begins at an offset of the chunk.
func (l *list) seek(off int) error {
	l.at = 0
	if off > 0 {
		i, ok := slices.BinarySearch(l.chunk.ends, off)
		if l.at = i + 1; !ok {
			return fmt.Errorf("%w: no entry begins at %d", ErrCorrupt, off)
		}
	}
	if l.at == len(l.chunk.entries) {
		return fmt.Errorf("%w: nothing at %d of %d", ErrCorrupt, l.pos, l.end)
	}
	return nil
}

// held is how many bytes of memory it has of what it has read, more or less.
func (l *list) held() int {
	n := 0
	if l.chunk != nil {
		n = l.chunk.weight
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
	l.chunk = nil
	l.dir.mu.Lock()
	defer l.dir.mu.Unlock()
	l.dir.nodes = nil
}

// listChunk is a chunk of a list as it was read. Nobody changes it.
type listChunk struct {
	ref     pack.Ref // where it is
	entries []Entry
	ends    []int // where each entry ends
	weight  int   // bytes of memory, more or less
}

func (c *listChunk) begin(i int) int {
	if i == 0 {
		return 0
	}
	return c.ends[i-1]
}

// decodeList reads a chunk of a list, which is at ref.
func decodeList(ref pack.Ref, b []byte) (*listChunk, error) {
	c := &listChunk{ref: ref}
	for off := 0; off < len(b); {
		rest := b[off:]
		if len(rest) < 4 || int64(binary.BigEndian.Uint32(rest)) > int64(len(rest)-4) {
			return nil, fmt.Errorf("%w: a list that ends in an entry", ErrCorrupt)
		}
		n := 4 + int(binary.BigEndian.Uint32(rest))
		e, err := decodeEntry(rest[4:n])
		if err == nil {
			err = e.resolve(ref)
		}
		if err != nil {
			return nil, err
		}
		off += n
		c.entries, c.ends = append(c.entries, *e), append(c.ends, off)
		c.weight += e.weight()
	}
	return c, nil
}

// readList reads the chunk of a list at ref, or takes it from what the source
// remembers.
func readList(ctx context.Context, src Source, ref pack.Ref) (*listChunk, error) {
	lists := ListsOf(src)
	if c := lists.get(ref); c != nil {
		return c, nil
	}
	plain, err := readChunk(ctx, src, ref, maxListed)
	if err != nil {
		return nil, err
	}
	c, err := decodeList(ref, plain)
	if err == nil {
		lists.add(c)
	}
	return c, err
}

// Lists remembers chunks of lists of directories that were read lately, so that
// what is listed twice is fetched and decoded once. A [Source] whose method Lists
// gives one is read through it. Its methods may be called by several
// goroutines; nil remembers nothing.
type Lists struct {
	mu     sync.Mutex
	chunks *lru.LRU[pack.Ref, *listChunk]
	held   int
	most   int
}

// NewLists makes one that takes so many bytes of memory, more or less.
func NewLists(most int) *Lists {
	l := &Lists{most: most}
	// A chunk is counted by what it takes: their number is no bound.
	l.chunks, _ = lru.NewLRU(math.MaxInt, func(_ pack.Ref, c *listChunk) { l.held -= c.weight })
	return l
}

// ListsOf gives what a source remembers of lists; nil: nothing.
func ListsOf(src Source) *Lists {
	if s, ok := src.(interface{ Lists() *Lists }); ok {
		return s.Lists()
	}
	return nil
}

func (l *Lists) get(ref pack.Ref) *listChunk {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c, _ := l.chunks.Get(ref)
	return c
}

// add remembers a chunk in the place of what was there.
func (l *Lists) add(c *listChunk) {
	if l == nil || c.weight > l.most {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.chunks.Remove(c.ref)
	l.chunks.Add(c.ref, c)
	for l.held += c.weight; l.held > l.most; {
		l.chunks.RemoveOldest()
	}
}

// decodedWeight is how many bytes of memory a byte of a list takes when it is
// decoded, more or less.
const decodedWeight = 8

// written are chunks of lists in the metadata pack being filled.
type written struct {
	lists  *Lists // nil: nobody wants to know
	refs   []pack.Ref
	plain  [][]byte
	weight int
}

// add notes a chunk, of which ref has no pack yet.
func (w *written) add(ref pack.Ref, plain []byte) {
	weight := len(plain) * decodedWeight
	if w.lists == nil || w.weight+weight > w.lists.most {
		return
	}
	w.refs, w.plain, w.weight = append(w.refs, ref), append(w.plain, plain), w.weight+weight
}

// named is told which pack they are in, which is on its way: there is time to
// read them as they will be read.
func (w *written) named(id pack.ID) error {
	for i, ref := range w.refs {
		ref.Pack = id
		c, err := decodeList(ref, w.plain[i])
		if err != nil {
			return fmt.Errorf("read what was written: %w", err)
		}
		w.lists.add(c)
	}
	w.refs, w.plain, w.weight = nil, nil, 0
	return nil
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
