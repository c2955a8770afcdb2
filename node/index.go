package node

import (
	"context"
	"errors"
	"sync"

	"github.com/p2pfs/p2pfs/chunk"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/volume"
)

// indexContext is that of the names of chunks in the index.
const indexContext = "p2pfs 2026-11 chunk in the index"

// indexStep is how many chunks are written into the index at once.
const indexStep = 8192

// index finds chunks that a volume has already, for one put into it: it is a
// volume.Index.
type index struct {
	n     *Node
	v     *vol
	q     PutRequest
	tag   [8]byte
	once  sync.Once
	live  map[pack.ID]bool // of the volume, none of them dying
	least int              // shards that a pack has to have to be of use

	fits  map[pack.ID]bool // whether one of them is of use; by one goroutine only, as used
	found map[pack.ID]bool // packs that Find gave
}

// newIndex gives the index for a put into a volume, nil where nothing is looked
// up: what expires belongs to no volume, and nothing would keep the packs.
func (n *Node) newIndex(v *vol, q PutRequest) *index {
	if q.Expires > 0 || n.loose {
		return nil
	}
	return &index{n: n, v: v, q: q, tag: indexTag(v.owner), fits: make(map[pack.ID]bool), found: make(map[pack.ID]bool)}
}

// indexTag names a volume in the index.
func indexTag(owner pack.Owner) [8]byte {
	sum := digest.Of(owner[:])
	return [8]byte(sum[:8])
}

// nameOf names a chunk in the index, which does not tell its key.
func nameOf(key chunk.Key) store.Chunk {
	sum := digest.Derive(indexContext, key[:])
	return store.Chunk(sum[:16])
}

// load looks at the volume, once. An index that was lost is made again of what
// is in the volume now.
func (x *index) load(ctx context.Context) {
	w, err := x.n.look(ctx, x.v)
	if err != nil || w.root == nil {
		return
	}
	ids, dying, err := w.packs(ctx)
	if err != nil {
		x.n.log.Debug("what is in the volume is not looked up", "volume", short8(x.v.owner), "err", err)
		return
	}
	for id := range dying {
		delete(ids, id)
	}
	if x.q.Redundancy == nil {
		near, err := x.n.engine.dir.Closest(ctx, x.v.owner, steps[0].N())
		if err != nil {
			return
		}
		s, _ := stepFor(len(near))
		x.least = s.N()
	}
	x.live = ids
	if x.n.store.IsIndexed(x.tag) {
		return
	}
	if err := x.rebuild(ctx, w.root); err != nil {
		x.n.log.Warn("index of the volume not made again", "volume", short8(x.v.owner), "err", err)
	}
}

// rebuild takes all chunks of a tree in.
func (x *index) rebuild(ctx context.Context, root *volume.File) error {
	var some []pack.Ref
	err := root.Chunks(ctx, func(r pack.Ref) error {
		if some = append(some, r); len(some) < indexStep {
			return nil
		}
		x.Add(some)
		some = some[:0]
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	x.Add(some)
	return x.n.store.SetIndexed(x.tag)
}

// Find gives where a chunk is that the volume has already.
func (x *index) Find(ctx context.Context, key chunk.Key) (pack.Ref, bool) {
	x.once.Do(func() { x.load(ctx) })
	if len(x.live) == 0 {
		return pack.Ref{}, false
	}
	p, err := x.n.store.Indexed(x.tag, nameOf(key))
	if err != nil || !x.live[p.Pack] || !x.use(p.Pack) {
		return pack.Ref{}, false
	}
	r := pack.Ref{Pack: p.Pack, Off: p.Off, Len: p.Len, Size: p.Size, Key: key}
	if r.Check() != nil {
		return pack.Ref{}, false
	}
	x.found[p.Pack] = true
	return r, true
}

// use tells whether what is put is as safe as it is to be in a pack.
func (x *index) use(id pack.ID) bool {
	ok, known := x.fits[id]
	if !known {
		p, err := x.n.store.OwnedPack(id)
		ok = err == nil && fitsPut(p, x.q, 0, x.least)
		x.fits[id] = ok
	}
	return ok
}

// Add takes chunks in that were just stored.
func (x *index) Add(refs []pack.Ref) {
	places := make(map[store.Chunk]store.Place, len(refs))
	for _, r := range refs {
		places[nameOf(r.Key)] = store.Place{Pack: r.Pack, Off: r.Off, Len: r.Len, Size: r.Size}
	}
	if err := x.n.store.Index(x.tag, places); err != nil && !errors.Is(err, store.ErrClosed) {
		x.n.log.Warn("chunks not indexed", "volume", short8(x.v.owner), "err", err)
	}
}
