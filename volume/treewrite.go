package volume

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/p2pfs/p2pfs/chunk"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

const (
	// treeInline is the longest content of a file in a tree, in bytes, that
	// stands in its entry: metadata is twice as redundant as content, and all
	// entries of a directory are read to list it. For a file on its own, see
	// MaxInline.
	treeInline = 512

	// A list of entries is cut into chunks after an entry, where its name says
	// so, one in listCut on average: so a name more or less changes one chunk.
	// None but the last has less than minList bytes, and the longest have
	// maxList and an entry.
	minList = 16 << 10
	maxList = 256 << 10
	listCut = 256

	// maxListed is the length of the longest chunk of a list.
	maxListed = maxList + 4 + MaxEntry

	// MaxDepth is how many directories may be in one another.
	MaxDepth = 1024

	// maxWaiting is how many entries wait for the ID of the pack that their
	// content is in, and for those before them.
	maxWaiting = 16 << 10
)

var (
	// ErrLeftOut is wrapped by errors of readers of files that cannot be read,
	// and are left out of a tree.
	ErrLeftOut = errors.New("left out")
	// ErrOrder is wrapped when the entries of a tree do not come in the order
	// of a walk.
	ErrOrder = errors.New("not in the order of a walk")
)

// Walk gives the entries of a tree one after the other, in the order of a walk:
// a directory before what is in it, the names in a directory ascending by
// their bytes, all below a name before the next. The path is that below the root,
// which comes first, is a directory and has the path "". The reader gives the
// content of a file, and is good until the next call. After the last entry the
// error is io.EOF.
type Walk func(ctx context.Context) (path string, e Entry, r io.Reader, err error)

// WriteTree stores a tree, as WriteFile does a file. Of the entries that walk
// gives, name, kind, mode, owner, time, attributes, and those fields count that
// belong to the kind; the size of a file is that of its content, or -1. Files
// whose readers fail with ErrLeftOut are not in the tree. A file without a reader is
// one that has the content which the parent has at its path; where that has another
// size or time, the error wraps ErrStale.
//
// Beside what WriteFile gives, kept are the packs of the parent that the tree needs too.
// Where all is as it is in a parent that is a root itself, nothing is stored, and the
// root is the parent's. With opt.Part root is zero.
func WriteTree(ctx context.Context, sink Sink, keys *Keys, size int64, walk Walk, opt Options) (root pack.Ref, entry Entry, packs, kept []pack.ID, err error) {
	w := newWriter(sink, keys, Info{Size: size}, opt)
	defer w.close()
	if err := w.tree(ctx, walk); err != nil {
		return pack.Ref{}, Entry{}, nil, nil, fmt.Errorf("write tree: %w", err)
	}
	return w.root, w.entry, w.packs, slices.SortedFunc(maps.Keys(w.kept), func(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) }), nil
}

// dir is a directory of which not all is in its entry yet.
type dir struct {
	entry Entry
	path  string
	last  string // name that came last
	queue []waiting

	former *former                // nil: the parent of the tree has none of that path
	lists  map[chunk.Key]pack.Ref // chunks of the list that it has

	listed []Entry // that will be in the next chunk of the list
	bytes  int     // of those
	dirs   int64   // below it, but for those in what is taken over whole
	size   int64   // of the list in chunks
	levels levels  // refs to them
}

// waiting is an entry whose refs are not all known, or that comes after one.
type waiting struct {
	entry   Entry
	content *reading // of a file; nil: in the entry
	dir     *dir     // a directory that is closed; nil: in the entry
}

// named gives refs to the metadata pack that has just been finished its ID.
func (d *dir) named(id pack.ID) {
	d.levels.named(id)
	d.entry.named(id)
	for i := range d.listed {
		d.listed[i].named(id)
	}
	for i := range d.queue {
		q := &d.queue[i]
		q.entry.named(id)
		if q.content != nil {
			q.content.levels.named(id)
		}
		if q.dir != nil {
			q.dir.named(id)
		}
	}
}

// named is the same for what stands in an entry.
func (e *Entry) named(id pack.ID) {
	nameParts(e.parts, id)
	for i := range e.list {
		e.list[i].named(id)
	}
}

func (w *writer) tree(ctx context.Context, walk Walk) error {
	entry, same, err := w.rootDir(ctx, walk, w.opt.Parent)
	if err != nil {
		return err
	}
	if same {
		if done, err := w.asParent(ctx); done || err != nil {
			return err
		}
	}
	w.entry = entry
	if err := w.finishRoot(ctx); err != nil {
		return err
	}
	return w.sink.Wait(ctx)
}

// rootDir writes a tree but for the entry of its root, which it gives, and whether
// all is as it is in the parent.
func (w *writer) rootDir(ctx context.Context, walk Walk, parent *File) (root Entry, same bool, err error) {
	path, e, _, err := walk(ctx)
	if err == nil && (path != "" || e.Kind != DirEntry) {
		err = fmt.Errorf("%w: the root is %q", ErrOrder, path)
	}
	if err != nil {
		return root, false, err
	}
	if err := w.open(ctx, e, "", parent); err != nil {
		return root, false, err
	}
	for {
		path, e, r, err := walk(ctx)
		if err == io.EOF {
			break
		}
		if err != nil {
			return root, false, err
		}
		if err := w.item(ctx, path, e, r); err != nil {
			return root, false, fmt.Errorf("%q: %w", path, err)
		}
	}
	for len(w.dirs) > 1 {
		if err := w.closeDir(ctx); err != nil {
			return root, false, err
		}
	}
	d := w.dirs[0]
	whole, ok, err := w.wholeDir(ctx)
	if err != nil {
		return root, false, err
	}
	w.reading = &reading{}
	if err := w.drain(ctx, true); err != nil {
		return root, false, err
	}
	if ok {
		if d.entry, err = whole.graft(d.entry.Name); err != nil {
			return root, false, err
		}
	} else if err := w.endDir(ctx, d); err != nil {
		return root, false, err
	}
	w.dirs = w.dirs[:0]
	return d.entry, ok, nil
}

// open begins a directory, which was there in the parent where was is not nil.
func (w *writer) open(ctx context.Context, e Entry, path string, was *File) error {
	e.Size, e.Files, e.Bytes = 0, 0, 0
	if err := e.check(); err != nil {
		return err
	}
	if len(w.dirs) >= MaxDepth {
		return fmt.Errorf("more than %d directories deep", MaxDepth)
	}
	d := &dir{entry: e, path: path}
	still := e.asWas(was)
	if !still {
		if err := w.differ(ctx); err != nil {
			return err
		}
	}
	if d.former = newFormer(was); d.former != nil {
		d.former.still = still
		if !still {
			var err error
			if d.lists, err = was.chunks(ctx); err != nil {
				return err
			}
		}
	}
	w.dirs = append(w.dirs, d)
	return nil
}

// item takes in the next entry below the root.
func (w *writer) item(ctx context.Context, path string, e Entry, r io.Reader) error {
	if path == "" {
		return fmt.Errorf("%w: another root", ErrOrder)
	}
	parent, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		parent, name = path[:i], path[i+1:]
	}
	if name != e.Name || path[0] == '/' {
		return fmt.Errorf("%w: its name is %q", ErrOrder, e.Name)
	}
	for w.dirs[len(w.dirs)-1].path != parent {
		if len(w.dirs) == 1 {
			return fmt.Errorf("%w: %q is not there, or done", ErrOrder, parent)
		}
		if err := w.closeDir(ctx); err != nil {
			return err
		}
	}
	d := w.dirs[len(w.dirs)-1]
	if name <= d.last {
		return fmt.Errorf("%w: %q after %q", ErrOrder, name, d.last)
	}
	d.last = name
	if e.whole {
		if err := w.differ(ctx); err != nil {
			return err
		}
		return w.queue(ctx, d, waiting{entry: e})
	}
	was, passed, err := d.former.find(ctx, name)
	if err == nil && (passed || r != nil) {
		err = w.differ(ctx)
	}
	if err != nil {
		return err
	}
	if e.Kind == DirEntry {
		return w.open(ctx, e, path, was)
	}
	size := e.Size
	e.Size = 0
	if err := e.check(); err != nil {
		return err
	}
	q := waiting{entry: e}
	switch {
	case e.Kind == FileEntry && r == nil:
		if err := w.same(ctx, &q.entry, was, size); err != nil {
			return err
		}
	case e.Kind == FileEntry:
		w.reading = &reading{maxInline: treeInline}
		if w.former, err = was.chunks(ctx); err != nil {
			return err
		}
		err := w.read(ctx, size, r)
		w.former = nil
		if err != nil {
			if errors.Is(err, ErrLeftOut) && ctx.Err() == nil && w.failed == nil {
				w.reading = &reading{} // what was read of it stays in a pack, and nothing refers to it
				return nil
			}
			return err
		}
		q.content = w.reading
	}
	if f := d.former; f != nil && f.still {
		if q.entry.asWas(was) {
			f.upTo = name
			return nil
		}
		if err := w.differ(ctx); err != nil {
			return err
		}
	}
	return w.queue(ctx, d, q)
}

// closeDir ends the directory opened last.
func (w *writer) closeDir(ctx context.Context) error {
	whole, ok, err := w.wholeDir(ctx)
	if err != nil {
		return err
	}
	n := len(w.dirs) - 1
	d, above := w.dirs[n], w.dirs[n-1]
	d.former = nil
	// It is its parent's from now on, which is where its refs are named.
	w.dirs = w.dirs[:n]
	switch f := above.former; {
	case !ok:
		return w.queue(ctx, above, waiting{entry: d.entry, dir: d})
	case f != nil && f.still:
		f.upTo = d.entry.Name
		return nil
	}
	e, err := whole.graft(d.entry.Name)
	if err != nil {
		return err
	}
	above.dirs += 1 + d.dirs
	return w.queue(ctx, above, waiting{entry: e})
}

// queue puts an entry at the end of a directory.
func (w *writer) queue(ctx context.Context, d *dir, q waiting) error {
	d.queue = append(d.queue, q)
	w.reading = &reading{}
	w.waits++
	if len(d.queue) == 1 || w.waits >= maxWaiting || len(w.packs) > w.drained {
		if err := w.drain(ctx, false); err != nil {
			return err
		}
	}
	if w.waits < maxWaiting {
		return nil
	}
	return w.drain(ctx, true)
}

// drain lists the entries of which all is known, of the directories that are
// open; with all, all: for that the data pack being filled is finished.
func (w *writer) drain(ctx context.Context, all bool) error {
	if all {
		if err := w.finishData(ctx); err != nil {
			return err
		}
	}
	w.drained = len(w.packs)
	for _, d := range w.dirs {
		if err := w.list(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// list lists the entries of d of which all is known, up to the first of which
// it is not.
func (w *writer) list(ctx context.Context, d *dir) error {
	for len(d.queue) > 0 {
		q := &d.queue[0]
		if c := q.content; c != nil {
			for _, p := range c.pending {
				if p.pack.IsZero() {
					return nil
				}
			}
			if err := w.settle(ctx, c, &q.entry); err != nil {
				return err
			}
			q.content = nil
		}
		if sub := q.dir; sub != nil {
			if err := w.list(ctx, sub); err != nil {
				return err
			}
			if len(sub.queue) > 0 {
				return nil
			}
			if err := w.endDir(ctx, sub); err != nil {
				return err
			}
			d.dirs += 1 + sub.dirs
			q.entry, q.dir = sub.entry, nil
		}
		e := q.entry
		d.queue[0] = waiting{}
		d.queue = d.queue[1:]
		w.waits--
		if err := w.listEntry(ctx, d, e); err != nil {
			return err
		}
	}
	return nil
}

// listEntry adds an entry of which all is known to the list of d.
func (w *writer) listEntry(ctx context.Context, d *dir, e Entry) error {
	files, total := e.counts()
	d.entry.Files += files
	d.entry.Bytes += total
	if d.entry.Files < 0 || d.entry.Bytes < 0 {
		return ErrTooLarge
	}
	n, err := e.listedLen()
	if err != nil {
		return err
	}
	d.listed = append(d.listed, e)
	d.bytes += n
	if d.bytes >= w.maxList || d.bytes >= w.minList && cutsList(e.Name) {
		return w.putList(ctx, d)
	}
	return nil
}

// cutsList tells whether a list may be cut after an entry of that name.
func cutsList(name string) bool {
	sum := digest.Of([]byte(name))
	return binary.BigEndian.Uint32(sum[:])%listCut == 0
}

// listedLen is the length of e in a list, whatever the ID of the pack being
// filled.
func (e *Entry) listedLen() (int, error) {
	b, err := e.appendListed(nil)
	return len(b), err
}

// appendListed appends e as it stands in a list.
func (e *Entry) appendListed(b []byte) ([]byte, error) {
	if err := e.bake(); err != nil {
		return nil, err
	}
	enc, err := e.encode()
	if err != nil {
		return nil, err
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(enc)))
	return append(b, enc...), nil
}

// bake writes the list that stands in an entry.
func (e *Entry) bake() error {
	if e.list == nil {
		return nil
	}
	e.inline = e.inline[:0]
	for i := range e.list {
		var err error
		if e.inline, err = e.list[i].appendListed(e.inline); err != nil {
			return err
		}
	}
	e.Size = int64(len(e.inline))
	return nil
}

// putList writes a chunk of the list of d.
func (w *writer) putList(ctx context.Context, d *dir) error {
	// Room first: if the pack has to be finished, refs to it change.
	if err := w.reserve(ctx, chunk.MaxSealed(d.bytes)); err != nil {
		return err
	}
	plain := make([]byte, 0, d.bytes)
	for i := range d.listed {
		var err error
		if plain, err = d.listed[i].appendListed(plain); err != nil {
			return err
		}
	}
	d.listed, d.bytes = d.listed[:0], 0
	d.size += int64(len(plain))
	ref := w.putNew(plain, d.lists)
	if ref.Pack.IsZero() {
		w.lists.add(ref, plain)
	}
	return w.push(ctx, &d.levels, 0, part{Ref: ref, under: uint64(len(plain))})
}

// endDir makes the list of d, all of which is known, its entry's.
func (w *writer) endDir(ctx context.Context, d *dir) (err error) {
	if len(d.queue) > 0 { // what they are in is lost: a list without them would be a lie
		return fmt.Errorf("%q: %d entries without their packs: %w", d.path, len(d.queue), cmp.Or(w.failed, errors.New("lost")))
	}
	if d.dirs > maxDirs(d.entry.Files) {
		return fmt.Errorf("%q: %d directories with %d files: %w", d.path, d.dirs, d.entry.Files, ErrTooLarge)
	}
	if d.size == 0 && d.bytes <= MaxInline {
		d.entry.list = d.listed
		if d.entry.list == nil {
			return nil
		}
		return d.entry.bake()
	}
	if len(d.listed) > 0 {
		if err := w.putList(ctx, d); err != nil {
			return err
		}
	}
	d.entry.Size = d.size
	d.entry.depth, d.entry.parts, err = w.collapse(ctx, &d.levels)
	return err
}

// Commit is what a state of a volume has beside its tree.
type Commit struct {
	Packs []pack.ID   // all of the volume that were there before, the dying among them
	Past  []Past      // its history, in order
	Again []*Draft    // as long as Past, or none: what is to stand there in place of what does; nil: nothing
	Dying []DyingPack // in order; one that happens to be written again is not dying then
	Links []Linked    // that are given out with it, and are there as long as the pack that it is in
}

// Linked is what a link is to lead to that is part of a volume.
type Linked struct {
	File  *File
	Name  string
	Packs []pack.ID // that it needs
}

// Written says where a state of a volume is.
type Written struct {
	Root      pack.Ref // the entry of the tree's root
	Entry     Entry
	History   pack.Ref // zero: there is none
	Dying     pack.Ref // zero: there are none
	Inventory pack.Ref // of all packs of the volume
	Packs     []pack.ID
	Past      []Past     // the history as it was written
	Links     []pack.Ref // as Commit.Links: the roots that links to them have
}

// WriteVolume stores a state of a volume: the draft of its tree, of which only
// what has changed is written, and what belongs to it. It returns when all
// packs are durable, as WriteFile does.
func WriteVolume(ctx context.Context, sink Sink, keys *Keys, draft *Draft, c Commit, opt Options) (Written, error) {
	opt.Parent = draft.root.was
	w := newWriter(sink, keys, Info{Size: 0}, opt)
	defer w.close()
	return w.volume(ctx, draft, c)
}

func (w *writer) volume(ctx context.Context, draft *Draft, c Commit) (Written, error) {
	w.commit, w.living = &c, make(map[pack.ID]bool, len(c.Packs))
	for _, id := range c.Packs {
		w.living[id] = true
	}
	for _, d := range c.Dying {
		delete(w.living, d.ID)
	}
	if err := w.again(ctx); err != nil {
		return Written{}, fmt.Errorf("write volume: %w", err)
	}
	walk, stop := draft.walk(ctx)
	defer stop()
	if err := w.tree(ctx, walk); err != nil {
		return Written{}, fmt.Errorf("write volume: %w", err)
	}
	for i := range w.links {
		w.links[i] = w.at(w.links[i])
	}
	return Written{
		Links: w.links,
		Root:  w.root, Entry: w.entry, History: w.at(w.history), Dying: w.at(w.dying), Inventory: w.at(w.inventory), Packs: w.packs, Past: w.commit.Past,
	}, nil
}

// walk gives a draft as what is to be written.
func (t *Draft) walk(ctx context.Context) (Walk, func()) {
	next, stop := iter.Pull2(t.steps(ctx))
	return func(context.Context) (string, Entry, io.Reader, error) {
		s, err, ok := next()
		if !ok {
			return "", Entry{}, nil, io.EOF
		}
		s.entry.whole = s.whole
		return s.path, s.entry, s.content, err
	}, stop
}

// again writes past states of the volume anew, and has the history refer to them.
func (w *writer) again(ctx context.Context) error {
	past := slices.Clone(w.commit.Past)
	changed := false
	for i, d := range w.commit.Again {
		if d == nil {
			continue
		}
		walk, stop := d.walk(ctx)
		root, _, err := w.rootDir(ctx, walk, d.root.was)
		stop()
		if err != nil {
			return err
		}
		w.entry = root // which is where its refs are named
		if err := w.reserve(ctx, chunk.MaxSealed(MaxEntry)); err != nil {
			return err
		}
		if past[i].Root, err = w.putEntry(&root); err != nil {
			return err
		}
		w.roots = append(w.roots, &past[i].Root)
		changed = true
	}
	if !changed {
		return nil
	}
	w.commit.Past = past
	return w.finishMeta(ctx)
}

// at gives the ref to something that stands in the pack of the root.
func (w *writer) at(r pack.Ref) pack.Ref {
	if r != (pack.Ref{}) {
		r.Pack = w.root.Pack
	}
	return r
}

// finishVolume writes what belongs to a state of a volume, all in the last
// pack.
func (w *writer) finishVolume(ctx context.Context) error {
	leaves, err := historyChunks(w.commit.Past)
	if err != nil {
		return err
	}
	room := roomForRoot(len(w.packs) + len(w.commit.Packs) + 2)
	for _, l := range w.commit.Links {
		room += roomForRoot(len(l.Packs))
	}
	for _, b := range leaves {
		room += chunk.MaxSealed(len(b)) + pack.RefLen
	}
	if n := len(w.commit.Dying); n > 0 {
		room += chunk.MaxSealed(dyingHeader + n*dyingRecord)
	}
	if err := w.reserve(ctx, room+chunk.MaxSealed(0)); err != nil {
		return err
	}
	refs := make([]pack.Ref, 0, len(leaves))
	for _, b := range leaves {
		refs = append(refs, w.putMeta(b))
	}
	switch len(refs) {
	case 0:
	case 1:
		w.history = refs[0]
	default:
		root, err := historyRoot(refs)
		if err != nil {
			return err
		}
		w.history = w.putMeta(root)
	}
	// What was dying and has come to be written again, bit for bit, is needed. Of
	// that the packs are all finished but the one that this is in.
	dying := slices.DeleteFunc(slices.Clone(w.commit.Dying), func(d DyingPack) bool { return slices.Contains(w.packs, d.ID) })
	if len(dying) > 0 {
		b, err := encodeDying(dying)
		if err != nil {
			return err
		}
		w.dying = w.putMeta(b)
	}
	w.kept = make(map[pack.ID]bool, len(w.commit.Packs))
	for _, id := range w.commit.Packs {
		w.kept[id] = true
	}
	for _, id := range w.packs {
		delete(w.kept, id)
	}
	w.inventory = w.putInventory(w.allPacks())
	for _, l := range w.commit.Links {
		if err := w.putLinked(l); err != nil {
			return err
		}
	}
	return nil
}

// putLinked writes the entry that a link leads to.
func (w *writer) putLinked(l Linked) error {
	e, err := l.File.graft(l.Name)
	if err != nil {
		return err
	}
	e.inventory = w.putInventory(slices.Clone(l.Packs))
	ref, err := w.putEntry(&e)
	w.links = append(w.links, ref)
	return err
}
