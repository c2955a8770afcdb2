package node

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/repair"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/wire"
)

// newKeeper gives the engine's keeper: what watches and repairs the packs held
// here. The engine's doors stand behind those of the keeper.
func newKeeper(e *engine, c repair.Config) *repair.Keeper {
	e.mu.Lock()
	c.Rand = rand.New(rand.NewPCG(e.rand.Uint64(), e.rand.Uint64()))
	e.mu.Unlock()
	c.Self, c.Network, c.Zone, c.Log = string(e.self), e.network, e.zone, e.log
	c.Net, c.Dir, c.Shelf, c.Clock = asker{e}, guide{e}, shelf{e.store, e}, e.clock
	c.Name = func(p string) string { return peer.ID(p).String() }
	return repair.New(c)
}

// asker asks peers for a keeper: it is a repair.Network.
type asker struct{ e *engine }

func (a asker) Facts(ctx context.Context, p string) (f wire.Facts, err error) {
	err = a.e.call(ctx, peer.ID(p), askTimeout, func(s stream) (err error) {
		f, err = wire.GetFacts(s)
		return err
	})
	if err == nil {
		a.e.peers.with(peer.ID(p), func(s *peerState) { s.facts, s.factsAt = f, a.e.clock.Now() })
	}
	return f, err
}

func (a asker) Have(ctx context.Context, p string, ids []pack.ID) ([]wire.Holding, error) {
	return a.e.holdings(ctx, peer.ID(p), ids)
}

func (a asker) Manifest(ctx context.Context, p string, id pack.ID) (*pack.Manifest, error) {
	return a.e.manifestFrom(ctx, peer.ID(p), id)
}

func (a asker) State(ctx context.Context, p string, id pack.ID) (st *pack.State, err error) {
	err = a.e.call(ctx, peer.ID(p), askTimeout, func(s stream) (err error) {
		st, err = wire.GetState(s, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	if st.Network != a.e.network {
		return nil, wire.ErrOtherNetwork
	}
	return st, st.Verify()
}

func (a asker) Read(ctx context.Context, p string, q wire.ReadRequest, g erasure.Geometry, take func(row int, b []byte, err error)) error {
	scratch := a.e.buffers.block()
	defer a.e.buffers.putBlock(scratch)
	return a.e.call(ctx, peer.ID(p), a.e.stall, func(s stream) error {
		return wire.Read(s, q,
			func(r int) int { return g.CellLen(q.Shard, r) },
			func(r int) []byte { return scratch[:g.CellLen(q.Shard, r)] },
			take)
	})
}

func (a asker) Prove(ctx context.Context, p string, q wire.ProveRequest) (proof []byte, err error) {
	err = a.e.call(ctx, peer.ID(p), askTimeout, func(s stream) (err error) {
		proof, err = wire.Prove(s, q)
		return err
	})
	return proof, err
}

func (a asker) Store(ctx context.Context, p string, q *wire.StoreRequest, cell func(row int) []byte) error {
	return a.e.call(ctx, peer.ID(p), a.e.stall, func(s stream) error {
		_, err := wire.Store(s, q, cell)
		return err
	})
}

func (a asker) Holders(ctx context.Context, p string, packs []wire.PackHolders) error {
	return a.e.call(ctx, peer.ID(p), a.e.stall, func(s stream) error { return wire.Holders(s, packs) })
}

func (a asker) SetState(ctx context.Context, p string, st *pack.State) error {
	return a.e.call(ctx, peer.ID(p), askTimeout, func(s stream) error { return wire.State(s, st) })
}

func (a asker) Group(p string) string { return a.e.dial.Group(peer.ID(p)) }

// guide asks the DHT for a keeper: it is a repair.Directory.
type guide struct{ e *engine }

func (g guide) Closest(ctx context.Context, id pack.ID, n int) ([]string, error) {
	peers, err := g.e.dir.Closest(ctx, id, n)
	out := make([]string, len(peers))
	for i, p := range peers {
		out[i] = string(p)
	}
	return out, err
}

func (g guide) Walk(ctx context.Context, id pack.ID) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for p, err := range g.e.dir.Walk(ctx, id) {
			if !yield(string(p), err) {
				return
			}
		}
	}
}

func (g guide) Holders(ctx context.Context, id pack.ID) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for p, err := range g.e.dir.Holders(ctx, id) {
			if !yield(string(p.ID), err) {
				return
			}
		}
	}
}

func (g guide) Compare(id pack.ID, a, b string) int {
	return g.e.dir.Compare(id, peer.ID(a), peer.ID(b))
}

// shelf is the store as a keeper wants it.
type shelf struct {
	*store.Store

	e *engine
}

// Keep stores a shard here for good, and says so.
func (s shelf) Keep(ctx context.Context, m *pack.Manifest, shard int, holders []wire.Holder, cell func(row int) []byte) error {
	if err := s.e.storeHere(ctx, m, shard, store.PutID{}, cell); err != nil {
		return err
	}
	return s.e.confirm(wire.PackHolders{ID: m.ID(), Number: m.State.Number, Holders: holders}, nil)
}

// SetState takes a new state, and has this node look anew for the pack.
func (s shelf) SetState(st *pack.State) (bool, error) {
	changed, err := s.Store.SetState(st)
	if changed {
		s.e.packs.forget(st.ID())
	}
	return changed, err
}

// holdsAnother tells whether a shard of the very state of m, but not that one,
// is held here: a peer takes one of a pack.
func (s *server) holdsAnother(m *pack.Manifest, shard int) bool {
	p, err := s.store.Pack(m.ID())
	if err != nil {
		return false
	}
	for _, h := range p.Held {
		if !h.Deleted && !h.Damaged && h.Number == m.State.Number && h.Shard != shard {
			return true
		}
	}
	return false
}

// reserve has this peer take one shard of a pack that is handed over, though
// two who repair it bring it different ones at a time. free ends that.
func (s *server) reserve(q *wire.StoreRequest) (free func(), err error) {
	if len(q.Holders) == 0 {
		return func() {}, nil
	}
	id := q.Manifest.ID()
	s.mu.Lock()
	defer s.mu.Unlock()
	t, busy := s.taking[id]
	if busy && t.shard != q.Shard || s.holdsAnother(q.Manifest, q.Shard) {
		return nil, wire.ErrAnother
	}
	if s.taking == nil {
		s.taking = make(map[pack.ID]taking)
	}
	s.taking[id] = taking{q.Shard, t.n + 1}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if t := s.taking[id]; t.n > 1 {
			s.taking[id] = taking{t.shard, t.n - 1}
		} else {
			delete(s.taking, id)
		}
	}, nil
}

// told has the keeper learn of a list of holders.
func (e *engine) told(from string, p wire.PackHolders, err error) error {
	if e.keeper != nil && (err == nil || errors.Is(err, wire.ErrDenied)) {
		e.keeper.Told(from, p)
	}
	return err
}

// Have says what is held here of packs, and lets the keeper know who asked: a
// holder, perhaps, of which it does not know yet.
func (s *server) Have(ctx context.Context, from string, ids []pack.ID) ([]wire.Holding, error) {
	out, err := s.engine.Have(ctx, from, ids)
	if err != nil || s.keeper == nil || s.holds != nil && !s.holds(peer.ID(from)) {
		return out, err
	}
	var held []pack.ID
	for i, h := range out {
		if h.Held && !h.Provisional {
			held = append(held, ids[i])
		}
	}
	s.keeper.Asked(from, held)
	return out, nil
}
