package volume

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/chunk"
	"github.com/p2pfs/p2pfs/pack"
)

const (
	// maxGap is how many bytes nobody wants are fetched to get the chunks on
	// both sides at one go.
	maxGap = 64 << 10
	// maxPieces is how many chunks are fetched at one go at most. Honest
	// packs have less than 128.
	maxPieces = 1024
	// maxRange is how many bytes are, half a pack: what is under way when a read
	// is interrupted has to be fetched again. Each end of a range costs a block
	// that is fetched twice.
	maxRange = 16 << 20
	// maxGroup is how many bytes paths and entries that come with them have at
	// most. Honest ones have a tenth.
	maxGroup = 4 << 20
	// batch is how many chunks ReadAt fetches at once.
	batch = 8
	// keptNodes is how many nodes a file keeps: of 8 GiB of content each, in
	// about 1 MiB.
	keptNodes = 4
)

// File is a file, or another entry of a tree, that can be read. Its methods may
// be called by several goroutines.
type File struct {
	src   Source
	root  pack.Ref // the chunk that the entry stands in
	entry Entry

	mu    sync.Mutex
	nodes []openNode // most recently used last
	chunk openChunk
}

type openNode struct {
	ref   pack.Ref
	parts []part
}

// openChunk is the last compressed chunk that ReadAt opened: it cannot be
// opened in part, and the next read is likely to want more of it.
type openChunk struct {
	ref   pack.Ref
	plain []byte
}

// OpenFile reads the entry of the file behind a link of kind [KindFile].
func OpenFile(ctx context.Context, src Source, link Link) (*File, error) {
	if link.Kind != KindFile {
		return nil, link.not(KindFile)
	}
	return OpenRoot(ctx, src, link)
}

// OpenRoot reads the entry behind a link of kind [KindFile] or [KindTree]: of a
// file or of a directory.
func OpenRoot(ctx context.Context, src Source, link Link) (*File, error) {
	if err := link.Usable(); err != nil {
		return nil, err
	}
	f, err := OpenEntry(ctx, src, link.Root)
	if err != nil {
		return nil, err
	}
	want := FileEntry
	if link.Kind == KindTree {
		want = DirEntry
	}
	if f.entry.Kind != want {
		return nil, fmt.Errorf("read entry: %w: the link to %s leads to something else", ErrCorrupt, link.Kind)
	}
	return f, nil
}

// OpenEntry reads the entry at ref, which stands there by itself.
func OpenEntry(ctx context.Context, src Source, ref pack.Ref) (*File, error) {
	plain, err := readChunk(ctx, src, ref, MaxEntry)
	if err != nil {
		return nil, fmt.Errorf("read entry: %w", err)
	}
	e, err := decodeEntry(plain)
	if err == nil {
		err = e.resolve(ref)
	}
	if err != nil {
		return nil, fmt.Errorf("read entry: %w", err)
	}
	return &File{src: src, root: ref, entry: *e}, nil
}

// Entry is what is known about the file.
func (f *File) Entry() Entry { return f.entry }

// Inventory is the ref of the file's inventory; false if it has none.
func (f *File) Inventory() (pack.Ref, bool) {
	return f.entry.inventory, f.entry.inventory != pack.Ref{}
}

// checkRef refuses a ref that no chunk of at most limit bytes has.
func checkRef(r pack.Ref, limit int) error {
	if err := r.Check(); err != nil {
		return err
	}
	if r.Size > uint64(min(limit, chunk.MaxSize)) || int(r.Len) > chunk.MaxSealed(int(r.Size)) {
		return fmt.Errorf("%w: a chunk of %d bytes in %d", ErrCorrupt, r.Size, r.Len)
	}
	return nil
}

// readChunk reads one chunk of at most limit bytes.
func readChunk(ctx context.Context, src Source, r pack.Ref, limit int) ([]byte, error) {
	if err := checkRef(r, limit); err != nil {
		return nil, err
	}
	rng, err := src.Open(ctx, r.Pack, int(r.Off), int(r.Len))
	if err != nil {
		return nil, err
	}
	defer rng.Close()
	p := piece{ref: r, n: int(r.Size)}
	return p.open(ctx, rng, nil)
}

// piece is a part of a chunk: its bytes [skip, skip+n).
type piece struct {
	ref     pack.Ref
	skip, n int
}

// raw reports whether the chunk is not compressed, so that parts of it open
// alone.
func (p piece) raw() bool { return int(p.ref.Len) == chunk.RawLen(int(p.ref.Size)) }

// extent is which bytes of the pack are needed.
func (p piece) extent() (off, n int) {
	if !p.raw() {
		return int(p.ref.Off), int(p.ref.Len)
	}
	off, n = chunk.Span(int(p.ref.Size), p.skip, p.n)
	return int(p.ref.Off) + off, n
}

// open appends the piece to dst. A chunk that is compressed is opened whole,
// into dst if that has the room, and its beginning dropped.
func (p piece) open(ctx context.Context, rng Range, dst []byte) ([]byte, error) {
	off, n := p.extent()
	sealed, err := rng.Bytes(ctx, off, n)
	if err != nil {
		return nil, err
	}
	if p.raw() {
		dst, err = chunk.OpenSpan(dst, &p.ref.Key, sealed, int(p.ref.Size), p.skip, p.n)
	} else {
		base := len(dst)
		dst, err = chunk.Open(dst, &p.ref.Key, sealed, int(p.ref.Size))
		if err == nil {
			copy(dst[base:], dst[base+p.skip:][:p.n])
			dst = dst[:base+p.n]
		}
	}
	if err != nil {
		return nil, fmt.Errorf("pack %s: chunk at %d: %w", p.ref.Pack.Short(), p.ref.Off, ErrCorrupt)
	}
	return dst, nil
}

// pieces gives, in order, the pieces that make the bytes [off, end), which
// must lie within the file. It ends after an error.
func (f *File) pieces(ctx context.Context, off, end int64) iter.Seq2[piece, error] {
	return func(yield func(piece, error) bool) {
		f.walk(ctx, f.entry.parts, f.entry.depth, 0, off, end, yield)
	}
}

// walk yields the pieces of parts, which begin at start of the file. It
// reports whether to go on.
func (f *File) walk(ctx context.Context, parts []part, level int, start, off, end int64, yield func(piece, error) bool) bool {
	for _, p := range parts {
		next := start + int64(p.under)
		if start >= end {
			break
		}
		switch {
		case next <= off:
		case level == 0:
			if err := checkRef(p.Ref, chunk.MaxSize); err != nil {
				yield(piece{}, err)
				return false
			}
			from, to := max(off, start), min(end, next)
			if !yield(piece{ref: p.Ref, skip: int(from - start), n: int(to - from)}, nil) {
				return false
			}
		default:
			sub, err := f.node(ctx, p, level-1)
			if err != nil {
				yield(piece{}, err)
				return false
			}
			if !f.walk(ctx, sub, level-1, start, off, end, yield) {
				return false
			}
		}
		start = next
	}
	return true
}

// node gives the parts of the node that p refers to.
func (f *File) node(ctx context.Context, p part, level int) ([]part, error) {
	f.mu.Lock()
	for i, n := range f.nodes {
		if n.ref == p.Ref {
			f.nodes = append(append(f.nodes[:i], f.nodes[i+1:]...), n)
			f.mu.Unlock()
			// The same node may be referred to again, with another sum.
			return n.parts, checkNode(n.parts, p)
		}
	}
	f.mu.Unlock()
	plain, err := readChunk(ctx, f.src, p.Ref, maxNode)
	if err != nil {
		return nil, fmt.Errorf("read refs: %w", err)
	}
	n, err := decodeNode(plain)
	if err != nil {
		return nil, fmt.Errorf("read refs: %w", err)
	}
	if n.level != level {
		return nil, fmt.Errorf("read refs: %w: level %d, want %d", ErrCorrupt, n.level, level)
	}
	if err := checkNode(n.parts, p); err != nil {
		return nil, err
	}
	if err := resolveParts(n.parts, p.Ref); err != nil {
		return nil, fmt.Errorf("read refs: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.nodes) >= keptNodes {
		f.nodes = append(f.nodes[:0], f.nodes[1:]...)
	}
	f.nodes = append(f.nodes, openNode{ref: p.Ref, parts: n.parts})
	return n.parts, nil
}

func checkNode(parts []part, p part) error {
	if err := checkSum(parts, p.under); err != nil {
		return fmt.Errorf("read refs: %w", err)
	}
	return nil
}

// ReadAt fills p with the bytes of the file at off. As with [io.ReaderAt],
// it gives fewer only with an error, [io.EOF] at the end of the file. Of what
// is not compressed it fetches no more than is needed.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %q: offset %d", f.entry.Name, off)
	}
	if off >= f.entry.Size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > f.entry.Size-off {
		p, eof = p[:f.entry.Size-off], io.EOF
	}
	if len(f.entry.parts) == 0 {
		return copy(p, f.entry.inline[off:]), eof
	}
	done := 0
	todo := make([]piece, 0, batch)
	for pc, err := range f.pieces(ctx, off, off+int64(len(p))) {
		if err != nil {
			return done, fmt.Errorf("read %q: %w", f.entry.Name, err)
		}
		if todo = append(todo, pc); len(todo) < batch {
			continue
		}
		n, err := f.readPieces(ctx, p[done:], todo)
		if done += n; err != nil {
			return done, fmt.Errorf("read %q: %w", f.entry.Name, err)
		}
		todo = todo[:0]
	}
	n, err := f.readPieces(ctx, p[done:], todo)
	if done += n; err != nil {
		return done, fmt.Errorf("read %q: %w", f.entry.Name, err)
	}
	return done, eof
}

// readPieces fetches pieces side by side and puts them into p.
func (f *File) readPieces(ctx context.Context, p []byte, pieces []piece) (int, error) {
	var ranges [batch]Range
	defer func() {
		for _, r := range ranges {
			if r != nil {
				r.Close()
			}
		}
	}()
	for i, pc := range pieces {
		if !pc.raw() && f.kept(pc.ref) != nil {
			continue
		}
		off, n := pc.extent()
		var err error
		if ranges[i], err = f.src.Open(ctx, pc.ref.Pack, off, n); err != nil {
			return 0, err
		}
	}
	done := 0
	for i, pc := range pieces {
		dst := p[done : done+pc.n : done+pc.n]
		if pc.raw() {
			if _, err := pc.open(ctx, ranges[i], dst[:0]); err != nil {
				return done, err
			}
		} else {
			plain, err := f.whole(ctx, pc.ref, ranges[i])
			if err != nil {
				return done, err
			}
			copy(dst, plain[pc.skip:])
		}
		done += pc.n
	}
	return done, nil
}

// kept gives the chunk if it was the last to be opened whole.
func (f *File) kept(ref pack.Ref) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.chunk.ref != ref {
		return nil
	}
	return f.chunk.plain
}

// whole opens a compressed chunk and keeps it. Rng may be nil if it was kept
// a while ago.
func (f *File) whole(ctx context.Context, ref pack.Ref, rng Range) ([]byte, error) {
	if plain := f.kept(ref); plain != nil {
		return plain, nil
	}
	var plain []byte
	var err error
	if rng == nil {
		plain, err = readChunk(ctx, f.src, ref, chunk.MaxSize)
	} else {
		plain, err = piece{ref: ref, n: int(ref.Size)}.open(ctx, rng, nil)
	}
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.chunk = openChunk{ref: ref, plain: plain}
	return plain, nil
}

// step is what comes next when something is written out: a piece to fetch, bytes
// that are there already, or a file that begins.
type step struct {
	piece
	fetch bool   // the piece
	plain []byte // else: bytes
	file  *File  // or: a file
	path  string // of the file, in its tree
	from  int64  // where its content begins, in bytes
}

// group is steps whose pieces are fetched at one go.
type group struct {
	id       pack.ID
	off, end int // bytes of the pack
	steps    []step
	fetched  int // pieces among them
	weight   int // bytes of memory of paths and entries
	rng      Range
	left     atomic.Int32 // pieces not opened yet
	close    func()       // closes rng and lets another group be fetched, once
}

// fits reports whether s can go along with g.
func (g *group) fits(s step) bool {
	if len(g.steps) >= maxPieces || g.weight >= maxGroup {
		return false
	}
	if !s.fetch || g.fetched == 0 {
		return true
	}
	off, n := s.extent()
	return s.ref.Pack == g.id && off >= g.end && off-g.end <= maxGap && off+n-g.off <= maxRange
}

func (g *group) add(s step) {
	if s.fetch {
		off, n := s.extent()
		if g.fetched == 0 {
			g.id, g.off = s.ref.Pack, off
		}
		g.end = off + n
		g.fetched++
	}
	if s.file != nil {
		g.weight += len(s.path) + s.file.entry.weight()
	}
	g.steps = append(g.steps, s)
}

// groups gives steps in groups.
func groups(steps iter.Seq2[step, error]) iter.Seq2[*group, error] {
	return func(yield func(*group, error) bool) {
		g := new(group)
		for s, err := range steps {
			if err != nil {
				yield(nil, err)
				return
			}
			if len(g.steps) > 0 && !g.fits(s) {
				if !yield(g, nil) {
					return
				}
				g = new(group)
			}
			g.add(s)
		}
		if len(g.steps) > 0 {
			yield(g, nil)
		}
	}
}

// steps gives the steps of the bytes [off, end).
func (f *File) steps(ctx context.Context, off, end int64) iter.Seq2[step, error] {
	return func(yield func(step, error) bool) {
		if len(f.entry.parts) == 0 {
			if off < end {
				yield(step{plain: f.entry.inline[off:end]}, nil)
			}
			return
		}
		for p, err := range f.pieces(ctx, off, end) {
			if !yield(step{piece: p, fetch: err == nil}, err) {
				return
			}
		}
	}
}

// opening is a step on its way to be written.
type opening struct {
	step
	group *group
	buf   []byte
	done  chan struct{} // has one element when buf is set
}

// WriteTo writes n bytes of the file from off on to w, in order and in large
// pieces; a negative n stands for all to the end. It fetches up to ahead ranges of
// packs beyond the one that it is writing, and opens chunks in parallel. It gives the
// number of bytes written, all of which were verified.
func (f *File) WriteTo(ctx context.Context, w io.Writer, off, n int64, ahead int) (int64, error) {
	if off < 0 || off > f.entry.Size {
		return 0, fmt.Errorf("read %q: offset %d is beyond its end at %d", f.entry.Name, off, f.entry.Size)
	}
	end := f.entry.Size
	if n >= 0 && n < end-off {
		end = off + n
	}
	if len(f.entry.parts) == 0 {
		k, err := w.Write(f.entry.inline[off:end])
		return int64(k), err
	}
	done := int64(0)
	steps := func(ctx context.Context) iter.Seq2[step, error] { return f.steps(ctx, off, end) }
	err := emit(ctx, f.src, steps, max(ahead, 0), func(_ step, b []byte) error {
		k, err := w.Write(b)
		done += int64(k)
		return err
	})
	if err != nil {
		return done, fmt.Errorf("read %q: %w", f.entry.Name, err)
	}
	return done, nil
}

// emit gives out one step after the other, with the bytes that are of it. It
// fetches up to ahead groups beyond the one that it is giving out, and opens
// chunks in parallel. Steps are made in a goroutine of their own, up to some
// thousand before they are given out.
func emit(ctx context.Context, src Source, steps func(context.Context) iter.Seq2[step, error], ahead int, out func(s step, b []byte) error) error {
	eg, ctx := errgroup.WithContext(ctx)
	slots := make(chan struct{}, 1+ahead) // has an element for each group being fetched
	free := make(chan *opening, lookAhead)
	for range lookAhead {
		free <- &opening{done: make(chan struct{}, 1)}
	}
	// None of these ever has more elements than there are in all: sends do
	// not block.
	fetched := make(chan *group, 1+ahead)
	todo, order := make(chan *opening, lookAhead), make(chan *opening, lookAhead)

	var fetching []*group // may not be closed yet
	eg.Go(func() error {  // begins to fetch
		defer close(fetched)
		for g, err := range groups(steps(ctx)) {
			if err != nil {
				return err
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if g.fetched > 0 {
				if g.rng, err = src.Open(ctx, g.id, g.off, g.end-g.off); err != nil {
					return err
				}
			}
			g.close = sync.OnceFunc(func() {
				if g.rng != nil {
					g.rng.Close()
				}
				<-slots
			})
			g.left.Store(int32(g.fetched))
			fetching = append(slices.DeleteFunc(fetching, func(g *group) bool { return g.left.Load() == 0 }), g)
			fetched <- g
		}
		return nil
	})
	eg.Go(func() error { // hands out work
		defer close(todo)
		defer close(order)
		for g := range fetched {
			for _, s := range g.steps {
				select {
				case o := <-free:
					o.step, o.group = s, g
					if s.fetch {
						todo <- o
					} else {
						o.done <- struct{}{}
					}
					order <- o
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			if g.fetched == 0 {
				g.close()
			}
		}
		return nil
	})
	for range workers {
		eg.Go(func() error {
			for o := range todo {
				var err error
				if o.buf, err = o.open(ctx, o.group.rng, o.buf[:0]); err != nil {
					return err
				}
				if o.group.left.Add(-1) == 0 {
					o.group.close()
				}
				o.done <- struct{}{}
			}
			return nil
		})
	}
	eg.Go(func() error { // writes
		for o := range order {
			select {
			case <-o.done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			b := o.plain
			if o.fetch {
				b = o.buf
			}
			if err := out(o.step, b); err != nil {
				return err
			}
			free <- o
		}
		return nil
	})
	err := eg.Wait()
	for _, g := range fetching {
		g.close()
	}
	return err
}
