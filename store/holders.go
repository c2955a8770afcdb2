package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"github.com/p2pfs/p2pfs/pack"
)

// Holder is a peer that keeps a shard of a pack.
type Holder struct {
	Peer  string // libp2p's peer ID, its raw bytes
	Shard int

	// What this node has seen of it, in Unix milliseconds; 0: never.
	Heard    int64 // when the peer itself last said that it holds the shard
	Verified int64 // when it last gave a block of it that checked
	Failed   int64 // when it last failed to; 0 again once it has given one
}

// Pack is all that is held and known of one pack.
type Pack struct {
	ID   pack.ID
	Held []Holding // the best answer first, as Holdings has them; a tombstone last

	// Holders keep shards of the coding that one of Held has, and Number is
	// that of its state. 0: nobody is known, which a crash can be the reason
	// of even where the shard is confirmed.
	Number  uint64
	Holders []Holder
}

const (
	holdersVersion = 1
	maxHolders     = 1024 // of one pack
	maxPeer        = 64   // bytes of a peer ID
	holdersFixed   = 1 + 8 + 32 + 2
)

// holders is who holds a pack, as it is stored.
type holders struct {
	number uint64    // of the state it was said of
	coding pack.Hash // of that state: renewals leave the holders where they are
	list   []Holder
}

// encode gives the one encoding of h.
func (h *holders) encode() ([]byte, error) {
	if len(h.list) > maxHolders {
		return nil, fmt.Errorf("%d holders, at most %d are kept", len(h.list), maxHolders)
	}
	b := make([]byte, 0, holdersFixed+len(h.list)*holderCost)
	b = append(b, holdersVersion)
	b = binary.BigEndian.AppendUint64(b, h.number)
	b = append(b, h.coding[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.list)))
	for _, e := range h.list {
		if e.Shard < 0 || e.Shard > 255 || len(e.Peer) == 0 || len(e.Peer) > maxPeer {
			return nil, fmt.Errorf("holder of shard %d with a peer ID of %d bytes", e.Shard, len(e.Peer))
		}
		b = append(b, byte(e.Shard), byte(len(e.Peer)))
		b = append(b, e.Peer...)
		for _, ms := range []int64{e.Heard, e.Verified, e.Failed} {
			if ms < 0 {
				return nil, fmt.Errorf("holder of shard %d seen %d ms before 1970", e.Shard, -ms)
			}
			b = binary.BigEndian.AppendUint64(b, uint64(ms))
		}
	}
	return b, nil
}

// decodeHolders reads what encode gave, and nothing else.
func decodeHolders(b []byte) (h holders, err error) {
	r := reader{b: b}
	if v := r.u8(); v > holdersVersion {
		return holders{}, fmt.Errorf("decode holders: version %d: %w", v, ErrVersion)
	} else if v < holdersVersion {
		r.bad = true
	}
	h.number, h.coding = r.u64(), r.b32()
	n := int(r.u16())
	if n > maxHolders {
		r.bad = true
	}
	ms := func() int64 {
		v := r.u64()
		r.bad = r.bad || v > math.MaxInt64
		return int64(v)
	}
	for i := 0; i < n && !r.bad; i++ {
		e := Holder{Shard: int(r.u8())}
		size := int(r.u8())
		if size == 0 || size > maxPeer {
			r.bad = true
			break
		}
		e.Peer = string(r.take(size))
		e.Heard, e.Verified, e.Failed = ms(), ms(), ms()
		h.list = append(h.list, e)
	}
	if r.bad || len(r.b) > 0 {
		return holders{}, fmt.Errorf("decode holders: %w", ErrCorrupt)
	}
	return h, nil
}

// key names an entry of a list: a peer may be in it with several shards, with
// each of them once.
func (h Holder) key() Holder { return Holder{Peer: h.Peer, Shard: h.Shard} }

// merge gives what is known when said is heard of the same pack: of the same
// state both, of a newer one what is said. What was seen of those who are in
// both is kept, as long as their shards are the same.
func merge(known, said holders) holders {
	if known.coding != said.coding {
		return said
	}
	if known.number >= said.number {
		known.list = slices.Concat(known.list, said.list) // bound takes out those that come twice
		return known
	}
	seen := make(map[Holder]Holder, len(known.list))
	for _, e := range known.list {
		seen[e.key()] = e
	}
	said.list = slices.Clone(said.list)
	for i, e := range said.list {
		if old, ok := seen[e.key()]; ok {
			said.list[i] = old
		}
	}
	return said
}

// mostHolders is how many entries the list of a pack of n shards has at most:
// what is restored elsewhere is listed beside what may come back.
func mostHolders(n int) int { return 2*n + 16 }

// bound gives list without entries that come again, and at most so many: those
// go that have not been heard for the longest time, those never heard before
// all others, and among equals those at the end.
func bound(list []Holder, most int) []Holder {
	seen := make(map[Holder]bool, len(list))
	kept := make([]Holder, 0, len(list))
	for _, e := range list {
		if k := e.key(); !seen[k] {
			seen[k] = true
			kept = append(kept, e)
		}
	}
	if len(kept) <= most {
		return kept
	}
	order := make([]int, len(kept))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(kept[b].Heard, kept[a].Heard) })
	order = order[:most]
	slices.Sort(order)
	out := make([]Holder, 0, most)
	for _, i := range order {
		out = append(out, kept[i])
	}
	return out
}

// readHolders reads who holds a pack, by a transaction of the records. What is
// not there or cannot be read is not known: it may be lost at any time.
func (s *Store) readHolders(txn *badger.Txn, id pack.ID) (holders, error) {
	b, err := get(txn, packKey(keyHolders, id))
	if errors.Is(err, ErrNotFound) {
		return holders{}, nil
	}
	var h holders
	if err == nil {
		h, err = decodeHolders(b)
	}
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrVersion) {
		s.log.Warn("unreadable list of holders", "pack", id.String(), "err", err)
		return holders{}, nil
	}
	return h, err
}

// knownHolders reads who holds a pack.
func (s *Store) knownHolders(id pack.ID) (h holders, err error) {
	err = s.viewRecords(func(txn *badger.Txn) error {
		h, err = s.readHolders(txn, id)
		return err
	})
	return h, err
}

// setHolders writes who holds a pack of n shards; an empty list is none. The
// caller holds the pack's lock.
func (s *Store) setHolders(id pack.ID, h holders, n int) error {
	h.list = bound(h.list, mostHolders(n))
	key, val, err := h.entry(id)
	if err != nil {
		return err
	}
	return s.updateRecords(func(txn *badger.Txn) error {
		if val == nil {
			return txn.Delete(key)
		}
		return txn.Set(key, val)
	})
}

// entry is how h lies in the database; nil: not at all.
func (h *holders) entry(id pack.ID) (key, val []byte, err error) {
	if len(h.list) > 0 {
		val, err = h.encode()
	}
	return packKey(keyHolders, id), val, err
}

// carryHolders takes the list of a pack's holders over to a renewed state. The
// caller holds the pack's lock. A list that stays behind is still found by its
// coding.
func (s *Store) carryHolders(id pack.ID, at stamp, coding pack.Hash) {
	err := s.updateRecords(func(txn *badger.Txn) error {
		h, err := s.readHolders(txn, id)
		if err != nil || h.coding != coding || h.number >= at.number || len(h.list) == 0 {
			return err
		}
		h.number = at.number
		key, val, err := h.entry(id)
		if err != nil {
			return err
		}
		return txn.Set(key, val)
	})
	if err != nil {
		s.log.Warn("list of holders is not renewed", "pack", id.String(), "err", err)
	}
}

// forgetHolders removes the list of a pack that is no longer held. The caller
// holds the pack's lock.
func (s *Store) forgetHolders(id pack.ID) {
	err := s.updateRecords(func(txn *badger.Txn) error {
		key := packKey(keyHolders, id)
		if _, err := txn.Get(key); errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		return txn.Delete(key)
	})
	if err != nil {
		s.strays.Store(true)
		s.log.Warn("list of holders stays until the next sweep", "pack", id.String(), "err", err)
	}
}

// sweepHolders removes the lists of packs of which no shard is held. There are
// none but after a crash, or where one could not be removed.
func (s *Store) sweepHolders(ctx context.Context) error {
	if !s.strays.Swap(false) {
		return nil
	}
	for id, err := range s.listed(ctx) {
		if err == nil {
			err = s.forgetStray(id)
		}
		if err != nil {
			s.strays.Store(true)
			return err
		}
	}
	return nil
}

func (s *Store) forgetStray(id pack.ID) error {
	defer s.lock(id)()
	r, err := s.record(id)
	if errors.Is(err, ErrCorrupt) {
		return nil // what is held of it is not known
	}
	if err != nil || len(r.shards) > 0 {
		return err
	}
	return s.setHolders(id, holders{}, 0)
}

// listed gives the packs of which there is a list, a page at a time.
func (s *Store) listed(ctx context.Context) iter.Seq2[pack.ID, error] {
	return func(yield func(pack.ID, error) bool) {
		from := []byte{keyHolders}
		for {
			var ids []pack.ID
			err := s.viewRecords(func(txn *badger.Txn) error {
				it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{keyHolders}})
				defer it.Close()
				for it.Seek(from); it.Valid() && len(ids) < page; it.Next() {
					key := it.Item().KeyCopy(nil)
					ids = append(ids, pack.ID(key[1:]))
					from = append(key, 0)
				}
				return ctx.Err()
			})
			if err != nil {
				yield(pack.ID{}, err)
				return
			}
			for _, id := range ids {
				if !yield(id, nil) {
					return
				}
			}
			if len(ids) < page {
				return
			}
		}
	}
}

// SetHolders tells who holds the shards of a pack's state of that number, all
// of which are durable: the shards held here of that state are no longer
// provisional, and those of older states are dropped, durably. The list itself
// is merged with the one known: of the same state both are kept, with what was
// seen of the holders; of a newer one this list takes the place of the other.
// At most 2n + 16 entries are kept for a pack of n shards, those heard last. A
// crash may lose the list. SetHolders returns ErrNotFound where no shard of that
// state is held, ErrOld where only newer ones are.
func (s *Store) SetHolders(id pack.ID, number uint64, hs []Holder) error {
	return s.Confirm(id, number, hs, nil)
}

// Confirm does what SetHolders does if may (nil: no question) allows it for a
// shard of that state: it is told which of the n it is, the put that brought it
// or its state, and the holders known so far. Otherwise it returns ErrDenied.
func (s *Store) Confirm(id pack.ID, number uint64, hs []Holder, may func(shard int, put PutID, known []Holder) bool) error {
	if err := s.confirm(id, number, hs, may); err != nil {
		return fmt.Errorf("holders of pack %s: %w", id.Short(), err)
	}
	return nil
}

func (s *Store) confirm(id pack.ID, number uint64, hs []Holder, may func(int, PutID, []Holder) bool) error {
	said := holders{number: number, list: hs}
	if _, err := said.encode(); err != nil {
		return err
	}
	defer s.lock(id)()
	r, err := s.record(id)
	if err != nil {
		return err
	}
	var at shard // of the newest state of that number
	for i := range r.shards {
		if h := &r.shards[i]; h.number == number && (at.slot == 0 || h.newer(at.stamp)) {
			at = *h
		}
	}
	if at.slot == 0 {
		if newest, known := r.newest(); known && newest.number > number {
			return ErrOld
		}
		return ErrNotFound
	}
	known, err := s.knownHolders(id)
	if err != nil {
		return err
	}
	if may != nil {
		list := r.pack(id, known).Holders
		if !slices.ContainsFunc(r.shards, func(h shard) bool { return h.stamp == at.stamp && may(h.index, h.put, list) }) {
			return ErrDenied
		}
	}
	if slices.ContainsFunc(r.shards, func(h shard) bool { return h.stamp == at.stamp && h.provisional() || at.newer(h.stamp) }) {
		err = s.change(id, &r, func(c *change) error {
			for i := range r.shards {
				if h := &r.shards[i]; h.stamp == at.stamp {
					old := *h
					h.confirmed = h.put != PutID{}
					c.moved(&old, h)
				}
			}
			for _, h := range slices.Clone(r.shards) {
				if at.newer(h.stamp) {
					c.drop(&r, h.slot)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	said.coding = at.coding
	return s.setHolders(id, merge(known, said), at.coded+at.m)
}

// Holders gives who is known to hold the shards of a pack, and the number of
// the state that they are of. ErrNotFound: nobody is known.
func (s *Store) Holders(id pack.ID) (number uint64, hs []Holder, err error) {
	p, err := s.packOf(id)
	if err == nil && len(p.Holders) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return 0, nil, fmt.Errorf("holders of pack %s: %w", id.Short(), err)
	}
	return p.Number, p.Holders, nil
}

// Pack gives all that is held and known of a pack, or ErrNotFound where nothing
// is held.
func (s *Store) Pack(id pack.ID) (Pack, error) {
	p, err := s.packOf(id)
	if err != nil {
		return Pack{}, fmt.Errorf("look up pack %s: %w", id.Short(), err)
	}
	return p, nil
}

func (s *Store) packOf(id pack.ID) (Pack, error) {
	r, err := s.record(id)
	if err != nil {
		return Pack{}, err
	}
	var known holders
	if len(r.shards) > 0 {
		if known, err = s.knownHolders(id); err != nil {
			return Pack{}, err
		}
	}
	p := r.pack(id, known)
	if len(p.Held) == 0 {
		return Pack{}, ErrNotFound
	}
	return p, nil
}

// pack puts what is held of a pack and who holds it together. A list of another
// coding than those held says nothing.
func (r *record) pack(id pack.ID, known holders) Pack {
	p := Pack{ID: id, Held: r.holdings(id)}
	if h := r.coded(known.coding); h != nil && len(known.list) > 0 {
		p.Number, p.Holders = h.number, known.list
	}
	return p
}

// coded gives the newest shard of that coding, or nil.
func (r *record) coded(coding pack.Hash) (newest *shard) {
	for i := range r.shards {
		if h := &r.shards[i]; h.coding == coding && (newest == nil || h.newer(newest.stamp)) {
			newest = h
		}
	}
	return newest
}

// Walk gives all packs of which something is held, tombstones among them, in
// the order of their IDs, from the first that is not below from. What comes and
// goes meanwhile may or may not be among them. It reads the records of some at a
// time and nothing else: nothing stays open while the caller works. An error is
// the last that it gives.
func (s *Store) Walk(ctx context.Context, from pack.ID) iter.Seq2[Pack, error] {
	return func(yield func(Pack, error) bool) {
		for rs, err := range s.pages(ctx, from) {
			var known []holders
			if err == nil {
				known, err = s.holdersOf(rs)
			}
			if err != nil {
				yield(Pack{}, fmt.Errorf("list packs: %w", err))
				return
			}
			for i := range rs {
				p := rs[i].record.pack(rs[i].id, known[i])
				if len(p.Held) > 0 && !yield(p, nil) {
					return
				}
			}
		}
	}
}

// holdersOf reads who holds packs, those of which there is a shard, in one
// transaction.
func (s *Store) holdersOf(rs []packRecord) ([]holders, error) {
	known := make([]holders, len(rs))
	err := s.viewRecords(func(txn *badger.Txn) (err error) {
		for i := range rs {
			if len(rs[i].record.shards) == 0 {
				continue
			}
			if known[i], err = s.readHolders(txn, rs[i].id); err != nil {
				return err
			}
		}
		return nil
	})
	return known, err
}

// updatePage is how many lists of holders are changed at once: some 1.3 KiB
// each, they fit a transaction of the records or two.
const updatePage = 512

// UpdateHolders changes the lists of who holds packs: fn is given what Pack
// would give of each of which a shard is held, in the order of their IDs, and
// returns who is to be known to hold its shards of the state Number, or of the
// best of Held where that is 0; nil for no change, an empty list for nobody. No
// other change of these packs comes between, so fn must be quick, and must not
// call the store. A crash may lose what was changed.
func (s *Store) UpdateHolders(ids []pack.ID, fn func(p Pack) []Holder) error {
	ids = slices.Clone(ids)
	slices.SortFunc(ids, func(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) })
	for some := range slices.Chunk(slices.Compact(ids), updatePage) {
		if err := s.updateHolders(some, fn); err != nil {
			return fmt.Errorf("holders of %d packs: %w", len(ids), err)
		}
	}
	return nil
}

func (s *Store) updateHolders(ids []pack.ID, fn func(p Pack) []Holder) error {
	defer s.lockAll(ids)()
	rs, err := s.recordsOf(ids)
	if err != nil {
		return err
	}
	known, err := s.holdersOf(rs)
	if err != nil {
		return err
	}
	type write struct{ key, val []byte }
	var writes []write
	for i := range rs {
		r := &rs[i].record
		p := r.pack(rs[i].id, known[i])
		of := r.coded(known[i].coding)
		if p.Number == 0 {
			of = &r.shards[0] // the best, now that pack has ordered them
		}
		list := fn(p)
		if list == nil || p.Number == known[i].number && slices.Equal(list, p.Holders) {
			continue
		}
		next := holders{of.number, of.coding, bound(list, mostHolders(of.coded+of.m))}
		key, val, err := next.entry(p.ID)
		if err != nil {
			return fmt.Errorf("pack %s: %w", p.ID.Short(), err)
		}
		writes = append(writes, write{key, val})
	}
	if len(writes) == 0 {
		return nil
	}
	return s.batchRecords(func(b *badger.WriteBatch) error {
		for _, w := range writes {
			if w.val == nil {
				err = b.Delete(w.key)
			} else {
				err = b.Set(w.key, w.val)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// recordsOf reads the records of packs in one transaction, of those of which a
// shard is held.
func (s *Store) recordsOf(ids []pack.ID) (rs []packRecord, err error) {
	err = s.view(func(txn *badger.Txn) error {
		for _, id := range ids {
			r, err := getRecord(txn, id)
			switch {
			case errors.Is(err, ErrCorrupt):
				s.log.Error("damaged record", "pack", id.String(), "err", err)
			case err != nil:
				return fmt.Errorf("pack %s: %w", id.Short(), err)
			case len(r.shards) > 0:
				rs = append(rs, packRecord{id, r})
			}
		}
		return nil
	})
	return rs, err
}
