package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/dht"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/volume"
	"github.com/p2pfs/p2pfs/wire"
)

const (
	// removesAtOnce is how many packs are deleted side by side: each asks
	// some 20 peers.
	removesAtOnce = 8

	// removeTries is how often a removal begins anew because the same was put
	// meanwhile, and a deletion is signed anew because a newer state is known.
	removeTries = 3
)

// ownedPacks gives what the catalog knows of packs. The error tells of those that
// are not in it.
func (n *Node) ownedPacks(ids []pack.ID) (packs []store.OwnedPack, err error) {
	for _, id := range ids {
		p, perr := n.engine.store.OwnedPack(id)
		if perr != nil {
			err = errors.Join(err, perr)
			continue
		}
		packs = append(packs, p)
	}
	return packs, err
}

// own writes a put into the catalog: the packs that it stored, and those of
// its parent that it needs. The root's own pack comes last: where it is, all are.
func (n *Node) own(link volume.Link, entry volume.Entry, source string, packs []*placed, kept []store.OwnedPack) error {
	root := store.Root{
		ID: store.RootOf(link.Root.Pack, link.Root.Off), Link: link.String(), Name: entry.Name,
		Bytes: entry.Size, Time: n.engine.clock.Now().UnixMilli(), Source: source,
	}
	if entry.Kind == volume.DirEntry {
		root.Bytes = entry.Bytes
	}
	list := append(make([]store.OwnedPack, 0, len(packs)+len(kept)), kept...)
	for _, p := range packs {
		list = append(list, p.owned)
	}
	for _, p := range list {
		if x := p.Expires; x != 0 && (root.Expires == 0 || x < root.Expires) {
			root.Expires = x
		}
	}
	if i := slices.IndexFunc(list, func(p store.OwnedPack) bool { return p.ID == link.Root.Pack }); i >= 0 {
		list[i], list[len(list)-1] = list[len(list)-1], list[i]
	}
	return n.engine.store.Own(root, list)
}

// Remove takes what a place names out of its volume. What a link names it
// deletes: all its packs to which nothing else refers
// that this home has put, and takes it out of the home's own volume. Holders drop their shards as soon as they are told;
// the peers closest to each pack are told too, from whom holders learn of it that
// are away now. Where no holder of some pack can be told the result is Partial,
// and Remove again does the rest.
//
// Errors have the code Refused where the file is not this home's.
func (n *Node) Remove(ctx context.Context, text string) (RemoveResult, error) {
	s, err := n.seek(text)
	switch {
	case err != nil:
		return RemoveResult{}, err
	case s.vol != nil && s.Volume == "link":
		return RemoveResult{}, fail(Refused, "'p2pfs rm NAME:PATH' removes what is in a volume", "a link to a volume")
	case s.vol != nil:
		return RemoveResult{}, n.removePlace(ctx, s)
	}
	l, err := n.link(text)
	if err != nil {
		return RemoveResult{}, err
	}
	if err := l.Usable(); err != nil {
		return RemoveResult{}, &Error{Code: Refused, Hint: "remove by the link that put printed", Err: err}
	}
	if !n.parents.remove(store.RootOf(l.Root.Pack, l.Root.Off)) {
		return RemoveResult{}, fail(Failed, "remove it when that put has ended", "a put is using it as what was there before, or it is being removed")
	}
	defer n.parents.removed(store.RootOf(l.Root.Pack, l.Root.Off))
	for try := 1; ; try++ {
		res, err := n.remove(ctx, l)
		if !errors.Is(err, store.ErrOld) || try == removeTries {
			return res, err
		}
		// It was put at the same time: what is there now goes too.
	}
}

func (n *Node) remove(ctx context.Context, l volume.Link) (RemoveResult, error) {
	e := n.engine
	mine, err := n.vol(Mine)
	if err != nil {
		return RemoveResult{}, err
	}
	keys := mine.keys
	id := store.RootOf(l.Root.Pack, l.Root.Off)
	root, err := e.store.Root(id)
	owned := err == nil
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return RemoveResult{}, err
	}
	ids, err := n.packsOf(ctx, l, keys.Public())
	if err != nil {
		return RemoveResult{}, err
	}
	if !owned {
		if err := n.partOf(ctx, mine, l); err != nil {
			return RemoveResult{}, err
		}
		if root, owned, err = n.claimRoot(l, ids); err != nil {
			return RemoveResult{}, err
		}
	}
	if owned && root.Source != "" { // no put builds on it from now on, however far this comes
		root.Source = ""
		if err = e.store.Own(root, nil); err == nil {
			root, err = e.store.Root(id)
		}
		if err != nil {
			return RemoveResult{}, err
		}
	}
	var needed map[pack.ID]bool
	if root.Expires == 0 { // what expires is in no volume
		needed, err = n.leaveMine(ctx, l, ids)
		if ctx.Err() != nil {
			return RemoveResult{}, context.Cause(ctx)
		}
		if err != nil { // else its name would lead to nothing from now on
			return RemoveResult{}, fmt.Errorf("take it out of %s: %w", mine, err)
		}
	}
	var res RemoveResult
	res.Kept = len(needed)
	ids = slices.DeleteFunc(ids, func(id pack.ID) bool { return needed[id] })
	var mu sync.Mutex // guards res
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(removesAtOnce)
	for _, p := range ids {
		g.Go(func() error {
			done, err := e.removePack(gctx, keys.Owner, p, id, math.MaxUint64)
			if gctx.Err() != nil {
				return gctx.Err()
			}
			if err != nil && !errors.Is(err, errUntold) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				e.log.Warn("pack not deleted", "pack", p, "err", err)
				res.Untold++
			case done.kept:
				res.Kept++
			case !done.foreign:
				res.Packs++
				res.Bytes += int64(done.bytes)
			}
			res.Holders += done.holders
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return RemoveResult{}, err
	}
	if res.Partial = res.Untold > 0; res.Partial {
		return res, nil
	}
	if !owned {
		if _, err := e.store.Root(id); err == nil {
			return res, fmt.Errorf("remove: put meanwhile: %w", store.ErrOld)
		}
		return res, nil
	}
	_, err = e.store.Disown(root)
	return res, err
}

// partOf refuses a link that a put into a volume has printed: what it leads to is
// part of a head.
func (n *Node) partOf(ctx context.Context, v *vol, l volume.Link) error {
	w, err := n.look(ctx, v)
	if err != nil {
		return err
	}
	all, err := w.allPast(ctx)
	if err != nil {
		return err
	}
	for _, p := range all {
		if !p.Pin && p.Root.Pack == l.Root.Pack {
			return fail(Refused, fmt.Sprintf("'p2pfs rm %s:PATH' takes it out, 'p2pfs volume prune %s' lets go of what there was", v.name, v.name),
				"it is in %s since head %d", v, p.Number)
		}
	}
	return nil
}

// claimRoot writes a root into the catalog that another home has put, if its
// packs are there, taken over with the volume: until all of them are deleted they
// are under it, and a removal that is cut short can be done again.
func (n *Node) claimRoot(l volume.Link, ids []pack.ID) (store.Root, bool, error) {
	packs, err := n.ownedPacks(ids)
	if err != nil {
		return store.Root{}, false, nil
	}
	root := store.Root{
		ID: store.RootOf(l.Root.Pack, l.Root.Off), Link: l.String(), Name: l.Kind.String(), Time: n.engine.clock.Now().UnixMilli(),
	}
	if err := n.engine.store.Own(root, packs); err != nil {
		return store.Root{}, false, err
	}
	root, err = n.engine.store.Root(root.ID)
	return root, err == nil, err
}

// packsOf gives the packs of a file of this owner: from the catalog, if all are
// in it, else from the file's inventory.
func (n *Node) packsOf(ctx context.Context, l volume.Link, owner pack.Owner) ([]pack.ID, error) {
	e := n.engine
	var ids []pack.ID
	for id, err := range e.store.PacksOf(ctx, store.RootOf(l.Root.Pack, l.Root.Off)) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	if slices.Contains(ids, l.Root.Pack) {
		return ids, nil
	}
	k, err := e.locate(ctx, l.Root.Pack, effort{})
	if err != nil {
		return nil, err
	}
	if k.manifest.State.Owner != owner {
		return nil, fail(Refused, "only the home that put it can remove it: ask for it there", "the file was put by another home")
	}
	f, _, err := n.open(ctx, l.String())
	if err != nil {
		return nil, err
	}
	return f.Packs(ctx)
}

// removed says what became of one pack.
type removed struct {
	kept    bool // another root refers to it
	renewed bool // it has been stored again, and stays for that
	foreign bool // it is of another owner
	bytes   int
	holders int // that were told
}

// errUntold is wrapped where no holder of a pack could be told.
var errUntold = errors.New("no holder could be told")

// removePack deletes a pack unless another root than except refers to it, or a
// holder has a state of it with a higher number than newest.
func (e *engine) removePack(ctx context.Context, owner ed25519.PrivateKey, id pack.ID, except store.RootID, newest uint64) (removed, error) {
	release, err := e.claim(ctx, id, nil)
	if errors.Is(err, errClaimed) {
		return removed{}, fmt.Errorf("%w: %w", errUntold, err)
	}
	if err != nil {
		return removed{}, err
	}
	defer release()
	roots, err := e.store.RootsOf(id, 2)
	if err != nil {
		return removed{}, err
	}
	if slices.ContainsFunc(roots, func(r store.RootID) bool { return r != except }) {
		return removed{kept: true}, nil
	}
	answers, err := e.search(ctx, id, effort{all: true}, nil)
	if ctx.Err() != nil {
		return removed{}, ctx.Err()
	}
	if err != nil {
		return removed{}, fmt.Errorf("%w: %w", errUntold, err)
	}
	near, err := e.dir.Closest(ctx, id, dht.Width)
	if err != nil {
		e.log.Debug("closest peers not all found", "pack", id, "err", err)
	}
	buried := len(answers) == 0 && e.buried(ctx, id, near) > 0
	tomb := &pack.State{Network: e.network, Owner: pack.Owner(owner.Public().(ed25519.PublicKey)), Deleted: true}
	var out removed
	var last uint64
	if p, err := e.store.OwnedPack(id); err == nil {
		tomb.Content, last, out.bytes = p.Content, p.Number, p.Len
	} else if k, err := e.settle(ctx, id, answers); err == nil {
		tomb.Content, out.bytes = k.manifest.State.Content, k.geometry.Len
	} else if buried {
		return out, nil
	} else {
		return out, fmt.Errorf("%w: %w", errUntold, err)
	}
	if tomb.ID() != id {
		return removed{foreign: true}, nil
	}
	holders := make(map[peer.ID]bool)
	for _, a := range answers {
		holders[a.peer] = true
		last = max(last, e.believable(a.number))
	}
	if last > newest {
		return removed{renewed: true}, nil
	}
	for _, p := range e.remembered(id) {
		holders[p] = true
	}
	targets := slices.Clone(near)
	for p := range holders {
		targets = append(targets, p)
	}
	slices.Sort(targets)
	targets = slices.DeleteFunc(slices.Compact(targets), func(p peer.ID) bool { return p == e.self && !e.holder })
	for try := 1; ; try++ {
		tomb.Number = pack.NextNumber(e.clock.Now(), last)
		tomb.Sign(owner)
		told, higher := e.tellDeleted(ctx, tomb, targets)
		if err := ctx.Err(); err != nil {
			return out, err
		}
		if higher > max(newest, tomb.Number) { // who has it so knows better
			return removed{renewed: true}, nil
		}
		if higher > tomb.Number && try < removeTries {
			last = higher
			continue
		}
		e.packs.forget(id)
		for _, p := range told {
			if holders[p] {
				out.holders++
			}
		}
		if out.holders == 0 && !buried {
			return out, fmt.Errorf("pack %s: %w: of %d peers asked %d know now", id.Short(), errUntold, len(targets), len(told))
		}
		return out, nil
	}
}

// believable gives the number of a state that a peer claims to know, 0 where
// it is from the future: to follow it would use up the numbers there are.
func (e *engine) believable(number uint64) uint64 {
	if number > uint64(e.clock.Now().Add(soon).UnixMilli()) {
		return 0
	}
	return number
}

// remembered gives the peers that this node knows as holders of a pack.
func (e *engine) remembered(id pack.ID) []peer.ID {
	var out []peer.ID
	_, hs, _ := e.store.Holders(id)
	hints, _ := e.store.Hint(id)
	for _, h := range append(hs, hints...) {
		out = append(out, peer.ID(h.Peer))
	}
	return out
}

// buried gives the number of the newest deletion of a pack that one of the
// peers knows of, 0 where none does.
func (e *engine) buried(ctx context.Context, id pack.ID, peers []peer.ID) uint64 {
	numbers := make([]uint64, len(peers))
	var g errgroup.Group
	g.SetLimit(32)
	for i, p := range peers {
		g.Go(func() error {
			hs, err := e.holdings(ctx, p, []pack.ID{id})
			if err == nil && len(hs) == 1 && hs[0].Deleted {
				numbers[i] = e.believable(hs[0].Number)
			}
			return nil
		})
	}
	g.Wait()
	return slices.Max(append(numbers, 0))
}

// tellDeleted tells peers side by side that a pack is deleted. It gives those
// that know now, and the highest number of a live state that one knows instead.
func (e *engine) tellDeleted(ctx context.Context, tomb *pack.State, peers []peer.ID) (told []peer.ID, higher uint64) {
	var mu sync.Mutex // guards told, higher
	var g errgroup.Group
	g.SetLimit(32)
	for _, p := range peers {
		g.Go(func() error {
			err := e.tellState(ctx, p, tomb)
			var newer uint64
			if errors.Is(err, wire.ErrOld) || errors.Is(err, store.ErrOld) {
				hs, herr := e.holdings(ctx, p, []pack.ID{tomb.ID()})
				switch {
				case herr != nil || len(hs) != 1:
				case hs[0].Deleted:
					err = nil // it knows of a later one
				default:
					newer = e.believable(hs[0].Number)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			higher = max(higher, newer)
			if err == nil {
				told = append(told, p)
			} else {
				e.log.Debug("deletion not taken", "peer", p, "pack", tomb.ID(), "err", err)
			}
			return nil
		})
	}
	g.Wait()
	return told, higher
}
