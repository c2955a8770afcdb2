package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/pack"
)

// encodeTime is how a time, in Unix milliseconds, is stored.
func encodeTime(ms int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(ms)) }

func decodeTime(b []byte) int64 {
	r := reader{b: b}
	return int64(r.u64())
}

// SetState takes a new state of a pack, verified by the caller, and tells
// whether that changed anything. A renewal is kept with the shards it is about
// and returns ErrCoding where they are coded otherwise, ErrNotFound where none
// is held. A deletion drops the shards and is kept as a tombstone even where
// there are none. ErrOld tells that a newer state is known.
func (s *Store) SetState(st *pack.State) (changed bool, err error) {
	id := st.ID()
	if st.Deleted {
		changed, err = s.deletePack(id, st)
	} else {
		changed, err = s.renewPack(id, st)
	}
	if err != nil {
		return false, fmt.Errorf("new state of pack %s: %w", id.Short(), err)
	}
	return changed, nil
}

func (s *Store) deletePack(id pack.ID, st *pack.State) (bool, error) {
	t := &tombstone{stamp: stampOf(st), since: s.nowMs(), state: st.Encode()}
	if len(t.state) > maxTombstone {
		return false, fmt.Errorf("tombstone of %d bytes", len(t.state))
	}
	defer s.lock(id)()
	r, err := s.record(id)
	if err != nil {
		return false, err
	}
	if at, known := r.newest(); known && at == t.stamp {
		return false, nil
	} else if known && at.newer(t.stamp) {
		return false, ErrOld
	}
	if len(r.shards) == 0 && r.tomb == nil { // else it takes the place of more
		if err := s.reserve(t.cost(), 0); err != nil {
			return false, err
		}
		defer func() { s.account(-t.cost(), 0, 0, 0) }() // change counts it from then on
	}
	err = s.change(id, &r, func(c *change) error {
		for _, h := range slices.Clone(r.shards) {
			c.drop(&r, h.slot)
		}
		c.bury(&r, t)
		return nil
	})
	return err == nil, err
}

func (s *Store) renewPack(id pack.ID, st *pack.State) (bool, error) {
	at, coding := stampOf(st), codingOf(st)
	defer s.lock(id)()
	r, err := s.record(id)
	if err != nil {
		return false, err
	}
	newest, known := r.newest()
	switch {
	case !known:
		return false, ErrNotFound
	case newest == at:
		return false, nil
	case newest.newer(at):
		return false, ErrOld
	case len(r.shards) == 0:
		return false, ErrNotFound
	case !slices.ContainsFunc(r.shards, func(h shard) bool { return h.coding == coding }):
		return false, ErrCoding
	}
	err = s.change(id, &r, func(c *change) error {
		for i := range r.shards {
			h := &r.shards[i]
			if h.coding != coding {
				continue
			}
			m, err := s.manifest(c.txn, h)
			if err != nil {
				return err
			}
			renewed := pack.Manifest{Content: m.Content, State: *st}
			old, enc := *h, renewed.Encode()
			h.stamp, h.expires, h.cost = at, st.Expires, costOf(&renewed, h.index, len(enc))
			c.set(slotKey(keyManifest, h.slot), enc)
			c.moved(&old, h)
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	s.carryHolders(id, at, coding)
	return true, nil
}

// Tombstone gives the state that deleted a pack.
func (s *Store) Tombstone(id pack.ID) (*pack.State, error) {
	r, err := s.record(id)
	if err == nil && r.tomb == nil {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("tombstone of pack %s: %w", id.Short(), err)
	}
	return pack.DecodeState(r.tomb.state)
}

// Drop gives up a shard of a pack, of all states.
func (s *Store) Drop(id pack.ID, index int) error {
	n, err := s.dropIf(id, func(h *shard) bool { return h.index == index }, nil)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("drop pack %s: shard %d: %w", id.Short(), index, err)
	}
	return nil
}

// dropIf drops the shards and the tombstone (nil: not) that it is told to.
func (s *Store) dropIf(id pack.ID, shards func(*shard) bool, tomb func(*tombstone) bool) (n int, err error) {
	defer s.lock(id)()
	r, err := s.record(id)
	if err != nil {
		return 0, err
	}
	var slots []uint64
	for i := range r.shards {
		if shards(&r.shards[i]) {
			slots = append(slots, r.shards[i].slot)
		}
	}
	bury := tomb != nil && r.tomb != nil && tomb(r.tomb)
	if len(slots) == 0 && !bury {
		return 0, nil
	}
	err = s.change(id, &r, func(c *change) error {
		for _, slot := range slots {
			c.drop(&r, slot)
		}
		if bury {
			c.bury(&r, nil)
		}
		return nil
	})
	return len(slots), err
}

// Touch is a sign of life of a put. It returns ErrNotFound if no shard here is
// provisional for it.
func (s *Store) Touch(id PutID) error {
	now := s.nowMs()
	s.mu.Lock()
	p := s.puts[id]
	known := p != nil && p.shards > 0
	if known {
		p.alive = max(p.alive, now)
	}
	s.mu.Unlock()
	if !known {
		return fmt.Errorf("touch put %x: %w", id[:4], ErrNotFound)
	}
	err := s.update(func(txn *badger.Txn) error { return txn.Set(putKey(id), encodeTime(now)) })
	if err != nil {
		return fmt.Errorf("touch put %x: %w", id[:4], err)
	}
	return nil
}

// silent tells whether the put of a shard has given no sign of life for too
// long.
func (s *Store) silent(id PutID, now int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.puts[id]
	return p == nil || now-p.alive >= s.opt.ProvisionalTTL.Milliseconds()
}

// sweepers is how many packs are dropped side by side, so that they share
// syncs.
const sweepers = 8

// Sweep drops what has expired, the provisional shards of silent puts,
// tombstones and hints past their time, and lists of holders that a crash has
// left of packs that are not held.
func (s *Store) Sweep(ctx context.Context) error {
	if err := s.sweep(ctx); err != nil {
		return fmt.Errorf("sweep store: %w", err)
	}
	return nil
}

func (s *Store) sweep(ctx context.Context) error {
	now := s.nowMs()
	shardOver := func(h *shard) bool {
		return h.expires != 0 && now >= 0 && uint64(now) >= h.expires ||
			h.provisional() && s.silent(h.put, now)
	}
	tombOver := func(t *tombstone) bool { return now-t.since >= tombstoneTTL.Milliseconds() }
	if err := s.dropAll(ctx, shardOver, tombOver); err != nil {
		return err
	}
	return errors.Join(s.forgetPuts(), s.sweepHints(now), s.sweepHolders(ctx))
}

// GiveUp drops the shards that are provisional for a put: it has ended and
// left them behind. One that is not known is no error.
func (s *Store) GiveUp(ctx context.Context, id PutID) error {
	err := s.dropAll(ctx, func(h *shard) bool { return h.provisional() && h.put == id }, func(*tombstone) bool { return false })
	if err != nil {
		return fmt.Errorf("give up put %x: %w", id[:4], err)
	}
	return nil
}

// dropAll drops, of all packs, the shards and tombstones that are over.
func (s *Store) dropAll(ctx context.Context, shardOver func(*shard) bool, tombOver func(*tombstone) bool) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(sweepers)
	var err error
	for p, e := range s.each(ctx) {
		if e != nil {
			err = e
			break
		}
		due := p.record.tomb != nil && tombOver(p.record.tomb)
		for i := range p.record.shards {
			due = due || shardOver(&p.record.shards[i])
		}
		if due {
			g.Go(func() error {
				_, err := s.dropIf(p.id, shardOver, tombOver)
				return err
			})
		}
	}
	return errors.Join(err, g.Wait())
}

// forgetPuts removes the puts that no shard is provisional for any more.
func (s *Store) forgetPuts() error {
	var gone []PutID
	s.mu.Lock()
	for id, p := range s.puts {
		if p.shards <= 0 {
			gone = append(gone, id)
			delete(s.puts, id)
		}
	}
	s.mu.Unlock()
	for ids := range slices.Chunk(gone, 1000) {
		err := s.update(func(txn *badger.Txn) error {
			for _, id := range ids {
				if err := txn.Delete(putKey(id)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Run sweeps and reclaims on a schedule until ctx ends. It returns an error
// only if the store cannot be used any more.
func (s *Store) Run(ctx context.Context) error {
	sweep := time.NewTicker(s.opt.SweepEvery)
	defer sweep.Stop()
	reclaim := time.NewTicker(s.opt.ReclaimEvery)
	defer reclaim.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			err = s.Sweep(ctx)
		case <-reclaim.C:
			if s.worthReclaiming() {
				err = s.Reclaim(ctx)
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrClosed):
			return err
		case err != nil:
			s.log.Error("store upkeep", "err", err)
		}
	}
}
