package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/wire"
)

const (
	// storesAtOnce bounds the shards received side by side: each has up to
	// 4 MiB in memory on its way to the disk.
	storesAtOnce = 8

	// requestsAtOnce bounds all requests served side by side; a read has up to
	// 1 MiB in memory.
	requestsAtOnce = 64

	// busyAfter is how long a shard waits for its turn before the peer is
	// told to go elsewhere.
	busyAfter = 20 * time.Second
)

// server answers peers from the store: it is a wire.Handler.
type server struct {
	*engine

	stores chan struct{}                             // a slot for each shard being received
	deny   func(ctx context.Context, b []byte) error // takes a deny list
	after  func(id pack.ID)                          // called when a shard has been confirmed
}

// refusal says an error of the store to peers.
func refusal(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrFull):
		return wire.Refuse(wire.Full, "no space left")
	case errors.Is(err, store.ErrOld):
		return wire.Refuse(wire.Old, "a newer state is known")
	case errors.Is(err, store.ErrHave):
		return wire.ErrHave
	case errors.Is(err, store.ErrCoding):
		return wire.ErrOtherCoding
	case errors.Is(err, store.ErrNotFound):
		return wire.ErrNotFound
	case errors.Is(err, store.ErrCorrupt):
		return wire.ErrCorrupt
	}
	return err
}

// Store takes a shard for another.
func (s *server) Store(ctx context.Context, from string, q *wire.StoreRequest) (wire.ShardWriter, error) {
	if !s.holder {
		return nil, wire.Refuse(wire.Denied, "this peer holds nothing for others")
	}
	if err := q.Manifest.Verify(s.network, q.Manifest.ID()); err != nil {
		return nil, err
	}
	wait, stop := s.clock.After(busyAfter)
	defer stop()
	select {
	case s.stores <- struct{}{}:
	case <-wait:
		return nil, wire.Refuse(wire.Busy, "too many shards are being stored")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w, err := s.store.Begin(ctx, q.Manifest, q.Shard, putOf(from, q.Put))
	if err != nil {
		<-s.stores
		if errors.Is(err, store.ErrHave) && len(q.Holders) > 0 {
			if err := s.confirmed(ctx, q); err != nil {
				return nil, refusal(err)
			}
		}
		return nil, refusal(err)
	}
	return &receipt{Writer: w, s: s, q: q, ctx: ctx}, nil
}

// confirmed records the holders that came with a shard handed over.
func (s *server) confirmed(ctx context.Context, q *wire.StoreRequest) error {
	return s.engine.Holders(ctx, "", []wire.PackHolders{{ID: q.Manifest.ID(), Number: q.Manifest.State.Number, Holders: q.Holders}})
}

// receipt is a shard being received.
type receipt struct {
	*store.Writer

	s   *server
	q   *wire.StoreRequest
	ctx context.Context // of the request that it belongs to
}

// Commit makes the shard durable and this node findable for it: before the
// acknowledgement goes out, whoever asks this node learns of the shard.
func (r *receipt) Commit() error {
	defer func() { <-r.s.stores }()
	if err := r.Writer.Commit(); err != nil {
		return refusal(err)
	}
	if len(r.q.Holders) > 0 {
		if err := r.s.confirmed(r.ctx, r.q); err != nil {
			return refusal(err)
		}
	}
	if err := r.s.dir.AddLocal(r.ctx, r.q.Manifest.ID()); err != nil {
		return fmt.Errorf("record pack %s: %w", r.q.Manifest.ID().Short(), err)
	}
	return nil
}

// Abort drops what has come of the shard.
func (r *receipt) Abort() {
	r.Writer.Abort()
	<-r.s.stores
}

// Write takes a block.
func (r *receipt) Write(row int, b []byte) error { return refusal(r.Writer.Write(row, b)) }

// ReadBlock gives a block out, verified.
func (s *server) ReadBlock(_ context.Context, _ string, q wire.ReadRequest, row int, dst []byte) ([]byte, error) {
	if row == q.Row {
		m, err := s.store.Manifest(q.ID)
		if err != nil {
			return nil, refusal(err)
		}
		if g := m.Geometry(); g.K != q.K || g.M != q.M {
			return nil, wire.ErrOtherCoding
		}
	}
	b, err := s.store.ReadBlock(q.ID, q.Shard, row, dst)
	return b, refusal(err)
}

// Have says what is held here of packs, in the same order.
func (e *engine) Have(_ context.Context, _ string, ids []pack.ID) ([]wire.Holding, error) {
	out := make([]wire.Holding, len(ids))
	if e.store == nil {
		return out, nil
	}
	for i, id := range ids {
		h, err := e.store.Holding(id)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return nil, err
		case h.Deleted:
			out[i] = wire.Holding{Deleted: true, Number: h.Number}
		default:
			m, err := e.store.Manifest(id)
			if err != nil {
				continue // it went away between the two questions, or is damaged
			}
			out[i] = wire.Holding{Held: true, Number: h.Number, Shard: h.Shard, K: m.Geometry().K, M: h.M, Provisional: h.Provisional}
		}
	}
	return out, nil
}

// Manifest gives the manifest of a pack held here.
func (s *server) Manifest(_ context.Context, _ string, id pack.ID) (*pack.Manifest, error) {
	m, err := s.store.Manifest(id)
	return m, refusal(err)
}

// Holders learns who holds a pack, which confirms the shard held here.
func (s *server) Holders(ctx context.Context, from string, p wire.PackHolders) error {
	if err := s.engine.Holders(ctx, from, []wire.PackHolders{p}); err != nil {
		return refusal(err)
	}
	s.after(p.ID)
	return nil
}

// Holders records who holds packs.
func (e *engine) Holders(_ context.Context, _ string, packs []wire.PackHolders) error {
	for _, p := range packs {
		hs := make([]store.Holder, 0, len(p.Holders))
		for _, h := range p.Holders {
			hs = append(hs, store.Holder(h))
		}
		if err := e.store.SetHolders(p.ID, p.Number, hs); err != nil {
			return err
		}
	}
	return nil
}

// State takes a new state of a pack.
func (s *server) State(_ context.Context, from string, st *pack.State) error {
	if st.Network != s.network {
		return wire.ErrOtherNetwork
	}
	if err := st.Verify(); err != nil {
		return err
	}
	changed, err := s.store.SetState(st)
	if err != nil {
		return refusal(err)
	}
	if changed {
		s.packs.forget(st.ID())
		s.log.Info("new state of a pack", "pack", st.ID(), "deleted", st.Deleted, "from", peer.ID(from))
	}
	return nil
}

// Facts says what is to be known of this node.
func (s *server) Facts(context.Context, string) (wire.Facts, error) { return s.ownFacts(), nil }

func (e *engine) ownFacts() wire.Facts {
	f := wire.Facts{Zone: e.zone, Version: e.version, Now: e.clock.Now()}
	if e.holder {
		u := e.store.Usage()
		f.Free, f.Held, f.Shards = uint64(max(u.Free, 0)), uint64(u.Held), uint64(u.Shards)
		f.Capacity = uint64(u.Capacity)
	}
	return f
}

// putOf gives the store's name for a put of a peer: nobody else, though told
// its ID, can keep its shards alive or drop them.
func putOf(from string, put [16]byte) store.PutID {
	if put == [16]byte{} {
		return store.PutID{}
	}
	h := digest.Of([]byte(from), put[:])
	return store.PutID(h[:16])
}

// Alive hears that a put goes on.
func (s *server) Alive(_ context.Context, from string, put [16]byte) error {
	if err := s.store.Touch(putOf(from, put)); !errors.Is(err, store.ErrNotFound) {
		return refusal(err)
	}
	return nil
}

// GiveUp hears that a put has been given up.
func (s *server) GiveUp(ctx context.Context, from string, put [16]byte) error {
	return refusal(s.store.GiveUp(ctx, putOf(from, put)))
}

// Deny takes a deny list.
func (s *server) Deny(ctx context.Context, _ string, list []byte) error { return s.deny(ctx, list) }
