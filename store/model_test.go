//go:build linux

package store

import (
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
)

// modelShard is what the model knows of a shard held.
type modelShard struct {
	p     *sample // with the state held
	index int
	put   PutID
}

// model is what a store must do, in a slice and maps.
type model struct {
	shards []modelShard
	tombs  map[pack.ID]*pack.State
	since  map[pack.ID]time.Time // when the tombstones came
	alive  map[PutID]time.Time
}

// newest is the newest state known of a pack, or nil.
func (m *model) newest(id pack.ID) *pack.State {
	newest := m.tombs[id]
	for _, h := range m.shards {
		if h.p.id() == id && h.p.m.State.Newer(newest) {
			newest = &h.p.m.State
		}
	}
	return newest
}

// old tells whether a newer state than st is known.
func (m *model) old(st *pack.State) bool {
	newest := m.newest(st.ID())
	return newest != nil && newest.Newer(st)
}

func (m *model) find(p *sample, index int) *modelShard {
	for i := range m.shards {
		h := &m.shards[i]
		if h.p.id() == p.id() && h.index == index && codingOf(&h.p.m.State) == codingOf(&p.m.State) {
			return h
		}
	}
	return nil
}

// put is what Store does with a shard of p.
func (m *model) put(p *sample, index int, id PutID, now time.Time) error {
	if m.old(&p.m.State) {
		return ErrOld
	}
	if h := m.find(p, index); h != nil {
		newer := p.m.State.Newer(&h.p.m.State)
		switch {
		case h.put == (PutID{}):
			id = PutID{}
		case !newer && id != h.put: // of another peer
			return ErrHave
		}
		*h = modelShard{p, index, id}
		m.alive[id] = now
		return ErrHave
	}
	m.alive[id] = now
	delete(m.tombs, p.id())
	m.shards = append(m.shards, modelShard{p, index, id})
	return nil
}

func TestStoreDoesWhatAModelDoes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	var packs []*sample
	for _, size := range []int{4 << 10, 50 << 10, 5 << 20} {
		a := newSample(t, rnd, size, erasure.Scheme{K: 1, M: 2}, 1)
		packs = append(packs, a, a.recode(t, erasure.Scheme{K: 2, M: 3}, 1))
	}
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		checks := "10" // each opens stores on disk
		if raceOn {
			checks = "2"
		}
		if err := flag.Set("rapid.checks", checks); err != nil {
			t.Fatal(err)
		}
	}
	root := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(root, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		c := newClock()
		opt := Options{Now: c.now, size: 4 << 20}
		s, err := Open(dir, opt)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		m := &model{tombs: map[pack.ID]*pack.State{}, since: map[pack.ID]time.Time{}, alive: map[PutID]time.Time{}}

		anyPack := rapid.Custom(func(t *rapid.T) *sample {
			p := packs[rapid.IntRange(0, len(packs)-1).Draw(t, "pack")]
			var expires uint64
			if rapid.IntRange(0, 5).Draw(t, "expires") == 0 {
				expires = uint64(c.now().Add(time.Hour).UnixMilli())
			}
			return p.renewed(uint64(rapid.IntRange(1, 9).Draw(t, "number")), expires)
		})
		anyPut := rapid.Custom(func(t *rapid.T) PutID { return PutID{byte(rapid.IntRange(0, 2).Draw(t, "put"))} })

		want := func(t *rapid.T, got, want error) {
			if !errors.Is(got, want) || want == nil && got != nil {
				t.Fatalf("got error %v, want %v", got, want)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				p, id := anyPack.Draw(t, "p"), anyPut.Draw(t, "id")
				index := rapid.IntRange(0, 2).Draw(t, "index")
				if index >= p.m.Geometry().N() {
					t.Skip()
				}
				want(t, p.putCtx(panicCtx{}, s, index, id), m.put(p, index, id, c.now()))
			},
			"abort": func(t *rapid.T) {
				p := anyPack.Draw(t, "p")
				if m.old(&p.m.State) || m.find(p, 0) != nil {
					t.Skip()
				}
				w, err := s.Begin(panicCtx{}, p.m, 0, PutID{})
				want(t, err, nil)
				for row := range rapid.IntRange(0, p.m.Geometry().ShardRows(0)).Draw(t, "rows") {
					want(t, w.Write(row, p.cell(0, row)), nil)
				}
				w.Abort()
			},
			"state": func(t *rapid.T) {
				p := anyPack.Draw(t, "p")
				changed, err := s.SetState(&p.m.State)
				var holding, coded bool
				for _, h := range m.shards {
					holding = holding || h.p.id() == p.id()
					coded = coded || h.p.id() == p.id() && codingOf(&h.p.m.State) == codingOf(&p.m.State)
				}
				switch newest := m.newest(p.id()); {
				case newest == nil:
					want(t, err, ErrNotFound)
				case newest.Hash() == p.m.State.Hash():
					want(t, err, nil)
					if changed {
						t.Fatal("the same state changed something")
					}
				case m.old(&p.m.State):
					want(t, err, ErrOld)
				case !holding:
					want(t, err, ErrNotFound)
				case !coded:
					want(t, err, ErrCoding)
				default:
					want(t, err, nil)
					for i := range m.shards {
						if h := &m.shards[i]; h.p.id() == p.id() && codingOf(&h.p.m.State) == codingOf(&p.m.State) {
							h.p = p
						}
					}
				}
			},
			"delete": func(t *rapid.T) {
				st := anyPack.Draw(t, "p").tombstone(uint64(rapid.IntRange(1, 9).Draw(t, "number")))
				_, err := s.SetState(st)
				if m.old(st) {
					want(t, err, ErrOld)
					return
				}
				want(t, err, nil)
				if newest := m.newest(st.ID()); newest != nil && newest.Hash() == st.Hash() {
					return
				}
				m.shards = slices.DeleteFunc(m.shards, func(h modelShard) bool { return h.p.id() == st.ID() })
				m.tombs[st.ID()], m.since[st.ID()] = st, c.now()
			},
			"holders": func(t *rapid.T) {
				p := anyPack.Draw(t, "p")
				number := p.m.State.Number
				err := s.SetHolders(p.id(), number, []Holder{{Peer: "x", Shard: 1}})
				var at *pack.State
				for _, h := range m.shards {
					if st := &h.p.m.State; h.p.id() == p.id() && st.Number == number && st.Newer(at) {
						at = st
					}
				}
				if at == nil {
					if newest := m.newest(p.id()); newest != nil && newest.Number > number {
						want(t, err, ErrOld)
					} else {
						want(t, err, ErrNotFound)
					}
					return
				}
				want(t, err, nil)
				for i := range m.shards {
					if h := &m.shards[i]; h.p.m.State.Hash() == at.Hash() {
						h.put = PutID{}
					}
				}
				m.shards = slices.DeleteFunc(m.shards, func(h modelShard) bool {
					return h.p.id() == p.id() && at.Newer(&h.p.m.State) && h.p.m.State.Hash() != at.Hash()
				})
			},
			"touch": func(t *rapid.T) {
				id := anyPut.Draw(t, "id")
				err := s.Touch(id)
				if id != (PutID{}) && slices.ContainsFunc(m.shards, func(h modelShard) bool { return h.put == id }) {
					want(t, err, nil)
					m.alive[id] = c.now()
				} else {
					want(t, err, ErrNotFound)
				}
			},
			"sweep": func(t *rapid.T) {
				c.add(time.Duration(rapid.SampledFrom([]int{1, 10, 180 * 24}).Draw(t, "hours")) * time.Hour)
				want(t, s.Sweep(panicCtx{}), nil)
				m.shards = slices.DeleteFunc(m.shards, func(h modelShard) bool {
					return h.p.m.State.Expired(c.now()) ||
						h.put != PutID{} && c.now().Sub(m.alive[h.put]) >= defaultTTL
				})
				for id := range m.tombs {
					if c.now().Sub(m.since[id]) >= tombstoneTTL {
						delete(m.tombs, id)
					}
				}
			},
			"reclaim": func(t *rapid.T) { want(t, s.Reclaim(panicCtx{}), nil) },
			"reopen": func(t *rapid.T) {
				want(t, s.Close(), nil)
				if s, err = Open(dir, opt); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				var u Usage
				for _, h := range m.shards {
					want(t, h.p.compare(s, h.index), nil)
					hs, err := s.Holdings(h.p.id())
					want(t, err, nil)
					if !slices.ContainsFunc(hs, func(g Holding) bool {
						return g.Shard == h.index && g.K == h.p.m.State.K && g.Number == h.p.m.State.Number && g.Provisional == (h.put != PutID{})
					}) {
						t.Fatalf("shard %d of state %d: got %+v", h.index, h.p.m.State.Number, hs)
					}
					u.Held += costOf(h.p.m, h.index, len(h.p.m.Encode()))
					u.Shards++
				}
				for id, st := range m.tombs {
					got, err := s.Tombstone(id)
					want(t, err, nil)
					if !got.Equal(st) {
						t.Fatalf("got tombstone %+v, want %+v", got, st)
					}
					u.Held += int64(len(st.Encode())) + itemCost
				}
				if got := s.Usage(); got.Held != u.Held || got.Shards != u.Shards {
					t.Fatalf("got usage %+v, want %+v", got, u)
				}
			},
		})
	})
}
