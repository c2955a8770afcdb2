package node

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"path"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/dht"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/volume"
)

// DyingFor is how long a pack to which nothing in its volume refers any more is
// kept: whoever reads a head that is just being let go of comes to its end, and
// whoever writes at the same time and took the pack over has made that known.
const DyingFor = 48 * time.Hour

// mark gathers the packs that the tips of a view and heads of its history need;
// past nil: all that are kept.
func (n *Node) mark(ctx context.Context, w *view, past []volume.Past) (*volume.Mark, error) {
	if past == nil {
		var err error
		if past, err = w.allPast(ctx); err != nil {
			return nil, err
		}
	}
	m := volume.NewMark(w.src)
	m.Count = true
	if w.root != nil {
		if err := m.Tree(ctx, w.root); err != nil {
			return nil, err
		}
	}
	return m, w.markPast(ctx, m, past)
}

// markPast adds what heads of the history need. Of what was removed by its link
// the packs are gone, lists of directories among them: the volume does not list
// them any more, though heads from before still refer to them.
func (w *view) markPast(ctx context.Context, m *volume.Mark, past []volume.Past) error {
	ids, _, err := w.packs(ctx)
	if err != nil {
		return err
	}
	m.Gone = func(id pack.ID) bool { return !ids[id] }
	for _, p := range past {
		if err := m.Root(ctx, p.Root); err != nil {
			return fmt.Errorf("head %d of %s: %w", p.Number, w.v, err)
		}
	}
	return nil
}

// VolumePrune lets go of snapshots that no rule keeps, and of the packs that
// nothing refers to then: they are dropped in DyingFor, or with q.Now at once.
// Those that have been dying for as long are dropped in any case.
func (n *Node) VolumePrune(ctx context.Context, name string, q PruneRequest) (PruneResult, error) {
	v, err := n.vol(name)
	if err != nil {
		return PruneResult{}, err
	}
	return n.prune(ctx, v, q)
}

func (n *Node) prune(ctx context.Context, v *vol, q PruneRequest) (PruneResult, error) {
	c, err := n.begin(ctx, v)
	if err != nil {
		return PruneResult{}, err
	}
	defer c.end()
	if len(c.w.heads) == 0 {
		return PruneResult{}, nil
	}
	all, err := c.w.allPast(ctx)
	if err != nil {
		return PruneResult{}, err
	}
	var res PruneResult
	kept := n.retain(all, q.Policy, &res)
	m, err := n.mark(ctx, c.w, kept)
	if err != nil {
		return PruneResult{}, err
	}
	if sparse, err := c.sparse(ctx, m, kept); err != nil {
		return PruneResult{}, err
	} else if len(sparse) > 0 {
		if kept, err = c.condense(ctx, sparse, kept); err != nil {
			return PruneResult{}, err
		}
		if m, err = n.mark(ctx, c.w, kept); err != nil {
			return PruneResult{}, err
		}
	}
	dying, gone, err := c.dead(ctx, m.Packs, q.Now)
	if err != nil {
		return PruneResult{}, err
	}
	res.Dying = len(dying)
	ch := &change{past: func([]volume.Past) []volume.Past { return kept }, dying: dying, set: true, gone: gone}
	if err := c.commit(ctx, volume.NewDraft(c.w.root), false, ch); err != nil {
		return PruneResult{}, err
	}
	looked := c.looked
	if !q.Now {
		looked = looked.Add(-c.n.config.dyingFor())
	}
	return res, c.drop(ctx, gone, looked, &res)
}

const (
	// sparseShare is how much of a pack is needed at most, as one part of so
	// many, for it to be worth while to store that again and drop the pack.
	sparseShare = 4

	// sparseLeast is the length in bytes of packs below which it is not.
	sparseLeast = 256 << 10
)

// sparse gives the packs of content of which little is needed any more. Those that
// links need which were given out are not among them.
func (c *commit) sparse(ctx context.Context, m *volume.Mark, kept []volume.Past) (map[pack.ID]bool, error) {
	e := c.n.engine
	out := make(map[pack.ID]bool)
	for id, live := range m.Live {
		p, err := e.store.OwnedPack(id)
		if err != nil || m.Meta[id] || p.Len < sparseLeast || live > int64(p.Len)/sparseShare {
			continue
		}
		roots, err := e.store.RootsOf(id, 2)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(roots, func(r store.RootID) bool { return r != volumeRoot(c.v.owner) }) {
			out[id] = true
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	pins := volume.NewMark(c.w.src)
	for _, p := range kept {
		if p.Pin {
			if err := pins.Root(ctx, p.Root); err != nil {
				return nil, err
			}
		}
	}
	maps.DeleteFunc(out, func(id pack.ID, _ bool) bool { return pins.Packs[id] })
	return out, nil
}

// condense stores again what is needed of some packs, in the tree as it is and in
// those of the past that are kept, which it gives as they are then.
func (c *commit) condense(ctx context.Context, packs map[pack.ID]bool, kept []volume.Past) ([]volume.Past, error) {
	ids, _, err := c.w.packs(ctx)
	if err != nil {
		return nil, err
	}
	seen := volume.Leaving{Gone: func(id pack.ID) bool { return !ids[id] }}
	draft, err := volume.Leave(ctx, c.w.root, packs, &seen)
	if err != nil {
		return nil, err
	}
	if draft == nil {
		draft = volume.NewDraft(c.w.root)
	}
	again := make([]*volume.Draft, len(kept))
	for i, p := range kept {
		if p.Pin {
			continue
		}
		root, err := volume.OpenEntry(ctx, c.w.src, p.Root)
		if err != nil {
			return nil, fmt.Errorf("head %d of %s: %w", p.Number, c.v, err)
		}
		if again[i], err = volume.Leave(ctx, root, packs, &seen); err != nil {
			return nil, err
		}
	}
	ch := &change{past: func([]volume.Past) []volume.Past { return kept }, again: again, avoid: packs}
	if err := c.commit(ctx, draft, false, ch); err != nil {
		return nil, err
	}
	c.n.log.Info("packs of which little was needed are stored again", "volume", short8(c.v.owner), "packs", len(packs))
	all, err := c.w.allPast(ctx)
	if err != nil {
		return nil, err
	}
	return c.n.retain(all, volume.Policy{}, &PruneResult{}), nil
}

// retain gives what stays of a history.
func (n *Node) retain(all []volume.Past, p volume.Policy, res *PruneResult) []volume.Past {
	now := n.engine.clock.Now()
	keep := make([]bool, len(all))
	for i := range keep {
		keep[i] = true
	}
	if !p.Empty() {
		keep = p.Keep(all, now)
	}
	thinned := volume.Thin(all, now)
	drop := make([]bool, len(all))
	for i, x := range all {
		switch {
		case x.Pin:
		case !x.Snapshot:
			drop[i] = !thinned[i]
		case !keep[i]:
			drop[i] = true
			res.Removed++
		default:
			res.Kept++
		}
	}
	return volume.Without(all, func(i int) bool { return drop[i] })
}

// dead gives the packs of a volume that are not among the live: those that are
// dying, and those whose time is over; with now that is at once.
func (c *commit) dead(ctx context.Context, live map[pack.ID]bool, now bool) (dying []volume.DyingPack, gone map[pack.ID]bool, err error) {
	candidates, since, err := c.w.packs(ctx)
	if err != nil {
		return nil, nil, err
	}
	e := c.n.engine
	// What was stored and never published, and what could not be dropped before. No
	// head says since when they are dying: they are since they were stored.
	for id, err := range e.store.PacksOf(ctx, volumeRoot(c.v.owner)) {
		if err != nil {
			return nil, nil, err
		}
		if candidates[id] || live[id] {
			continue
		}
		candidates[id] = true
		if p, err := e.store.OwnedPack(id); err == nil {
			since[id] = time.UnixMilli(int64(p.Number))
		}
	}
	gone = make(map[pack.ID]bool)
	at := e.clock.Now()
	for _, id := range slices.SortedFunc(maps.Keys(candidates), compareID) {
		if live[id] {
			continue
		}
		roots, err := e.store.RootsOf(id, 2)
		if err != nil {
			return nil, nil, err
		}
		if slices.ContainsFunc(roots, func(r store.RootID) bool { return r != volumeRoot(c.v.owner) }) {
			continue // it is under a link that was given out
		}
		begun, known := since[id]
		if !known {
			begun = at
		}
		if now || at.Sub(begun) >= c.n.config.dyingFor() {
			gone[id] = true
			continue
		}
		if len(dying) < volume.MaxDying { // the others begin to die with the next prune
			dying = append(dying, volume.DyingPack{ID: id, Since: begun})
		}
	}
	return dying, gone, nil
}

func (c *Config) dyingFor() time.Duration {
	if c.DyingFor > 0 {
		return c.DyingFor
	}
	return DyingFor
}

// drop deletes packs that the volume does not list any more, but for those that
// the commit has written itself: what is written twice has one ID, an empty
// tree without a history for one. What has been stored after a time stays, for
// who has stored it may be about to make known that it is needed: the next prune
// looks at it again.
func (c *commit) drop(ctx context.Context, gone map[pack.ID]bool, after time.Time, res *PruneResult) error {
	n, v := c.n, c.v
	for _, id := range c.written.Packs {
		delete(gone, id)
	}
	var mu sync.Mutex // guards res, dropped and renewed
	var dropped, renewed []pack.ID
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(removesAtOnce)
	for id := range gone {
		newest := uint64(max(after.UnixMilli(), 0))
		if c.made[id] { // of a head before the last
			newest = math.MaxUint64
		}
		g.Go(func() error {
			done, err := n.engine.removePack(gctx, v.keys.Owner, id, volumeRoot(v.owner), newest)
			if gctx.Err() != nil {
				return gctx.Err()
			}
			if err != nil && !errors.Is(err, errUntold) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				n.log.Warn("pack not deleted", "pack", id, "err", err)
				res.Untold++
				return nil
			}
			if done.renewed {
				renewed = append(renewed, id)
				return nil
			}
			if !done.kept && !done.foreign {
				res.Dropped++
				res.Bytes += int64(done.bytes)
			}
			dropped = append(dropped, id)
			return nil
		})
	}
	err := g.Wait()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	res.Partial = res.Untold > 0
	if len(renewed) > 0 && err == nil { // another home has stored them, perhaps
		res.Dying += len(renewed)
		_, _, err = n.adopt(ctx, v, renewed, nil)
	}
	return errors.Join(err, n.engine.store.DisownPacks(volumeRoot(v.owner), dropped))
}

// empty takes everything out of a volume, its history too, and deletes it.
func (n *Node) empty(ctx context.Context, v *vol) (PruneResult, error) {
	c, err := n.begin(ctx, v)
	if err != nil {
		return PruneResult{}, err
	}
	defer c.end()
	var res PruneResult
	all, err := c.w.allPast(ctx)
	if err != nil {
		return PruneResult{}, err
	}
	for _, p := range all {
		if p.Snapshot && !p.Pin {
			res.Removed++
		}
	}
	_, gone, err := c.dead(ctx, nil, true)
	if err != nil {
		return PruneResult{}, err
	}
	ch := &change{past: func([]volume.Past) []volume.Past { return nil }, set: true, gone: gone}
	if err := c.commit(ctx, volume.NewDraft(nil), false, ch); err != nil {
		return PruneResult{}, err
	}
	return res, c.drop(ctx, gone, c.looked, &res)
}

// tidy gives the keepers of this home's volumes the heads that none of them has,
// and drops the packs that have been dying for long enough.
func (n *Node) tidy(ctx context.Context) error {
	var errs error
	for _, v := range n.allVols() {
		if v.keys == nil {
			continue
		}
		if err := n.tidyVol(ctx, v); err != nil {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", v, err))
		}
		if ctx.Err() != nil {
			return errs
		}
	}
	return errs
}

func (n *Node) tidyVol(ctx context.Context, v *vol) error {
	w, err := n.look(ctx, v)
	if err != nil {
		return err
	}
	if len(w.unkept) > 0 {
		c, err := n.begin(ctx, v)
		if err != nil {
			return err
		}
		c.end()
	}
	_, dying, err := w.packs(ctx)
	if err != nil {
		return err
	}
	now := n.engine.clock.Now()
	for _, since := range dying {
		if now.Sub(since) < n.config.dyingFor() {
			continue
		}
		res, err := n.prune(ctx, v, PruneRequest{})
		if err == nil {
			n.log.Info("packs dropped to which nothing refers", "volume", short8(v.owner), "packs", res.Dropped, "bytes", res.Bytes)
		}
		return err
	}
	return nil
}

// pin gives a link to what is at a place in a volume as it is now, which stays
// whole whatever becomes of the place: what it needs is part of the volume's
// history from then on.
func (n *Node) pin(ctx context.Context, s sought) (volume.Link, pack.Ref, error) {
	fail0 := func(err error) (volume.Link, pack.Ref, error) { return volume.Link{}, pack.Ref{}, err }
	c, err := n.begin(ctx, s.vol)
	if err != nil {
		return fail0(err)
	}
	defer c.end()
	w := c.w // one look: what the link needs is in the head that is built on
	_, at, err := w.at(ctx, s.Place)
	if err != nil {
		return fail0(err)
	}
	name := at.Entry().Name
	if s.Path == "" {
		name = s.vol.String()
	}
	id, err := at.Identity(name)
	if err != nil {
		return fail0(err)
	}
	all, err := w.allPast(ctx)
	if err != nil {
		return fail0(err)
	}
	if k := at.Entry().Kind; k != volume.DirEntry && k != volume.FileEntry {
		return fail0(fail(Usage, "give the directory that it is in", "links lead to files and directories only"))
	}
	for _, p := range all {
		if p.Pin && p.Hash == id {
			f, err := volume.OpenEntry(ctx, w.src, p.Root)
			if err != nil {
				return fail0(err)
			}
			inv, _ := f.Inventory()
			return n.linkTo(at.Entry(), p.Root), inv, nil
		}
	}
	m := volume.NewMark(w.src)
	if err := m.Tree(ctx, at); err != nil {
		return fail0(err)
	}
	p := n.engine.newPutter(ctx, c.keys.Owner, nil, 0)
	defer p.end()
	root, e, err := volume.WriteRoot(ctx, p, c.keys, at, name, slices.Collect(maps.Keys(m.Packs)), volume.Options{})
	if err != nil {
		return fail0(p.fail(ctx, err))
	}
	record := volume.Past{Number: c.w.heads[0].Number, Hash: id, Time: n.engine.clock.Now(), Peer: string(n.engine.self), Root: root, Pin: true}
	ch := &change{packs: []pack.ID{root.Pack}, past: func(all []volume.Past) []volume.Past {
		out := append(thin(all, n.engine.clock.Now()), record)
		slices.SortFunc(out, comparePast)
		return out
	}}
	if err := c.commitBy(ctx, p, volume.NewDraft(c.w.root), false, ch); err != nil {
		return fail0(err)
	}
	return n.linkTo(e, root), volume.InventoryOf(e), nil
}

// leaveMine takes what a link leads to out of the home's own volume, where a put
// has written it down, and its packs out of the volume's. kept are those of its
// packs that something else in the volume needs.
func (n *Node) leaveMine(ctx context.Context, l volume.Link, ids []pack.ID) (kept map[pack.ID]bool, err error) {
	v, err := n.vol(Mine)
	if err != nil {
		return nil, err
	}
	if len(n.seenTips(v.owner)) == 0 { // it may have been seen by a store that is lost
		if t, err := n.tipsOf(ctx, v.owner); err != nil || len(t.heads) == 0 {
			return nil, err
		}
	}
	f, err := volume.OpenRoot(ctx, source{n.engine}, l)
	if err != nil {
		near, _ := n.engine.dir.Closest(ctx, l.Root.Pack, dht.Width)
		if n.engine.buried(ctx, l.Root.Pack, near) > 0 {
			return nil, nil // it has left: a removal before this one has not told all
		}
		return nil, err
	}
	c, err := n.begin(ctx, v)
	if err != nil {
		return nil, err
	}
	defer c.end()
	if c.w.root == nil {
		return nil, nil
	}
	draft := volume.NewDraft(c.w.root)
	places, err := c.w.placesOf(ctx, f)
	if err != nil {
		return nil, err
	}
	for _, p := range places {
		if err := draft.Remove(ctx, p, c.now); err != nil {
			return nil, err
		}
	}
	all, err := c.w.allPast(ctx)
	if err != nil {
		return nil, err
	}
	others := func(all []volume.Past) []volume.Past {
		return slices.DeleteFunc(all, func(p volume.Past) bool { return p.Pin && p.Root == l.Root })
	}
	all = others(all)
	m := volume.NewMark(c.w.src)
	if err := m.Draft(ctx, draft); err != nil {
		return nil, err
	}
	m.Skip = func(x *volume.File) bool { return volume.Same(x, f) }
	if err := c.w.markPast(ctx, m, all); err != nil {
		return nil, err
	}
	gone := make(map[pack.ID]bool)
	kept = make(map[pack.ID]bool)
	root := store.RootOf(l.Root.Pack, l.Root.Off)
	for _, id := range ids {
		roots, err := n.engine.store.RootsOf(id, 3)
		if err != nil {
			return nil, err
		}
		switch {
		case m.Packs[id]:
			kept[id] = true
		case !slices.ContainsFunc(roots, func(r store.RootID) bool { return r != root && r != volumeRoot(v.owner) }):
			gone[id] = true
		}
	}
	if err := c.commit(ctx, draft, false, &change{
		gone: gone,
		past: func(all []volume.Past) []volume.Past { return others(thin(all, c.now)) },
	}); err != nil {
		return nil, err
	}
	// A volume that was taken over from another home has them in the catalog.
	if err := n.engine.store.DisownPacks(volumeRoot(v.owner), slices.Collect(maps.Keys(gone))); err != nil {
		return nil, err
	}
	var own []store.OwnedPack
	for id := range kept {
		if p, err := n.engine.store.OwnedPack(id); err == nil {
			own = append(own, p)
		}
	}
	return kept, n.ownVolume(v, c.written.Entry.Bytes, own)
}

// placesOf gives the paths under put/ at which the home's own volume has a file
// or tree.
func (w *view) placesOf(ctx context.Context, f *volume.File) ([]string, error) {
	var out []string
	for x, err := range w.puts(ctx) {
		if err != nil {
			return nil, err
		}
		if volume.Same(x.file, f) {
			out = append(out, x.path)
		}
	}
	return out, nil
}

// written is what a put has written into the home's own volume.
type written struct {
	path string
	file *volume.File
}

// puts gives what is under put/ in the home's own volume.
func (w *view) puts(ctx context.Context) iter.Seq2[written, error] {
	return func(yield func(written, error) bool) {
		dir, err := w.root.Lookup(ctx, "put")
		if errors.Is(err, volume.ErrNotFound) {
			return
		}
		if err != nil {
			yield(written{}, err)
			return
		}
		if dir.Entry().Kind != volume.DirEntry {
			return
		}
		for day, err := range dir.List(ctx) {
			if err != nil {
				yield(written{}, err)
				return
			}
			if day.Entry().Kind != volume.DirEntry {
				continue
			}
			for x, err := range day.List(ctx) {
				if err != nil {
					yield(written{}, err)
					return
				}
				if !yield(written{path: path.Join("put", day.Entry().Name, x.Entry().Name), file: x}, nil) {
					return
				}
			}
		}
	}
}
