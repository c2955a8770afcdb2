package node

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/dht"
	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/repair"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/wire"
)

const (
	// defaultSettle is how long peers must have been there before packs move to
	// a larger step, and how long too few before they move to a smaller one: a
	// day, in which most machines that are only switched off come back.
	defaultSettle = 24 * time.Hour

	// looksPerSettle is how often in that time the peers are asked whether
	// they are there, and packs are looked for that could move.
	looksPerSettle = 24

	// askedPerLook is how many are asked: twice what the largest step needs.
	askedPerLook = 40

	// growQueue is how many packs are looked out at a time, those of the lowest
	// redundancy; and how many of those that failed are remembered.
	growQueue = 1024

	// growFailures is how many packs may fail until the next look.
	growFailures = 8
)

// grower moves the packs of this home to the redundancy that the number of
// peers allows: to a larger step when enough have been there for long, to a
// smaller one when too few have. Packs whose redundancy was given stay.
//
// A pack moves by a new state of the same content: its shards are stored beside
// the old ones, as those of any put, and when all of them are durable the
// holders are told, which makes the new ones permanent and has each holder that
// keeps both drop the old one. Holders that were not chosen again keep their
// old shard, of a state that is not the newest any more: what watches over a
// pack drops it once it has learned from the other holders that all of the new
// state is durable. Whenever this ends halfway, one of the two states is whole;
// which holders are told first is chosen so.
type grower struct {
	*engine

	key    func(pack.Owner) ed25519.PrivateKey // nil: this home has none of that owner
	tidy   func(context.Context) error         // drops what is dying in volumes
	settle time.Duration

	queue []store.OwnedPack      // to be moved, the lowest redundancy first
	retry map[pack.ID]retryAfter // that failed lately
	ripe  time.Time              // when few peers begin to mean that the others are gone
}

// retryAfter says when a pack that could not be moved is tried again.
type retryAfter struct {
	at    time.Time
	tries int
}

func newGrower(e *engine, key func(pack.Owner) ed25519.PrivateKey, settle time.Duration) *grower {
	if settle == 0 {
		settle = defaultSettle
	}
	return &grower{engine: e, key: key, settle: settle, retry: make(map[pack.ID]retryAfter), ripe: e.clock.Now().Add(settle)}
}

// grow moves packs until ctx ends.
func (n *Node) grow(ctx context.Context) error {
	g := newGrower(n.engine, func(owner pack.Owner) ed25519.PrivateKey {
		if keys := n.ownerKey(owner); keys != nil {
			return keys.Owner
		}
		return nil
	}, n.config.Settle)
	g.tidy = n.tidy
	return g.run(ctx, func() (steady, seen int) {
		look := g.settle / looksPerSettle
		return n.engine.peers.count(n.engine.clock.Now(), g.settle, 2*look)
	})
}

// run moves packs by the clock. peers gives how many others have been there
// for the whole of settle, and how many at any time in it.
func (g *grower) run(ctx context.Context, peers func() (steady, seen int)) error {
	look := g.settle / looksPerSettle
	for sleep(ctx, g.clock, look+g.jitter(look/8)) == nil {
		g.meet(ctx)
		if err := g.forgetExpired(ctx); err != nil && ctx.Err() == nil {
			g.log.Warn("expired puts are not forgotten", "err", err)
		}
		if g.tidy != nil {
			if err := g.tidy(ctx); err != nil && ctx.Err() == nil {
				g.log.Warn("volumes are not tidied", "err", err)
			}
		}
		for failed := 0; ctx.Err() == nil && failed < growFailures; {
			steady, seen := peers()
			if g.holder { // this node itself
				steady, seen = steady+1, seen+1
			}
			if g.clock.Now().Before(g.ripe) {
				seen = max(seen, steps[0].N()) // who is not known yet is not gone
			}
			moved, err := g.growOnce(ctx, steady, seen)
			if err != nil && ctx.Err() == nil {
				failed++
				g.log.Warn("pack not moved to another redundancy, trying again later", "err", err)
			}
			if !moved && err == nil {
				break
			}
		}
	}
	return nil
}

// jitter gives a random duration below most, so that nodes started at once do
// not all work at once.
func (g *grower) jitter(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Duration(g.rand.Int64N(int64(most)))
}

// meet asks peers whether they are there, which the peer table remembers.
func (g *grower) meet(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var ask []peer.ID
	for p, err := range g.dir.Walk(ctx, digest.Of([]byte(g.self))) {
		if err != nil || len(ask) == askedPerLook {
			break
		}
		if p != g.self {
			ask = append(ask, p)
		}
	}
	g.accepting(ctx, ask)
}

// forgetExpired takes what has expired out of the catalog.
func (g *grower) forgetExpired(ctx context.Context) error {
	now := g.clock.Now().UnixMilli()
	for r, err := range g.store.Roots(ctx) {
		if err != nil {
			return err
		}
		if r.Expires == 0 || now < 0 || uint64(now) < r.Expires {
			continue
		}
		if _, err := g.store.Disown(r); err != nil && !errors.Is(err, store.ErrOld) {
			return err
		}
	}
	return nil
}

// target gives the scheme to which a pack is to move, false if it is to stay.
// steady is how many peers have been there for long, seen how many at any time
// since.
func target(p store.OwnedPack, steady, seen int) (erasure.Scheme, bool) {
	if p.Given {
		return erasure.Scheme{}, false
	}
	to, ok := stepFor(steady)
	if !ok || to.N() <= p.Scheme.N() {
		// Down only where repair would be due and could not be done: the smaller
		// step then survives no fewer losses. Never to one copy, which gains
		// nothing and has another that comes back dropped.
		to, ok = stepFor(seen)
		if !ok || to.M == 0 || to.N() >= p.Scheme.N() || seen > repair.Threshold(p.Scheme.K, p.Scheme.M) {
			return erasure.Scheme{}, false
		}
	}
	if p.Meta {
		to = metaScheme(to)
	}
	return to, true
}

// growOnce moves one pack, that of the lowest redundancy first. moved is false
// without an error where there is none to move. After an error the pack is
// left alone for a while, longer each time.
func (g *grower) growOnce(ctx context.Context, steady, seen int) (moved bool, err error) {
	if len(g.queue) == 0 {
		if err := g.fill(ctx, steady, seen); err != nil {
			return false, err
		}
	}
	for len(g.queue) > 0 {
		p := g.queue[0]
		g.queue = g.queue[1:]
		to, ok := target(p, steady, seen)
		if !ok {
			continue
		}
		if err := g.move(ctx, p.ID, to); err != nil {
			if ctx.Err() == nil {
				g.postpone(p.ID)
			}
			return false, fmt.Errorf("move pack %s to %s: %w", p.ID.Short(), to, err)
		}
		delete(g.retry, p.ID)
		return true, nil
	}
	return false, nil
}

// fill looks out the packs to be moved.
func (g *grower) fill(ctx context.Context, steady, seen int) error {
	now := g.clock.Now()
	for id, r := range g.retry {
		if now.Sub(r.at) > g.settle {
			delete(g.retry, id)
		}
	}
	worst := func(a, b store.OwnedPack) int { return cmp.Compare(a.Scheme.M, b.Scheme.M) }
	var queue []store.OwnedPack
	for p, err := range g.store.Owned(ctx) {
		if err != nil {
			return err
		}
		if _, ok := target(p, steady, seen); !ok || now.Before(g.retry[p.ID].at) {
			continue
		}
		if p.Expires != 0 && uint64(now.Add(g.settle).UnixMilli()) >= p.Expires {
			continue // not worth it
		}
		if queue = append(queue, p); len(queue) == 2*growQueue {
			slices.SortStableFunc(queue, worst)
			queue = queue[:growQueue]
		}
	}
	slices.SortStableFunc(queue, worst)
	g.queue = queue[:min(len(queue), growQueue)]
	return nil
}

// postpone leaves a pack alone for a while.
func (g *grower) postpone(id pack.ID) {
	r, known := g.retry[id]
	if !known && len(g.retry) >= growQueue {
		return // it stays where it is in the order, and is tried again with the others
	}
	wait := min(g.settle/looksPerSettle<<min(r.tries, 10), g.settle)
	g.retry[id] = retryAfter{at: g.clock.Now().Add(wait + g.jitter(wait/4)), tries: r.tries + 1}
}

// errLeft tells that a pack is not to be moved now.
var errLeft = errors.New("it is deleted, or being put again")

// move codes a pack anew. It gives way to a put of the same content.
func (g *grower) move(ctx context.Context, id pack.ID, to erasure.Scheme) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	release, err := g.claim(ctx, id, func() { cancel(errLeft) })
	if err != nil {
		return err
	}
	defer release()
	owned, err := g.store.OwnedPack(id)
	if err != nil {
		return err // removed meanwhile
	}
	old, err := g.locate(ctx, id, effort{all: true})
	if err != nil {
		return err
	}
	st := &old.manifest.State
	if st.Given || st.Expired(g.clock.Now()) {
		owned.Given, owned.Scheme, owned.Number, owned.Expires = st.Given, st.Scheme(), st.Number, st.Expires
		return g.store.SetOwned(owned)
	}
	if st.Scheme() == to && old.distinct() == old.geometry.N() {
		owned.Scheme, owned.Number, owned.Expires = to, st.Number, st.Expires
		return g.store.SetOwned(owned) // an earlier attempt came that far
	}
	near, err := g.dir.Closest(ctx, id, dht.Width)
	if err != nil {
		return err
	}
	if g.buried(ctx, id, near) > st.Number {
		return errLeft // and one of its holders does not know yet
	}
	key := g.key(st.Owner)
	if key == nil {
		return fmt.Errorf("no key of the owner: %w", errLeft)
	}
	p := g.newPutter(ctx, key, &to, st.Expires)
	p.given, p.last = false, true
	defer p.end()
	done, err := p.recode(ctx, id, old, owned)
	if err == nil {
		err = p.changeOver(ctx, done, old)
	} else {
		p.giveUp()
	}
	if err != nil {
		return err // what has changed over stays, for the next attempt
	}
	if err := g.store.SetOwned(done.owned); err != nil {
		return err
	}
	g.packs.forget(id)
	g.log.Info("pack moved to another redundancy", "pack", id, "from", st.Scheme(), "to", to)
	return nil
}

// recode fetches a pack and stores it under the putter's scheme, beside what
// is there.
func (p *putter) recode(ctx context.Context, id pack.ID, old *known, owned store.OwnedPack) (*placed, error) {
	// Are there enough? Only then it is fetched.
	to, err := p.choose(ctx, id, owned.Len, false, p.scheme.N())
	if err != nil {
		return nil, err
	}
	n := erasure.NewGeometry(owned.Len, *p.scheme).N()
	if len(to.peers) < n {
		return nil, fmt.Errorf("%d of %d peers accept a shard: %w", len(to.peers), n, errFewer)
	}
	data, err := source{p.e}.Open(ctx, id, 0, old.geometry.Len)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	b, err := data.Bytes(ctx, 0, old.geometry.Len)
	if err != nil {
		return nil, err
	}
	content := old.manifest.Content
	if got := pack.NewContent(b).Hash(); got != content.Hash() {
		return nil, fmt.Errorf("pack %s: what was fetched is another: %w", id.Short(), pack.ErrCorrupt)
	}
	st := &old.manifest.State
	done, _, err := p.spread(ctx, id, st.Owner, content, b, false, max(st.Number, owned.Number), st.Expires)
	if err != nil {
		return nil, err
	}
	if done.missing() > 0 {
		return nil, fmt.Errorf("%d of %d shards stored%s: %w", len(done.holders), done.k+done.m, because(done.reasons), errFewer)
	}
	done.meta, done.owned.Meta = owned.Meta, owned.Meta
	return done, nil
}

// errFewer tells that there are not enough peers for a scheme.
var errFewer = errors.New("too few for the move")

// changeOver confirms the shards of a pack that is coded otherwise than before:
// first to the holders that have no old shard to drop, then to the others. So
// that whenever it ends, and whatever was heard of it, k′ shards of one of the
// two states stay.
func (p *putter) changeOver(ctx context.Context, pk *placed, old *known) error {
	had := make(map[string]bool)
	if old.geometry.K != pk.k || old.geometry.M != pk.m { // else nothing is dropped
		for _, ps := range old.holders {
			for _, h := range ps {
				had[string(h)] = true
			}
		}
	}
	var first, rest []wire.Holder
	for _, h := range pk.holders {
		if had[h.Peer] {
			rest = append(rest, h)
		} else {
			first = append(first, h)
		}
	}
	took := p.confirmTo(ctx, pk, first)
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if !mayDrop(len(took), pk.k, old.distinct(), old.geometry.K) {
		return fmt.Errorf("%d of %d new holders confirmed: %w", len(took), len(first), errFewer)
	}
	took = append(took, p.confirmTo(ctx, pk, rest)...)
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if len(took) < len(pk.holders) {
		return fmt.Errorf("%d of %d holders confirmed: %w", len(took), len(pk.holders), errFewer)
	}
	hs := make([]store.Holder, 0, len(took))
	for _, h := range took {
		hs = append(hs, store.Holder{Peer: h.Peer, Shard: h.Shard})
	}
	p.e.remember(pk.id, hs)
	return nil
}

// mayDrop tells whether holders of both states may change over in any order,
// each giving a shard of the new state for one of the old: confirmed of the new
// are there already, which needs k, and live of the old, which needed oldK.
func mayDrop(confirmed, k, live, oldK int) bool {
	need := k - confirmed // more must change over until the new state is whole
	return need <= 0 || live-(need-1) >= oldK
}

// confirmTo tells holders of a pack that all of it is durable, and gives those
// that know.
func (p *putter) confirmTo(ctx context.Context, pk *placed, holders []wire.Holder) (took []wire.Holder) {
	var mu sync.Mutex // guards took
	var g errgroup.Group
	g.SetLimit(32)
	for _, h := range holders {
		g.Go(func() error {
			if err := p.tell(ctx, peer.ID(h.Peer), []*placed{pk}); err != nil {
				p.e.log.Info("holder not confirmed", "peer", peer.ID(h.Peer), "pack", pk.id, "err", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, h)
			return nil
		})
	}
	g.Wait()
	return took
}
