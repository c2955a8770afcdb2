package store

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"github.com/p2pfs/p2pfs/pack"
)

// manifestCache is how many bytes of encoded manifests are kept decoded.
const manifestCache = 4 << 20

// Holding is one shard held, or a tombstone.
type Holding struct {
	ID          pack.ID
	Number      uint64 // of the state
	Shard       int    // which of the n
	K, M        int    // the state's scheme
	Coded       int    // the pack's own number of data shards, k′
	Provisional bool   // its put is not known to be durable
	Deleted     bool   // a tombstone: Shard, K, M and Coded say nothing
	Damaged     bool   // a read found a damaged block
	Bytes       int64  // what it counts for
}

func (h *shard) holding(id pack.ID) Holding {
	return Holding{ID: id, Number: h.number, Shard: h.index, K: h.k, M: h.m, Coded: h.coded,
		Provisional: h.provisional(), Damaged: h.damaged, Bytes: h.cost}
}

// holdings lists what is held, the best answer first.
func (r *record) holdings(id pack.ID) []Holding {
	slices.SortFunc(r.shards, func(a, b shard) int { return better(&a, &b) })
	hs := make([]Holding, 0, len(r.shards)+1)
	for i := range r.shards {
		hs = append(hs, r.shards[i].holding(id))
	}
	if t := r.tomb; t != nil {
		hs = append(hs, Holding{ID: id, Number: t.number, Deleted: true, Bytes: t.cost()})
	}
	return hs
}

// record reads the record of a pack; the zero record if nothing is held.
func (s *Store) record(id pack.ID) (r record, err error) {
	err = s.view(func(txn *badger.Txn) error {
		r, err = getRecord(txn, id)
		return err
	})
	return r, err
}

func getRecord(txn *badger.Txn, id pack.ID) (record, error) {
	b, err := get(txn, packKey(keyPack, id))
	if errors.Is(err, ErrNotFound) {
		return record{}, nil
	}
	if err != nil {
		return record{}, err
	}
	return decodeRecord(b)
}

// Holding says what is held of a pack. Where that is more than one shard, a
// confirmed one goes before a provisional one, then a newer state before an
// older.
func (s *Store) Holding(id pack.ID) (Holding, error) {
	hs, err := s.Holdings(id)
	if err != nil {
		return Holding{}, err
	}
	return hs[0], nil
}

// Holdings lists all that is held of a pack, in the order that Holding has.
// It is never empty without an error.
func (s *Store) Holdings(id pack.ID) ([]Holding, error) {
	r, err := s.record(id)
	if err != nil {
		return nil, fmt.Errorf("look up pack %s: %w", id.Short(), err)
	}
	hs := r.holdings(id)
	if len(hs) == 0 {
		return nil, fmt.Errorf("look up pack %s: %w", id.Short(), ErrNotFound)
	}
	return hs, nil
}

// Packs gives all shards held and all tombstones, in the order of the pack IDs.
// What comes and goes meanwhile may or may not be among them. An error is the
// last that it gives.
func (s *Store) Packs(ctx context.Context) iter.Seq2[Holding, error] {
	return func(yield func(Holding, error) bool) {
		for p, err := range s.each(ctx) {
			if err != nil {
				yield(Holding{}, fmt.Errorf("list packs: %w", err))
				return
			}
			for _, h := range p.record.holdings(p.id) {
				if !yield(h, nil) {
					return
				}
			}
		}
	}
}

type packRecord struct {
	id     pack.ID
	record record
}

// page is how many records are read at once: no transaction stays open while
// the caller works.
const page = 256

// each gives all records, in the order of the pack IDs.
func (s *Store) each(ctx context.Context) iter.Seq2[packRecord, error] {
	return func(yield func(packRecord, error) bool) {
		for ps, err := range s.pages(ctx, pack.ID{}) {
			if err != nil {
				yield(packRecord{}, err)
				return
			}
			for _, p := range ps {
				if !yield(p, nil) {
					return
				}
			}
		}
	}
}

// pages gives all records from the first whose ID is not below from, a page at a
// time. A damaged one is logged, and empty.
func (s *Store) pages(ctx context.Context, from pack.ID) iter.Seq2[[]packRecord, error] {
	return func(yield func([]packRecord, error) bool) {
		next := packKey(keyPack, from)
		for {
			ps := make([]packRecord, 0, page)
			err := s.view(func(txn *badger.Txn) error {
				it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{keyPack}})
				defer it.Close()
				for it.Seek(next); it.Valid() && len(ps) < page; it.Next() {
					if err := ctx.Err(); err != nil {
						return err
					}
					key := it.Item().KeyCopy(nil)
					next = append(key, 0)
					p := packRecord{id: pack.ID(key[1:])}
					b, err := it.Item().ValueCopy(nil)
					if err == nil {
						p.record, err = decodeRecord(b)
					}
					if errors.Is(err, ErrCorrupt) {
						s.log.Error("damaged record", "pack", p.id.String(), "err", err)
					} else if err != nil {
						return fmt.Errorf("pack %s: %w", p.id.Short(), err)
					}
					ps = append(ps, p)
				}
				return nil
			})
			if err != nil {
				yield(nil, err)
				return
			}
			if len(ps) > 0 && !yield(ps, nil) || len(ps) < page {
				return
			}
		}
	}
}

// Manifest gives the manifest of a pack: that of the shard which Holding names.
// The caller must not change it.
func (s *Store) Manifest(id pack.ID) (*pack.Manifest, error) {
	m, err := s.manifestOf(id)
	if err != nil {
		return nil, fmt.Errorf("manifest of pack %s: %w", id.Short(), err)
	}
	return m, nil
}

func (s *Store) manifestOf(id pack.ID) (m *pack.Manifest, err error) {
	err = s.view(func(txn *badger.Txn) error {
		r, err := getRecord(txn, id)
		if err != nil {
			return err
		}
		if len(r.shards) == 0 {
			return ErrNotFound
		}
		h := slices.MinFunc(r.shards, func(a, b shard) int { return better(&a, &b) })
		m, err = s.manifest(txn, &h)
		return err
	})
	return m, err
}

// manifest gives the decoded manifest of a shard.
func (s *Store) manifest(txn *badger.Txn, h *shard) (*pack.Manifest, error) {
	if m := s.cache.get(h.slot, h.stamp); m != nil {
		return m, nil
	}
	var b []byte
	err := retry(func() (err error) {
		b, err = get(txn, slotKey(keyManifest, h.slot))
		return err
	})
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("manifest is gone: %w", ErrCorrupt)
	}
	if err != nil {
		return nil, err
	}
	m, err := pack.DecodeManifest(b)
	if err != nil {
		return nil, err
	}
	s.cache.add(h.slot, h.stamp, m, len(b))
	return m, nil
}

// retry runs fn again if what it read is damaged: a value can also be
// unreadable because it is just being moved.
func retry(fn func() error) error {
	err := fn()
	for i := 0; i < 3 && errors.Is(err, ErrCorrupt); i++ {
		err = fn()
	}
	return err
}

// ReadBlock appends the block at (index, row) to dst, checked against its
// manifest. Where shards of that index of several states are held, it reads
// the one that Holding would name first. ErrNotFound tells that the block is
// not there, ErrCorrupt that it is damaged, which is then logged, and
// remembered in Holding.Damaged.
func (s *Store) ReadBlock(id pack.ID, index, row int, dst []byte) ([]byte, error) {
	return s.ReadCoded(id, 0, 0, index, row, dst)
}

// ReadCoded does what ReadBlock does, for the shard of the state that codes the
// pack by the scheme of k and m; any, if k is 0.
func (s *Store) ReadCoded(id pack.ID, k, m, index, row int, dst []byte) ([]byte, error) {
	n := len(dst)
	var h shard
	err := retry(func() (err error) {
		dst, h, err = s.readBlock(id, k, m, index, row, dst[:n])
		return err
	})
	if err == nil {
		return dst, nil
	}
	err = fmt.Errorf("read pack %s: shard %d, row %d: %w", id.Short(), index, row, err)
	if errors.Is(err, ErrCorrupt) {
		s.remember(id, &h, err)
	}
	return dst[:n], err
}

func (s *Store) readBlock(id pack.ID, k, m, index, row int, dst []byte) ([]byte, shard, error) {
	var h shard
	var man *pack.Manifest
	n := len(dst)
	err := s.view(func(txn *badger.Txn) error {
		r, err := getRecord(txn, id)
		if err != nil {
			return err
		}
		found := false
		for i := range r.shards {
			c := &r.shards[i]
			if c.index == index && row >= 0 && row < c.rows && (k == 0 || c.k == k && c.m == m) &&
				(!found || better(c, &h) < 0) {
				h, found = *c, true
			}
		}
		if !found {
			return ErrNotFound
		}
		if man, err = s.manifest(txn, &h); err != nil {
			return err
		}
		item, err := txn.Get(blockKey(h.slot, row))
		if errors.Is(err, badger.ErrKeyNotFound) {
			return fmt.Errorf("block is gone: %w", ErrCorrupt)
		}
		if err != nil {
			return err
		}
		return item.Value(func(b []byte) error {
			dst = append(dst, b...)
			return nil
		})
	})
	if err == nil {
		err = verify(man, index, row, dst[n:])
	}
	return dst, h, err
}

// verify checks a block against its manifest.
func verify(m *pack.Manifest, index, row int, b []byte) error {
	if len(b) == 0 {
		return fmt.Errorf("unreadable block: %w", ErrCorrupt)
	}
	return m.VerifyBlock(index, row, b)
}

// remember logs that a shard is damaged, and marks it.
func (s *Store) remember(id pack.ID, bad *shard, why error) {
	s.log.Error("damaged shard", "pack", id.String(), "shard", bad.index, "err", why)
	if bad.slot == 0 || bad.damaged {
		return
	}
	defer s.lock(id)()
	r, err := s.record(id)
	if err == nil {
		i := slices.IndexFunc(r.shards, func(h shard) bool { return h.slot == bad.slot })
		if i < 0 || r.shards[i].damaged {
			return
		}
		r.shards[i].damaged = true
		err = s.change(id, &r, func(*change) error { return nil })
	}
	if err != nil {
		s.log.Warn("damaged shard is not marked", "pack", id.String(), "err", err)
	}
}

// manifests keeps decoded manifests, those used last, up to a number of bytes.
type manifests struct {
	max int

	mu    sync.Mutex
	size  int
	slots map[uint64]*list.Element // of *cached
	order list.List                // used last first
}

type cached struct {
	slot uint64
	at   stamp
	m    *pack.Manifest
	size int
}

func newManifests(size int) *manifests {
	return &manifests{max: size, slots: map[uint64]*list.Element{}}
}

// get gives the manifest of that state in that slot, or nil.
func (c *manifests) get(slot uint64, at stamp) *pack.Manifest {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.slots[slot]
	if e == nil || e.Value.(*cached).at != at {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached).m
}

func (c *manifests) add(slot uint64, at stamp, m *pack.Manifest, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(slot)
	c.slots[slot] = c.order.PushFront(&cached{slot, at, m, size})
	for c.size += size; c.size > c.max; {
		c.remove(c.order.Back().Value.(*cached).slot)
	}
}

func (c *manifests) drop(slot uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(slot)
}

// remove is drop with mu held.
func (c *manifests) remove(slot uint64) {
	if e := c.slots[slot]; e != nil {
		c.size -= e.Value.(*cached).size
		c.order.Remove(e)
		delete(c.slots, slot)
	}
}

// recover counts what is held, and removes what a crash left unfinished.
func (s *Store) recover() error {
	if err := s.dropIntents(); err != nil {
		return fmt.Errorf("remove unfinished shards: %w", err)
	}
	for p, err := range s.each(context.Background()) {
		if err != nil {
			return err
		}
		if t := p.record.tomb; t != nil {
			s.held += t.cost()
		}
		for _, h := range p.record.shards {
			s.held += h.cost
			s.shards++
			s.slot = max(s.slot, h.slot)
			if h.provisional() {
				if s.puts[h.put] == nil {
					s.puts[h.put] = &put{alive: s.nowMs()}
				}
				s.puts[h.put].shards++
			}
		}
	}
	if err := s.countVolumes(); err != nil {
		return err
	}
	err := s.view(func(txn *badger.Txn) error {
		for id, p := range s.puts {
			if b, err := get(txn, putKey(id)); err == nil {
				p.alive = decodeTime(b)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.dead, err = s.garbage()
	return err
}

// dropIntents removes the blocks of shards that were not committed.
func (s *Store) dropIntents() error {
	var keys [][]byte
	err := s.view(func(txn *badger.Txn) error {
		keys = keysWith(txn, []byte{keyIntent}, 1<<20)
		return nil
	})
	for _, key := range keys {
		slot := slotOf(key)
		s.slot = max(s.slot, slot)
		if err == nil {
			err = s.update(func(txn *badger.Txn) error { return dropUnfinished(txn, slot) })
		}
	}
	if len(keys) > 0 {
		s.log.Info("removed unfinished shards", "shards", len(keys))
	}
	return err
}

func slotOf(key []byte) uint64 {
	r := reader{b: bytes.Clone(key[1:])}
	return r.u64()
}
