package node

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/volume"
)

// Item is an entry of a tree on its way between a file system and the network.
// Items come in the order of a walk: a directory before what is in it, the
// names in a directory ascending by their bytes, everything below a name before
// the next name.
type Item struct {
	Path  string       // below the root, with slashes; "" is the root itself
	Entry volume.Entry // its Name is the last element of Path, or the root's own

	// What GetTree says beside that.
	From int64  // of a file: where the content that it writes begins, in bytes
	ID   string // of the first item: as in FileInfo
}

// TreeSource gives the items of a tree that is put. The root comes first; it is
// a directory.
type TreeSource interface {
	// Next gives the next item, or io.EOF. The reader gives the content of a
	// file, and is nil for all else and for a file that is as it was in the
	// parent of the put; it is good until Next is called again, which
	// may be before all was read. A reader that fails with an error that wraps
	// ErrLeftOut takes its file out of the put and nothing else; any other
	// error ends the put.
	Next(ctx context.Context) (Item, io.Reader, error)
}

// ErrLeftOut is wrapped by errors of what could not be read and is left out of
// a put.
var ErrLeftOut = volume.ErrLeftOut

// TreeSink takes the items of a tree that is fetched.
type TreeSink interface {
	// Take gets the next item and gives where the content of a file goes; a nil
	// writer stands for nowhere. All content of a file is written before the
	// next Take.
	Take(item Item) (io.Writer, error)
}

// KindName is what a kind of entry is called in output.
func KindName(k volume.EntryKind) string {
	switch k {
	case volume.FileEntry:
		return "file"
	case volume.DirEntry:
		return "dir"
	case volume.SymlinkEntry:
		return "symlink"
	case volume.FifoEntry:
		return "fifo"
	case volume.CharEntry:
		return "char"
	case volume.BlockEntry:
		return "block"
	}
	return fmt.Sprintf("kind %d", k)
}

// PutTree stores what src gives as a tree and returns its link, as Put does.
// Name, mode and time of q are not looked at: the root says its own. Its size is
// what is expected in bytes, for progress, or -1.
func (n *Node) PutTree(ctx context.Context, q PutRequest, src TreeSource, progress func(Progress)) (PutResult, error) {
	parent, done, err := n.useParent(ctx, q)
	if err != nil {
		return PutResult{}, err
	}
	defer done()
	walk := func(ctx context.Context) (string, volume.Entry, io.Reader, error) {
		item, r, err := src.Next(ctx)
		return item.Path, item.Entry, r, err
	}
	return n.putRoot(ctx, q, progress, func(p *putter, keys *volume.Keys, o volume.Options) (root root, err error) {
		o.Parent = parent
		root.ref, root.entry, root.packs, root.kept, err = volume.WriteTree(ctx, p, keys, q.Size, walk, o)
		return root, err
	})
}

// useParent opens the tree that a put builds on, nil where there is none. The
// caller calls done when the put has ended.
func (n *Node) useParent(ctx context.Context, q PutRequest) (parent *volume.File, done func(), err error) {
	done = func() {}
	if q.Parent == "" {
		return nil, done, nil
	}
	if q.Target != "" { // of a volume nothing goes away while it is used: see DyingFor
		_, parent, err = n.open(ctx, q.Parent)
		return parent, done, err
	}
	l, err := n.link(q.Parent)
	if err != nil {
		return nil, nil, err
	}
	id := store.RootOf(l.Root.Pack, l.Root.Off)
	if !n.parents.use(id) {
		return nil, nil, fail(Failed, "put it again", "what was there before is being removed")
	}
	root, err := n.engine.store.Root(id)
	if err == nil && (root.Source != q.Source || !n.fits(ctx, root, q)) {
		err = store.ErrNotFound
	}
	if err != nil {
		err = fail(Failed, "put it again", "what was there before is not any more: %w", err)
	} else {
		parent, _, err = n.open(ctx, q.Parent)
	}
	if err != nil {
		n.parents.used(id)
		return nil, nil, err
	}
	return parent, func() { n.parents.used(id) }, nil
}

// Parent gives the link to the tree that was put last with the same source as
// q, if all of it is stored as q wants it, or ""; for a put into a volume the
// place of what it would replace there.
func (n *Node) Parent(ctx context.Context, q PutRequest) (string, error) {
	if q.Target != "" {
		return n.parentPlace(ctx, q)
	}
	if q.Source == "" {
		return "", nil
	}
	var all []store.Root
	for r, err := range n.engine.store.Roots(ctx) {
		if err != nil {
			return "", err
		}
		if r.Source == q.Source {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b store.Root) int { return cmp.Compare(b.Time, a.Time) })
	for _, r := range all {
		if n.fits(ctx, r, q) {
			return r.Link, nil
		}
	}
	return "", nil
}

// fits tells whether a root is that of a tree all of whose packs are stored as q
// wants it: so that what a put takes over from it is no less safe, nor gone
// sooner, than what is new.
func (n *Node) fits(ctx context.Context, root store.Root, q PutRequest) bool {
	l, err := volume.ParseLink(root.Link)
	if err != nil || l.Kind != volume.KindTree || l.In(n.engine.network) != nil {
		return false
	}
	until := uint64(0)
	if q.Expires > 0 {
		until = uint64(n.engine.clock.Now().Add(q.Expires).UnixMilli())
	}
	least := 0 // shards
	if q.Redundancy == nil {
		near, err := n.engine.dir.Closest(ctx, l.Root.Pack, steps[0].N())
		if err != nil {
			return false
		}
		s, _ := stepFor(len(near))
		least = s.N()
	}
	whole := false
	for id, err := range n.engine.store.PacksOf(ctx, root.ID) {
		if err != nil {
			return false
		}
		p, err := n.engine.store.OwnedPack(id)
		if err != nil || !fitsPut(p, q, until, least) {
			return false
		}
		whole = whole || id == l.Root.Pack // it is written down last
	}
	return whole
}

// fitsPut tells whether a pack is stored as a put wants its own: until when they
// are to stay, 0 for ever, and at least how many shards they have, where q leaves
// that open.
func fitsPut(p store.OwnedPack, q PutRequest, until uint64, least int) bool {
	if p.Given != (q.Redundancy != nil) || p.Expires != 0 && (until == 0 || p.Expires < until) || p.Scheme.N() < least {
		return false
	}
	s := q.Redundancy
	return s == nil || p.Scheme == *s || p.Meta && p.Scheme == metaScheme(*s)
}

// parents says which roots puts build on, and which are being removed: none is
// both.
type parents struct {
	mu   sync.Mutex
	puts map[store.RootID]int // that build on it; -1: it is being removed
}

// use begins to build on a root, or reports false.
func (p *parents) use(id store.RootID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.puts == nil {
		p.puts = make(map[store.RootID]int)
	}
	if p.puts[id] < 0 {
		return false
	}
	p.puts[id]++
	return true
}

// used ends what use began.
func (p *parents) used(id store.RootID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.puts[id]--; p.puts[id] == 0 {
		delete(p.puts, id)
	}
}

// remove begins to remove a root, or reports false.
func (p *parents) remove(id store.RootID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.puts == nil {
		p.puts = make(map[store.RootID]int)
	}
	if p.puts[id] != 0 {
		return false
	}
	p.puts[id] = -1
	return true
}

// removed ends what remove began.
func (p *parents) removed(id store.RootID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.puts, id)
}

// GetTree gives sink what a source names: a tree with all below it, or one file
// or other entry of it. Entries are all given; of what q does not want the content
// is left out. q.Length is not looked at.
func (n *Node) GetTree(ctx context.Context, q GetRequest, sink TreeSink, progress func(Progress)) error {
	if q.Offset < 0 {
		return fail(Usage, "", "negative offset")
	}
	_, at, err := n.open(ctx, q.Source)
	if err != nil {
		return err
	}
	e := at.Entry()
	total := e.Size
	if e.Kind == volume.DirEntry {
		total = e.Bytes
	}
	id, err := identity(at)
	if err != nil {
		return err
	}
	done := int64(0)
	return at.WriteTree(ctx, rangesAhead, q.After, q.Offset, func(p volume.Path) (io.Writer, error) {
		e := p.Entry()
		w, err := sink.Take(Item{Path: p.Path, Entry: e, From: p.From, ID: id})
		id = ""
		if e.Kind != volume.FileEntry {
			return w, err
		}
		from := done + p.From
		done += e.Size
		if err != nil || w == nil || progress == nil {
			return w, err
		}
		return &counted{w: w, progress: progress, done: from, total: total}, nil
	})
}

// List gives what is in the directory that a source names, or with recursive all
// that is below it; of anything else the entry itself, with the path "". yield
// ends it with an error.
func (n *Node) List(ctx context.Context, source string, recursive bool, yield func(Item) error) error {
	_, at, err := n.open(ctx, source)
	if err != nil {
		return err
	}
	if at.Entry().Kind != volume.DirEntry {
		return yield(Item{Entry: at.Entry()})
	}
	if !recursive {
		for c, err := range at.List(ctx) {
			if err != nil {
				return err
			}
			if err := yield(Item{Path: c.Entry().Name, Entry: c.Entry()}); err != nil {
				return err
			}
		}
		return nil
	}
	for p, err := range at.Walk(ctx) {
		if err != nil {
			return err
		}
		if p.Path == "" {
			continue
		}
		if err := yield(Item{Path: p.Path, Entry: p.Entry()}); err != nil {
			return err
		}
	}
	return nil
}
