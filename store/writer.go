package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
)

// PutID names a put: the first 8 bytes the peer whose it is, the others which
// of its puts. The zero ID stands for none.
type PutID [16]byte

// SamePeer tells whether p and q are puts of the same peer.
func (p PutID) SamePeer(q PutID) bool {
	return p != PutID{} && q != PutID{} && [8]byte(p[:8]) == [8]byte(q[:8])
}

// Writer stores one shard. It belongs to one goroutine, and must be ended with
// Commit or Abort.
type Writer struct {
	s     *Store
	id    pack.ID
	m     *pack.Manifest
	enc   []byte // m, encoded
	g     erasure.Geometry
	shard shard

	next     int    // the row to come
	group    []*buf // blocks not written yet: rows next-len(group) … next-1
	groupLen int    // their bytes
	written  int64  // bytes of blocks written
	intent   bool   // the intent record is written, or about to be
	flight   chan error
	ended    bool
}

// maxBuffered is how many bytes of blocks may wait in memory, over all
// writers, before a block is written at once.
const maxBuffered = 16 << 20

// buf holds one block.
type buf struct{ b []byte }

var bufs = sync.Pool{New: func() any { return &buf{make([]byte, 0, erasure.MaxBlock)} }}

// Begin begins to store a shard of the pack that m, verified by the caller,
// describes. It reserves the space, or returns ErrFull. With a put the shard
// is provisional. ErrOld tells that a newer state or a tombstone is known,
// ErrHave that the shard is there already; its state is then brought up to
// date and durable. It is then the put's if it brought a newer state, which
// only the pack's owner can have made, or if it was provisional for a put of
// the same peer. With a newer state and no put it is confirmed.
func (s *Store) Begin(ctx context.Context, m *pack.Manifest, index int, p PutID) (*Writer, error) {
	w, err := s.begin(ctx, m, index, p)
	if err != nil {
		return nil, fmt.Errorf("store pack %s: shard %d: %w", m.ID().Short(), index, err)
	}
	return w, nil
}

func (s *Store) begin(ctx context.Context, m *pack.Manifest, index int, p PutID) (*Writer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m.State.Deleted {
		return nil, errors.New("the pack is deleted")
	}
	g := m.Geometry()
	if index < 0 || index >= g.N() {
		return nil, fmt.Errorf("there are %d shards", g.N())
	}
	enc := m.Encode()
	w := &Writer{s: s, id: m.ID(), m: m, enc: enc, g: g, shard: shard{
		stamp:   stampOf(&m.State),
		coding:  codingOf(&m.State),
		index:   index,
		k:       m.State.K,
		m:       m.State.M,
		coded:   m.State.Coded,
		rows:    g.ShardRows(index),
		cost:    costOf(m, index, len(enc)),
		expires: m.State.Expires,
		put:     p,
	}}
	defer s.lock(w.id)()
	r, err := s.record(w.id)
	if err != nil {
		return nil, err
	}
	if at, known := r.newest(); known && at.newer(w.shard.stamp) {
		return nil, ErrOld
	}
	if h := r.find(w.shard.coding, index); h != nil && !h.damaged {
		if err := s.renew(w.id, &r, h, w); err != nil {
			return nil, err
		}
		return nil, ErrHave
	}
	if len(r.shards) >= maxShards {
		return nil, fmt.Errorf("%w: %d shards of this pack are held", ErrFull, len(r.shards))
	}
	if err := s.reserve(w.shard.cost, int64(g.ShardLen(index))); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.slot++
	w.shard.slot = s.slot
	s.mu.Unlock()
	return w, nil
}

// renew gives the shard h of r what the one of w would have brought: a newer
// state, another put.
func (s *Store) renew(id pack.ID, r *record, h *shard, w *Writer) error {
	old, n := *h, w.shard
	if n.stamp.newer(h.stamp) {
		h.stamp, h.expires, h.cost = n.stamp, n.expires, n.cost
		h.put = n.put
		h.confirmed = !old.provisional() && n.put != PutID{}
	} else if h.provisional() && n.put.SamePeer(h.put) {
		h.put = n.put
	}
	if *h == old && (!h.provisional() || h.put != n.put) {
		return nil
	}
	return s.change(id, r, func(c *change) error {
		if h.stamp != old.stamp {
			c.set(slotKey(keyManifest, h.slot), w.enc)
		}
		c.moved(&old, h)
		return nil
	})
}

// Write takes the block of the next row, of its true length, which the caller
// has verified. It copies b. An error is final.
func (w *Writer) Write(row int, b []byte) error {
	if err := w.write(row, b); err != nil {
		return fmt.Errorf("store pack %s: shard %d: %w", w.id.Short(), w.shard.index, err)
	}
	return nil
}

func (w *Writer) write(row int, b []byte) error {
	switch {
	case w.ended:
		return errEnded
	case row != w.next || row >= w.shard.rows:
		return fmt.Errorf("row %d where %d of %d is next", row, w.next, w.shard.rows)
	case len(b) != w.g.CellLen(w.shard.index, row):
		return fmt.Errorf("row %d: %d bytes, want %d", row, len(b), w.g.CellLen(w.shard.index, row))
	}
	c := bufs.Get().(*buf)
	c.b = append(c.b[:0], b...)
	w.group = append(w.group, c)
	w.groupLen += len(b)
	w.next++
	full := w.s.buffered.Add(int64(len(b))) > maxBuffered
	if w.next == w.shard.rows || w.groupLen < groupLen && !full {
		return nil
	}
	return w.flush(full)
}

var errEnded = errors.New("writer has ended")

// flush begins to write the group, after the one before, and waits for it if
// that is asked for.
func (w *Writer) flush(wait bool) error {
	if err := w.land(); err != nil {
		return err
	}
	if err := w.s.roomOnDisk(); err != nil {
		return err
	}
	first, group, n := w.next-len(w.group), w.group, w.groupLen
	w.group, w.groupLen = nil, 0
	intent := !w.intent
	w.intent = true
	w.flight = make(chan error, 1)
	go func() {
		err := w.s.update(func(txn *badger.Txn) error {
			if intent {
				if err := txn.Set(slotKey(keyIntent, w.shard.slot), encodeIntent(w.id)); err != nil {
					return err
				}
			}
			return w.setBlocks(txn, first, group)
		})
		w.s.release(group, n)
		w.flight <- err
	}()
	w.written += int64(n)
	w.s.account(0, -int64(n), 0, 0)
	if wait {
		return w.land()
	}
	return nil
}

// land waits for the group that is being written.
func (w *Writer) land() error {
	if w.flight == nil {
		return nil
	}
	err := <-w.flight
	w.flight = nil
	return err
}

func (w *Writer) setBlocks(txn *badger.Txn, first int, group []*buf) error {
	for i, c := range group {
		if err := txn.Set(blockKey(w.shard.slot, first+i), c.b); err != nil {
			return err
		}
	}
	return nil
}

// release gives the blocks' memory back.
func (s *Store) release(group []*buf, n int) {
	for _, c := range group {
		bufs.Put(c)
	}
	s.buffered.Add(-int64(n))
}

// roomOnDisk refuses to write when others have filled the disk meanwhile.
func (s *Store) roomOnDisk() error {
	free, err := s.opt.free()
	if err != nil {
		return err
	}
	if free < diskReserve/2 {
		return fmt.Errorf("%w: %d bytes free on the file system", ErrFull, free)
	}
	return nil
}

// Commit makes the shard durable: it is synced to the disk, whole, when Commit
// returns nil. Otherwise nothing is left of it.
func (w *Writer) Commit() error {
	if w.ended {
		return fmt.Errorf("store pack %s: shard %d: %w", w.id.Short(), w.shard.index, errEnded)
	}
	if err := w.commit(); err != nil {
		w.Abort()
		return fmt.Errorf("store pack %s: shard %d: %w", w.id.Short(), w.shard.index, err)
	}
	return nil
}

func (w *Writer) commit() error {
	if w.next != w.shard.rows {
		return fmt.Errorf("%d of %d blocks written", w.next, w.shard.rows)
	}
	if err := w.land(); err != nil { // what is committed must not be there before its blocks
		return err
	}
	if err := w.s.roomOnDisk(); err != nil {
		return err
	}
	s := w.s
	defer s.lock(w.id)()
	r, err := s.record(w.id)
	if err != nil {
		return err
	}
	if at, known := r.newest(); known && at.newer(w.shard.stamp) {
		return ErrOld
	}
	h := r.find(w.shard.coding, w.shard.index)
	if h != nil && !h.damaged { // stored by someone else meanwhile
		if err := s.renew(w.id, &r, h, w); err != nil {
			return err
		}
		w.Abort()
		return nil
	}
	err = s.change(w.id, &r, func(c *change) error {
		if h != nil {
			c.drop(&r, h.slot)
		}
		if r.tomb != nil {
			c.bury(&r, nil)
		}
		if err := w.setBlocks(c.txn, w.next-len(w.group), w.group); err != nil {
			return err
		}
		c.set(slotKey(keyManifest, w.shard.slot), w.enc)
		if w.intent {
			c.del(slotKey(keyIntent, w.shard.slot))
		}
		r.shards = append(r.shards, w.shard)
		c.held -= w.shard.cost // change counts it, Begin did too
		c.moved(nil, &w.shard)
		return nil
	})
	if err != nil {
		return err
	}
	w.ended = true
	s.account(0, -int64(w.groupLen), 0, 0)
	s.release(w.group, w.groupLen)
	w.group = nil
	return nil
}

// Abort ends the writer and frees what it has written and reserved. After
// Commit it does nothing.
func (w *Writer) Abort() {
	if w.ended {
		return
	}
	w.ended = true
	_ = w.land() // whether it was written or not, it goes
	s := w.s
	s.release(w.group, w.groupLen)
	w.group = nil
	left := int64(w.g.ShardLen(w.shard.index)) - w.written
	s.account(-w.shard.cost, -left, w.written, 0)
	if !w.intent {
		return
	}
	if err := s.update(func(txn *badger.Txn) error { return dropUnfinished(txn, w.shard.slot) }); err != nil {
		s.log.Warn("blocks of an unfinished shard stay until the store is opened again",
			"pack", w.id.Short(), "shard", w.shard.index, "err", err)
	}
}

// dropUnfinished removes the blocks of a shard that was never committed, and
// its intent.
func dropUnfinished(txn *badger.Txn, slot uint64) error {
	keys := keysWith(txn, slotKey(keyBlock, slot), pack.MaxBlocks)
	for _, key := range append(keys, slotKey(keyIntent, slot)) {
		if err := txn.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// keysWith lists up to n keys that begin with prefix.
func keysWith(txn *badger.Txn, prefix []byte, n int) (keys [][]byte) {
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
	defer it.Close()
	for it.Seek(prefix); it.Valid() && len(keys) < n; it.Next() {
		keys = append(keys, it.Item().KeyCopy(nil))
	}
	return keys
}

const intentVersion = 1

// encodeIntent says which pack an unfinished shard is of.
func encodeIntent(id pack.ID) []byte { return append([]byte{intentVersion}, id[:]...) }

// change is one transaction on the record of a pack, and what it does to the
// counters.
type change struct {
	s     *Store
	txn   *badger.Txn
	err   error
	held  int64
	dead  int64
	count int
	slots []uint64 // changed or dropped: not to be cached any more
	puts  map[PutID]int
}

// change runs fn, writes the record, commits, and counts. The caller holds the
// pack's lock.
func (s *Store) change(id pack.ID, r *record, fn func(*change) error) error {
	var c *change
	now := s.nowMs()
	err := s.update(func(txn *badger.Txn) error {
		c = &change{s: s, txn: txn, puts: map[PutID]int{}}
		if err := fn(c); err != nil {
			return err
		}
		if r.tomb == nil && len(r.shards) == 0 {
			c.del(packKey(keyPack, id))
		} else {
			c.set(packKey(keyPack, id), r.encode())
		}
		for p, n := range c.puts {
			if n >= 0 { // came, or was asked for again
				c.set(putKey(p), encodeTime(now))
			}
		}
		return c.err
	})
	if err != nil {
		return err
	}
	for _, slot := range c.slots {
		s.cache.drop(slot)
	}
	if c.count < 0 && len(r.shards) == 0 {
		s.forgetHolders(id)
		if s.opt.Dropped != nil {
			defer s.opt.Dropped(id)
		}
	}
	s.account(c.held, 0, c.dead, c.count)
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, n := range c.puts {
		q := s.puts[p]
		if q == nil {
			q = &put{}
			s.puts[p] = q
		}
		q.shards += n
		if n >= 0 {
			q.alive = max(q.alive, now)
		}
	}
	return nil
}

func (c *change) set(key, val []byte) {
	if err := c.txn.Set(key, val); err != nil && c.err == nil {
		c.err = err
	}
}

func (c *change) del(key []byte) {
	if err := c.txn.Delete(key); err != nil && c.err == nil {
		c.err = err
	}
}

// moved counts that the shard old (nil: none) has become h (nil: gone).
func (c *change) moved(old, h *shard) {
	for _, x := range []struct {
		h *shard
		n int
	}{{old, -1}, {h, 1}} {
		if x.h == nil {
			continue
		}
		c.held += int64(x.n) * x.h.cost
		c.count += x.n
		c.slots = append(c.slots, x.h.slot)
		if x.h.provisional() {
			c.puts[x.h.put] += x.n
		}
	}
}

// drop removes a shard with its blocks.
func (c *change) drop(r *record, slot uint64) {
	i := slices.IndexFunc(r.shards, func(h shard) bool { return h.slot == slot })
	h := r.shards[i]
	r.shards = slices.Delete(r.shards, i, i+1)
	for row := range h.rows {
		c.del(blockKey(slot, row))
	}
	c.del(slotKey(keyManifest, slot))
	c.dead += h.cost
	c.moved(&h, nil)
}

// bury replaces the tombstone.
func (c *change) bury(r *record, t *tombstone) {
	if r.tomb != nil {
		c.held -= r.tomb.cost()
	}
	if t != nil {
		c.held += t.cost()
	}
	r.tomb = t
}
