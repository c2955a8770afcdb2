package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/chunk"
	"github.com/p2pfs/p2pfs/pack"
)

const (
	// workers is how many chunks are sealed, or opened, at once. Coding,
	// hashing and the transport want cores too.
	workers = 2
	// lookAhead is how many chunks are under way at once, each with two
	// buffers of at most chunk.MaxSize and a bit.
	lookAhead = 4
	// maxPending is how many refs wait for the ID of the pack being filled.
	// Only duplicates, which do not fill it, come near.
	maxPending = 16 << 10
	// maxKnown is how many chunks of a file are remembered to find
	// duplicates: 5 MiB of memory, and 64 GiB of content.
	maxKnown = 64 << 10
	// ownBuffers is how many packs WriteFile fills or has under way at once
	// if the caller has no opinion.
	ownBuffers = 3
)

// Info is what is known about a file before it is read.
type Info struct {
	Name  string
	Mode  uint32 // permission bits, setuid (04000), setgid (02000) and sticky (01000)
	MTime time.Time
	Size  int64 // in bytes; -1: not known
}

// Options are what callers of WriteFile may want otherwise.
type Options struct {
	// PackBytes is the greatest length of a pack before padding; 0, or too
	// much, stands for pack.MaxLen, and too little for the longest chunk.
	PackBytes int
	// Buffers are for the content of packs; nil: three of its own.
	Buffers *Buffers
	// Parent is the root of an earlier tree of the same volume, whose chunks are
	// not stored again; nil: there is none.
	Parent *File
	// Index finds chunks that the volume has already, which are not stored
	// again; nil: there is none.
	Index Index
	// Lists is to remember the lists of directories that are written; nil: nothing is.
	Lists *Lists
	// Avoid are packs in which nothing is to stay of what is written anew.
	Avoid map[pack.ID]bool
	// Part says that what is written is to be part of a volume, whose [WriteVolume]
	// gives it a root: it has none then, and may have no pack at all.
	Part bool
	// Kept is called with each pack that is needed and was there before; nil:
	// nobody wants to know. WriteTree gives them in the end too.
	Kept func(pack.ID)
	// Progress is called now and then with the number of bytes of content
	// that are in packs so far, from one goroutine.
	Progress func(done int64)
}

// Index knows chunks of content that are in packs of the volume. Its methods are
// called by one goroutine at a time.
type Index interface {
	// Find gives where the chunk with a key is.
	Find(ctx context.Context, key chunk.Key) (pack.Ref, bool)

	// Add is told where chunks are, in a pack that is being stored.
	Add(refs []pack.Ref)
}

// Buffers is a fixed number of pack buffers, which bounds how many packs are
// being filled or stored at a time. Its methods may be called by several
// goroutines, and it may be shared by several files.
type Buffers struct{ free chan []byte }

// NewBuffers makes n buffers, n > 0. Their memory is taken when they are first
// used.
func NewBuffers(n int) *Buffers {
	b := &Buffers{free: make(chan []byte, n)}
	for range n {
		b.free <- nil
	}
	return b
}

// get waits for a buffer, of at least size bytes.
func (b *Buffers) get(ctx context.Context, size int) ([]byte, error) {
	select {
	case buf := <-b.free:
		if cap(buf) < size {
			buf = make([]byte, 0, size)
		}
		return buf, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (b *Buffers) put(buf []byte) { b.free <- buf[:0] }

// WriteFile stores what r gives as a file. It returns when all packs are
// durable: the ref of its entry, which is what a link needs, the entry, and
// the IDs of all packs, that of the entry last.
//
// Content is cut, sealed and put into data packs; what is needed to find it
// again into metadata packs. The same content, keys and info give the same
// packs, so that what was interrupted is found again. If r gives another number
// of bytes than info.Size, the error wraps [ErrChanged]. Where WriteFile fails,
// packs may have been stored that nothing refers to. With opt.Part root is zero.
func WriteFile(ctx context.Context, sink Sink, keys *Keys, info Info, r io.Reader, opt Options) (root pack.Ref, entry Entry, packs []pack.ID, err error) {
	w := newWriter(sink, keys, info, opt)
	defer w.close()
	if err := w.file(ctx, info, r); err != nil {
		return pack.Ref{}, Entry{}, nil, fmt.Errorf("write %q: %w", info.Name, err)
	}
	return w.root, w.entry, w.packs, nil
}

// writer is one WriteFile or WriteTree.
type writer struct {
	sink  Sink
	keys  *Keys
	opt   Options
	limit int // bytes of a pack before padding
	hint  int // bytes to make room for at first

	nodeRefs, entryRefs int // maxNodeRefs, maxEntryRefs; fewer in tests
	minList, maxList    int // minList, maxList; less in tests

	data  builder
	known map[chunk.Key]place // chunks of this file or tree
	meta  builder
	packs []pack.ID // finished, in order
	done  int64     // bytes of content so far

	failed error // of a pack that is lost: nothing that was to be in it can be referred to

	small    sealing          // the buffers of readSmall
	*reading                  // under way
	dirs     []*dir           // of a tree: those that are open, the root first
	waits    int              // entries in their queues
	drained  int              // packs that were finished when those were looked through last
	kept     map[pack.ID]bool // packs that were there before and are needed
	lists    written
	fresh    []pack.Ref // chunks in the data pack being filled, for the index

	commit                    *Commit          // of a volume; nil: a file or tree on its own
	living                    map[pack.ID]bool // packs that the volume had and that are not dying
	roots                     []*pack.Ref      // of past states in the metadata pack being filled
	history, dying, inventory pack.Ref
	links                     []pack.Ref

	root  pack.Ref
	entry Entry
}

// reading is what is known of the content of one file until it stands in the
// file's entry.
type reading struct {
	size      int64 // so far
	maxInline int
	inline    []byte
	former    map[chunk.Key]pack.Ref // chunks that the parent has of the file
	pending   []place                // whose refs are not in levels yet, in order
	levels    levels
}

// levels are refs that are not in nodes yet, by level; zero packs stand for
// that of the metadata pack being filled.
type levels [maxDepth + 1][]part

// named gives refs to the metadata pack that has just been finished its ID.
func (l *levels) named(id pack.ID) {
	for _, parts := range l {
		nameParts(parts, id)
	}
}

func nameParts(parts []part, id pack.ID) {
	for i := range parts {
		if parts[i].Pack.IsZero() {
			parts[i].Pack = id
		}
	}
}

// place is where a chunk is; the pack of ref is not set, for it may not be
// known yet.
type place struct {
	ref  pack.Ref
	pack *pack.ID
}

// builder is a pack being filled, if id is set.
type builder struct {
	pack.Builder

	buffers *Buffers
	buf     []byte
	id      *pack.ID // set when the pack is finished
}

func newWriter(sink Sink, keys *Keys, info Info, opt Options) *writer {
	w := &writer{
		sink: sink, keys: keys, opt: opt, limit: opt.PackBytes,
		nodeRefs: maxNodeRefs, entryRefs: maxEntryRefs, minList: minList, maxList: maxList,
		known: make(map[chunk.Key]place), reading: &reading{maxInline: MaxInline}, lists: written{lists: opt.Lists},
	}
	if w.limit <= 0 || w.limit > pack.MaxLen {
		w.limit = pack.MaxLen
	}
	w.limit = max(w.limit, chunk.MaxSealed(chunk.MaxSize))
	w.hint = pack.Padme(w.limit)
	if info.Size >= 0 && info.Size < int64(w.limit)/2 {
		w.hint = pack.Padme(chunk.MaxSealed(int(info.Size)) + chunk.FrameSize)
	}
	w.data.buffers = opt.Buffers
	if w.data.buffers == nil {
		w.data.buffers = NewBuffers(ownBuffers)
	}
	// Metadata comes rarely: two small buffers that grow.
	w.meta.buffers = NewBuffers(2)
	return w
}

// close gives back what a failure left.
func (w *writer) close() {
	for _, b := range []*builder{&w.data, &w.meta} {
		if b.id != nil {
			b.buffers.put(b.buf)
			b.id = nil
		}
	}
}

func (w *writer) file(ctx context.Context, info Info, r io.Reader) error {
	w.entry = Entry{Kind: FileEntry, Name: info.Name, Mode: info.Mode, UID: NoOwner, GID: NoOwner, MTime: info.MTime}
	if err := w.entry.check(); err != nil { // before much is stored for nothing
		return err
	}
	if err := w.read(ctx, info.Size, r); err != nil {
		return err
	}
	if err := w.finishData(ctx); err != nil {
		return err
	}
	if err := w.settle(ctx, w.reading, &w.entry); err != nil {
		return err
	}
	if err := w.finishRoot(ctx); err != nil {
		return err
	}
	return w.sink.Wait(ctx)
}

// finishPart finishes what has no root.
func (w *writer) finishPart(ctx context.Context) error {
	if w.meta.id != nil {
		if err := w.finishMeta(ctx); err != nil {
			return err
		}
	}
	for _, id := range w.packs { // content that was there before, all of a pack of it
		delete(w.kept, id)
	}
	w.entry.parts = slices.Clone(w.entry.parts)
	return w.entry.bake() // with the packs of refs, which are all known now
}

// settle makes what was read of a file its entry's, all of whose packs are
// finished.
func (w *writer) settle(ctx context.Context, c *reading, e *Entry) (err error) {
	if err := w.pushPending(ctx, c); err != nil {
		return err
	}
	e.Size, e.inline = c.size, c.inline
	e.depth, e.parts, err = w.collapse(ctx, &c.levels)
	return err
}

// sealing is a chunk on its way through read.
type sealing struct {
	plain, sealed []byte
	key           chunk.Key
	done          chan struct{} // has one element when sealed and key are set
}

var splitters = sync.Pool{New: func() any { return chunk.NewSplitter(strings.NewReader("")) }}

// read reads all of r, which must give size bytes, unless that is negative.
func (w *writer) read(ctx context.Context, size int64, r io.Reader) error {
	var err error
	if size < 0 || size >= chunk.MinSize {
		err = w.readLarge(ctx, size, r)
	} else {
		err = w.readSmall(ctx, int(size), r)
	}
	if err == nil && size >= 0 && w.size != size {
		return fmt.Errorf("%w: it has %d bytes, %d were expected", ErrChanged, w.size, size)
	}
	return err
}

// readSmall reads what is one chunk.
func (w *writer) readSmall(ctx context.Context, size int, r io.Reader) error {
	if w.small.plain == nil {
		w.small.plain = make([]byte, chunk.MinSize)
	}
	n, err := io.ReadFull(r, w.small.plain[:size+1])
	if err != io.EOF && err != io.ErrUnexpectedEOF {
		if err != nil {
			return err
		}
		return errMore(size)
	}
	if n == 0 {
		return nil
	}
	s := sealing{plain: w.small.plain[:n]}
	if n > w.maxInline {
		s.sealed, s.key = chunk.Seal(w.small.sealed[:0], &w.keys.Convergence, s.plain)
		w.small.sealed = s.sealed
	}
	return w.add(ctx, &s)
}

func errMore[N int | int64](size N) error {
	return fmt.Errorf("%w: it has more than the %d bytes that were expected", ErrChanged, size)
}

// readLarge reads all of r: one goroutine cuts, some seal, and one puts the
// chunks into packs in their order. It stops where r gives more than size
// bytes, unless that is negative.
//
// Packs are stored under the context of all, not that of this file: a file that
// fails must not take a pack with it that others are in.
func (w *writer) readLarge(all context.Context, size int64, r io.Reader) error {
	g, ctx := errgroup.WithContext(all)
	free := make(chan *sealing, lookAhead)
	for range lookAhead {
		free <- &sealing{done: make(chan struct{}, 1)}
	}
	// Neither ever has more elements than there are in all: sends do not block.
	todo, order := make(chan *sealing, lookAhead), make(chan *sealing, lookAhead)
	g.Go(func() error {
		defer close(todo)
		defer close(order)
		split := splitters.Get().(*chunk.Splitter)
		split.Reset(r)
		defer func() {
			split.Reset(strings.NewReader(""))
			splitters.Put(split)
		}()
		var total int64
		for {
			plain, err := split.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if total += int64(len(plain)); size >= 0 && total > size {
				return errMore(size)
			}
			select {
			case s := <-free:
				s.plain = append(s.plain[:0], plain...)
				todo <- s
				order <- s
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	})
	for range workers {
		g.Go(func() error {
			for s := range todo {
				s.sealed, s.key = chunk.Seal(s.sealed[:0], &w.keys.Convergence, s.plain)
				s.done <- struct{}{}
			}
			return nil
		})
	}
	g.Go(func() error {
		for s := range order {
			<-s.done
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := w.add(all, s); err != nil {
				return err
			}
			free <- s
		}
		return nil
	})
	return g.Wait()
}

// add puts the next chunk of content where it belongs.
func (w *writer) add(ctx context.Context, s *sealing) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	first := w.size == 0
	w.size += int64(len(s.plain))
	w.done += int64(len(s.plain))
	if w.opt.Progress != nil {
		defer func() { w.opt.Progress(w.done) }()
	}
	if first && len(s.plain) <= w.maxInline { // shorter than chunk.MinSize: nothing follows
		w.inline = append([]byte(nil), s.plain...)
		return nil
	}
	p, ok := w.known[s.key]
	if !ok {
		ref, had := w.former[s.key]
		had = had && w.stays(ref.Pack)
		if !had && w.opt.Index != nil {
			ref, had = w.opt.Index.Find(ctx, s.key)
			had = had && ref.Size == uint64(len(s.plain)) && int(ref.Len) == len(s.sealed)
		}
		if had {
			w.keep(ref.Pack)
			p, ok = place{ref: ref, pack: &ref.Pack}, true
		}
	}
	if !ok {
		if w.data.id != nil && w.data.Room() < len(s.sealed) {
			if err := w.finishData(ctx); err != nil {
				return err
			}
		}
		if err := w.data.begin(ctx, w.hint, w.limit); err != nil {
			return err
		}
		p = place{pack: w.data.id, ref: pack.Ref{
			Off:  uint32(w.data.Append(s.sealed)),
			Len:  uint32(len(s.sealed)),
			Size: uint64(len(s.plain)),
			Key:  s.key,
		}}
		if len(w.known) < maxKnown {
			w.known[s.key] = p
		}
		if w.opt.Index != nil {
			w.fresh = append(w.fresh, p.ref)
		}
	}
	w.pending = append(w.pending, p)
	if len(w.pending) >= maxPending {
		return w.finishData(ctx)
	}
	return nil
}

// begin makes sure that there is a pack being filled.
func (b *builder) begin(ctx context.Context, size, limit int) error {
	if b.id != nil {
		return nil
	}
	buf, err := b.buffers.get(ctx, size)
	if err != nil {
		return err
	}
	b.buf, b.id = buf, new(pack.ID)
	b.Reset(buf, limit)
	return nil
}

// finish stores the pack being filled and gives its ID.
func (w *writer) finish(ctx context.Context, b *builder, meta bool) (pack.ID, error) {
	data := b.Finish()
	b.buf = data // it may have grown
	release := sync.OnceFunc(func() { b.buffers.put(data) })
	id, err := w.sink.PutPack(ctx, data, meta, release)
	if err != nil {
		release()
		b.id = nil
		w.failed = err
		return id, err
	}
	*b.id = id
	b.id = nil
	w.packs = append(w.packs, id)
	if meta {
		return id, w.lists.named(id)
	}
	return id, nil
}

// finishData stores the data pack being filled, if any, whereupon all pending
// refs are known.
func (w *writer) finishData(ctx context.Context) error {
	if w.data.id != nil {
		id, err := w.finish(ctx, &w.data, false)
		if err != nil {
			return err
		}
		if w.opt.Index != nil {
			for i := range w.fresh {
				w.fresh[i].Pack = id
			}
			w.opt.Index.Add(w.fresh)
			w.fresh = w.fresh[:0]
		}
	}
	return w.pushPending(ctx, w.reading)
}

// pushPending takes the refs of content whose packs are all finished into its
// levels.
func (w *writer) pushPending(ctx context.Context, c *reading) error {
	for _, p := range c.pending {
		p.ref.Pack = *p.pack
		if err := w.push(ctx, &c.levels, 0, part{Ref: p.ref, under: p.ref.Size}); err != nil {
			return err
		}
	}
	c.pending = c.pending[:0]
	return nil
}

// push adds a part to its level, and as soon as the level fills a node, that
// to the level above.
func (w *writer) push(ctx context.Context, l *levels, level int, p part) error {
	l[level] = append(l[level], p)
	if len(l[level]) < w.nodeRefs {
		return nil
	}
	return w.putNode(ctx, l, level)
}

// putNode makes a node of all parts of a level.
func (w *writer) putNode(ctx context.Context, l *levels, level int) error {
	if level >= maxDepth {
		return ErrTooLarge
	}
	n := node{level: level, parts: l[level]}
	// Room first: if the pack has to be finished, refs to it change.
	if err := w.reserve(ctx, chunk.MaxSealed(nodeHeader+len(n.parts)*recordLen(level))); err != nil {
		return err
	}
	p := part{Ref: w.putMeta(n.encode())}
	for _, sub := range n.parts {
		p.under += sub.under
	}
	l[level] = n.parts[:0]
	return w.push(ctx, l, level+1, p)
}

// collapse puts what is left of the levels into nodes, until it fits an entry,
// and gives what stands there. The refs are those of l: who keeps the parts has
// them named when the metadata pack is finished.
func (w *writer) collapse(ctx context.Context, l *levels) (depth int, parts []part, err error) {
	for level := range l {
		top := true
		for _, above := range l[level+1:] {
			top = top && len(above) == 0
		}
		parts := l[level]
		if top && len(parts) <= w.entryRefs {
			if len(parts) == 0 {
				return 0, nil, nil
			}
			return level, parts, nil
		}
		if len(parts) > 0 {
			if err := w.putNode(ctx, l, level); err != nil {
				return 0, nil, err
			}
		}
	}
	return 0, nil, ErrTooLarge
}

// reserve makes room for n bytes in the metadata pack, finishing the one being
// filled where that has not enough.
func (w *writer) reserve(ctx context.Context, n int) error {
	if n > w.limit {
		return ErrTooLarge
	}
	if w.meta.id != nil && w.meta.Room() < n {
		if err := w.finishMeta(ctx); err != nil {
			return err
		}
	}
	return w.meta.begin(ctx, 0, w.limit)
}

// putMeta adds a chunk to the metadata pack. The pack of the ref is zero.
func (w *writer) putMeta(plain []byte) pack.Ref { return w.putNew(plain, nil) }

// putEntry is putMeta of an entry, all refs of which are known.
func (w *writer) putEntry(e *Entry) (pack.Ref, error) {
	if err := e.bake(); err != nil {
		return pack.Ref{}, err
	}
	b, err := e.encode()
	if err != nil {
		return pack.Ref{}, err
	}
	return w.putMeta(b), nil
}

// stays tells whether what is in a pack that was there before can be referred to:
// not where the volume has not got it, or will not keep it.
func (w *writer) stays(id pack.ID) bool {
	return !w.opt.Avoid[id] && (w.commit == nil || w.living[id])
}

// putNew is putMeta unless the chunk is one of those that were there before.
func (w *writer) putNew(plain []byte, before map[chunk.Key]pack.Ref) pack.Ref {
	sealed, key := chunk.Seal(nil, &w.keys.Convergence, plain)
	if ref, ok := before[key]; ok && w.stays(ref.Pack) {
		w.keep(ref.Pack)
		return ref
	}
	return pack.Ref{Off: uint32(w.meta.Append(sealed)), Len: uint32(len(sealed)), Size: uint64(len(plain)), Key: key}
}

// finishMeta stores the metadata pack being filled; refs to it that are not
// written yet get its ID.
func (w *writer) finishMeta(ctx context.Context) error {
	id, err := w.finish(ctx, &w.meta, true)
	if err != nil {
		return err
	}
	w.levels.named(id)
	for _, d := range w.dirs {
		d.named(id)
	}
	w.entry.named(id)
	for _, r := range w.roots {
		r.Pack = id
	}
	w.roots = w.roots[:0]
	return nil
}

// finishRoot writes inventory and entry, which stand in the same pack, the
// last one.
func (w *writer) finishRoot(ctx context.Context) error {
	if w.opt.Part {
		return w.finishPart(ctx)
	}
	if w.commit != nil {
		if err := w.finishVolume(ctx); err != nil {
			return err
		}
		return w.finishEntry(ctx)
	}
	// The inventory lists all packs but the one it is in: so it has to be
	// known which that is before it is written.
	if err := w.reserve(ctx, roomForRoot(len(w.packs)+len(w.kept)+2)); err != nil {
		return err
	}
	for _, id := range w.packs { // content that was there before, all of a pack of it
		delete(w.kept, id)
	}
	w.entry.inventory = w.putInventory(w.allPacks())
	return w.finishEntry(ctx)
}

// finishEntry writes the entry of the root, for which there is room in the pack
// being filled, and finishes that.
func (w *writer) finishEntry(ctx context.Context) error {
	var err error
	if w.root, err = w.putEntry(&w.entry); err != nil {
		return err
	}
	w.root.Pack, err = w.finish(ctx, &w.meta, true)
	if err != nil {
		return err
	}
	w.entry.parts = slices.Clone(w.entry.parts)
	return w.entry.resolve(w.root)
}

// allPacks gives all packs that are needed, but for the one being filled.
func (w *writer) allPacks() []pack.ID {
	return slices.AppendSeq(slices.Clone(w.packs), maps.Keys(w.kept))
}

// roomForRoot is how many bytes of a pack it takes at most to write an entry with
// the inventory of so many packs.
func roomForRoot(packs int) int {
	return chunk.MaxSealed(MaxEntry) + packs*33 + (packs/pack.MaxInventoryIDs+2)*256
}

// putInventory writes the inventory of packs.
func (w *writer) putInventory(ids []pack.ID) pack.Ref {
	invs := pack.NewInventory(ids)
	for depth := 1; ; depth++ {
		refs := make([]pack.Ref, len(invs))
		for i, v := range invs {
			refs[i] = w.putMeta(v.Encode())
		}
		if len(refs) == 1 {
			return refs[0]
		}
		invs = invs[:0]
		for len(refs) > 0 {
			k := min(len(refs), pack.MaxInventoryRefs)
			invs = append(invs, pack.Inventory{Depth: depth, Refs: refs[:k]})
			refs = refs[k:]
		}
	}
}

// resolve makes the refs of an entry, which is at root, good outside of its
// pack.
func (e *Entry) resolve(root pack.Ref) error {
	if err := resolveParts(e.parts, root); err != nil {
		return err
	}
	if e.inventory == (pack.Ref{}) {
		return nil
	}
	var err error
	e.inventory, err = e.inventory.In(root.Pack, root.Off)
	return err
}

// resolveParts makes the refs that stand in the chunk at good outside of
// its pack.
func resolveParts(parts []part, at pack.Ref) error {
	for i := range parts {
		r, err := parts[i].In(at.Pack, at.Off)
		if err != nil {
			return err
		}
		parts[i].Ref = r
	}
	return nil
}
