package main

import (
	"errors"
	"slices"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/wire"
)

// server is what a peer answers. Its refusals are those of node's.
type server interface {
	facts() wire.Facts
	have(from string, ids []pack.ID) []wire.Holding
	manifest(id pack.ID) (*pack.Manifest, error)
	state(id pack.ID) (*pack.State, error)
	read(q wire.ReadRequest, row int, dst []byte) ([]byte, error)
	store(from string, q *wire.StoreRequest, cell func(row int) []byte) (took bool, err error)
	holders(from string, p wire.PackHolders) error
	setState(from string, st *pack.State) error
	announces(id pack.ID) bool

	// put takes a shard of a put, which is complete: all of it is one step.
	put(f *fixture, index int, hs []wire.Holder)
}

// honest is the server of a peer that does what it says.
type honest struct{ p *peer }

// refusal says an error of the store to peers.
func refusal(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrFull):
		return wire.Refuse(wire.Full, "no space left")
	case errors.Is(err, store.ErrOld):
		return wire.Refuse(wire.Old, "a newer state is known")
	case errors.Is(err, store.ErrCoding):
		return wire.ErrOtherCoding
	case errors.Is(err, store.ErrNotFound):
		return wire.ErrNotFound
	case errors.Is(err, store.ErrCorrupt):
		return wire.ErrCorrupt
	}
	return err
}

func (s *honest) facts() wire.Facts {
	p := s.p
	f := wire.Facts{Free: 1 << 40, Capacity: 1 << 40, Held: uint64(p.disk.held), Shards: uint64(p.disk.live()),
		Zone: p.zoneName, Version: "sim", Now: p.w.now(), Boot: p.boot}
	if p.full() {
		f.Free = 0
	}
	return f
}

func (s *honest) have(from string, ids []pack.ID) []wire.Holding {
	out := make([]wire.Holding, len(ids))
	for i, id := range ids {
		e := s.p.disk.packs[id]
		switch {
		case e == nil:
		case len(e.shards) > 0:
			h := e.shards[0]
			st := &h.manifest.State
			out[i] = wire.Holding{Held: true, Number: st.Number, Shard: h.index, K: st.Coded, M: st.M, Damaged: h.damaged}
		case e.tomb != nil:
			out[i] = wire.Holding{Deleted: true, Number: e.tomb.Number}
		}
	}
	s.p.asked(from, ids)
	return out
}

func (s *honest) manifest(id pack.ID) (*pack.Manifest, error) {
	m, err := s.p.disk.Manifest(id)
	return m, refusal(err)
}

func (s *honest) state(id pack.ID) (*pack.State, error) {
	if e := s.p.disk.packs[id]; e != nil {
		if st := e.newest(); st != nil {
			return st, nil
		}
	}
	return nil, wire.ErrNotFound
}

func (s *honest) read(q wire.ReadRequest, row int, dst []byte) ([]byte, error) {
	e := s.p.disk.packs[q.ID]
	if e == nil || len(e.shards) == 0 {
		return nil, wire.ErrNotFound
	}
	for _, h := range e.shards {
		if st := &h.manifest.State; st.Coded == q.K && st.M == q.M && h.index == q.Shard {
			b, err := s.p.disk.ReadCoded(q.ID, st.K, st.M, q.Shard, row, dst[:0])
			if err != nil {
				return nil, refusal(err)
			}
			return b, nil
		}
	}
	if st := &e.shards[0].manifest.State; st.Coded != q.K || st.M != q.M {
		return nil, wire.ErrOtherCoding
	}
	return nil, wire.ErrNotFound
}

func (s *honest) store(from string, q *wire.StoreRequest, cell func(row int) []byte) (bool, error) {
	if err := s.p.w.verify(q.Manifest, q.Manifest.ID()); err != nil {
		return false, err
	}
	if g := q.Manifest.Geometry(); q.Shard < 0 || q.Shard >= g.N() || g.BlockSize > erasure.MaxBlock {
		return false, wire.Refuse(wire.Malformed, "no such shard")
	}
	id := q.Manifest.ID()
	handed := wire.PackHolders{ID: id, Number: q.Manifest.State.Number, Holders: q.Holders}
	var known []store.Holder
	if e := s.p.disk.packs[id]; e != nil {
		known = e.holders
		for _, h := range e.shards {
			if !h.damaged && h.index != q.Shard && h.manifest.State.Number == q.Manifest.State.Number {
				return false, wire.Refuse(wire.Denied, "another shard of the pack is held here")
			}
		}
	}
	if len(q.Holders) > 0 && len(known) > 0 && !onList(known, from) {
		return false, wire.Refuse(wire.Denied, "the shard is not that peer's to hand over")
	}
	have, err := s.p.disk.keep(q.Manifest, q.Shard, cell)
	if err != nil {
		return false, refusal(err)
	}
	if len(q.Holders) > 0 {
		s.p.disk.learn(q.Manifest, q.Holders)
		s.p.told(s.p.id, handed)
	}
	return !have, nil
}

func onList(known []store.Holder, peer string) bool {
	return slices.ContainsFunc(known, func(h store.Holder) bool { return h.Peer == peer })
}

func (s *honest) holders(from string, p wire.PackHolders) error {
	e := s.p.disk.packs[p.ID]
	if e == nil || len(e.shards) == 0 {
		return wire.ErrNotFound
	}
	m := e.shards[0].manifest
	switch n := m.State.Number; {
	case n > p.Number:
		return wire.ErrOld
	case n < p.Number:
		return wire.ErrNotFound
	}
	var err error
	if slices.Contains(p.Holders, wire.Holder{Peer: s.p.id, Shard: e.shards[0].index}) && onList(e.holders, from) {
		s.p.disk.learn(m, p.Holders)
	} else {
		err = wire.ErrDenied
	}
	s.p.told(from, p)
	return err
}

func (s *honest) setState(_ string, st *pack.State) error {
	if st.Network != theNetwork {
		return wire.ErrOtherNetwork
	}
	if err := s.p.w.verifyState(st); err != nil {
		return err
	}
	if st.Deleted && s.p.disk.packs[st.ID()] == nil {
		return wire.ErrNotFound
	}
	_, err := s.p.disk.SetState(st)
	return refusal(err)
}

func (s *honest) announces(id pack.ID) bool {
	e := s.p.disk.packs[id]
	return e != nil && len(e.shards) > 0
}

func (s *honest) put(f *fixture, index int, hs []wire.Holder) {
	cells := make([][]byte, f.g.ShardRows(index))
	for row := range cells {
		cells[row] = f.cell(index, row) // shared: what rots is copied first
	}
	d := s.p.disk
	d.place(f.id, &shard{manifest: f.manifest, index: index, cells: cells, peer: s.p}, nil)
	e := d.packs[f.id]
	e.number, e.holders = f.manifest.State.Number, nil
	for _, h := range hs {
		e.holders = append(e.holders, store.Holder{Peer: h.Peer, Shard: h.Shard})
	}
}

// holdersOf lists peers as holders, the i-th of shard i.
func holdersOf(ps []*peer) []wire.Holder {
	hs := make([]wire.Holder, len(ps))
	for i, p := range ps {
		hs[i] = wire.Holder{Peer: p.id, Shard: i}
	}
	return hs
}

// A liar answers as honest does but for what its kind is.
type liar struct {
	honest
	lie lie
}

// lie is a kind of liar.
type lie int

const (
	truth     lie = iota
	throws        // acknowledges shards and throws them away
	mute          // answers probes and no reads
	claims        // claims every shard it is asked for
	gossips       // spreads false lists of holders
	replays       // sends old states again
	announcer     // announces what it does not hold
	lies
)

// useless tells whether what such a peer holds is none: others give out what
// they hold.
func (l lie) useless() bool { return l == throws || l == mute || l == claims || l == announcer }

func (l *liar) facts() wire.Facts {
	f := l.honest.facts()
	f.Free, f.Capacity = 1<<40, 1<<40
	return f
}

func (l *liar) have(from string, ids []pack.ID) []wire.Holding {
	out := l.honest.have(from, ids)
	for i, id := range ids {
		if l.lie != claims && l.lie != announcer || out[i].Held {
			continue
		}
		if x := l.p.w.byPack[id]; x != nil {
			st := &x.manifest.State
			out[i] = wire.Holding{Held: true, Number: st.Number, Shard: l.p.w.rng.IntN(st.Coded + st.M), K: st.Coded, M: st.M}
		}
	}
	return out
}

func (l *liar) read(q wire.ReadRequest, row int, dst []byte) ([]byte, error) {
	switch l.lie {
	case mute:
		return nil, errSilent
	case throws, claims, announcer:
		if l.p.w.rng.IntN(2) == 0 {
			return nil, wire.ErrNotFound
		}
		return make([]byte, 4096), nil
	}
	return l.honest.read(q, row, dst)
}

func (l *liar) announces(id pack.ID) bool { return l.lie == announcer || l.honest.announces(id) }

// act is what a liar does of its own accord, now and then.
func (l *liar) act() {
	w := l.p.w
	switch l.lie {
	case gossips:
		for _, id := range l.p.disk.order {
			var to []*peer
			var hs []wire.Holder
			for i, q := range w.closest(id) {
				if q.online() && len(to) < 20 {
					to = append(to, q)
					hs = append(hs, wire.Holder{Peer: w.peers[w.rng.IntN(len(w.peers))].id, Shard: i % 20})
				}
			}
			hs = slices.CompactFunc(hs, func(a, b wire.Holder) bool { return a == b })
			if e := l.p.disk.packs[id]; len(e.shards) > 0 {
				hs = append(hs, wire.Holder{Peer: l.p.id, Shard: e.shards[0].index})
				for _, q := range to {
					said := hs
					if o := q.disk.packs[id]; o != nil && len(o.shards) > 0 { // or it is not listened to
						said = append(hs[:len(hs):len(hs)], wire.Holder{Peer: q.id, Shard: o.shards[0].index})
					}
					_ = q.srv.holders(l.p.id, wire.PackHolders{ID: id, Number: e.shards[0].manifest.State.Number, Holders: said})
				}
			}
		}
	case replays:
		for _, x := range w.packs {
			if !x.stored {
				continue
			}
			for _, q := range w.closest(x.id) {
				if q.online() && q != l.p {
					_ = q.srv.setState(l.p.id, &x.manifest.State)
					_, _ = q.srv.store(l.p.id, &wire.StoreRequest{Manifest: x.manifest, Shard: w.rng.IntN(x.g.N())}, func(int) []byte { return nil })
				}
			}
		}
	}
}
