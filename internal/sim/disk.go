package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/repair"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/wire"
)

var _ repair.Shelf = (*disk)(nil)

// disk is what a peer keeps: a store on a map, with the rules of
// [store.Store].
type disk struct {
	p     *peer
	packs map[pack.ID]*entry
	order []pack.ID // of the packs, ascending
	notes map[string][]byte
	held  int64
}

// entry is all that is held and known of a pack.
type entry struct {
	shards  []*shard
	tomb    *pack.State
	since   time.Duration // when the tombstone came
	number  uint64
	holders []store.Holder  // replaced, never written to
	held    []store.Holding // what Pack says of it; nil: to be made
}

// shard is one shard held.
type shard struct {
	manifest *pack.Manifest
	index    int
	cells    [][]byte
	damaged  bool // a read found it so
	rotten   bool // it is so

	// The oracle's notes.
	found  bool          // somebody knows that it is bad
	hidden time.Duration // for how long nobody has
	undead bool          // reported to be of a pack that was deleted
	peer   *peer
}

func newDisk(p *peer) *disk {
	return &disk{p: p, packs: map[pack.ID]*entry{}, notes: map[string][]byte{}}
}

// entry gives what is held of a pack, making room for it.
func (d *disk) entry(id pack.ID) *entry {
	e := d.packs[id]
	if e == nil {
		e = &entry{}
		d.packs[id] = e
		i, _ := slices.BinarySearchFunc(d.order, id, compareIDs)
		d.order = slices.Insert(d.order, i, id)
	}
	return e
}

func compareIDs(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) }

// tidy forgets a pack of which nothing is held.
func (d *disk) tidy(id pack.ID) {
	e := d.packs[id]
	if len(e.shards) == 0 {
		e.number, e.holders = 0, nil
		if e.tomb == nil {
			delete(d.packs, id)
			i, _ := slices.BinarySearchFunc(d.order, id, compareIDs)
			d.order = slices.Delete(d.order, i, i+1)
		}
	}
}

// newest gives the newest state known.
func (e *entry) newest() *pack.State {
	st := e.tomb
	for _, s := range e.shards {
		if newer(&s.manifest.State, st) {
			st = &s.manifest.State
		}
	}
	return st
}

// newer is pack.State.Newer without hashing where the numbers tell.
func newer(s, than *pack.State) bool {
	if than != nil && s.Number != than.Number {
		return s.Number > than.Number
	}
	return s != than && s.Newer(than)
}

func (s *shard) coded(st *pack.State) bool {
	own := &s.manifest.State
	return own.K == st.K && own.M == st.M && own.Coded == st.Coded && own.Coder == st.Coder && slices.Equal(own.Parity, st.Parity)
}

// live gives the packs of which shards are held.
func (d *disk) live() int {
	n := 0
	for _, e := range d.packs {
		n += len(e.shards)
	}
	return n
}

func (d *disk) pack(id pack.ID, e *entry) store.Pack {
	if e.held != nil {
		return store.Pack{ID: id, Number: e.number, Holders: e.holders, Held: e.held}
	}
	held := make([]store.Holding, 0, len(e.shards)+1)
	for _, s := range e.shards {
		st := &s.manifest.State
		held = append(held, store.Holding{ID: id, Number: st.Number, Shard: s.index, K: st.K, M: st.M, Coded: st.Coded,
			Damaged: s.damaged, Bytes: s.bytes()})
	}
	if e.tomb != nil {
		held = append(held, store.Holding{ID: id, Number: e.tomb.Number, Deleted: true})
	}
	e.held = held
	return d.pack(id, e)
}

func (s *shard) bytes() (n int64) {
	for _, c := range s.cells {
		n += int64(len(c))
	}
	return n
}

// Walk gives all packs of which something is held.
func (d *disk) Walk(ctx context.Context, from pack.ID) iter.Seq2[store.Pack, error] {
	return func(yield func(store.Pack, error) bool) {
		i, _ := slices.BinarySearchFunc(d.order, from, compareIDs)
		for _, id := range slices.Clone(d.order[i:]) {
			if err := ctx.Err(); err != nil {
				yield(store.Pack{}, err)
				return
			}
			if e := d.packs[id]; e != nil && !yield(d.pack(id, e), nil) {
				return
			}
		}
	}
}

// Pack gives one of them.
func (d *disk) Pack(id pack.ID) (store.Pack, error) {
	e := d.packs[id]
	if e == nil {
		return store.Pack{}, fmt.Errorf("look up pack %s: %w", id.Short(), store.ErrNotFound)
	}
	return d.pack(id, e), nil
}

// Manifest gives the manifest of a pack held.
func (d *disk) Manifest(id pack.ID) (*pack.Manifest, error) {
	if e := d.packs[id]; e != nil && len(e.shards) > 0 {
		return e.shards[0].manifest, nil
	}
	return nil, fmt.Errorf("manifest of pack %s: %w", id.Short(), store.ErrNotFound)
}

// Tombstone gives the state that deleted a pack.
func (d *disk) Tombstone(id pack.ID) (*pack.State, error) {
	if e := d.packs[id]; e != nil && e.tomb != nil {
		return e.tomb, nil
	}
	return nil, fmt.Errorf("tombstone of pack %s: %w", id.Short(), store.ErrNotFound)
}

// ReadCoded appends a verified block to dst.
func (d *disk) ReadCoded(id pack.ID, k, m, index, row int, dst []byte) ([]byte, error) {
	var found *shard
	if e := d.packs[id]; e != nil {
		for _, s := range e.shards {
			if s.index == index && row >= 0 && row < len(s.cells) && (k == 0 || s.manifest.State.K == k && s.manifest.State.M == m) {
				found = s
				break
			}
		}
	}
	if found == nil {
		return dst, fmt.Errorf("read pack %s: shard %d, row %d: %w", id.Short(), index, row, store.ErrNotFound)
	}
	if err := found.manifest.VerifyBlock(index, row, found.cells[row]); err != nil {
		found.damaged = true
		d.packs[id].held = nil
		return dst, fmt.Errorf("read pack %s: shard %d, row %d: %w", id.Short(), index, row, err)
	}
	return append(dst, found.cells[row]...), nil
}

// UpdateHolders changes the lists of who holds packs.
func (d *disk) UpdateHolders(ids []pack.ID, fn func(p store.Pack) []store.Holder) error {
	if !slices.IsSortedFunc(ids, compareIDs) {
		ids = slices.Clone(ids)
		slices.SortFunc(ids, compareIDs)
	}
	for _, id := range ids {
		e := d.packs[id]
		if e == nil || len(e.shards) == 0 {
			continue
		}
		hs := fn(d.pack(id, e))
		if hs == nil {
			continue
		}
		if most := 2*e.shards[0].manifest.Geometry().N() + 16; len(hs) > most {
			hs = bound(hs, most)
		}
		e.holders = hs
		if e.number == 0 {
			e.number = e.shards[0].manifest.State.Number
		}
	}
	return nil
}

// keep is Begin, Write and Commit of the store, confirmed.
func (d *disk) keep(m *pack.Manifest, index int, cell func(row int) []byte) (have bool, err error) {
	id := m.ID()
	g := m.Geometry()
	if index < 0 || index >= g.N() {
		return false, fmt.Errorf("shard %d of %d", index, g.N())
	}
	var old *shard
	if e := d.packs[id]; e != nil {
		if st := e.newest(); st != nil && newer(st, &m.State) {
			return false, store.ErrOld
		}
		for _, s := range e.shards {
			if s.index == index && s.coded(&m.State) {
				old = s
			}
		}
	}
	if old != nil && !old.damaged {
		if newer(&m.State, &old.manifest.State) {
			old.manifest = m
			d.packs[id].held = nil
			d.packs[id].carry(&m.State)
		}
		return true, nil
	}
	if d.p.full() {
		return false, store.ErrFull
	}
	cells := make([][]byte, g.ShardRows(index))
	for row := range cells {
		b := cell(row)
		if err := m.VerifyBlock(index, row, b); err != nil {
			return false, err
		}
		cells[row] = bytes.Clone(b)
	}
	d.place(id, &shard{manifest: m, index: index, cells: cells, peer: d.p}, old)
	return false, nil
}

// place puts a shard on the disk, in the place of another if there is one.
func (d *disk) place(id pack.ID, s, old *shard) {
	e := d.entry(id)
	if old != nil {
		d.lose(id, old)
		e = d.entry(id)
	}
	e.held, e.tomb = nil, nil // a newer state is a revival
	e.shards = append(e.shards, s)
	e.carry(&s.manifest.State)
	d.held += s.bytes()
	if x := d.p.w.byPack[id]; x != nil {
		x.copies = append(x.copies, s)
		x.changed(s, +1)
	}
}

// better orders shards as the store does: newest first, then by index.
func better(a, b *shard) int {
	switch x, y := &a.manifest.State, &b.manifest.State; {
	case newer(x, y):
		return -1
	case newer(y, x):
		return 1
	}
	return a.index - b.index
}

// lose takes a shard away.
func (d *disk) lose(id pack.ID, s *shard) {
	e := d.packs[id]
	e.held = nil
	e.shards = slices.DeleteFunc(e.shards, func(o *shard) bool { return o == s })
	d.held -= s.bytes()
	if x := d.p.w.byPack[id]; x != nil {
		x.copies = slices.DeleteFunc(x.copies, func(o *shard) bool { return o == s })
		x.changed(s, -1)
	}
	d.tidy(id)
}

// wipe loses all there is.
func (d *disk) wipe() {
	for _, id := range slices.Clone(d.order) {
		for _, s := range slices.Clone(d.packs[id].shards) {
			d.lose(id, s)
		}
	}
	clear(d.packs)
	clear(d.notes)
	d.order, d.held = nil, 0
}

// Keep stores a shard here.
func (d *disk) Keep(_ context.Context, m *pack.Manifest, index int, holders []wire.Holder, cell func(row int) []byte) error {
	have, err := d.keep(m, index, cell)
	if err != nil {
		return fmt.Errorf("store pack %s: shard %d: %w", m.ID().Short(), index, err)
	}
	if !have {
		d.p.w.restored(m, index)
	}
	d.learn(m, holders)
	return nil
}

// learn merges a list of holders with the one known, as the store does.
func (d *disk) learn(m *pack.Manifest, said []wire.Holder) {
	e := d.packs[m.ID()]
	if len(said) == 0 || e == nil || len(e.shards) == 0 {
		return
	}
	all := e.holders
	if m.State.Number > e.number {
		all, e.number = nil, m.State.Number
	}
	all = slices.Clone(all)
	for _, h := range said {
		x := store.Holder{Peer: h.Peer, Shard: h.Shard}
		if i := slices.IndexFunc(e.holders, func(o store.Holder) bool { return o.Peer == h.Peer && o.Shard == h.Shard }); i >= 0 {
			x = e.holders[i]
		}
		all = append(all, x)
	}
	e.holders = bound(all, 2*m.Geometry().N()+16)
}

// bound gives list without entries that come again, and at most so many: those
// heard last.
func bound(list []store.Holder, most int) []store.Holder {
	kept := make([]store.Holder, 0, len(list))
	for _, h := range list {
		if !slices.ContainsFunc(kept, func(o store.Holder) bool { return o.Peer == h.Peer && o.Shard == h.Shard }) {
			kept = append(kept, h)
		}
	}
	for len(kept) > most {
		oldest := 0
		for i, h := range kept {
			if h.Heard <= kept[oldest].Heard {
				oldest = i
			}
		}
		kept = slices.Delete(kept, oldest, oldest+1)
	}
	return kept
}

// SetState takes a new state, verified.
func (d *disk) SetState(st *pack.State) (bool, error) {
	id := st.ID()
	fail := func(err error) (bool, error) { return false, fmt.Errorf("new state of pack %s: %w", id.Short(), err) }
	var known *pack.State
	e := d.packs[id]
	if e != nil {
		known = e.newest()
	}
	switch {
	case known != nil && !newer(st, known) && !newer(known, st):
		return false, nil
	case known != nil && newer(known, st):
		return fail(store.ErrOld)
	case st.Deleted:
		e = d.entry(id)
		e.tomb, e.since, e.held = st, d.p.w.t, nil
		for _, s := range slices.Clone(e.shards) {
			d.lose(id, s)
		}
		return true, nil
	case e == nil || len(e.shards) == 0:
		return fail(store.ErrNotFound)
	}
	changed := false
	for _, s := range e.shards {
		if s.coded(st) {
			s.manifest = &pack.Manifest{Content: s.manifest.Content, State: *st}
			changed = true
		}
	}
	if !changed {
		return fail(store.ErrCoding)
	}
	e.held = nil
	e.carry(st)
	return true, nil
}

// carry takes the list of holders over to a renewed state.
func (e *entry) carry(st *pack.State) {
	slices.SortStableFunc(e.shards, better)
	if len(e.holders) > 0 {
		e.number = max(e.number, st.Number)
	}
}

// Drop gives up a shard held.
func (d *disk) Drop(id pack.ID, index int) error {
	d.p.w.giving = true
	defer func() { d.p.w.giving = false }()
	e := d.packs[id]
	found := false
	if e != nil {
		for _, s := range slices.Clone(e.shards) {
			if s.index == index {
				found = true
				d.lose(id, s)
			}
		}
	}
	if !found {
		return fmt.Errorf("drop pack %s: shard %d: %w", id.Short(), index, store.ErrNotFound)
	}
	return nil
}

// sweep drops tombstones past their time.
func (d *disk) sweep() {
	for _, id := range slices.Clone(d.order) {
		if e := d.packs[id]; e.tomb != nil && d.p.w.t-e.since >= 180*day {
			e.tomb, e.held = nil, nil
			d.tidy(id)
		}
	}
}

// Get reads a note of the keeper's.
func (d *disk) Get(key string) ([]byte, error) {
	if b, ok := d.notes[key]; ok {
		return bytes.Clone(b), nil
	}
	return nil, fmt.Errorf("note %q: %w", key, store.ErrNotFound)
}

// Set writes one.
func (d *disk) Set(key string, val []byte) error {
	if len(d.notes) > 10_000 {
		return errors.New("too many notes")
	}
	d.notes[key] = bytes.Clone(val)
	return nil
}
