package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/dht"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/wire"
)

const (
	// storesAtOnce bounds the shards received side by side: each has up to
	// 4 MiB in memory on its way to the disk. storesWaiting is how many wait
	// for that at most; the peers of others are told at once to go elsewhere.
	storesAtOnce  = 8
	storesWaiting = 24

	// storesPerPeer and storesPerPeerWaiting are the same for one peer.
	storesPerPeer        = 4
	storesPerPeerWaiting = 8

	// burialsAtOnce bounds the look-ups for deletions of packs that are not
	// held and for heads, which peers cause; one waits for its turn for
	// lookWait at most.
	burialsAtOnce = 16
	lookWait      = 2 * time.Second

	// busyAfter is how long a shard waits for its turn before the peer is
	// told to go elsewhere.
	busyAfter = 20 * time.Second
)

// server answers peers from the store: it is a wire.Handler.
type server struct {
	*engine

	storing *turns                  // of each peer
	stores  chan struct{}           // a slot for each shard being received
	waiting atomic.Int32            // shards that wait for one
	burials chan struct{}           // a slot for each look-up
	deny    func(list []byte) error // takes a deny list

	mu     sync.Mutex
	taking map[pack.ID]taking // packs that a shard is being handed over of; guarded by mu

	holds func(p peer.ID) bool // whether a peer takes part as a holder; nil: all do
}

// taking is a shard that is being handed over.
type taking struct {
	shard int
	n     int // how many bring it
}

func newServer(e *engine, deny func(list []byte) error) *server {
	return &server{engine: e, storing: newTurns(storesPerPeer, storesPerPeerWaiting), stores: make(chan struct{}, storesAtOnce),
		burials: make(chan struct{}, burialsAtOnce), deny: deny}
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
	case errors.Is(err, store.ErrDenied):
		return wire.ErrDenied
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
	if s.keeper != nil && s.keeper.Leaving() {
		return nil, wire.Refuse(wire.Denied, "this peer is leaving")
	}
	if err := q.Manifest.Verify(s.network, q.Manifest.ID()); err != nil {
		return nil, err
	}
	if q.Manifest.State.Expired(s.clock.Now()) {
		return nil, wire.Refuse(wire.Old, "the pack has expired")
	}
	handed := wire.PackHolders{ID: q.Manifest.ID(), Number: q.Manifest.State.Number, Holders: q.Holders}
	if len(q.Holders) > 0 {
		if _, known, err := s.store.Holders(handed.ID); err == nil && !s.handsOver(from, store.PutID{}, known) {
			return nil, wire.Refuse(wire.Denied, "the shard is not that peer's to hand over")
		}
	}
	free, err := s.reserve(q)
	if err != nil {
		return nil, err
	}
	turn, err := s.turn(ctx, from)
	if err != nil {
		free()
		return nil, err
	}
	done := func() { turn(); free() }
	w, err := s.store.Begin(ctx, q.Manifest, q.Shard, putOf(from, q.Put))
	if err != nil {
		done()
		if errors.Is(err, store.ErrHave) && len(q.Holders) > 0 {
			err := s.confirm(handed, func(_ int, put store.PutID, known []store.Holder) bool { return s.handsOver(from, put, known) })
			if err != nil {
				return nil, refusal(err)
			}
			_ = s.told(string(s.self), handed, nil)
		}
		return nil, refusal(err)
	}
	return &receipt{Writer: w, s: s, handed: handed, ctx: ctx, done: done}, nil
}

// turn waits until a shard from a peer may come in; done gives the turn back.
func (s *server) turn(ctx context.Context, from string) (done func(), err error) {
	busy := wire.Refuse(wire.Busy, "too many shards are being stored")
	late, stop := s.clock.After(busyAfter)
	defer stop()
	leave, err := s.storing.take(ctx, late, from)
	if errors.Is(err, errCrowded) {
		return nil, busy
	}
	if err != nil {
		return nil, err
	}
	done = func() { <-s.stores; leave() }
	select {
	case s.stores <- struct{}{}:
		return done, nil
	default:
	}
	defer s.waiting.Add(-1)
	if s.waiting.Add(1) > storesWaiting {
		leave()
		return nil, busy
	}
	select {
	case s.stores <- struct{}{}:
		return done, nil
	case <-late:
		err = busy
	case <-ctx.Done():
		err = ctx.Err()
	}
	leave()
	return nil, err
}

// speaksFor tells whether a peer may say who holds a pack: the one whose put
// brought a shard or its state, those known to hold it, and this node itself.
func (s *server) speaksFor(from string, put store.PutID, known []store.Holder) bool {
	return from == string(s.self) || put.SamePeer(putOf(from, [16]byte{1})) ||
		slices.ContainsFunc(known, func(h store.Holder) bool { return h.Peer == from })
}

// handsOver tells whether a peer may do so where it hands over a shard: also
// where nobody said it before.
func (s *server) handsOver(from string, put store.PutID, known []store.Holder) bool {
	return put == store.PutID{} && len(known) == 0 || s.speaksFor(from, put, known)
}

// receipt is a shard being received.
type receipt struct {
	*store.Writer

	s      *server
	handed wire.PackHolders
	ctx    context.Context // of the request that it belongs to
	done   func()          // gives its turn back
}

// Commit makes the shard durable and this node findable for it: before the
// acknowledgement goes out, whoever asks this node learns of the shard.
func (r *receipt) Commit() error {
	defer r.done()
	if err := r.Writer.Commit(); err != nil {
		return refusal(err)
	}
	if len(r.handed.Holders) > 0 {
		if err := r.s.told(string(r.s.self), r.handed, r.s.confirm(r.handed, nil)); err != nil {
			return refusal(err)
		}
	}
	if err := r.s.dir.AddLocal(r.ctx, r.handed.ID); err != nil {
		return fmt.Errorf("record pack %s: %w", r.handed.ID.Short(), err)
	}
	return nil
}

// Abort drops what has come of the shard.
func (r *receipt) Abort() {
	r.Writer.Abort()
	r.done()
}

// Write takes a block.
func (r *receipt) Write(row int, b []byte) error { return refusal(r.Writer.Write(row, b)) }

// ReadBlock gives a block out, verified.
func (s *server) ReadBlock(_ context.Context, _ string, q wire.ReadRequest, row int, dst []byte) ([]byte, error) {
	k, err := s.schemeK(q.ID, q.K, q.M)
	if err != nil {
		return nil, refusal(err)
	}
	b, err := s.store.ReadCoded(q.ID, k, q.M, q.Shard, row, dst)
	return b, refusal(err)
}

// Prove proves that a block is here whole: it is read, and verified, as if it
// were to be given out.
func (s *server) Prove(_ context.Context, _ string, q wire.ProveRequest) ([]byte, error) {
	k, err := s.schemeK(q.ID, q.K, q.M)
	if err != nil {
		return nil, refusal(err)
	}
	buf := s.buffers.block()
	defer s.buffers.putBlock(buf)
	b, err := s.store.ReadCoded(q.ID, k, q.M, q.Shard, q.Row, buf[:0])
	if err != nil {
		return nil, refusal(err)
	}
	if q.Off >= len(b) {
		return nil, wire.Refuse(wire.NotFound, "the block has %d bytes", len(b))
	}
	return digest.Prove(b, q.Off), nil
}

// schemeK gives the k of the scheme by which a shard asked for is coded: peers
// ask by the pack's own k′, the store knows its shards by their scheme.
func (s *server) schemeK(id pack.ID, coded, m int) (int, error) {
	hs, err := s.store.Holdings(id)
	if err != nil {
		return 0, err
	}
	if hs[0].Deleted {
		return 0, store.ErrNotFound
	}
	for _, h := range hs {
		if !h.Deleted && h.Coded == coded && h.M == m {
			return h.K, nil
		}
	}
	return 0, store.ErrCoding
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
			out[i] = wire.Holding{Held: true, Number: h.Number, Shard: h.Shard, K: h.Coded, M: h.M, Provisional: h.Provisional, Damaged: h.Damaged}
		}
	}
	return out, nil
}

// Manifest gives the manifest of a pack held here.
func (s *server) Manifest(_ context.Context, _ string, id pack.ID) (*pack.Manifest, error) {
	m, err := s.store.Manifest(id)
	return m, refusal(err)
}

// NewestState gives the newest state known here of a pack, a tombstone too.
func (s *server) NewestState(_ context.Context, _ string, id pack.ID) (*pack.State, error) {
	m, err := s.store.Manifest(id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, refusal(err)
	}
	// In this order one that is deleted between the two questions is found.
	st, err := s.store.Tombstone(id)
	switch {
	case m != nil && (err != nil || m.State.Newer(st)):
		return &m.State, nil
	case err != nil:
		return nil, refusal(err)
	}
	return st, nil
}

// Holders learns who holds a pack, which confirms the shard held here: the list
// has to name it.
func (s *server) Holders(_ context.Context, from string, p wire.PackHolders) error {
	return s.told(from, p, refusal(s.confirm(p, func(shard int, put store.PutID, known []store.Holder) bool {
		return slices.Contains(p.Holders, wire.Holder{Peer: string(s.self), Shard: shard}) && s.speaksFor(from, put, known)
	})))
}

// Holders records who holds packs, as this node itself knows.
func (e *engine) Holders(_ context.Context, _ string, packs []wire.PackHolders) error {
	for _, p := range packs {
		if err := e.told(string(e.self), p, e.confirm(p, nil)); err != nil {
			return err
		}
	}
	return nil
}

// confirm records who holds a pack if may allows it, and announces the pack.
func (e *engine) confirm(p wire.PackHolders, may func(shard int, put store.PutID, known []store.Holder) bool) error {
	hs := make([]store.Holder, 0, len(p.Holders))
	for _, h := range p.Holders {
		hs = append(hs, store.Holder{Peer: h.Peer, Shard: h.Shard})
	}
	if err := e.store.Confirm(p.ID, p.Number, hs, may); err != nil {
		return err
	}
	if e.announce != nil {
		e.announce(p.ID)
	}
	return nil
}

// State takes a new state of a pack. A deletion is also taken of a pack that is
// not held where this node is among the closest to it: there a holder that was
// away asks.
func (s *server) State(ctx context.Context, from string, st *pack.State) error {
	if st.Network != s.network {
		return wire.ErrOtherNetwork
	}
	if err := st.Verify(); err != nil {
		return err
	}
	set := s.store.SetState
	if st.Deleted {
		_, err := s.store.Holding(st.ID())
		if errors.Is(err, store.ErrNotFound) {
			err = s.concerned(ctx, st.ID())
		}
		if err != nil {
			return refusal(err)
		}
		set = func(st *pack.State) (bool, error) { return s.store.Bury(st, from) }
	}
	changed, err := set(st)
	if err != nil {
		return refusal(err)
	}
	if changed {
		s.packs.forget(st.ID())
		if s.keeper != nil {
			s.keeper.Changed()
		}
		s.log.Info("new state of a pack", "pack", st.ID(), "deleted", st.Deleted, "from", peer.ID(from))
	}
	return nil
}

// concerned returns an error unless this node is among the [dht.Width] peers
// closest to a pack, as far as it knows.
func (s *server) concerned(ctx context.Context, id pack.ID) error {
	if !s.holder {
		return store.ErrNotFound
	}
	return s.near(ctx, id, dht.Width)
}

// near returns an error unless this node is among the n peers closest to an ID,
// as far as it knows. Peers cause it, so few of these look-ups run at a time.
func (s *server) near(ctx context.Context, id [32]byte, n int) error {
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	select {
	case s.burials <- struct{}{}:
		defer func() { <-s.burials }()
	case <-ctx.Done():
		return wire.Refuse(wire.Busy, "too many look-ups")
	}
	near, err := s.dir.Closest(ctx, id, n)
	if slices.Contains(near, s.self) {
		return nil
	}
	if err != nil {
		return wire.Refuse(wire.Busy, "it is not known who is closest")
	}
	return store.ErrNotFound
}

// Facts says what is to be known of this node.
func (s *server) Facts(context.Context, string) (wire.Facts, error) { return s.ownFacts(), nil }

func (e *engine) ownFacts() wire.Facts {
	f := wire.Facts{Zone: e.zone, Version: e.version, Now: e.clock.Now()}
	if e.store != nil {
		f.Boot = e.store.Boot()
	}
	if e.holder {
		u := e.store.Usage()
		f.Free, f.Held, f.Shards = uint64(max(u.Free, 0)), uint64(u.Held), uint64(u.Shards)
		f.Capacity = uint64(u.Capacity)
		if e.keeper != nil && e.keeper.Leaving() {
			f.Free = 0
		}
	}
	return f
}

// putOf gives the store's name for a put of a peer, of which the first half
// stands for the peer: nobody else, though told the put's ID, can keep its
// shards alive or drop them.
func putOf(from string, put [16]byte) store.PutID {
	if put == [16]byte{} {
		return store.PutID{}
	}
	who, which := digest.Of([]byte(from)), digest.Of([]byte(from), put[:])
	return store.PutID(append(who[:8:8], which[:8]...))
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
func (s *server) Deny(_ context.Context, _ string, list []byte) error { return s.deny(list) }
