package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/wire"
)

const (
	// packsInFlight is how many packs are coded and sent side by side: while
	// holders sync one, the next is coded. A third brought nothing on two
	// cores and costs 80 MiB at 8+12.
	packsInFlight = 2

	// parityBudget bounds the parity held in memory, in bytes: what two full
	// packs have at 8+12. Under schemes with more, packs are made smaller.
	parityBudget = 96 << 20

	// aliveEvery is how often a put that takes long tells holders that it is
	// alive, which keeps its shards.
	aliveEvery = 10 * time.Minute
)

// placed says where the shards of a pack are.
type placed struct {
	id       pack.ID
	number   uint64
	scheme   erasure.Scheme
	k, m     int // its own k′, and m
	meta     bool
	holders  []wire.Holder
	reasons  []error // why shards could not be placed
	accepted int     // peers that accepted at first
}

// short tells how many of its shards are missing.
func (p *placed) missing() int { return p.k + p.m - len(p.holders) }

// putter stores the packs of one put: it is a volume.Sink. Packs are coded
// and sent behind PutPack, packsInFlight at a time.
type putter struct {
	e       *engine
	id      [16]byte
	owner   ed25519.PrivateKey
	scheme  *erasure.Scheme // nil: automatic
	expires uint64          // Unix time in ms, 0: never
	slots   chan struct{}
	ctx     context.Context // of the put: ends all that is under way
	cancel  context.CancelCauseFunc

	wg     sync.WaitGroup
	mu     sync.Mutex
	packs  []*placed
	seen   map[pack.ID]bool
	peers  map[peer.ID]bool // that were given shards
	failed error
}

// newPutter begins a put. The caller ends it with end.
func (e *engine) newPutter(ctx context.Context, owner ed25519.PrivateKey, s *erasure.Scheme, expires uint64) *putter {
	ctx, cancel := context.WithCancelCause(ctx)
	p := &putter{
		e: e, owner: owner, scheme: s, expires: expires, ctx: ctx, cancel: cancel,
		slots: make(chan struct{}, packsInFlight),
		seen:  make(map[pack.ID]bool), peers: make(map[peer.ID]bool),
	}
	e.mu.Lock()
	for i := range p.id {
		p.id[i] = byte(e.rand.Uint32())
	}
	e.mu.Unlock()
	p.wg.Go(p.stayAlive)
	return p
}

// end waits until nothing of the put is running any more.
func (p *putter) end() {
	p.cancel(context.Canceled)
	p.wg.Wait()
}

// stayAlive tells holders now and then that the put goes on.
func (p *putter) stayAlive() {
	for sleep(p.ctx, p.e.clock, aliveEvery) == nil {
		p.sign(p.ctx, p.e.store.Touch, wire.Alive)
	}
}

// giveUp has holders drop what they were given; those that cannot be told
// drop it in a day.
func (p *putter) giveUp() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), askTimeout)
	defer cancel()
	p.sign(ctx, func(id store.PutID) error { return p.e.store.GiveUp(ctx, id) }, wire.GiveUp)
}

// sign says something about the put to all who were given shards.
func (p *putter) sign(ctx context.Context, here func(store.PutID) error, there func(io.ReadWriter, [16]byte) error) {
	p.mu.Lock()
	peers := slices.Collect(maps.Keys(p.peers))
	p.mu.Unlock()
	var g errgroup.Group
	g.SetLimit(32)
	for _, h := range peers {
		g.Go(func() error {
			if h == p.e.self {
				return here(putOf(string(h), p.id))
			}
			return p.e.call(ctx, h, askTimeout, func(s stream) error { return there(s, p.id) })
		})
	}
	if err := g.Wait(); err != nil {
		p.e.log.Debug("sign of a put not heard", "err", err)
	}
}

// packBytes gives the greatest pack for which the parity of those in flight
// stays within the budget.
func packBytes(s *erasure.Scheme) int {
	if s == nil || s.K >= s.N() {
		return pack.MaxLen
	}
	// Metadata packs have half the k, but are few and small.
	most := parityBudget / packsInFlight * s.K / max(s.M, 1)
	return min(pack.MaxLen, max(most, 1<<20))
}

// PutPack stores a finished pack behind the caller's back and gives its ID.
// It waits while too many packs are under way. release is called once data is
// no longer looked at.
func (p *putter) PutPack(ctx context.Context, data []byte, meta bool, release func()) (pack.ID, error) {
	content := pack.NewContent(data)
	owner := pack.Owner(p.owner.Public().(ed25519.PublicKey))
	id := pack.IDOf(owner, content.Hash())
	p.mu.Lock()
	again := p.seen[id]
	p.seen[id] = true
	err := p.failed
	p.mu.Unlock()
	if again || err != nil {
		release()
		return id, err
	}
	select {
	case p.slots <- struct{}{}:
	case <-p.ctx.Done():
		release()
		return id, context.Cause(p.ctx)
	case <-ctx.Done():
		release()
		return id, ctx.Err()
	}
	p.wg.Go(func() {
		defer func() { <-p.slots }()
		defer release()
		done, err := p.store(p.ctx, id, owner, content, data, meta)
		p.mu.Lock()
		defer p.mu.Unlock()
		if err != nil {
			if p.failed == nil {
				p.failed = err
				p.cancel(err)
			}
			return
		}
		p.packs = append(p.packs, done)
	})
	return id, nil
}

// Wait waits until every pack is durable, or one cannot be.
func (p *putter) Wait(ctx context.Context) error {
	for range packsInFlight { // every slot is free: nothing is under way
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for range packsInFlight {
		<-p.slots
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

// store codes a pack and sends its shards to holders.
func (p *putter) store(ctx context.Context, id pack.ID, owner pack.Owner, content pack.Content, data []byte, meta bool) (*placed, error) {
	var last uint64
	if p.e.store != nil {
		if m, err := p.e.store.Manifest(id); err == nil {
			last = m.State.Number
		}
	}
	most := steps[0].N() // no more peers than this are taken
	for try := 0; ; try++ {
		scheme, peers, err := p.choose(ctx, id, len(data), meta, most)
		if err != nil {
			return nil, err
		}
		g := erasure.NewGeometry(len(data), scheme)
		var parity []byte
		if g.K > 1 && g.M > 0 {
			parity = p.e.buffers.get(g.ParityLen())
		}
		hashes, err := pack.Code(content, data, scheme, parity)
		if err != nil {
			return nil, fmt.Errorf("code pack %s: %w", id.Short(), err)
		}
		state := pack.NewState(p.e.network, owner, content, scheme, p.scheme != nil, pack.NextNumber(p.e.clock.Now(), last), hashes)
		state.Expires = p.expires
		state.Sign(p.owner)
		m := &pack.Manifest{Content: content, State: *state}
		done, higher := p.send(ctx, m, g, data, parity, peers)
		if parity != nil {
			p.e.buffers.put(parity)
		}
		done.scheme, done.meta = scheme, meta
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		if higher > last && done.missing() > 0 && try < 3 {
			last = higher // a peer knows a newer state, a deletion perhaps: ours must follow it
			continue
		}
		if done.missing() == 0 {
			return done, nil
		}
		if p.scheme == nil && len(done.holders) > 0 && len(done.holders) < most && try < 3 {
			// Fewer took a shard than offered to: take the step that they are enough for.
			if s, _ := stepFor(len(done.holders)); s.N() < scheme.N() && len(done.holders) <= threshold(done.k, done.m) {
				last, most = state.Number, len(done.holders)
				continue
			}
		}
		if len(done.holders) <= threshold(done.k, done.m) {
			return nil, fail(NoPeers, "see 'p2pfs peers' for who is there and what is free; a smaller --redundancy needs fewer peers",
				"pack %s: %d of %d shards stored, more than %d are needed%s",
				id.Short(), len(done.holders), g.N(), threshold(done.k, done.m), because(done.reasons))
		}
		return done, nil
	}
}

// because lists the first reasons for an error message.
func because(reasons []error) string {
	if len(reasons) == 0 {
		return ""
	}
	return ": " + reasons[0].Error()
}

// choose finds peers that accept shards of the pack and, where redundancy is
// automatic, the largest step for which they are enough (of at most most).
func (p *putter) choose(ctx context.Context, id pack.ID, packLen int, meta bool, most int) (erasure.Scheme, []candidate, error) {
	want := most
	if p.scheme != nil {
		want = p.scheme.N()
	}
	var scheme erasure.Scheme
	var offers []offer
	var reasons []error
	enough := func() bool {
		// The largest scheme whose shard so many peers have room for.
		try := steps
		if p.scheme != nil {
			try = []erasure.Scheme{*p.scheme}
		}
		for _, s := range try {
			if s.N() > most && p.scheme == nil {
				continue
			}
			of := s
			if meta {
				of = metaScheme(s)
			}
			if len(fitting(offers, of, packLen)) >= s.N() {
				scheme = of
				return true
			}
		}
		return false
	}
	take := func(peers []peer.ID) {
		for _, o := range p.e.accepting(ctx, peers) {
			switch {
			case o.err != nil:
				reasons = append(reasons, o.err)
			case o.facts.Capacity == 0 && o.facts.Free == 0:
				// a client: it holds nothing for others
			default:
				offers = append(offers, o)
			}
		}
	}
	near, err := p.e.dir.Closest(ctx, id, want)
	if err != nil && len(near) == 0 {
		if !p.e.holder {
			return scheme, nil, fail(NoPeers, "start a node of this network, or check that this machine reaches one: 'p2pfs peers'",
				"pack %s: no peer found: %w", id.Short(), err)
		}
	}
	if p.e.holder && !slices.Contains(near, p.e.self) {
		near = append(near, p.e.self)
	}
	take(near)
	if len(fitting(offers, erasure.Scheme{K: 1}, packLen)) < want && len(near) >= want {
		// More peers are there than were asked: go on to farther ones.
		asked := make(map[peer.ID]bool)
		for _, q := range near {
			asked[q] = true
		}
		var batch []peer.ID
		for q, err := range p.e.dir.Walk(ctx, id) {
			if err != nil {
				break
			}
			if asked[q] {
				continue
			}
			asked[q] = true
			batch = append(batch, q)
			if len(batch) == lookupWidth {
				take(batch)
				batch = nil
				if enough() && (p.scheme != nil || scheme.N() >= want) {
					break
				}
			}
			if len(asked) > 16*want {
				break
			}
		}
		take(batch)
	}
	if !enough() {
		if p.scheme == nil || len(offers) == 0 {
			return scheme, nil, fail(NoPeers, "see 'p2pfs peers' for who is there and what is free",
				"pack %s: none of %d peers accepts a shard of it%s", id.Short(), len(near), because(reasons))
		}
		scheme = *p.scheme
		if meta {
			scheme = metaScheme(scheme)
		}
	}
	var cs []candidate
	for _, o := range fitting(offers, scheme, packLen) {
		cs = append(cs, candidate{peer: o.peer, zone: o.facts.Zone})
	}
	return scheme, cs, nil
}

// farther finds peers that accept a shard beyond those that are used: as many
// as a pack has shards, if there are.
func (p *putter) farther(ctx context.Context, id pack.ID, g erasure.Geometry, used map[peer.ID]bool) []candidate {
	var cs []candidate
	var batch []peer.ID
	take := func() {
		for _, o := range fitting(p.e.accepting(ctx, batch), erasure.Scheme{K: g.K, M: g.M}, g.Len) {
			cs = append(cs, candidate{peer: o.peer, zone: o.facts.Zone})
		}
		batch = nil
	}
	seen := 0
	for q, err := range p.e.dir.Walk(ctx, id) {
		if err != nil || len(cs) >= g.N() || seen > 16*g.N() {
			break
		}
		seen++
		if !used[q] {
			used[q] = true
			if batch = append(batch, q); len(batch) == lookupWidth {
				take()
			}
		}
	}
	take()
	return cs
}

// fitting gives the offers with room for a shard under s.
func fitting(offers []offer, s erasure.Scheme, packLen int) []offer {
	g := erasure.NewGeometry(packLen, s)
	need := uint64(g.ShardLen(0)) + pack.MaxManifest
	var out []offer
	for _, o := range offers {
		if o.facts.Free >= need {
			out = append(out, o)
		}
	}
	return out
}

// send gives shard i to the i-th chosen peer, side by side, and to a spare
// where one fails. higher is the highest number of a state that peers say is
// newer than ours.
func (p *putter) send(ctx context.Context, m *pack.Manifest, g erasure.Geometry, data, parity []byte, peers []candidate) (done *placed, higher uint64) {
	id := m.ID()
	chosen, spare := place(peers, g.N(), g.M)
	used := make(map[peer.ID]bool)
	for _, c := range peers {
		used[c.peer] = true
	}
	searched := false
	done = &placed{id: id, number: m.State.Number, k: g.K, m: g.M, accepted: len(peers)}
	var mu sync.Mutex
	next := func(err error, newer uint64) (candidate, bool) {
		mu.Lock()
		defer mu.Unlock()
		done.reasons = append(done.reasons, err)
		higher = max(higher, newer)
		if len(spare) == 0 && !searched {
			searched = true
			spare = p.farther(ctx, id, g, used)
		}
		if len(spare) == 0 || ctx.Err() != nil {
			return candidate{}, false
		}
		c := spare[0]
		spare = spare[1:]
		return c, true
	}
	var wg sync.WaitGroup
	for shard, c := range chosen {
		wg.Go(func() {
			for {
				err := p.sendShard(ctx, c.peer, m, shard, func(row int) []byte { return g.Cell(data, parity, shard, row) })
				if err == nil {
					mu.Lock()
					done.holders = append(done.holders, wire.Holder{Peer: string(c.peer), Shard: shard})
					mu.Unlock()
					p.mu.Lock()
					p.peers[c.peer] = true
					p.mu.Unlock()
					return
				}
				if ctx.Err() == nil {
					p.e.log.Warn("shard not stored", "peer", c.peer, "pack", id, "shard", shard, "err", err)
				}
				var newer uint64
				if errors.Is(err, wire.ErrOld) || errors.Is(err, store.ErrOld) {
					if hs, err := p.e.holdings(ctx, c.peer, []pack.ID{id}); err == nil && len(hs) == 1 {
						newer = hs[0].Number
					}
				}
				var ok bool
				if c, ok = next(err, newer); !ok {
					return
				}
			}
		})
	}
	wg.Wait()
	slices.SortFunc(done.holders, func(a, b wire.Holder) int { return a.Shard - b.Shard })
	return done, higher
}

// sendShard stores one shard on a peer, this node itself perhaps; durable when
// it returns nil.
func (p *putter) sendShard(ctx context.Context, to peer.ID, m *pack.Manifest, shard int, cell func(row int) []byte) error {
	if to == p.e.self {
		return p.e.storeHere(ctx, m, shard, putOf(string(to), p.id), cell)
	}
	err := p.e.call(ctx, to, p.e.stall, func(s stream) error {
		_, err := wire.Store(s, &wire.StoreRequest{Put: p.id, Manifest: m, Shard: shard}, cell)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", short(to), err)
	}
	return nil
}

// storeHere stores a shard in this node's own store.
func (e *engine) storeHere(ctx context.Context, m *pack.Manifest, shard int, put store.PutID, cell func(row int) []byte) error {
	w, err := e.store.Begin(ctx, m, shard, put)
	if errors.Is(err, store.ErrHave) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("this node: %w", err)
	}
	for r := range m.Geometry().ShardRows(shard) {
		if err := w.Write(r, cell(r)); err != nil {
			w.Abort()
			return fmt.Errorf("this node: %w", err)
		}
	}
	if err := w.Commit(); err != nil {
		return fmt.Errorf("this node: %w", err)
	}
	return e.dir.AddLocal(ctx, m.ID())
}

// confirm tells every holder of every pack who the others are, which makes
// their shards permanent. Holders that cannot be told count as lost: their
// shards will go away.
func (p *putter) confirm(ctx context.Context) error {
	byPeer := make(map[peer.ID][]*placed)
	for _, pk := range p.packs {
		for _, h := range pk.holders {
			byPeer[peer.ID(h.Peer)] = append(byPeer[peer.ID(h.Peer)], pk)
		}
	}
	type shard struct {
		id pack.ID
		on peer.ID
	}
	var mu sync.Mutex
	lost := make(map[shard]error)
	var g errgroup.Group
	g.SetLimit(32)
	for to, packs := range byPeer {
		g.Go(func() error {
			for part := range slices.Chunk(packs, wire.MaxPacks) {
				err := p.tell(ctx, to, part)
				if err == nil {
					continue
				}
				some, _ := errors.AsType[*wire.HoldersError](err)
				mu.Lock()
				for i, pk := range part {
					if some == nil || some.Codes[i] != 0 {
						lost[shard{pk.id, to}] = err
					}
				}
				mu.Unlock()
			}
			return nil
		})
	}
	g.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, pk := range p.packs {
		pk.holders = slices.DeleteFunc(pk.holders, func(h wire.Holder) bool {
			err := lost[shard{pk.id, peer.ID(h.Peer)}]
			if err != nil {
				pk.reasons = append(pk.reasons, err)
			}
			return err != nil
		})
		if len(pk.holders) <= threshold(pk.k, pk.m) && pk.missing() > 0 {
			return fail(NoPeers, "try again: holders went away while the file was stored",
				"pack %s: %d of %d shards confirmed%s", pk.id.Short(), len(pk.holders), pk.k+pk.m, because(pk.reasons))
		}
		hs := make([]store.Holder, 0, len(pk.holders))
		for _, h := range pk.holders {
			hs = append(hs, store.Holder(h))
		}
		p.e.remember(pk.id, hs)
	}
	return nil
}

// tell confirms packs to one holder, trying three times.
func (p *putter) tell(ctx context.Context, to peer.ID, packs []*placed) error {
	list := make([]wire.PackHolders, 0, len(packs))
	for _, pk := range packs {
		list = append(list, wire.PackHolders{ID: pk.id, Number: pk.number, Holders: pk.holders})
	}
	var err error
	for try := range 3 {
		if try > 0 {
			if err := sleep(ctx, p.e.clock, time.Duration(try)*time.Second); err != nil {
				return err
			}
		}
		if to == p.e.self {
			err = p.e.Holders(ctx, string(to), list)
		} else {
			err = p.e.call(ctx, to, p.e.stall, func(s stream) error { return wire.Holders(s, list) })
		}
		if err == nil {
			return nil
		}
		if _, refused := errors.AsType[*wire.Refusal](err); refused {
			break
		}
	}
	return fmt.Errorf("%s: %w", short(to), err)
}

// worst gives the pack that survives the fewest further losses.
func (p *putter) worst() *placed {
	return slices.MinFunc(p.packs, func(a, b *placed) int {
		return (len(a.holders) - a.k) - (len(b.holders) - b.k)
	})
}
